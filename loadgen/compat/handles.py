"""A script's handles for its systems and libraries, and the callbacks behind them.

In the reference, handles are addresses, and a wrong handle is a crash; here it is a ``ValueError``.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from drumfire.loadgen.compat.conversions import text, unsigned


@dataclass(frozen=True)
class System:
    """A script's system under test."""

    kind: str
    """The kind in its functions' names: SUT, FastSUT or QDL."""
    issue: Callable[..., Any]
    """Takes a list of QuerySample; for a FastSUT, a list of ids and a list of indices."""
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
    """A script's sample library."""

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
    """A query dispatch library, for systems on other hosts; ``name()`` returns their name."""
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


def resolve(handle: int, kind: type[H]) -> H:
    """The object behind a handle.  Raises ``ValueError`` if there is none, or if it has another type."""
    held = _held.get(unsigned(handle, f"a {kind.__name__.lower()}'s handle"))
    if held is None:
        raise ValueError(f"{handle} is not a handle: it was never constructed, or is already destroyed")
    if not isinstance(held, kind):
        raise ValueError(f"{handle} is the handle of a {held.kind}; a {kind.__name__.lower()}'s handle is needed")
    return held


def _check_callable(what: str, *callbacks: Any) -> None:
    for callback in callbacks:
        if not callable(callback):
            raise TypeError(f"{what}: {callback!r} is not callable")


def _hold(what: System | Library) -> int:
    handle = next(_numbers)
    _held[handle] = what
    return handle


def _release(handle: int, kind: str) -> None:
    if unsigned(handle, f"Destroy{kind}") == 0:  # does nothing, as in C++
        return
    held: System | Library = resolve(handle, Library) if kind == "QSL" else resolve(handle, System)
    if held.kind != kind:
        raise ValueError(f"{handle} is the handle of a {held.kind}: call Destroy{held.kind}")
    del _held[handle]
