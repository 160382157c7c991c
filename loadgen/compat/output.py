"""The log files of a script's test, written by the engine under the names in the log settings."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path

from drumfire.loadgen import trace
from drumfire.loadgen.compat.settings import LogSettings
from drumfire.loadgen.directory import OutputError, write_logs
from drumfire.loadgen.run import Test

_ENDINGS = {"summary": "txt", "detail": "txt", "accuracy": "json", "trace": "json"}


class Output:
    """Where one test's logs go; the settings are read once."""

    def __init__(self, settings: LogSettings) -> None:
        where = settings.log_output
        prefix = where.prefix
        if where.prefix_with_datetime:
            prefix += datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ_")
        folder = Path(where.outdir or ".")
        self.paths = {kind: folder / f"{prefix}{kind}{where.suffix}.{end}" for kind, end in _ENDINGS.items()}
        self._trace = settings.enable_trace
        self._copy_detail, self._copy_summary = where.copy_detail_to_stdout, where.copy_summary_to_stdout

    def create(self) -> None:
        """Create all files, empty, before anything runs.  Raises ``OutputError`` for a file that cannot be written."""
        for path in self.paths.values():
            try:
                path.write_bytes(b"")
            except OSError as error:
                raise OutputError(
                    f"cannot write {path}: {error.strerror}; make the folder first, or set log_output.outdir to another"
                ) from None

    def write(self, test: Test) -> None:
        """Fill the files with what was recorded."""
        summary = write_logs(test, self.paths["summary"], self.paths["detail"], self.paths["accuracy"])
        if self._trace:
            trace.write(test, self.paths["trace"])
        if self._copy_detail:
            sys.stdout.write("".join(test.log.entries))
        if self._copy_summary:
            sys.stdout.write(summary)
