"""The table of a run: its memory is given back."""

from __future__ import annotations

import gc
import os

from drumfire.loadgen.record import Record


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_a_table_that_nobody_holds_leaves_no_file_open() -> None:
    gc.collect()
    before = open_files()
    for _ in range(20):
        Record(100)
    assert open_files() <= before  # what other tests left may be closed meanwhile


def test_closing_twice_closes_nothing_of_others() -> None:
    record = Record(10)
    fd = record.fd
    record.close()
    other = os.open(os.devnull, os.O_RDONLY)
    try:
        assert other == fd  # the system gives the lowest free number
        record.close()
        del record
        os.fstat(other)
    finally:
        os.close(other)


def test_columns_outlive_their_table() -> None:
    issued = Record(10).issued
    issued[3] = 7
    assert issued.sum() == 7
