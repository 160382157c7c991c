"""Fixtures for all tests."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from sut.triton.local import LocalTriton, LocalTritonError
from sut.triton.local_environment import check_platform


@pytest.fixture(scope="session")
def triton() -> Iterator[LocalTriton]:
    """A real Triton on loopback.  Skipped where the platform can not run it, and only there."""
    try:
        check_platform()
    except LocalTritonError as error:
        pytest.skip(str(error))
    with LocalTriton() as running:
        yield running
