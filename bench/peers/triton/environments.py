"""The environments of the other tools: made in the cache folder on first use, so that theirs and ours never mix.

Knows pip, apt and the layout of the packages; must not know how the tools are run.
"""

from __future__ import annotations

import ctypes.util
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from bench.peers.process import MeasurementError, run
from sut.cache import cache_folder
from sut.triton.local_environment import Say, environment

PERF_ANALYZER = ("tritonclient==2.51.0",)
"""The newest of its wheels whose perf_analyzer runs on glibc 2.36; what its Python part needs is left out."""
CLIENT = ("tritonclient[grpc,http]==2.73.0", "aiohttp==3.14.5", "grpcio==1.85.1", "uvloop==0.23.0")
_LIBRARY, _LIBRARY_PACKAGE = "libb64.so.0d", "libb64-0d"
_CUDA_LIBRARY = "libcudart.so.12"


def perf_analyzer(say: Say) -> tuple[Path, Mapping[str, str]]:
    """The program, and the process environment that it runs in.  Raises ``MeasurementError``."""
    triton = environment(cache_folder(), say).folder

    def finish(folder: Path) -> None:
        libraries = folder / "libraries"
        libraries.mkdir()
        if ctypes.util.find_library("b64") != _LIBRARY:
            _fetch_library(libraries)
        # The program is linked to CUDA's runtime, also where no GPU is; the server's wheel brings one.
        shipped = sorted(triton.glob(f"lib/python*/site-packages/nvidia_pytriton.libs/libcudart-*{_CUDA_LIBRARY[9:]}*"))
        if not shipped:
            raise MeasurementError(f"the server's environment has no {_CUDA_LIBRARY}: remove {triton} and try again")
        (libraries / _CUDA_LIBRARY).symlink_to(shipped[0])

    folder = _made("perf-analyzer", PERF_ANALYZER, ["--no-deps"], finish, say)
    return folder / "bin" / "perf_analyzer", os.environ | {"LD_LIBRARY_PATH": str(folder / "libraries")}


def client_python(say: Say) -> Path:
    """An interpreter that has tritonclient.  Raises ``MeasurementError``."""
    return _made("tritonclient", CLIENT, [], lambda _: None, say) / "bin" / "python"


def _made(
    name: str, requirements: Sequence[str], options: Sequence[str], finish: Callable[[Path], None], say: Say
) -> Path:
    """A virtual environment with the packages, finished by ``finish``.  Several processes may ask at once."""
    identity = hashlib.sha256("\n".join([*requirements, sys.version, sys.base_prefix]).encode()).hexdigest()
    folder = cache_folder().absolute() / f"{name}-{identity[:12]}"
    folder.parent.mkdir(parents=True, exist_ok=True)
    with open(folder.with_name(f"{folder.name}.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.is_dir():
            return folder
        say(f"making the environment of {name}, once: {folder}")
        unfinished = folder.with_name(f"{folder.name}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)
        try:
            run([sys.executable, "-m", "venv", str(unfinished)])
            pip = [str(unfinished / "bin" / "python"), "-m", "pip", "--quiet", "--disable-pip-version-check"]
            run([*pip, "install", *options, *requirements])
            finish(unfinished)
            unfinished.rename(folder)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def _fetch_library(folder: Path) -> None:
    """The library that perf_analyzer needs and no wheel brings, out of Debian's package; nothing is installed."""
    unpacked = folder / "package"
    try:
        subprocess.run(["apt-get", "download", _LIBRARY_PACKAGE], cwd=folder, check=True, capture_output=True)
        (package,) = folder.glob("*.deb")
        subprocess.run(["dpkg", "-x", str(package), str(unpacked)], check=True, capture_output=True)
        (library,) = unpacked.rglob(_LIBRARY)
        shutil.copy(library, folder / _LIBRARY)
    except (OSError, ValueError, subprocess.CalledProcessError) as error:
        raise MeasurementError(
            f"perf_analyzer needs {_LIBRARY}, which can not be had ({error}): apt install {_LIBRARY_PACKAGE}"
        ) from None
