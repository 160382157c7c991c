"""Conversions of Python values to C++'s int, double, bool and string, as in the reference's bindings.

Each takes the value and its purpose, and raises ``TypeError`` for values that the reference refuses.
"""

from __future__ import annotations

import operator
from typing import Any

_UINT64 = 1 << 64


def unsigned(value: Any, wanted_for: str) -> int:
    """An unsigned int of 64 bits."""
    return _within(value, 0, _UINT64, "an int from 0 to 2**64 - 1", wanted_for)


def signed(value: Any, wanted_for: str) -> int:
    """A signed int of 64 bits."""
    return _within(value, -_UINT64 // 2, _UINT64 // 2, "an int of 64 bits", wanted_for)


def signed_int(value: Any, wanted_for: str) -> int:
    """A signed int of 32 bits."""
    return _within(value, -(1 << 31), 1 << 31, "an int of 32 bits", wanted_for)


def _within(value: Any, least: int, beyond: int, what: str, wanted_for: str) -> int:
    # Floats are refused, even whole ones; other numbers, such as numpy's, are converted.
    if not isinstance(value, float) and (hasattr(value, "__index__") or hasattr(value, "__int__")):
        number = operator.index(value) if hasattr(value, "__index__") else int(value)
        if least <= number < beyond:
            return number
    raise TypeError(f"{wanted_for}: {value!r} is not {what}")


def double(value: Any, wanted_for: str) -> float:
    if hasattr(value, "__float__") or hasattr(value, "__index__"):
        return float(value)
    raise TypeError(f"{wanted_for}: {value!r} is not a number")


def flag(value: Any, wanted_for: str) -> bool:
    if value is None or hasattr(value, "__bool__"):
        return bool(value)
    raise TypeError(f"{wanted_for}: {value!r} is not a bool")


def text(value: Any, wanted_for: str) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bytes):
        return value.decode()
    raise TypeError(f"{wanted_for}: {value!r} is not a str")
