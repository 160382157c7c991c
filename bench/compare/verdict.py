"""The verdict on two sides by one figure, in words and as an exit status."""

from __future__ import annotations

import math
from dataclasses import dataclass

from drumfire.bench import statuses
from drumfire.bench.compare.intervals import OPEN, TOO_ALIKE, Interval

_LONGER = 1.6
"""Half-widths, in margins: a run that is longer by the square of it finds a difference of the margin in 80 % of cases.
(2.13 + 0.87) / 2.13 standard errors are 1.4; the rest is for the error of the half-width itself."""
_MORE_RUNS = 1.4
"""The same, for several runs a side."""
_LEAST_MORE = 1.25
"""At least so many times as many are asked for."""
_FEWEST_RUNS = 3


@dataclass(frozen=True)
class Verdict:
    words: str
    status: int


@dataclass(frozen=True)
class Judged:
    """The figure that decides."""

    name: str
    ratio: float | None
    """B/A; None where one has none."""
    interval: Interval
    is_rate: bool
    """Whether more is better."""
    runs: int
    """Of the side that has fewer."""
    queries: int
    """Of a run."""
    by_runs: bool = False
    """Whether several runs a side were compared, and not the parts of one."""
    only_runs: bool = False
    """Whether what differs between the runs of a side is more than what each leaves open."""


def judge(judged: Judged, margin: float, *, single: bool, letter: str = "B", undecided: str = "") -> Verdict:
    """``margin``: a share, up to which differences do not matter.  ``undecided``: why there can be no verdict."""
    found = _judge(judged, margin, single, letter, undecided)
    return (
        Verdict(f"{found.words} (of these {'two ' if not judged.by_runs else ''}runs)", found.status)
        if single
        else found
    )


def _judge(judged: Judged, margin: float, single: bool, letter: str, undecided: str) -> Verdict:
    interval, ratio = judged.interval, judged.ratio
    if judged.runs < _FEWEST_RUNS and not single:
        return _open(f"needs {_FEWEST_RUNS} runs a side or more, better 5; --single judges what is there")
    if undecided:
        return _open(undecided)
    if interval.low is None or interval.high is None or ratio is None:
        if interval.why in (OPEN, TOO_ALIKE):
            return _open(f"needs at least 4 times as many queries ({judged.name}: {interval.why})")
        return _open(f"{judged.name}: {interval.why}")
    low, high = interval.low - 1, interval.high - 1
    change = f"{percent(ratio - 1, low, high)} ({spread(low, high)})"
    if -margin <= low and high <= margin:
        return Verdict(f"same within {margin * 100:g} %: {letter} is {change}", statuses.DONE)
    if low > 0 or high < 0:
        slower = (low > 0) != judged.is_rate
        word, status = ("slower", statuses.UNMET) if slower else ("faster", statuses.DONE)
        return Verdict(f"{letter} is {word}: {judged.name} {change}", status)
    between = f"between {percent(low, low, high)} and {percent(high, low, high)}"
    return _open(f"{between}; {_needed(judged, margin)}")


def _open(why: str) -> Verdict:
    return Verdict(f"cannot tell: {why}", statuses.UNDECIDED)


def _needed(judged: Judged, margin: float) -> str:
    """How many more would tell."""
    if margin <= 0:
        return "more runs or queries, or a --margin, would tell"
    width = judged.interval.half_width
    if judged.by_runs:
        runs = math.ceil(judged.runs * max((_MORE_RUNS * width / margin) ** 2, _LEAST_MORE))
        return f"needs about {runs:,} runs a side" + (", more runs, not longer ones" if judged.only_runs else "")
    more = judged.queries * (max((_LONGER * width / margin) ** 2, _LEAST_MORE) - 1)
    unit = 10 ** max(math.floor(math.log10(max(more, 1))) - 1, 0)
    return f"needs about {math.ceil(more / unit) * unit:,} more queries"


def percent(change: float, low: float, high: float) -> str:
    """A change, a share, as ``+12 %``; with a decimal where the interval from ``low`` to ``high`` is narrow."""
    return f"{signed(change, low, high)} %"


def spread(low: float, high: float) -> str:
    """An interval of changes, shares, as ``-0.6 ... +1.5 %``."""
    return f"{signed(low, low, high)} ... {percent(high, low, high)}"


def signed(change: float, low: float, high: float) -> str:
    least = min(abs(low), abs(high))
    places = 1 if least < 0.01 or (high - low < 0.05 and least < 1) else 0
    text = f"{change * 100:+,.{places}f}"
    return text.replace("-", "+") if float(text.replace(",", "")) == 0 else text
