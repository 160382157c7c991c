"""What both TVM backends share: relax modules, compiled for this CPU, kept in the cache, and run.

A module takes one batch size, so there is one for each power of two, and batches are padded.  Does not depend on where
a module comes from.
"""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from drumfire.loadgen import installation
from drumfire.loadgen.environment import versions
from drumfire.loadgen.system import Batch
from drumfire.sut.cache import cache_folder
from drumfire.sut.local.backends import BackendError, BackendOptions, buckets, first_line
from drumfire.sut.local.silence import silenced
from drumfire.sut.models.model import Form
from drumfire.sut.models.tensors import Tensors
from drumfire.sut.models.weights import external_data

DISTRIBUTIONS = ("apache-tvm", "apache-tvm-ffi")


NewModule = Callable[[int], Any]
"""Makes the relax module for a batch size, with its weights."""


def start(threads: int) -> None:
    """Import TVM, set to use ``threads`` threads.  Raises ``BackendError``."""
    # TVM reads these once.  Threads that spin, or are pinned to a core, would slow the load generator down.
    used = os.environ.setdefault("TVM_NUM_THREADS", str(threads))
    os.environ.setdefault("TVM_THREAD_POOL_SPIN_COUNT", "0")
    os.environ.setdefault("TVM_BIND_THREADS", "0")
    if used != str(threads):
        raise BackendError(f"TVM_NUM_THREADS is {used}, but --threads is {threads}: unset one of them")
    try:
        import tvm  # noqa: F401
    except ImportError:
        raise BackendError(f"apache-tvm is not installed: {installation.command('tvm')}") from None


def load(model: Path, tensors: Tensors, new_module: NewModule, options: BackendOptions) -> buckets.PaddedModel:
    """Compile for each batch size, or load from the cache what was compiled before.  Raises ``BackendError``."""
    fixed = tensors.batch_size
    sizes = (fixed,) if fixed else buckets.ladder(options.max_batch_size, fine=False)
    version = versions(DISTRIBUTIONS)[DISTRIBUTIONS[0]]
    try:
        runs = {size: _sized(_compiled(model, tensors, new_module, size), tensors) for size in sizes}
        return buckets.PaddedModel(runs, tensors, f"apache-tvm {version} {_target()['mcpu']}")
    except Exception as error:  # each of TVM's passes raises its own kinds
        raise BackendError(f"tvm cannot compile {model}: {first_line(error)}") from None


def _sized(compiled: Any, tensors: Tensors) -> buckets.RunSized:
    import tvm
    from tvm import relax

    tensor, main = tvm.runtime.tensor, relax.VirtualMachine(compiled, tvm.cpu())["main"]

    def run(batch: Batch) -> Sequence[buckets.Array]:
        outputs = main(*[tensor(batch[one.name]) for one in tensors.inputs])
        return [output.numpy() for output in ([outputs] if hasattr(outputs, "numpy") else outputs)]

    return run


def _target() -> dict[str, Any]:
    from tvm.target import codegen

    return {"kind": "llvm", "mcpu": codegen.llvm_get_system_cpu()}


def _compiled(model: Path, tensors: Tensors, new_module: NewModule, size: int) -> Any:
    import tvm
    from tvm import relax
    from tvm.s_tir import dlight

    from drumfire.sut.local.backends.tvm_loops import CpuLoops

    path = _cached(model, tensors, size)
    if path.exists():
        return tvm.runtime.load_module(str(path))
    target = tvm.target.Target(_target())
    with silenced(), target:
        module = relax.transform.DecomposeOpsForInference()(new_module(size))
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
            part.unlink(missing_ok=True)  # there is no C++ compiler to link it: every run compiles again
    return compiled


def _cached(model: Path, tensors: Tensors, size: int) -> Path:
    """The module's file, named by all that it is made from: the model, the compiler, the target, and our own code."""
    digest = hashlib.sha256()
    parts = external_data.files(model) if model.suffix == Form.ONNX.value else [model]
    for path in (*parts, *sorted(Path(__file__).parent.glob("tvm_*.py"))):
        digest.update(path.read_bytes())
    digest.update(f"{sorted(versions(DISTRIBUTIONS).items())} {_target()} {tensors}".encode())
    return cache_folder() / "tvm" / f"{model.stem}-{digest.hexdigest()[:12]}-b{size}.so"
