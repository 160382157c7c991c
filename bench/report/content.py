"""The content of a report for reading, from saved runs: what stands in it, and in which order.

Every figure is one of the run's result or was made from its columns by the function that made it there.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from drumfire.bench.compare import steadiness
from drumfire.bench.compare.comparison import Comparison
from drumfire.bench.compare.pairing import of_subject
from drumfire.bench.compare.subject import RATE, SHOWN, EndedRun, Subject
from drumfire.bench.report import comparisons, expectations, plots, rows, timeline, unfinished
from drumfire.bench.report.blocks import Block, Dash, Report, Section, Table, Text
from drumfire.bench.report.definitions import DEFINED
from drumfire.bench.report.plots import Track
from drumfire.bench.report.rows import Document, Row, Style
from drumfire.loadgen.errors import UserError
from drumfire.loadgen.record import Status
from drumfire.loadgen.saved import SavedRun
from drumfire.loadgen.series import Series
from drumfire.loadgen.settings import Mode, Scenario

_KEY = (
    "metric", "target", "peak", "confidence", "asked", "delivered", "lateness", "sent late", "errors",
)  # fmt: skip
_WHAT = ("started", "system", "weights", "NOTE", "scenario", "warm-up", "workers", "hosts")
_MACHINE = ("machine", "GPU", "software", "revision")
_ONE_RUN_ONLY = ("processes", "batch_sizes", "queue_ns", "service_ns", "server", "sizes", "description")
"""Keys of a result's ``system`` that are outcomes, so that they always differ."""
_SECONDS = re.compile(r"([0-9-]{10})T([0-9:]{8})(?:\.[0-9]+)?(?:\+00:00|Z)")
"""A time in UTC."""
Judgements = Mapping[str, Sequence[Mapping[str, Any]]]
"""Expectations as ``gates.judge_all`` returns them, by the name of what they were judged by."""


@dataclass(frozen=True)
class _Reported:
    """A run, what its report says, and how its lines are drawn."""

    label: str
    run: SavedRun
    slices: int
    colour: int
    dash: Dash

    @cached_property
    def document(self) -> Document:
        return unfinished.document(self.run) if self.run.unfinished else self.run.result

    @cached_property
    def report_rows(self) -> list[Row]:
        """The rows of the run's report."""
        sections = rows.unfinished(self.document) if self.run.unfinished else rows.report(self.document)
        return [row for section in sections for row in section if row.label != "page"]  # it may be this one

    @cached_property
    def verdict(self) -> list[Row]:
        if self.run.unfinished:
            reasons = [Row("", [text], Style.REASON) for text in unfinished.why(self.run)]
            return [Row("Result is", ["unfinished"], Style.UNFINISHED), *reasons]
        return [row for row in self.report_rows if row.style in _VERDICT]

    @cached_property
    def labelled(self) -> dict[str, str]:
        """The text of each row, with those that continue it."""
        found: dict[str, list[str]] = {}
        if self.document.get("started"):
            found["started"] = [_SECONDS.sub(r"\1 \2 UTC", str(self.document["started"]))]
        label = ""
        for row in self.report_rows:
            if row.style not in _VERDICT:
                of_tool = row.cells[0].startswith(f"{self.document.get('tool')}: ")
                label = row.label or ("tool" if of_tool else label)
                # Cells stay whole where lines end.
                cells = [cell.replace(" ", "\xa0") for cell in row.cells] if len(row.cells) > 1 else row.cells
                found.setdefault(label, []).append("   ".join(cells))
        return {name: "\n".join(texts) for name, texts in found.items()}

    @cached_property
    def track(self) -> Track | str:
        """The run over time, or why there is none."""
        try:
            line = timeline.of(self.run, self.slices)
            if line is None:
                return "no query of a performance phase was issued, so nothing is drawn over time"
            return Track(self.label, self.run, line, self.colour, self.dash)
        except UserError as error:
            return f"nothing is drawn over time: {error}"

    @cached_property
    def subject(self) -> Subject:
        """What its figures and their intervals are made of."""
        drawn = isinstance(self.track, Track)
        columns = self.run.columns if drawn else {}
        return Subject(EndedRun(dict(self.document), self.run.measured if drawn else None, columns), self.label)

    @cached_property
    def series(self) -> Mapping[str, Series] | str:
        try:
            return self.run.series
        except UserError as error:
            return f"its series are not drawn: {error}"


_VERDICT = (Style.VALID, Style.INVALID, Style.UNFINISHED, Style.REASON, Style.WARNING)


def report(
    runs: Sequence[SavedRun],
    compared: Sequence[Comparison] = (),
    judged: Judgements | None = None,
) -> Report:
    """The report of one run or several.

    ``compared``: comparisons of them, which come first.  ``judged``: by default, what the runs' results say.  Raises
    ``UserError`` for a folder that holds no run that can be read.
    """
    slices = max(math.floor(timeline.MOST_SLICES / math.sqrt(len(runs))), 1)
    looks = _looks(len(runs), compared)
    each = [_Reported(label, run, slices, *look) for label, run, look in zip(labels(runs), runs, looks, strict=True)]
    tracks = [one.track for one in each if isinstance(one.track, Track)]
    series = [(one.label, one.series) for one in each if not isinstance(one.series, str)]
    documents = [(one.label, one.document) for one in each]
    if judged is None:
        judged = {one.label: one.document.get("expectations") or () for one in each}
    sections: list[tuple[str, str, Iterable[Block]]] = [
        ("comparison", "Comparison", (block for one in compared for block in comparisons.blocks(one))),
        ("verdict", "Verdict", _verdict(each, judged)),
        ("what", "What ran", _table(each, _WHAT)),
        ("percentiles", "Percentiles", [*_intervals(each), *plots.percentiles(tracks)]),
        ("heat", "Latency over time", plots.heat(tracks)),
        ("time", "Over time", plots.over_time(tracks)),
        ("series", "Readings", plots.series(series)),
        ("batches", "Batches and parts", [*plots.batches(documents), *plots.shares(tracks, documents)]),
        ("accuracy", "Accuracy", _accuracy(each)),
        ("machine", "Machine and versions", _differences(each) if len(each) > 1 else _table(each, _MACHINE)),
        ("expectations", "Expectations", _expectations(judged)),
        ("repeat", "To repeat it", _repeat(each)),
        ("figures", "All figures", _table(each, None, folded=True)),
    ]
    return Report(_title(each), [Section(name, title, list(blocks)) for name, title, blocks in _filled(sections)])


def _looks(runs: int, compared: Sequence[Comparison]) -> Iterator[tuple[int, Dash]]:
    """How the lines of each run are drawn: of a comparison, each side has a colour."""
    sides = [compared[0].names[0], *(one.names[1] for one in compared)] if compared else [[""] for _ in range(runs)]
    several = max(map(len, sides)) > 1
    for colour, side in enumerate(sides):
        for number in range(len(side)):
            yield colour % plots.COLOURS, Dash((number if several else colour) % len(Dash))


def labels(runs: Sequence[SavedRun]) -> list[str]:
    """A short name of each run: its folder's, with as many of the folders above as make it unique."""
    parts = [run.folder.parts for run in runs]
    for depth in range(1, max(map(len, parts)) + 1):
        found = ["/".join(one[-depth:]) for one in parts]
        if len(set(found)) == len(found):
            return found
    return [f"{one[-1]} ({number})" for number, one in enumerate(parts, 1)]  # one run, several times


def _filled(sections: Iterable[tuple[str, str, Iterable[Block]]]) -> Iterator[tuple[str, str, list[Block]]]:
    for name, title, blocks in sections:
        if found := list(blocks):
            yield name, title, found


def _title(runs: Sequence[_Reported]) -> str:
    if len(runs) > 1:
        names = ", ".join(one.label for one in runs[:3])
        return f"{len(runs)} runs: {names}{', …' if len(runs) > 3 else ''}"
    document = runs[0].document
    what = [document.get("sut_name") or runs[0].label, document.get("scenario", "")]
    return f"{' '.join(filter(None, what))}: {runs[0].verdict[0].cells[0]}"


def _verdict(runs: Sequence[_Reported], judged: Judgements) -> Iterator[Block]:
    for one in runs:
        first, *others = one.verdict
        name = "" if len(runs) == 1 else f"{one.label}: "
        yield Text(f"{name}Result is {' '.join(first.cells)}", first.style)
        for row in others:
            yield Text(" ".join(row.cells), row.style)
        yield from _over_time(one)
    yield from _unmet(judged, several=len(runs) > 1)
    yield from _table(runs, _KEY)


def _over_time(one: _Reported) -> Iterator[Text]:
    """Remarks that only the course of a run over time gives."""
    if isinstance(one.track, str):
        by_design = one.document.get("mode") == Mode.AccuracyOnly.name
        yield Text(one.track[:1].upper() + one.track[1:], Style.FIGURES if by_design else Style.WARNING)
    else:
        if steadiness.grows(one.subject):
            yield Text("Not steady: its latency still grows at the end, as if overloaded", Style.WARNING)
        elif (start := steadiness.start(one.subject)) is not None:
            how = f"{start:.2g} times" if start > 1 else f"{start:.0%} of"
            yield Text(
                f"It starts differently: latency in its first tenth is {how} that in its second half; "
                "all figures count it (--warmup sends queries before the run)",
                Style.WARNING,
            )
        if one.run.effective.scenario == Scenario.Offline:
            yield Text("Offline: all samples are due at once, so there are no latencies over time or by percentile")
    if isinstance(one.series, str):
        yield Text(one.series[:1].upper() + one.series[1:], Style.WARNING)


def _intervals(runs: Sequence[_Reported]) -> Iterator[Table]:
    """The exact figures, each with what a longer run of the same might give."""
    subjects = [one.subject for one in runs if one.document.get("latency_ns")]
    lines = []
    for figure in SHOWN:
        if any(one.value(figure) is not None for one in subjects):
            lines.append([figure, *(_about(one, figure) for one in subjects)])
    if lines:
        head = ["", *(one.name for one in subjects)] if len(runs) > 1 else []
        yield Table("Exact figures, and about the 95 % interval of each", head, lines)


def _about(run: Subject, figure: str) -> str:
    value = run.value(figure)
    if value is None:
        return "-"
    interval = of_subject(run, figure)
    ends = interval.low, interval.high
    text = expectations.about(value, "1/s" if figure == RATE else "ns", ends)
    return f"{text}, no interval: {interval.why}" if ends == (None, None) else text


def _unmet(judged: Judgements, *, several: bool) -> Iterator[Text]:
    """The expectations that are not met, or a line that all are."""
    every = [(f"{name}: " if several else "", one) for name, of_name in judged.items() for one in of_name]
    unmet = [(name, one) for name, one in every if one["verdict"] != "met"]
    if every and not unmet:
        yield Text(f"All that was expected is met: {len(every)}")
    for name, one in unmet:
        style = Style.REASON if one["verdict"] == "not met" else Style.WARNING
        yield Text(f"{name}expected {expectations.line(one)}", style)


def _expectations(judged: Judgements) -> Iterator[Block]:
    for name, of_name in judged.items():
        if of_name:
            lines = [[one["text"], expectations.outcome(one)] for one in of_name]
            yield Table(name if len(judged) > 1 else "", ["expected", "found"], lines)
            yield from (Text(doubt, Style.WARNING) for doubt in expectations.doubts(of_name))


def _table(runs: Sequence[_Reported], wanted: Sequence[str] | None, *, folded: bool = False) -> Iterator[Table]:
    """Rows of the runs' reports by label, a column a run; all of them without ``wanted``."""
    found = [one.labelled for one in runs]
    every = list(dict.fromkeys(label for one in found for label in one))
    order = every if wanted is None else [label for label in wanted if label in every]
    if order:
        lines = [[label, *(one.get(label, "") for one in found)] for label in order]
        yield Table(
            "Figures" if folded else "", ["", *(one.label for one in runs)] if len(runs) > 1 else [], lines, folded,
            {label: DEFINED[label] for label in order if label in DEFINED},
        )  # fmt: skip


def _accuracy(runs: Sequence[_Reported]) -> Iterator[Table]:
    yield from _table(runs, ("accuracy",))
    for one in runs:
        lines = (one.document.get("accuracy") or {}).get("lines", ())
        if len(lines) > 1:  # else it is in the row above
            yield Table(
                one.label if len(runs) > 1 else "Lines", [], [[str(n), line] for n, line in enumerate(lines, 1)]
            )


def _differences(runs: Sequence[_Reported]) -> Iterator[Block]:
    """Settings, machine and versions: those that differ, and, folded, those that do not."""
    known = [_conditions(one) for one in runs]
    every = list(dict.fromkeys(name for one in known for name in one))
    table = [[name, *(one.get(name, "-") for one in known)] for name in every]
    differs = [line for line in table if len(set(line[1:])) > 1]
    head = ["", *(one.label for one in runs)]
    if differs:
        yield Table("What differs", head, differs)
    else:
        yield Text("Settings, machine and versions are the same in all runs")
    yield Table("What is the same", ["", "all runs"], [line[:2] for line in table if line not in differs], folded=True)


def _conditions(one: _Reported) -> dict[str, str]:
    """The conditions under which a run was measured, by name."""
    found: dict[str, Any] = {"tool": one.document.get("tool"), "seeds": one.document.get("seeds")}
    for name in ("scenario", "mode", "asked", "loop", "schedule", "warmup"):
        found[name] = one.document.get(name)
    found["asked"] = {name: value for name, value in (found["asked"] or {}).items() if name != "generated_queries"}
    try:
        found["machine"] = one.run.environment
    except UserError as error:
        found["machine"] = str(error)
    system = one.document.get("system") or {}
    found["system"] = {name: value for name, value in system.items() if name not in _ONE_RUN_ONLY}
    return dict(_flat("", found))


def _flat(name: str, value: Any) -> Iterator[tuple[str, str]]:
    if isinstance(value, Mapping):
        for key, one in value.items():
            yield from _flat(f"{name} {key}".strip(), one)
    elif isinstance(value, float):
        yield name, f"{value:,.6g}"
    elif value is not None:
        yield name, ", ".join(map(str, value)) if isinstance(value, (list, tuple)) else str(value)


def _repeat(runs: Sequence[_Reported]) -> Iterator[Block]:
    for one in runs:
        texts = []
        command = one.document.get("command")
        if command:
            texts.append(Text(str(command), Style.FOLDER))
            if "--output" in command:
                texts.append(Text("It names a folder that holds this run: give another --output"))
        counts = [[name.lower(), f"{count:,}"] for name, count in _statuses(one.run)] if one.run.unfinished else []
        lines = [[name, one.labelled[name]] for name in ("seeds", "tool") if name in one.labelled]
        table = Table(
            one.label if len(runs) > 1 else "", [],
            [*lines, *counts, ["folder", str(one.run.folder)]],
            defined={"seeds": DEFINED["seeds"]},
        )  # fmt: skip
        # Of several, each begins with its name, which is the table's title.
        blocks: list[Block] = [table, *texts] if len(runs) > 1 else [*texts, table]
        yield from blocks


def _statuses(run: SavedRun) -> list[tuple[str, int]]:
    """How many samples of an unfinished run are in each state."""
    try:
        status = run.columns.get("status")
    except UserError:
        return []
    counts = Counter() if status is None else Counter(status.tolist())
    return [(known.name, counts[known]) for known in Status if counts[known]]
