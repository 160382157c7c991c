"""Python, its packages, and what is plugged in."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import platform
import sys
import sysconfig
from collections.abc import Iterator, Mapping
from typing import Any

from drumfire.bench.doctor.finding import INFO, NOTE, PROBLEM, Finding, finding
from drumfire.loadgen import installation
from drumfire.loadgen.environment import versions
from drumfire.loadgen.version import VERSION
from drumfire.sut.local.backends import BACKENDS, BackendError
from drumfire.sut.local.backends.onnxruntime import DISTRIBUTIONS, check_installation
from drumfire.sut.models import MODELS
from drumfire.sut.models.metrics import METRICS
from drumfire.sut.remote import TARGETS
from drumfire.sut.remote.triton_local.environment import LocalTritonError, check_platform

_DEVELOPMENT_EXTRAS = ("test", "lint")


def findings(environment: dict[str, Any]) -> Iterator[Finding]:
    yield python()
    yield python_build()
    yield libc()
    yield console()
    yield from packages(environment)
    yield from extras()
    yield from plugins()
    yield onnxruntime(environment)
    yield local_triton()


def python_build() -> Finding:
    debug, free = sysconfig.get_config_var("Py_DEBUG"), sysconfig.get_config_var("Py_GIL_DISABLED")
    kinds = [kind for kind, there in (("debug", debug), ("free-threaded", free)) if there]
    fix = "a build that is slower, and that fewer packages have wheels for: use an ordinary Python"
    return finding("Python build", ", ".join(kinds) or "ordinary", fix if kinds else None)


def libc() -> Finding:
    if "musl" in (sysconfig.get_config_var("HOST_GNU_TYPE") or ""):
        fix = "most backends have no wheels for musl: use an image with glibc, such as python:3.12-slim, not alpine"
        return finding("C library", "musl", fix)
    return finding("C library", " ".join(filter(None, platform.libc_ver())) or platform.system())


def console() -> Finding:
    encoding = getattr(sys.stdout, "encoding", None) or "ascii"
    fix = "names and frames outside it are escaped: export PYTHONUTF8=1, or LC_ALL=C.UTF-8"
    return finding("console", encoding, None if encoding.lower().replace("-", "") == "utf8" else fix)


def python() -> Finding:
    version = ".".join(map(str, sys.version_info[:3]))
    if sys.version_info < (3, 11):  # noqa: UP036 - a checkout can be run where pip would have refused
        return finding("Python", version, "install Python 3.11 or newer", PROBLEM)
    return finding("Python", version)


def packages(environment: dict[str, Any]) -> Iterator[Finding]:
    installed = environment["versions"]
    yield finding("drumfire", VERSION)
    for name in ("numpy", "hdrhistogram"):
        yield finding(name, installed[name] or "no package data")
    if importlib.util.find_spec("uvloop") is not None:
        yield finding("uvloop", installed["uvloop"] or "no package data")
    else:
        fix = f"{installation.pip()} install uvloop: the standard loop serves fewer queries per second"
        yield finding("uvloop", "not installed", *((None, INFO) if sys.platform == "win32" else (fix, NOTE)))


def extras() -> Iterator[Finding]:
    """The packages of each optional extra, from the installed package's metadata."""
    try:
        requirements = importlib.metadata.requires("drumfire") or []
        names = importlib.metadata.metadata("drumfire").get_all("Provides-Extra") or []
    except importlib.metadata.PackageNotFoundError:
        fix = f"{installation.pip()} install -e . in the checkout, so that its extras are known"
        yield finding("extras", "unknown: this checkout is not installed", fix)
        return
    yield finding("extras", f"to install one: {installation.command('EXTRA')}", status=INFO)
    for extra in names:
        if extra in _DEVELOPMENT_EXTRAS:
            continue
        packages = versions(installation.packages_of(extra, requirements))
        if not packages:
            continue
        absent = [name for name, version in packages.items() if version is None]
        if len(absent) > 2:
            absent[1:] = [f"{len(absent) - 1} more"]
        if absent:  # a choice, not a fault
            yield finding(f"[{extra}]", f"not installed: {' and '.join(absent)}", status=INFO)
        else:
            yield finding(f"[{extra}]", _installed(packages))


def _installed(packages: Mapping[str, str | None]) -> str:
    if len(packages) > 1:
        return f"installed: {len(packages)} packages"
    return " ".join(f"{name} {version}" for name, version in packages.items())


def plugins() -> Iterator[Finding]:
    """The kinds that other packages add."""
    for what, registry in (("backend", BACKENDS), ("model", MODELS), ("target", TARGETS), ("metric", METRICS)):
        broken = registry.broken()
        for name, package in registry.packages().items():
            fix = f"fix or remove {package}: {broken[name]}" if name in broken else None
            yield finding(f"{what} {name}", f"from {package}", fix)


def onnxruntime(environment: dict[str, Any]) -> Finding:
    installed = {name: environment["versions"][name] for name in DISTRIBUTIONS}
    shown = ", ".join(f"{name} {version}" for name, version in installed.items() if version)
    try:
        check_installation()
    except BackendError as error:
        return finding("ONNX Runtime", shown or "not installed", str(error), PROBLEM if shown else NOTE)
    if environment["gpus"] and not installed["onnxruntime-gpu"]:
        fix = f"to use the GPU: {installation.pip()} uninstall onnxruntime, then {installation.command('onnx-gpu')}"
        return finding("ONNX Runtime", shown, fix)
    return finding("ONNX Runtime", shown)


def local_triton() -> Finding:
    """Whether ``triton-local`` can start a server here."""
    try:
        check_platform()
    except LocalTritonError as error:
        # Not a fault: servers usually run elsewhere.
        return finding("triton-local", f"not on this machine: {error}", status=INFO)
    return finding("triton-local", "can be started")
