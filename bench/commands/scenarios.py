"""``make run``: runs one system in several scenarios, each by ``drumfire run``, and shows a table of them all.

    python -m drumfire.bench.commands.scenarios [--scenarios "Server Offline"] BACKEND MODEL ... (as ``drumfire run``)

Measures nothing: the table is read from the runs' folders.
"""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from drumfire.bench import statuses
from drumfire.bench.report import figures
from drumfire.loadgen import installation, streams
from drumfire.loadgen.claim import Claim
from drumfire.loadgen.directory import RESULT
from drumfire.loadgen.results import judged_latency
from drumfire.loadgen.saved import load
from drumfire.loadgen.settings import Scenario
from drumfire.loadgen.signals import on_ending


def main(arguments: Sequence[str] | None = None) -> int:
    """Do the runs, and return VALID or INVALID; if a run ends with another status, stop and return that."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    scenarios = list(Scenario.__members__)
    if words and words[0] == "--scenarios":
        scenarios, words = " ".join(words[1:2]).split(), words[2:]
    console = Console(highlight=False, soft_wrap=True)
    claim = Claim.new("scenarios")  # until this process ends
    folder = claim.folder
    # A scenario may be named twice.
    runs = [(name, folder / (f"{name}-{at}" if name in scenarios[:at] else name)) for at, name in enumerate(scenarios)]
    status = _run_all(runs, words, console)
    results = [(name, load(own).result) for name, own in runs if (own / RESULT).is_file()]
    if results:
        console.print()
        console.print(table(results), soft_wrap=False)
        console.print(f"\nsaved in {folder}/SCENARIO; for your own runs: {installation.program('drumfire')} run --help")
    return status


def table(results: Sequence[tuple[str, Mapping[str, Any]]]) -> Table:
    """A table with a row for each scenario and its result document."""
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("scenario", "result", "metric", "", "p99 latency"):
        shown.add_column(heading, no_wrap=heading != "")
    for name, result in results:
        validity, metric = result["validity"], result["metric"]
        latency = judged_latency(result)
        shown.add_row(
            name,
            Text(validity, "green" if validity == "VALID" else "bold red"),
            figures.metric_value(metric) if metric is not None else "",
            metric["name"] if metric is not None else "",
            figures.duration(latency["p99"]) if latency else "",
        )
    return shown


def _run_all(runs: Sequence[tuple[str, Path]], words: Sequence[str], console: Console) -> int:
    """``runs``: each scenario with the folder of its run."""
    worst = statuses.VALID
    stop = _Stop()
    for number, (name, folder) in enumerate(runs, 1):
        console.print(Text(f"\n{number} of {len(runs)}: {name}\n", "bold"))
        own = ["--scenario", name, "--output", str(folder)]
        status = stop.run([sys.executable, "-P", "-m", "drumfire", "run", *words, *own])
        if status not in (statuses.VALID, statuses.INVALID):
            return status
        worst = max(worst, status)
    return worst


class _Stop:
    """Runs processes one after another until Ctrl-C, SIGTERM or SIGHUP, which also ends the process that runs."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._came: set[int] = set()
        on_ending(self._on_signal)

    def run(self, command: Sequence[str]) -> int:
        """Run a process and return its exit status."""
        if not self._came:
            self._process = subprocess.Popen(command)
            self._pass_on()
            status = self._process.wait()
        return statuses.INTERRUPTED if self._came else status

    def _on_signal(self, number: int, frame: object) -> None:
        self._came.add(number)
        self._pass_on()

    def _pass_on(self) -> None:
        # Not SIGINT: a terminal's Ctrl-C has already reached the run.  make sends SIGTERM only to its own children.
        if self._came - {signal.SIGINT} and self._process is not None:
            self._process.terminate()


if __name__ == "__main__":
    streams.install()
    sys.exit(main())
