"""The live view of a run as text: a ``Snapshot`` in, the lines of a screen or one plain line out.

Only draws: does not depend on a process, a clock or the run's table.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from rich.text import Text

from drumfire.bench.report import figures
from drumfire.bench.view import charts
from drumfire.bench.view.charts import LABEL
from drumfire.bench.view.history import History
from drumfire.bench.view.lines import UNSOUND, Line, body, head, meant
from drumfire.bench.watch import Snapshot, ViewPlan
from drumfire.loadgen.results import LATE_NS
from drumfire.sut.remote.figures import ServerFigures

if TYPE_CHECKING:
    from drumfire.bench.fleet.overview import Row

_LEAST_WIDTH = 60
_ROWS = 4
"""The least height of the histogram."""
_KEYS = "q ends the run and saves   p freezes   ? explains"
_FROZEN = "FROZEN, the run goes on   p continues"
_HINT, _HISTORY = 5, 6


@dataclass(frozen=True)
class Look:
    """What is seen of a run at a moment."""

    plan: ViewPlan
    snapshot: Snapshot
    server: ServerFigures | None = None
    """What the servers say, where the view asks any."""
    history: History = field(default_factory=History)
    rows: Sequence[Row] = ()
    """The generators, where there are several."""
    keys: bool = False
    """Whether keys are read."""
    frozen: bool = False


def plain_line(look: Look) -> str:
    """The state of a run in one line without escape codes."""
    s, server = look.snapshot, look.server
    unsound = [f"{row.name} {row.state}" for row in look.rows if row.state in UNSOUND]
    if not s.started:
        return ", ".join(["warming up", *unsound])
    parts = [figures.clock(s.elapsed_s) + (f" (ETA {figures.clock(s.eta_s)})" if s.eta_s is not None else "")]
    if s.rate_now is not None:
        asked = f" of {figures.rate(look.plan.asked_qps)} asked" if look.plan.asked_qps is not None else ""
        parts.append(f"{figures.rate(s.rate_now)} now{asked}")
    if s.latency is not None:
        parts.append(f"p50 {figures.duration(s.latency.p50)}, p99 {figures.duration(s.latency.p99)}")
    if s.sent is not None and s.sent.p99 > LATE_NS:
        parts.append(f"sent late p99 {figures.duration(s.sent.p99)}")
    parts.append(f"{s.in_flight:,} in flight")
    parts.append(f"{s.failed:,} failed" + (f", {s.refused:,} refused" if s.refused else ""))
    if server is not None and server.rate is not None:
        parts.append(f"server {figures.rate(server.rate)}")
        if server.queue_ns is not None and server.compute_ns is not None:
            parts.append(f"queue {figures.duration(server.queue_ns)}, compute {figures.duration(server.compute_ns)}")
    return ", ".join([*parts, *unsound])


def draw(look: Look, width: int, height: int = 0, explained: bool = False) -> Text:
    """The screen of a run; ``width`` as in ``page``.

    ``height``: at most so many lines, which charts fill; 0 for no bound.  ``explained``: what each line means, in
    place of the lines.
    """
    text, width = page(width)
    top, below, history, keys = _chosen(look, width, height)
    fixed = [*top, *below, *history, *keys]
    if explained:
        return _explained(text, fixed, look, height)
    latency = look.snapshot.latency if look.snapshot.started else None
    spare = height - sum(line.height for line in fixed) if height else _ROWS + 3
    gap, rows, axis, more = _shares(spare, latency is not None, bool(history))
    for line in top:
        text.append(line.text)
    text.append("\n" * gap)
    for line in below:
        text.append(line.text)
    if latency is not None and rows:
        text.append("\n").append(charts.histogram(look.plan, latency, width, rows))
    if history:
        text.append("\n" * axis).append(charts.over_time(look.history, width, 1 + more, axis=bool(axis)))
    for line in keys:
        text.append(line.text)
    text.right_crop(1)  # the last newline
    return text


def _chosen(look: Look, width: int, height: int) -> tuple[list[Line], list[Line], list[Line], list[Line]]:
    """The head, the figures, the history at its lowest, and the keys: of all, what matters most in ``height`` lines."""
    s = look.snapshot
    top = list(head(look.plan, s, width))
    below = list(body(look.plan, s, width, look.server)) if s.started else []
    history = []
    if s.started and look.history.rates:
        meaning = meant("rate/time", "from the start to now: samples a second, p99")
        history = [Line(_HISTORY, charts.over_time(look.history, width, 1, axis=False), meaning)]
    keys = []
    if look.frozen:
        keys = [Line(-1, Text().append(_FROZEN + "\n", "bold yellow"))]
    elif look.keys:
        keys = [Line(_HINT, Text().append(_KEYS + "\n", "dim"))]
    kept: list[Line] = []
    room = height
    for line in sorted([*top, *below, *history, *keys], key=lambda line: line.rank):
        if not height or line.height <= room:
            kept.append(line)
            room -= line.height
    groups = (top, below, history, keys)
    one, two, three, four = ([line for line in group if any(line is one for one in kept)] for group in groups)
    return one, two, three, four


def _shares(spare: int, latency: bool, history: bool) -> tuple[int, int, int, int]:
    """What to do with ``spare`` lines, so that the charts fill them.

    Returns the empty lines below the head, the rows of the histogram, 1 where the history has an axis and an empty
    line above it, else 0, and its rows besides the first.
    """
    gap = min(spare, 1) if latency or history else 0
    spare -= gap
    rows = _ROWS if latency and spare >= _ROWS + 2 else 0
    spare -= rows + 2 if rows else 0
    axis = 1 if history and spare >= 2 else 0
    spare -= 2 * axis
    more = spare // (3 if rows else 2) if axis else 0
    return gap, rows + spare - 2 * more if rows else 0, axis, more


def _explained(text: Text, lines: Sequence[Line], look: Look, height: int) -> Text:
    """A line for each of ``lines``, and for the histogram where there is room."""
    meanings = [line.meaning for line in lines if line.meaning]
    if not height or len(meanings) < height:
        text.append("What each line shows" + ("   ? returns" if look.keys else "") + "\n", "bold")
    for meaning in [*meanings, meant("bars", "samples by their latency; ┊ marks its bound")]:
        text.append(meaning[:LABEL], "dim").append(meaning[LABEL:] + "\n")
    text.right_crop(1)  # the last newline
    return cut(text, height)


def page(width: int) -> tuple[Text, int]:
    """An empty screen for a terminal of ``width`` columns, and the columns that it uses: all but one, at least 59."""
    return Text(no_wrap=True, overflow="crop"), max(width, _LEAST_WIDTH) - 1


def cut(text: Text, height: int) -> Text:
    """At most the first ``height`` lines, 0 for all: what scrolls away could not be removed."""
    lines = text.plain.split("\n")
    if height and len(lines) > height:
        text.right_crop(len(text.plain) - len("\n".join(lines[:height])))
    return text
