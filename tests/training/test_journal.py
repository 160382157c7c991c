"""A journal grows by whole lines, can be cut back, and remembers that it could not be written."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from drumfire.training.faults import InputError
from drumfire.training.journal import Journal


def test_cut_back_to_a_checkpoint_and_gone_on_with(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    journal = Journal(path)
    journal.record("step", loss=1.5)
    size = journal.size
    journal.line("lost")
    journal.close()
    assert size == len('{"kind":"step","loss":1.5}\n')
    again = Journal(path, keep=size)
    again.line("after")
    again.close()
    assert path.read_text() == '{"kind":"step","loss":1.5}\nafter\n'
    assert again.size == path.stat().st_size
    assert list(tmp_path.iterdir()) == [path]


def test_shorter_than_the_checkpoint_says(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_text("ab\n")
    with pytest.raises(InputError, match="is shorter than the checkpoint says"):
        Journal(path, keep=4)


def test_other_ranks_write_nothing() -> None:
    journal = Journal(None)
    journal.line("a")
    journal.record("b")
    journal.close()
    assert (journal.size, journal.fault) == (0, None)


def test_a_full_disk_is_remembered_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal = Journal(tmp_path / "log")

    def full(*_: object) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "write", full)
    journal.line("a")
    journal.line("b")
    monkeypatch.undo()
    journal.close()
    assert journal.fault is not None
    assert journal.fault.endswith("No space left on device; make room, then start again with --resume")
    with pytest.raises(InputError, match="choose another --output"):
        Journal(tmp_path / "none" / "log")
