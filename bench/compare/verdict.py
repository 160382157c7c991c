"""The verdict on two sides by one figure, in words and as an exit status."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from drumfire.bench import statuses
from drumfire.bench.compare.intervals import Interval, longer
from drumfire.bench.compare.subject import RATE

_LONGER = 1.6
"""Half-widths, in margins: a run that is longer by the square of it finds a difference of the margin in 80 % of cases.
(2.13 + 0.87) / 2.13 standard errors are 1.4; the rest is for the error of the half-width itself."""
_MORE_RUNS = 1.4
"""The same, for several runs a side."""
_LEAST_MORE = 1.25
"""At least so many times as many are asked for."""
_FEWEST_RUNS = 3
_MOST_RUNS = 100
"""A side: before that many, what makes the runs differ has to be found."""


@dataclass(frozen=True)
class Verdict:
    words: str
    status: int
    word: str
    """``slower``, ``faster``, ``same``, ``cannot tell`` or ``not compared``: what the words come to, for programs."""
    runs: int | None = None
    """How many a side would tell, about; None where that is told, not known, or more runs would not help."""


NOT_COMPARED = "not compared"


def too_few_runs(runs: int, *, single: bool) -> str:
    """Why ``runs`` of the side that has fewer tell nothing of the next ones; empty where they do, or need not."""
    if single or runs >= _FEWEST_RUNS:
        return ""
    return f"needs {_FEWEST_RUNS} runs a side or more, better 5, as drumfire ab does them; --single judges these"


@dataclass(frozen=True)
class Judged:
    """The figure that decides."""

    name: str
    ratio: float | None
    """B/A; None where one has none."""
    interval: Interval
    runs: int
    """Of the side that has fewer."""
    queries: int
    """Of a run."""
    by_runs: bool = False
    """Whether several runs a side were compared, and not the parts of one."""
    only_runs: bool = False
    """Whether what differs between the runs of a side is more than what each leaves open."""
    others: str = ""
    """What figures tell that are not judged, in words."""


def judge(judged: Judged, margin: float, *, single: bool, letter: str = "B", undecided: str = "") -> Verdict:
    """``margin``: a share, up to which differences do not matter.  ``undecided``: why there can be no verdict."""
    found = _judge(judged, margin, single, letter, undecided)
    return (
        replace(found, words=f"{found.words} (of these {'two ' if not judged.by_runs else ''}runs)")
        if single
        else found
    )


def _judge(judged: Judged, margin: float, single: bool, letter: str, undecided: str) -> Verdict:
    interval, ratio = judged.interval, judged.ratio
    also = judged.others and f"; {judged.others}"
    if undecided := too_few_runs(judged.runs, single=single) or undecided:
        return _open(undecided)
    if interval.low is None or interval.high is None or ratio is None:
        return _open(without_interval(judged.name, interval) + also)
    low, high = interval.low - 1, interval.high - 1
    change = f"{percent(ratio - 1)} ({signed(low)} ... {percent(high)})"
    if -margin <= low and high <= margin:
        return Verdict(f"same within {margin * 100:g} %: {letter} is {change}", statuses.DONE, "same")
    if word := clearly(judged.name, interval):
        return Verdict(
            f"{letter} is {word}: {judged.name} {change}", statuses.UNMET if word == "slower" else statuses.DONE, word
        )
    between = f"between {percent(low)} and {percent(high)}"
    return _open(f"{judged.name} {between}; {_needed(judged, margin)}{also}", _runs_needed(judged, margin))


def clearly(figure: str, interval: Interval, margin: float = 0.0) -> str:
    """``slower`` or ``faster`` where the whole interval is on one side of the margin; else empty."""
    if interval.low is None or interval.high is None:
        return ""
    low, high = interval.low - 1, interval.high - 1
    if low <= margin and high >= -margin:
        return ""
    return "slower" if (low > margin) != (figure == RATE) else "faster"


def without_interval(figure: str, interval: Interval) -> str:
    """Why a figure tells nothing, what its interval still tells where only one end is open, and what would help."""
    known = f"{figure}:"
    if interval.low is not None:
        known = f"{figure} is at least {percent(interval.low - 1)},"
    elif interval.high is not None:
        known = f"{figure} is at most {percent(interval.high - 1)},"
    return f"{known} {interval.why}" + (f"; needs {interval.needs}" if interval.needs else "")


def _open(why: str, runs: int | None = None) -> Verdict:
    enough = runs if runs is not None and runs <= _MOST_RUNS else None
    return Verdict(f"cannot tell: {why}", statuses.UNDECIDED, "cannot tell", enough)


def _runs_needed(judged: Judged, margin: float) -> int | None:
    """A side; None where the number is not known."""
    if margin <= 0 or not judged.by_runs:
        return None
    width = judged.interval.half_width
    return math.ceil(judged.runs * max((_MORE_RUNS * width / margin) ** 2, _LEAST_MORE))


def _needed(judged: Judged, margin: float) -> str:
    """How many more would tell."""
    if margin <= 0:
        return "more runs or queries, or a --margin, would tell"
    width = judged.interval.half_width
    if (runs := _runs_needed(judged, margin)) is not None:
        if runs > _MOST_RUNS:
            return f"the runs of a side differ too much from each other for fewer than {_rounded(runs):,} runs a side"
        return f"needs about {runs:,} runs a side" + ("; longer runs would not help" if judged.only_runs else "")
    more = judged.queries * (max((_LONGER * width / margin) ** 2, _LEAST_MORE) - 1)
    return f"needs about {_rounded(more):,} more queries, {longer(1 + more / judged.queries)}"


def _rounded(count: float) -> int:
    """Up to two digits."""
    unit: int = 10 ** max(math.floor(math.log10(max(count, 1))) - 1, 0)
    return math.ceil(count / unit) * unit


def percent(change: float) -> str:
    """A change, a share, as ``+12 %``, ``-3.4 %`` or ``+1,227 %``."""
    return f"{signed(change)} %"


def signed(change: float) -> str:
    """The same without the sign of per cent."""
    text = f"{change * 100:+,.{0 if abs(change) >= 0.0995 else 1}f}"
    return text.replace("-", "+") if float(text.replace(",", "")) == 0 else text
