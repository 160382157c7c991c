"""What both TVM backends share: relax modules compiled for this CPU, kept in the cache, and run.

A module takes one batch size, so there is one for each power of two; batches are filled up.  Knows relax and its
compiler; must not know where a module comes from.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy.typing as npt

from drumfire.loadgen import installation
from drumfire.loadgen.environment import versions
from drumfire.sut.cache import cache_folder
from drumfire.sut.local.backends import BackendError, Tuning, buckets, first_line
from drumfire.sut.local.silence import silenced

DISTRIBUTIONS = ("apache-tvm", "apache-tvm-ffi")


class Source(NamedTuple):
    """A model as it came."""

    sample_shape: tuple[int | None, ...]
    sample_dtype: npt.DTypeLike
    fixed_batch_size: int | None
    module: Callable[[int], Any]
    """The relax module for a batch size, its weights inside."""


def start(threads: int) -> None:
    """Import TVM, set to use so many threads.  Raises ``BackendError``."""
    # TVM reads these once.  Threads that spin, or hold on to a core, would hinder the load generator.
    asked = os.environ.setdefault("TVM_NUM_THREADS", str(threads))
    os.environ.setdefault("TVM_THREAD_POOL_SPIN_COUNT", "0")
    os.environ.setdefault("TVM_BIND_THREADS", "0")
    if asked != str(threads):
        raise BackendError(f"TVM_NUM_THREADS is {asked}, and --threads {threads}: unset the one or the other")
    try:
        import tvm  # noqa: F401
    except ImportError:
        raise BackendError(f"apache-tvm is not installed: {installation.command('tvm')}") from None


def load(model: Path, source: Source, tuning: Tuning) -> TvmModules:
    """Compile for each batch size, or take from the cache what was compiled before.  Raises ``BackendError``."""
    if None in source.sample_shape:
        raise BackendError(f"{model} leaves sizes open besides the batch: export it with fixed ones")
    fixed = source.fixed_batch_size
    sizes = (fixed,) if fixed else buckets.ladder(tuning.max_batch_size, fine=False)
    try:
        return TvmModules({size: _Sized(_compiled(model, source, size)) for size in sizes}, source)
    except Exception as error:  # each of TVM's passes raises its own kinds
        raise BackendError(f"tvm cannot compile {model}: {first_line(error)}") from None


class TvmModules:
    """A compiled module for each batch size."""

    def __init__(self, runs: dict[int, _Sized], source: Source) -> None:
        self.sample_shape, self.sample_dtype = source.sample_shape, source.sample_dtype
        self.fixed_batch_size = source.fixed_batch_size
        self._buckets = buckets.Buckets({size: one.run for size, one in runs.items()})
        version = versions(DISTRIBUTIONS)[DISTRIBUTIONS[0]]
        self.description = f"apache-tvm {version} {_target()['mcpu']}, {buckets.told(self._buckets.sizes)}"

    def run(self, batch: npt.NDArray[Any]) -> Sequence[npt.NDArray[Any]]:
        return self._buckets.run(batch)

    def close(self) -> None:
        self._buckets = buckets.Buckets({})


class _Sized:
    def __init__(self, compiled: Any) -> None:
        import tvm
        from tvm import relax

        self._tensor = tvm.runtime.tensor
        self._main = relax.VirtualMachine(compiled, tvm.cpu())["main"]

    def run(self, batch: npt.NDArray[Any]) -> Sequence[npt.NDArray[Any]]:
        given = self._main(self._tensor(batch))
        return [one.numpy() for one in ([given] if hasattr(given, "numpy") else given)]


def _target() -> dict[str, Any]:
    from tvm.target import codegen

    return {"kind": "llvm", "mcpu": codegen.llvm_get_system_cpu()}


def _compiled(model: Path, source: Source, size: int) -> Any:
    import tvm
    from tvm import relax
    from tvm.s_tir import dlight

    from drumfire.sut.local.backends.tvm_loops import CpuLoops

    path = _cached(model, size)
    if path.exists():
        return tvm.runtime.load_module(str(path))
    target = tvm.target.Target(_target())
    with silenced(), target:
        module = relax.transform.DecomposeOpsForInference()(source.module(size))
        module = relax.transform.FoldConstant()(module)
        module = relax.get_pipeline("zero")(module)
        module = dlight.ApplyDefaultSchedule(CpuLoops())(module)
        compiled = tvm.compile(module, target=target)
        path.parent.mkdir(parents=True, exist_ok=True)
        part = path.with_name(f".{os.getpid()}-{path.name}")
        try:
            compiled.export_library(str(part))
            os.replace(part, path)
        except (RuntimeError, OSError, subprocess.SubprocessError):
            part.unlink(missing_ok=True)  # no C++ compiler links it: it is compiled anew in every run
    return compiled


def _cached(model: Path, size: int) -> Path:
    """By all that the module is made from: the file, the compiler, the target, and our own code."""
    found = hashlib.sha256(model.read_bytes())
    for code in sorted(Path(__file__).parent.glob("tvm_*.py")):
        found.update(code.read_bytes())
    found.update(f"{sorted(versions(DISTRIBUTIONS).items())} {_target()}".encode())
    return cache_folder() / "tvm" / f"{model.stem}-{found.hexdigest()[:12]}-b{size}.so"
