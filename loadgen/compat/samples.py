"""Samples, responses, and vectors of both.

A run makes one or two of these objects per sample, so they are minimal: types are checked when an object is made, and
everything else when it is used.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, Generic, TypeVar, overload

from drumfire.loadgen.compat.conversions import signed, unsigned


class QuerySample:
    """A sample to answer: ``id`` identifies it in the answer, ``index`` is its dataset index."""

    __slots__ = ("id", "index")

    def __init__(self, number: int | None = None, index: int | None = None, /) -> None:
        if not (type(number) is type(index) is int and number >= 0 and index >= 0):
            values = (0, 0) if number is index is None else (number, index)
            number, index = (unsigned(value, "QuerySample(id: int, index: int)") for value in values)
        self.id = number
        self.index = index

    def __reduce__(self) -> Any:
        return QuerySample, (self.id, self.index)


class IssuedSample(QuerySample):
    """Made by the engine from values that need no check, at a quarter of the cost."""

    __slots__ = ()

    def __init__(self, number: int, index: int, /) -> None:
        self.id = number
        self.index = index


IssuedSample.__name__ = IssuedSample.__qualname__ = QuerySample.__qualname__


class QuerySampleResponse:
    """An answer: ``size`` bytes at address ``data``, which must only stay valid during QuerySamplesComplete."""

    __slots__ = ("data", "id", "n_tokens", "size")

    def __init__(
        self, number: int | None = None, data: int | None = None, size: int | None = None, n_tokens: int = 0, /
    ) -> None:
        if not type(number) is type(data) is type(size) is int:
            wanted_for = "QuerySampleResponse(id: int, data: int, size: int, n_tokens: int)"
            values = (0, 0, 0) if number is data is size is None else (number, data, size)
            number, data, size = (unsigned(value, wanted_for) for value in values)
            n_tokens = signed(n_tokens, wanted_for)
        self.id = number
        self.data = data
        self.size = size
        self.n_tokens = n_tokens

    def __reduce__(self) -> Any:
        return QuerySampleResponse, (self.id, self.data, self.size, self.n_tokens)


T = TypeVar("T")


class _Vector(Generic[T]):
    """A list of items of one type, with the methods of a bound C++ vector."""

    __slots__ = ("_items",)
    _kind: ClassVar[type]

    def __init__(self, items: Iterable[T] = ()) -> None:
        self._items = [self._checked(item) for item in items]

    def _checked(self, item: T) -> T:
        if not isinstance(item, self._kind):
            raise TypeError(f"{type(self).__name__} holds {self._kind.__name__}, not {item!r}")
        return item

    def append(self, x: T) -> None:
        self._items.append(self._checked(x))

    def extend(self, items: Iterable[T]) -> None:
        self._items += [self._checked(item) for item in items]

    def insert(self, i: int, x: T) -> None:
        if not -len(self._items) <= i <= len(self._items):
            raise IndexError(i)
        self._items.insert(i, self._checked(x))

    def pop(self, i: int = -1) -> T:
        return self._items.pop(i)

    def clear(self) -> None:
        self._items.clear()

    def __len__(self) -> int:
        return len(self._items)

    def __iter__(self) -> Iterator[T]:
        return iter(self._items)

    @overload
    def __getitem__(self, at: int) -> T: ...
    @overload
    def __getitem__(self, at: slice) -> _Vector[T]: ...
    def __getitem__(self, at: int | slice) -> T | _Vector[T]:
        return type(self)(self._items[at]) if isinstance(at, slice) else self._items[at]

    def __setitem__(self, at: int | slice, value: Any) -> None:
        if isinstance(at, slice):
            values = [self._checked(item) for item in value]
            if len(values) != len(self._items[at]):
                raise RuntimeError("a slice can only be replaced by the same number of items")
            self._items[at] = values
        else:
            self._items[at] = self._checked(value)

    def __delitem__(self, at: int | slice) -> None:
        del self._items[at]

    def __reduce__(self) -> Any:
        raise TypeError(f"cannot pickle {type(self).__name__!r} object")


class VectorQuerySample(_Vector[QuerySample]):
    __slots__ = ()
    _kind = QuerySample


class VectorQuerySampleResponse(_Vector[QuerySampleResponse]):
    __slots__ = ()
    _kind = QuerySampleResponse
