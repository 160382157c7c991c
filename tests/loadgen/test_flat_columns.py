"""Flat columns: several values a row, in the table, in another process, in files and in the merged whole."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from drumfire.loadgen import flat_columns
from drumfire.loadgen.flat_columns import Flat, load_flat_columns
from drumfire.loadgen.record import Gauge, Record, bytes_per_row, load_columns

WIDTH = 3
ROWS = st.lists(st.lists(st.integers(-(10**18), 10**18), max_size=6), min_size=1, max_size=40)


def table(rows: list[list[int]], width: int = WIDTH) -> Record:
    record = Record(len(rows), {"sent": np.int64, "marks": Flat(np.int64, width), "small": Flat(np.uint32, 1)})
    flat = record.flat_columns["marks"]
    for row, values in enumerate(rows):
        half = len(values) // 2
        for value in values[:half]:
            flat.append(row, value)
        flat.extend(row, values[half:])
    record.gauges[Gauge.ISSUED] = len(rows)
    return record


def kept(values: list[int], width: int = WIDTH) -> list[int]:
    """What is in the table of a row's values: where there is no room, a value replaces the last."""
    return values if len(values) <= width else [*values[: width - 1], values[-1]]


@examples(deadline=None, max_examples=60)
@given(ROWS, st.integers(1, 50))
def test_rows_saved_and_read_are_those_recorded(
    tmp_path_factory: pytest.TempPathFactory, rows: list[list[int]], chunk: int
) -> None:
    folder = tmp_path_factory.mktemp("columns")
    record = table(rows)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flat_columns, "_CHUNK_ROWS", chunk)
        record.save(folder)
    found = load_flat_columns(folder)
    assert [found["marks"][row].tolist() for row in range(len(rows))] == [kept(values) for values in rows]
    assert len(found["marks"]) == len(found["small"]) == len(rows)
    assert found["small"].values.size == 0
    assert found["marks"].offsets.dtype == found["marks"].values.dtype == np.int64
    assert record.flat_columns["marks"].overflow == sum(max(len(values) - WIDTH, 0) for values in rows)
    assert not {"marks", "marks.offsets", "small"} & load_columns(folder).keys()
    assert load_columns(folder)["sent"].size == len(rows)


@examples(deadline=None, max_examples=60)
@given(ROWS, st.sampled_from([1, 2, 3, 7]), st.integers(1, 5))
def test_parts_put_back_are_the_whole(rows: list[list[int]], parts: int, chunk: int) -> None:
    record, whole = table(rows), table([[] for _ in rows])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(flat_columns, "_CHUNK_ROWS", chunk)
        for part in range(parts):
            of_part = table(rows[part::parts]) if rows[part::parts] else None
            if of_part is not None:
                piece = of_part.flat_columns["marks"].part(0, of_part.rows)
                whole.flat_columns["marks"].put(np.arange(part, len(rows), parts), piece)
    ours, theirs = whole.flat_columns["marks"], record.flat_columns["marks"]
    everything = ours.part(0, len(rows)), theirs.part(0, len(rows))
    assert everything[0].values.tolist() == everything[1].values.tolist()
    assert ours.counts.tolist() == theirs.counts.tolist()
    assert ours.overflow == theirs.overflow


def test_another_process_sees_them() -> None:
    record = table([[1, 2], [], [3, 4, 5, 6]])
    attached = Record.attach(record.fd, record.layout)
    record.flat_columns["marks"].append(1, 9)
    part = attached.flat_columns["marks"].part(0, 3)
    assert part.values.tolist() == [1, 2, 9, 3, 4, 6]
    assert part.counts.tolist() == [2, 1, 4]
    assert attached.described == record.described == Record(1, record.described).described
    attached._let_go.detach()  # the descriptor is the other table's


def test_memory_checks_count_their_room() -> None:
    assert bytes_per_row({"marks": Flat(np.int64, 64)}) - bytes_per_row() >= 64 * 8


def test_only_issued_rows_are_saved(tmp_path: Path) -> None:
    record = table([[1], [2, 3], [4]])
    record.gauges[Gauge.ISSUED] = 2
    record.save(tmp_path)
    assert load_flat_columns(tmp_path)["marks"].values.tolist() == [1, 2, 3]
    with pytest.raises(IndexError):
        load_flat_columns(tmp_path)["marks"][2]
