"""What a query holds and what it is answered with: samples, responses, and the vectors of both.

Made once or twice for every sample of a run, so they are as bare as a Python object can be: types are checked when an
object is made, and what else there is to check when it is used.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any, ClassVar, Generic, TypeVar, overload

from drumfire.loadgen.compat.conversions import signed, unsigned


class QuerySample:
    """A sample to be answered: ``id`` names it in the answer, ``index`` is its place in the data set."""

    __slots__ = ("id", "index")

    def __init__(self, number: int | None = None, index: int | None = None, /) -> None:
        if not (type(number) is type(index) is int and number >= 0 and index >= 0):
            given = (0, 0) if number is index is None else (number, index)
            number, index = (unsigned(value, "QuerySample(id: int, index: int)") for value in given)
        self.id = number
        self.index = index

    def __reduce__(self) -> Any:
        return QuerySample, (self.id, self.index)


class IssuedSample(QuerySample):
    """As the engine makes them, of values that need no check: a quarter of what making one costs."""

    __slots__ = ()

    def __init__(self, number: int, index: int, /) -> None:
        self.id = number
        self.index = index


IssuedSample.__name__ = IssuedSample.__qualname__ = QuerySample.__qualname__


class QuerySampleResponse:
    """An answer: ``size`` bytes in memory at address ``data``, which need only live through QuerySamplesComplete."""

    __slots__ = ("data", "id", "n_tokens", "size")

    def __init__(
        self, number: int | None = None, data: int | None = None, size: int | None = None, n_tokens: int = 0, /
    ) -> None:
        if not type(number) is type(data) is type(size) is int:
            wanted_for = "QuerySampleResponse(id: int, data: int, size: int, n_tokens: int)"
            given = (0, 0, 0) if number is data is size is None else (number, data, size)
            number, data, size = (unsigned(value, wanted_for) for value in given)
            n_tokens = signed(n_tokens, wanted_for)
        self.id = number
        self.data = data
        self.size = size
        self.n_tokens = n_tokens

    def __reduce__(self) -> Any:
        return QuerySampleResponse, (self.id, self.data, self.size, self.n_tokens)


T = TypeVar("T")


class _Vector(Generic[T]):
    """A list of one kind of thing, with the methods that a bound C++ vector has."""

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
                raise RuntimeError("a slice can only be replaced by as many items as it has")
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
