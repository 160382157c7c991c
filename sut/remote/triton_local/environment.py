"""The environment of a local Triton, made once and kept: the server, its Python backend and the models' packages.

Handles the layout of NVIDIA's wheel and the platform's requirements.  Does not start a server.
"""

from __future__ import annotations

import ctypes.util
import os
import platform
import shutil
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from drumfire.loadgen.errors import UserError
from drumfire.sut.environments import Say, made

REQUIREMENTS = (
    "nvidia-pytriton==0.7.0",  # for the server in it, Triton 2.51.0; without the dependencies of its Python part
    "numpy==1.26.4",  # with numpy 2 this Python backend returns empty tensors without an error
    "onnxruntime==1.32.0",
)
PYTHONS = ((3, 11), (3, 12))
"""Versions that both this numpy and the wheel's backend support."""
GLIBC = (2, 35)


class LocalTritonError(UserError, RuntimeError):
    """A local Triton cannot run.  The text is one line and names the fix."""


@dataclass(frozen=True)
class Environment:
    """A complete environment: a virtual environment, with the backends in the server's layout in its folder."""

    folder: Path

    @property
    def server(self) -> Path:
        return self._triton / "bin" / "tritonserver"

    @property
    def backends(self) -> Path:
        return self.folder / "backends"

    @property
    def caches(self) -> Path:
        return self._triton / "caches"

    @property
    def stubs(self) -> Path:
        """The wheel's backend programs, one for each version of Python."""
        return self._triton / "python_backend_stubs"

    @property
    def libraries(self) -> Path:
        """The folder that links to the interpreter's shared library."""
        return self.folder / "lib"

    def variables(self) -> dict[str, str]:
        """The server's environment variables: ours, changed so that it finds only its own libraries."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        return inherited | {
            # The backend takes its interpreter's home from the first python3 on PATH.
            "PATH": f"{self.folder / 'bin'}:{os.environ.get('PATH', os.defpath)}",
            "LD_LIBRARY_PATH": f"{self._packages / 'nvidia_pytriton.libs'}:{self.libraries}",
        }

    @property
    def _packages(self) -> Path:
        return self.folder / "lib" / f"python{_python()}" / "site-packages"

    @property
    def _triton(self) -> Path:
        return self._packages / "pytriton" / "tritonserver"


def check_platform() -> None:
    """Raises ``LocalTritonError`` where NVIDIA's wheel, or the Python backend in it, does not run."""
    system, machine = platform.system(), platform.machine()
    if (system, machine) != ("Linux", "x86_64"):
        raise LocalTritonError(
            f"a local Triton runs on Linux x86_64 only, not on {system} {machine}: use a server elsewhere"
        )
    name, version = platform.libc_ver()
    if name != "glibc" or tuple(map(int, version.split(".")[:2])) < GLIBC:
        found = f"{name or 'another C library'} {version}".strip()
        raise LocalTritonError(
            f"a local Triton needs glibc 2.35 or newer, not {found}: use Debian 12, Ubuntu 22.04 or newer"
        )
    if sys.version_info[:2] not in PYTHONS:
        known = " or ".join(f"{major}.{minor}" for major, minor in PYTHONS)
        raise LocalTritonError(
            f"a local Triton needs Python {known}, not {_python()}: make the environment with one of them"
        )
    _shared_python()


def environment(cache: Path, say: Say) -> Environment:
    """Return the environment in ``cache``; make it if missing (330 MB, some 20 s).  Raises ``LocalTritonError``."""
    check_platform()
    library = _shared_python()
    try:
        folder = made(
            cache,
            "triton",
            REQUIREMENTS,
            say,
            options=["--no-deps"],
            finish=lambda unfinished: _finish(Environment(unfinished), library),
        )
    except OSError as error:
        raise LocalTritonError(
            f"cannot make Triton's environment in {cache}: {error}; set MODEL_DIR to a folder with 400 MB free"
        ) from None
    return Environment(folder)


def _finish(unfinished: Environment, library: Path) -> None:
    shipped, backend = unfinished.server.parent.parent / "backends" / "python", unfinished.backends / "python"
    shutil.copytree(shipped, backend)
    # The server looks for the backend process beside the backend.
    shutil.copy2(unfinished.stubs / _python() / "triton_python_backend_stub", backend)
    (unfinished.libraries / library.name).symlink_to(library)


def _shared_python() -> Path:
    """The interpreter's shared library, which the backend process links to.  Raises ``LocalTritonError``."""
    name = f"libpython{_python()}.so.1.0"
    own = Path(sysconfig.get_config_var("LIBDIR") or "", name)
    if own.is_file():
        return own
    # An interpreter without a shared library can use the system's, of the same minor version.
    if ctypes.util.find_library(f"python{_python()}") is not None:
        for folder in ("/lib/x86_64-linux-gnu", "/usr/lib64", "/usr/lib", "/usr/local/lib"):
            if Path(folder, name).is_file():
                return Path(folder, name)
    raise LocalTritonError(
        f"Triton's Python backend needs {name}, which this Python lacks: apt install libpython{_python()}"
    )


def _python() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"
