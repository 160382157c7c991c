"""A terminal of the tests' own."""

from __future__ import annotations

import pty

import pytest


def open_terminal() -> tuple[int, int]:
    """File descriptors of both ends: what programs write, and what they take for their terminal."""
    try:
        return pty.openpty()
    except OSError as error:
        pytest.skip(f"no terminal can be opened ({error}): mount devpts at /dev/pts")
