"""Every target for a share of a minute.  ``python -m tests.fuzz`` searches for as long as one likes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from tests.fuzz import harness

_SECONDS = 60.0


@pytest.fixture(autouse=True)
def patience() -> Iterator[None]:
    with harness.patience():
        yield


class Reader:
    """Misbehaves as it is told."""

    SEEDS: Sequence[bytes] = [b"0123456789", b"abcdefghij"]

    def __init__(self, fault: str) -> None:
        self.fault = fault

    def read(self, data: bytes) -> None:
        if b"\xff" in data and self.fault == "raises":
            raise IndexError("an index")
        while b"\xff" in data and self.fault == "hangs":
            pass


@pytest.mark.parametrize(("fault", "error"), [("raises", IndexError), ("hangs", harness.Hangs)])
def test_a_reader_that_misbehaves_is_found_and_its_input_recurs(
    fault: str, error: type[BaseException], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(harness, "PATIENCE_S", 0.05)
    one = Reader(fault)
    count, found = harness.search(one, inputs=100_000, seed=3)
    assert found is not None
    assert isinstance(found.error, error)
    assert count == found.number + 1
    path = harness.keep(tmp_path, "reader", found)
    with pytest.raises(error):
        harness.read_in_time(one.read, path.read_bytes())
    assert harness.search(one, inputs=1, seed=3, first=found.number)[1] is not None


def test_a_reader_that_keeps_what_it_reads_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    class Hoards(Reader):
        kept: bytes = b""

        def read(self, data: bytes) -> None:
            self.kept += bytes(10_000)

    monkeypatch.setattr(harness, "_WARM", 100)
    monkeypatch.setattr(harness, "peak_bytes", lambda: len(one.kept) * 100)
    one = Hoards("")
    found = harness.search(one, inputs=10_000)[1]
    assert found is not None
    assert isinstance(found.error, MemoryError)


def test_a_good_reader_reads_all() -> None:
    assert harness.search(Reader(""), inputs=500) == (500, None)


def test_a_stream_that_depends_on_its_cuts_is_found() -> None:
    harness.check_cuts(lambda pieces: ([*b"".join(pieces)], False), bytes(100))
    with pytest.raises(AssertionError, match="in pieces"):
        harness.check_cuts(lambda pieces: ([*pieces], False), bytes(5000))


@pytest.mark.parametrize("name", harness.targets())
def test_the_seeds_are_read(name: str) -> None:
    one = harness.target(name)
    assert harness.search(one, inputs=len(one.SEEDS) + 30) == (len(one.SEEDS) + 30, None)


@pytest.mark.slow
@pytest.mark.parametrize("name", harness.targets())
def test_mutated_inputs_are_read(name: str) -> None:
    seconds = _SECONDS / len(harness.targets())
    _, found = harness.search(harness.target(name), inputs=10**9, seconds=seconds)
    if found is not None:
        raise AssertionError(f"input {found.number} of seed 0: {found.data!r:.1000}") from found.error
