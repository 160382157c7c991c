"""Fixtures for all tests, and how they share a machine."""

from __future__ import annotations

import gc
import os
import signal
from collections.abc import Iterator

import pytest
from hypothesis import settings

pytest.register_assert_rewrite("tests.support")

# Workers share the cores: more threads in each would only wait for the other's.  Read when the libraries are imported.
if "PYTEST_XDIST_WORKER" in os.environ:
    for _variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ.setdefault(_variable, "1")

from drumfire.sut.remote.triton_local.environment import check_platform  # noqa: E402
from drumfire.sut.remote.triton_local.server import LocalTriton, LocalTritonError  # noqa: E402
from tests.support.real_server import REAL_TRITON, RealServer, ServeProcess  # noqa: E402

# Neighbours on the same cores make any example slow now and then.  --hypothesis-profile chooses the other one.
settings.register_profile("fast", deadline=None, max_examples=50)
settings.register_profile("thorough", deadline=None, max_examples=500)
settings.load_profile("fast")

gc.disable()  # until all tests are collected, which makes no garbage
gc.get_freeze_count = lambda: 1  # see little_to_collect; to count what is frozen would take 0.1 s in every run

# A shell that starts the tests in the background has them ignore Ctrl-C, and so all processes that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="module")
def little_to_collect() -> None:
    """Every run collects garbage first: without this, it looks through all of pytest's objects, for 0.2 s."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def signals() -> Iterator[None]:
    """A command that runs in this process sets handlers: the next test finds those from before."""
    handlers = [(number, signal.getsignal(number)) for number in (signal.SIGINT, signal.SIGTERM)]
    yield
    for number, handler in handlers:
        signal.signal(number, handler)


def pytest_collection_finish() -> None:
    gc.enable()


@pytest.hookimpl(tryfirst=True)  # before -m selects
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Add the marks of the real Triton, and refuse a serial test that is fast: those run in parallel."""
    for item in items:
        if "triton" in getattr(item, "fixturenames", ()):
            for mark in REAL_TRITON:
                item.add_marker(mark)
        if item.get_closest_marker("serial") and not item.get_closest_marker("slow"):
            raise pytest.UsageError(f"{item.nodeid}: mark it slow too")


@pytest.fixture(scope="session")
def serve() -> Iterator[ServeProcess]:
    """Our own server on loopback, with the models ``digits`` and ``identity``."""
    pytest.importorskip("onnxruntime")
    with ServeProcess("onnxruntime", "digits", "identity", "--max-batchsize", "64", "--threads", "1") as running:
        yield running


@pytest.fixture(params=["serve", pytest.param("triton", marks=REAL_TRITON)])
def server(request: pytest.FixtureRequest) -> RealServer:
    """A server for what must hold with any: ours in every run, and the real Triton among the slow tests."""
    running: RealServer = request.getfixturevalue(request.param)
    return running


@pytest.fixture(scope="session")
def triton() -> Iterator[LocalTriton]:
    """A real Triton on loopback.  Skipped where this machine cannot run it, and only there."""
    try:
        check_platform()
    except LocalTritonError as error:
        pytest.skip(str(error))
    with LocalTriton() as running:
        yield running
