"""The environments of the other tools, made in the cache folder on first use, apart from this environment.

Does not depend on how the tools are run.
"""

from __future__ import annotations

import ctypes.util
import os
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from drumfire.bench.peers.process import MeasurementError
from drumfire.sut.cache import cache_folder
from drumfire.sut.environments import EnvironmentFailed, Say, made
from drumfire.sut.remote.triton_local.environment import environment

PERF_ANALYZER = ("tritonclient==2.51.0",)
"""The newest wheel whose perf_analyzer runs on glibc 2.36, without the dependencies of its Python part."""
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
        # The program needs CUDA's runtime even without a GPU; the server's wheel contains it.
        shipped = sorted(triton.glob(f"lib/python*/site-packages/nvidia_pytriton.libs/libcudart-*{_CUDA_LIBRARY[9:]}*"))
        if not shipped:
            raise MeasurementError(f"the server's environment has no {_CUDA_LIBRARY}: remove {triton} and try again")
        (libraries / _CUDA_LIBRARY).symlink_to(shipped[0])

    folder = environment_of("perf-analyzer", PERF_ANALYZER, say, ["--no-deps"], finish)
    return folder / "bin" / "perf_analyzer", os.environ | {"LD_LIBRARY_PATH": str(folder / "libraries")}


def client_python(say: Say) -> Path:
    """An interpreter that has tritonclient.  Raises ``MeasurementError``."""
    return environment_of("tritonclient", CLIENT, say) / "bin" / "python"


def environment_of(
    name: str,
    requirements: Sequence[str],
    say: Say,
    options: Sequence[str] = (),
    finish: Callable[[Path], None] = lambda folder: None,
) -> Path:
    """As ``drumfire.sut.environments.made``, in the cache folder.  Raises ``MeasurementError``."""
    try:
        return made(cache_folder(), name, requirements, say, options=options, finish=finish)
    except (EnvironmentFailed, OSError) as error:
        raise MeasurementError(str(error)) from None


def _fetch_library(folder: Path) -> None:
    """Take the library that perf_analyzer needs from Debian's package, as no wheel has it; installs nothing."""
    unpacked = folder / "package"
    try:
        subprocess.run(["apt-get", "download", _LIBRARY_PACKAGE], cwd=folder, check=True, capture_output=True)
        (package,) = folder.glob("*.deb")
        subprocess.run(["dpkg", "-x", str(package), str(unpacked)], check=True, capture_output=True)
        (library,) = unpacked.rglob(_LIBRARY)
        shutil.copy(library, folder / _LIBRARY)
    except (OSError, ValueError, subprocess.CalledProcessError) as error:
        raise MeasurementError(
            f"perf_analyzer needs {_LIBRARY}, which cannot be fetched ({error}): apt install {_LIBRARY_PACKAGE}"
        ) from None
