"""Fixtures for all tests."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest
from hypothesis import settings

from sut.triton.local import LocalTriton, LocalTritonError
from sut.triton.local_environment import check_platform

# Neighbours on the same cores make any example slow now and then.
settings.register_profile("shared machine", deadline=None)
settings.load_profile("shared machine")

# A shell that starts the tests in the background has them ignore Ctrl-C, and so all processes that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(scope="session")
def triton() -> Iterator[LocalTriton]:
    """A real Triton on loopback.  Skipped where the platform can not run it, and only there."""
    try:
        check_platform()
    except LocalTritonError as error:
        pytest.skip(str(error))
    with LocalTriton() as running:
        yield running
