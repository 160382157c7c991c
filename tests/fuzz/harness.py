"""Mutated inputs, the bounds of what one may cost, and the oracle that every stream's reader has: where the bytes are
cut changes nothing.

The inputs depend on the seed and their number only, so a failure recurs and one of them can be read alone.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib
import pkgutil
import random
import re
import resource
import signal
import tempfile
import time
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple, Protocol

import tests.fuzz

_OWN = ("harness", "__main__", "test_targets")
_MOST_MUTATIONS = 6
_LARGEST = 1 << 16
"""Bytes of an input; duplication would make it grow."""
PATIENCE_S = 10.0
"""Of one input: what takes so long hangs.  A busy machine makes a good reader take a hundredth of it."""
_alarms: list[float] = []
"""When the clock rang for the present input."""
_MOST_GROWTH = 256 << 20
"""Bytes by which the process may grow, once it is warm."""
_WARM = 2000
"""Inputs after which it is."""

_TOKENS = [
    b"", b"\0", b"\xff", b"\r\n", b"\r\n\r\n", b"\n", b":", b",", b'"', b"\\", b"[", b"]", b"{", b"}", b"null", b"true",
    b"-1", b"1e999", b"NaN", b"9" * 20, b"\x80" * 10, b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\x80\0\0\0",
    b"\0\0\0\0", b"\xed\xa0\x80", b"\xef\xbb\xbf", b"\x1b[2J", b"\\ud800", b"0x10", b"\xe2\x80\xa8", b"a" * 300,
]  # fmt: skip


class Target(Protocol):
    """A module of this folder."""

    SEEDS: Sequence[bytes]

    def read(self, data: bytes) -> None:
        """Returns if the reader behaved, with whatever it documents.  Anything else propagates."""


class Found(NamedTuple):
    """An input on which a reader misbehaved."""

    number: int
    data: bytes
    error: BaseException


_FOLDER = tempfile.TemporaryDirectory(prefix="fuzz-", dir="/dev/shm" if Path("/dev/shm").is_dir() else None)
"""In memory, where the machine has such a folder: to open a file on a disk can cost more than to read an input."""


def file(name: str) -> Path:
    """The path of a target's own file, which goes when this process ends."""
    return Path(_FOLDER.name) / name


class Hangs(BaseException):
    """No reader catches it."""


def targets() -> list[str]:
    return sorted(one.name for one in pkgutil.iter_modules(tests.fuzz.__path__) if one.name not in _OWN)


def target(name: str) -> Target:
    return importlib.import_module(f"tests.fuzz.{name}")  # type: ignore[return-value]


def mutated(seeds: Sequence[bytes], tokens: Sequence[bytes], seed: int, number: int) -> bytes:
    """Input ``number`` of a run: the seeds themselves first, then mutations of them."""
    if number < len(seeds):
        return seeds[number]
    draw = random.Random((seed << 40) + number)
    data = bytearray(draw.choice(seeds))
    for _ in range(draw.randint(1, _MOST_MUTATIONS)):
        draw.choice(_MUTATIONS)(draw, data, seeds, tokens)
        del data[_LARGEST:]
    return bytes(data)


def search(
    one: Target, *, inputs: int, seed: int = 0, seconds: float = 1e9, first: int = 0
) -> tuple[int, Found | None]:
    """Read ``inputs`` inputs, or as many as the time allows.  Returns how many were read, and the first failure,
    or the ``KeyboardInterrupt`` that ended it."""
    seeds, tokens = list(one.SEEDS), [*_TOKENS, *getattr(one, "TOKENS", ())]
    until, base = time.monotonic() + seconds, 0
    number = first
    for number in range(first, first + inputs):
        data = mutated(seeds, tokens, seed, number)
        try:
            read_in_time(one.read, data)
            if number % _WARM == 0:
                grown = peak_bytes()
                base = base or (grown if number > first else 0)
                if base and grown - base > _MOST_GROWTH:
                    raise MemoryError(f"the process has grown by {grown - base >> 20} MiB since it was warm")
        except (Exception, Hangs, KeyboardInterrupt) as error:
            return number + 1 - first, Found(number, data, error)
        if time.monotonic() > until:
            break
    return number + 1 - first, None


def read_in_time(read: Callable[[bytes], None], data: bytes) -> None:
    """Raises ``Hangs`` if it does not end.  Use ``patience`` around it."""
    signal.setitimer(signal.ITIMER_REAL, PATIENCE_S / 2, PATIENCE_S / 2)
    _alarms.clear()
    try:
        read(data)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


@contextlib.contextmanager
def patience() -> Iterator[None]:
    """Let inputs that hang be found in here, in the main thread."""

    def hangs(*_: object) -> None:
        _alarms.append(time.monotonic())
        if len(_alarms) > 1:  # the first may only mean that this process was stopped for a while
            raise Hangs(f"no end after {PATIENCE_S:g} s")

    before = signal.signal(signal.SIGALRM, hangs)
    try:
        yield
    finally:
        signal.signal(signal.SIGALRM, before)


def check_line(error: Exception) -> None:
    """A refusal is one line that a terminal can show."""
    assert str(error).isprintable(), repr(str(error))


def keep(folder: Path, name: str, found: Found) -> Path:
    """Write the input to a file, which ``--replay`` reads."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{name}-{hashlib.sha256(found.data).hexdigest()[:12]}"
    path.write_bytes(found.data)
    return path


def peak_bytes() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10


# The oracle of streams.

_FEW_PIECES, _MOST_PIECES = 20, 2000


def pieces(data: bytes) -> Iterator[bytes]:
    """``data``, cut where the data itself decides: one input in eight into many pieces, at times into single bytes."""
    draw = random.Random(zlib.crc32(data))
    many = draw.random() < 1 / 8
    shortest = 1 + len(data) // (_MOST_PIECES if many else _FEW_PIECES)
    longest = draw.choice((shortest, 3 * shortest, 20 * shortest))
    at = 0
    while at < len(data):
        end = at + 1 + int(longest * draw.random())
        yield data[at:end]
        at = end


def check_cuts(events: Callable[[Iterator[bytes]], tuple[list[object], bool]], data: bytes) -> list[object]:
    """``events`` reads pieces with a fresh reader, and returns what came and whether the reader refused.

    Where the bytes are cut may decide what comes before a refusal, and nothing else.  Returns what came of the whole.
    """
    whole, refused = events(iter((data,)))
    cut, refused_cut = events(pieces(data))
    assert refused == refused_cut, f"whole: {'refused' if refused else 'accepted'}; in pieces it is not"
    assert refused or whole == cut, f"whole: {whole!r:.500}\nin pieces: {cut!r:.500}"
    return whole


def check_primed(events: Callable[..., tuple[list[object], bool]], data: bytes) -> None:
    """As ``check_cuts``; and with ``primed``, where an earlier message has come, the same must come as without."""
    of_primed = zlib.crc32(data) % 2 == 1  # one of the two is cut, the other is not
    whole = check_cuts(lambda pieces: events(pieces, primed=of_primed), data)
    other, _ = events(iter((data,)), primed=not of_primed)
    assert whole == other, f"primed is {of_primed}: {whole!r:.300}\notherwise: {other!r:.300}"


# Mutations change ``data`` in place.


def _place(draw: random.Random, data: bytearray) -> int:
    return draw.randrange(len(data) + 1)


def _flip(draw: random.Random, data: bytearray, *_: object) -> None:
    if data:
        data[draw.randrange(len(data))] ^= 1 << draw.randrange(8)


def _set(draw: random.Random, data: bytearray, *_: object) -> None:
    if data:
        data[draw.randrange(len(data))] = draw.choice((0, 1, 0x7F, 0x80, 0xFF, draw.randrange(256)))


def _insert(draw: random.Random, data: bytearray, _: object, tokens: Sequence[bytes]) -> None:
    at = _place(draw, data)
    data[at:at] = draw.choice(tokens)


def _overwrite(draw: random.Random, data: bytearray, _: object, tokens: Sequence[bytes]) -> None:
    at, token = _place(draw, data), draw.choice(tokens)
    data[at : at + len(token)] = token


def _splice(draw: random.Random, data: bytearray, seeds: Sequence[bytes], _: object) -> None:
    other = draw.choice(seeds)
    data[_place(draw, data) :] = other[draw.randrange(len(other) + 1) :]


def _truncate(draw: random.Random, data: bytearray, *_: object) -> None:
    del data[_place(draw, data) :]


def _remove(draw: random.Random, data: bytearray, *_: object) -> None:
    at = _place(draw, data)
    del data[at : at + draw.choice((1, 2, 4, 9, 50))]


def _duplicate(draw: random.Random, data: bytearray, *_: object) -> None:
    at = _place(draw, data)
    piece = data[at : at + draw.choice((1, 4, 9, 50, 1000))]
    data[at:at] = piece * draw.choice((1, 1, 2, 30))


def _number(draw: random.Random, data: bytearray, *_: object) -> None:
    """A number of 1 to 4 bytes, as lengths are written, becomes a near or an extreme one."""
    size = draw.choice((1, 2, 3, 4))
    if len(data) >= size:
        at, order = draw.randrange(len(data) - size + 1), draw.choice(("big", "little"))
        value, most = int.from_bytes(data[at : at + size], order), (1 << 8 * size) - 1
        value = draw.choice((0, 1, most, most >> 1, value + 1, value - 1, value * 2, draw.randrange(most + 1)))
        data[at : at + size] = min(max(value, 0), most).to_bytes(size, order)


def _digits(draw: random.Random, data: bytearray, *_: object) -> None:
    """A number in digits, as text has it, becomes another one."""
    found = _NUMBER.search(data, _place(draw, data)) or _NUMBER.search(data)
    if found:
        value = int(found[0])
        data[found.start() : found.end()] = b"%d" % draw.choice(
            (0, value + 1, value - 1, value * 10, 1 << 31, 1 << 63, 10**19)
        )


_NUMBER = re.compile(rb"[0-9]{1,18}")

_MUTATIONS = (
    _flip, _set, _set, _insert, _insert, _overwrite, _splice, _truncate, _remove, _duplicate, _number, _number, _digits,
)  # fmt: skip
