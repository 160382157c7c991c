"""Enumerations like pybind11's, which are not ``int`` and compare equal only to their own type.

As in the reference, a member that belongs to a settings object changes with it (``settings`` sets its number).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

from drumfire.loadgen.compat.conversions import signed_int
from drumfire.loadgen.settings import Mode, Scenario


class Enumeration:
    """A number with a name.  Any number is valid; numbers without a name are shown as ``???``."""

    __slots__ = ("_number",)
    __members__: ClassVar[dict[str, Any]] = {}

    def __init__(self, value: int) -> None:
        self._number = signed_int(value, f"{type(self).__name__}(value: int)")

    @property
    def name(self) -> str:
        return next((name for name, member in self.__members__.items() if member._number == self._number), "???")

    @property
    def value(self) -> int:
        return self._number

    def __int__(self) -> int:
        return self._number

    def __index__(self) -> int:
        return self._number

    def __eq__(self, other: object) -> bool:
        return type(other) is type(self) and other._number == self._number

    def __hash__(self) -> int:
        return hash(self._number)

    def __repr__(self) -> str:
        return f"<{self}: {self._number}>"

    def __str__(self) -> str:
        return f"{type(self).__name__}.{self.name}"

    def __getstate__(self) -> int:
        return self._number

    def __setstate__(self, state: int) -> None:
        self._number = state

    def __copy__(self) -> Enumeration:
        return type(self)(self._number)


def take_over(member: Enumeration, other: Enumeration) -> None:
    """Give ``member`` the value of ``other``."""
    member._number = other._number


def _define(kind: type[Enumeration], numbers: Mapping[str, int]) -> None:
    """Create the named members."""
    kind.__members__ = {name: kind(number) for name, number in numbers.items()}
    kind.__doc__ = "Members:\n\n" + "\n\n".join(f"  {name}" for name in numbers)
    for name, member in kind.__members__.items():
        setattr(kind, name, member)


class TestScenario(Enumeration):
    __slots__ = ()
    __test__ = False  # pytest takes classes called Test* for tests


class TestMode(Enumeration):
    __slots__ = ()
    __test__ = False


class LoggingMode(Enumeration):
    """The reference always uses the first."""

    __slots__ = ()


_define(TestScenario, Scenario.__members__)
_define(TestMode, Mode.__members__)
_define(LoggingMode, {"AsyncPoll": 0, "EndOfTestOnly": 1, "Synchronous": 2})
