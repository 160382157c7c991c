"""A run in a line of a list."""

from __future__ import annotations

from drumfire.bench.history import Found
from drumfire.bench.report import figures
from drumfire.loadgen.errors import printable
from drumfire.loadgen.settings import Mode

_MODES = {Mode.AccuracyOnly.name: " accuracy", Mode.SubmissionRun.name: " submission"}


def header() -> str:
    """The head of the list."""
    return _aligned("when", "state", "scenario", "figure", "p99", "size", "what") + "  folder"


def line(one: Found, width: int) -> str:
    """A run in a line, its folder in a second one where ``width`` columns are too few for both."""
    scenario = one.scenario + _MODES.get(one.mode, "")
    figure = "" if one.metric is None else figures.metric_value(one.metric)
    p99 = "" if one.p99_ns is None else figures.duration(one.p99_ns)
    began = one.began.astimezone().strftime("%Y-%m-%d %H:%M")
    text = _aligned(began, one.state, scenario, figure, p99, size(one.bytes), one.what)
    gap = "  " if len(text) + 2 + len(one.folder) <= width else "\n    "
    return printable(text) + gap + printable(one.folder)


def size(count: int) -> str:
    """Bytes, for people."""
    unit, each = next((one for one in (("GB", 1e9), ("MB", 1e6)) if count >= one[1]), ("kB", 1e3))
    return f"{figures.digits(count / each)} {unit}"


def _aligned(when: str, state: str, scenario: str, figure: str, p99: str, bytes_: str, what: str) -> str:
    return f"{when:<16}  {state:<10}  {scenario:<12}  {figure:>9}  {p99:>7}  {bytes_:>8}  {what}".rstrip()
