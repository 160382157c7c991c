"""A file that grows line by line and can be cut back to its length at a checkpoint.

Only rank 0 writes one.  A failed write is kept as a fault, which the run then sends to the other ranks.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from drumfire.loadgen.files import in_one_step
from drumfire.training.faults import InputError, one_line


class Journal:
    """Lines of a file.  With ``path`` None nothing is written, as on every rank but the first."""

    def __init__(self, path: Path | None, keep: int = 0) -> None:
        """Keep the first ``keep`` bytes of an existing file.  ``InputError`` if it cannot be written."""
        self._path = path
        self.fault: str | None = None
        self.size = keep
        self._file = None
        if path is None:
            return
        try:
            self._file = _open(path, keep)
        except OSError as error:
            raise InputError(f"cannot write {one_line(error)}; choose another --output") from None

    def line(self, text: str) -> None:
        """Write a line, unless an earlier one failed."""
        if self._file is None or self.fault:
            return
        data = text.encode() + b"\n"
        try:
            written = os.write(self._file, data)
            if written < len(data):
                written += os.write(self._file, data[written:])
            self.size += written
        except OSError as error:
            self.fault = f"cannot write {self._path}: {error.strerror}; make room, then start again with --resume"

    def record(self, kind: str, **values: Any) -> None:
        """Write an event as a line of JSON."""
        if self._file is not None:
            self.line(json.dumps({"kind": kind, **values}, separators=(",", ":")))

    def close(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None


def _open(path: Path, keep: int) -> int:
    """Replace the file by a new one with its first ``keep`` bytes, so that its readers can see that it changed."""
    kept = path.read_bytes()[:keep] if keep else b""
    if len(kept) < keep:
        raise InputError(f"{path} is shorter than the checkpoint says: start a new run in another --output")
    with in_one_step(path) as file:
        file.write(kept)
    return os.open(path, os.O_WRONLY | os.O_APPEND)
