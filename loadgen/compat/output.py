"""The log files of a script's test: the engine's own writers, under the names that the log settings ask for."""

from __future__ import annotations

import sys
from datetime import UTC, datetime
from pathlib import Path

from drumfire.loadgen import logs, summary, trace
from drumfire.loadgen.compat.settings import LogSettings
from drumfire.loadgen.directory import OutputError
from drumfire.loadgen.run import Test
from drumfire.loadgen.settings import Scenario

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
        """Make all files, empty.  Raises ``OutputError`` before anything runs where one can not be written."""
        for path in self.paths.values():
            try:
                path.write_bytes(b"")
            except OSError as error:
                raise OutputError(
                    f"cannot write {path}: {error.strerror}; make the folder first, or set log_output.outdir to another"
                ) from None

    def write(self, test: Test) -> None:
        """Fill the files with what was recorded."""
        results = test.results()
        if results is not None:
            logs.put_results(test.log, test.effective, results)
        test.log.write(self.paths["detail"])
        shown = summary.summary(
            test.system.name, test.effective, results, warnings=test.log.warnings, errors=test.log.errors
        )
        self.paths["summary"].write_text(shown, encoding="utf-8", errors="backslashreplace")
        token_counts = test.record.columns.get("n_tokens") if test.effective.use_token_latencies else None
        first_tokens = None if test.effective.scenario == Scenario.Offline else test.answers.first_tokens
        logs.write_accuracy(
            self.paths["accuracy"],
            test.answers.kept,
            test.record.sample_index,
            test.phases,
            token_counts,
            first_tokens,
        )
        if self._trace:
            trace.write(test, self.paths["trace"])
        if self._copy_detail:
            sys.stdout.write("".join(test.log.entries))
        if self._copy_summary:
            sys.stdout.write(shown)
