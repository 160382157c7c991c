"""The numbers that a script holds for its systems and libraries, and the callbacks behind them.

In the reference they are addresses, and a wrong one is a crash; here it is a ``ValueError``.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from drumfire.loadgen.compat.conversions import text, unsigned


@dataclass(frozen=True)
class System:
    """What a script gave to be measured."""

    kind: str
    """Of system: what its functions are called after."""
    issue: Callable[..., Any]
    """Takes a list of QuerySample; of a fast system, a list of ids and one of indices."""
    flush: Callable[[], Any]
    ask_name: Callable[[], Any]

    @property
    def name(self) -> str:
        return text(self.ask_name(), f"the name of the {self.kind}")

    @property
    def fast(self) -> bool:
        return self.kind == "FastSUT"


@dataclass(frozen=True)
class Library:
    """What a script gave to take samples from."""

    total_count: int
    performance_count: int
    load: Callable[[list[int]], Any]
    unload: Callable[[list[int]], Any]
    kind: str = "QSL"


_numbers = itertools.count(1)
_held: dict[int, System | Library] = {}
H = TypeVar("H", System, Library)


def ConstructSUT(issue_query: Any, flush_queries: Any) -> int:  # noqa: N802
    """A system under test; ``issue_query`` gets lists of QuerySample."""
    _check_callable("ConstructSUT", issue_query, flush_queries)
    return _hold(System("SUT", issue_query, flush_queries, lambda: "PySUT"))


def ConstructFastSUT(issue_query: Any, flush_queries: Any) -> int:  # noqa: N802
    """A system under test; ``issue_query`` gets a list of ids and a list of indices."""
    _check_callable("ConstructFastSUT", issue_query, flush_queries)
    return _hold(System("FastSUT", issue_query, flush_queries, lambda: "PyFastSUT"))


def ConstructQDL(issue_query: Any, flush_queries: Any, name: Any) -> int:  # noqa: N802
    """A query dispatch library, which stands for systems on other hosts; ``name()`` tells their name."""
    _check_callable("ConstructQDL", issue_query, flush_queries, name)
    return _hold(System("QDL", issue_query, flush_queries, name))


def ConstructQSL(total_count: int, performance_count: int, load: Any, unload: Any) -> int:  # noqa: N802
    """A query sample library; ``load`` and ``unload`` get lists of indices."""
    _check_callable("ConstructQSL", load, unload)
    total_count, performance_count = (
        unsigned(count, "ConstructQSL(total_count, performance_count, ...)")
        for count in (total_count, performance_count)
    )
    return _hold(Library(total_count, performance_count, load, unload))


def DestroySUT(sut: int) -> None:  # noqa: N802
    _release(sut, "SUT")


def DestroyFastSUT(sut: int) -> None:  # noqa: N802
    _release(sut, "FastSUT")


def DestroyQDL(qdl: int) -> None:  # noqa: N802
    _release(qdl, "QDL")


def DestroyQSL(qsl: int) -> None:  # noqa: N802
    _release(qsl, "QSL")


def held(handle: int, kind: type[H]) -> H:
    """What stands behind a handle.  Raises ``ValueError`` where it is none, or one of another kind."""
    found = _held.get(unsigned(handle, f"a {kind.__name__.lower()}'s handle"))
    if found is None:
        raise ValueError(f"{handle} is no handle: it was never constructed, or was destroyed already")
    if not isinstance(found, kind):
        raise ValueError(f"{handle} is the handle of a {found.kind}, where a {kind.__name__.lower()}'s is asked for")
    return found


def _check_callable(what: str, *callbacks: Any) -> None:
    for callback in callbacks:
        if not callable(callback):
            raise TypeError(f"{what}: {callback!r} can not be called")


def _hold(what: System | Library) -> int:
    handle = next(_numbers)
    _held[handle] = what
    return handle


def _release(handle: int, kind: str) -> None:
    if unsigned(handle, f"Destroy{kind}") == 0:  # nothing, as in C++
        return
    found: System | Library = held(handle, Library) if kind == "QSL" else held(handle, System)
    if found.kind != kind:
        raise ValueError(f"{handle} is the handle of a {found.kind}: call Destroy{found.kind}")
    del _held[handle]
