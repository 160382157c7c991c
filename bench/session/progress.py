"""Shows how far a session is: on a terminal in place, elsewhere a line for each run that has ended."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from types import TracebackType

from rich.console import Console, Group
from rich.live import Live
from rich.text import Text

from drumfire.bench.report import figures, terminal
from drumfire.bench.report.rows import Section
from drumfire.loadgen.results import judged_latency
from drumfire.loadgen.saved import SavedRun

Table = Callable[[], Iterable[Section]]


class Progress:
    """``with`` it around the runs.  It draws once a second, so that it takes nothing from the run."""

    def __init__(self, console: Console, table: Table | None = None) -> None:
        """``table``: what a terminal shows of the runs so far; without it, there is a line for each everywhere."""
        self._console, self._table = console, table if console.is_terminal else None
        self._sections: list[Section] = []
        self._where, self._now, self._until_s = "", "", 0.0
        self._live = (
            Live(console=console, get_renderable=self._drawn, refresh_per_second=1, transient=True)
            if console.is_terminal
            else None
        )

    def __enter__(self) -> Progress:
        if self._live is not None:
            self._refill()
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._live is not None:
            self._live.stop()

    def say(self, line: str) -> None:
        terminal.say(self._console, line)

    def begin(self, number: int, total: int, name: str, left_s: float) -> None:
        """``left_s``: until the end of all, about; 0: not known."""
        self._where = f"{number:{len(str(total))}} of {total}"
        self._now, self._until_s = name, time.monotonic() + left_s if left_s else 0.0

    def end(self, run: SavedRun, name: str) -> None:
        self._refill()
        if self._table is None:
            result = run.result
            value = "" if result.get("metric") is None else figures.metric_value(result["metric"])
            p99 = judged_latency(result).get("p99")
            latency = "" if p99 is None or result.get("scenario") == "Offline" else f"  p99 {figures.duration(p99)}"
            self.say(f"{self._where}  {name}  {result['validity']}  {value}{latency}{self._left('  ')}")

    def _left(self, before: str) -> str:
        left_s = self._until_s - time.monotonic()
        return f"{before}about {figures.clock(left_s)} left" if self._until_s and left_s >= 1 else ""

    def _refill(self) -> None:
        if self._table is not None:
            self._sections = list(self._table())

    def _drawn(self) -> Group:
        lines = [line for rows in self._sections for line in terminal.lines(rows, self._console)]
        room = max(self._console.height - 3, 1)
        now = Text(f"{self._where}  {self._now}{self._left('  ')}", "bold")
        return Group(*lines[:room], Text(""), now)
