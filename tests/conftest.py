"""Fixtures for all tests, and how they share a machine."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import settings

# Workers share the cores: more threads in each would only wait for the other's.  Read when the libraries are imported.
if "PYTEST_XDIST_WORKER" in os.environ:
    for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(_variable, "1")

from sut.triton.local import LocalTriton, LocalTritonError
from sut.triton.local_environment import _shared_python, check_platform

# Neighbours on the same cores make any example slow now and then.  --hypothesis-profile chooses the other one.
settings.register_profile("fast", deadline=None)
settings.register_profile("thorough", deadline=None, max_examples=500)
settings.load_profile("fast")

# A shell that starts the tests in the background has them ignore Ctrl-C, and so all processes that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)  # before -m selects
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What needs the real Triton, a download of 330 MB, is slow; one server does for all that runs in one process."""
    for item in items:
        if "triton" in getattr(item, "fixturenames", ()):
            item.add_marker(pytest.mark.slow)
            item.add_marker(pytest.mark.serial)


@pytest.fixture(scope="session")
def triton() -> Iterator[LocalTriton]:
    """A real Triton on loopback.  Skipped where this machine cannot run it, and only there."""
    try:
        check_platform()
        _shared_python()
    except LocalTritonError as error:
        pytest.skip(str(error))
    with LocalTriton() as running:
        yield running
