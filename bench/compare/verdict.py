"""The verdict on two sides by one figure, in words and as an exit status."""

from __future__ import annotations

import math
from dataclasses import dataclass

from drumfire.bench import statuses
from drumfire.bench.compare.intervals import Interval, longer
from drumfire.bench.compare.subject import RATE

_LONGER = 1.6
"""Half-widths, in margins: a run that is longer by the square of it detects a difference of the margin in 80 % of
cases.  (2.13 + 0.87) / 2.13 standard errors are 1.4; the rest is for the error of the half-width itself."""
_MORE_RUNS = 1.4
"""The same, for several runs a side."""
_LEAST_MORE = 1.25
"""The least factor by which more runs or queries are recommended."""
_FEWEST_RUNS = 3
_MOST_RUNS = 100
"""A side; rather than do more runs, find what makes them differ."""
NOT_COMPARED = "not compared"


@dataclass(frozen=True)
class Verdict:
    words: str
    status: int
    word: str
    """``slower``, ``faster``, ``same``, ``cannot tell`` or ``not compared``: the verdict for programs."""
    runs: int | None = None
    """About how many runs a side would tell; None where these tell, it is not known, or more would not help."""


def too_few_runs(runs: int, *, single: bool) -> str:
    """Why ``runs`` of the side that has fewer say nothing of the next runs; empty where they do, or need not."""
    if single or runs >= _FEWEST_RUNS:
        return ""
    return f"needs {_FEWEST_RUNS} runs a side or more, better 5, as drumfire ab does them; --single judges these"


@dataclass(frozen=True)
class DecidingFigure:
    """The figure that decides, and what of the runs its verdict depends on."""

    name: str
    ratio: float | None
    """B/A; None where a side lacks the figure."""
    interval: Interval
    runs: int
    """The number of runs of the side that has fewer."""
    queries: int
    """The number of queries of the shortest run."""
    by_runs: bool = False
    """Whether several runs a side were compared, and not the parts of one."""
    only_runs: bool = False
    """Whether the runs of a side differ by more than the uncertainty of each."""
    others: str = ""
    """Words on figures that do not decide."""


def judge(figure: DecidingFigure, margin: float, *, single: bool, letter: str = "B", undecided: str = "") -> Verdict:
    """The verdict on side ``letter``.

    ``margin``: the share up to which a difference does not matter.  ``single``: judge also fewer than three runs a
    side.  ``undecided``: why there can be no verdict; empty where there can.
    """
    interval, ratio, also = figure.interval, figure.ratio, figure.others and f"; {figure.others}"
    of_these = f" (of these {'' if figure.by_runs else 'two '}runs)" if single else ""
    if undecided := too_few_runs(figure.runs, single=single) or undecided:
        return _cannot_tell(undecided + of_these)
    if interval.low is None or interval.high is None or ratio is None:
        return _cannot_tell(without_interval(figure.name, interval) + also + of_these)
    low, high = interval.low - 1, interval.high - 1
    change = f"{percent(ratio - 1)} ({signed(low)} ... {percent(high)}){of_these}"
    if -margin <= low and high <= margin:
        return Verdict(f"same within {margin * 100:g} %: {letter} is {change}", statuses.DONE, "same")
    if word := clearly(figure.name, interval):
        status = statuses.UNMET if word == "slower" else statuses.DONE
        return Verdict(f"{letter} is {word}: {figure.name} {change}", status, word)
    between = f"between {percent(low)} and {percent(high)}"
    runs = _runs_needed(figure, margin)
    needed = _needed(figure, margin, runs)
    return _cannot_tell(f"{figure.name} {between}; {needed}{also}{of_these}", runs)


def clearly(figure: str, interval: Interval, margin: float = 0.0) -> str:
    """``slower`` or ``faster`` where the whole interval is on one side of the margin; else empty."""
    if interval.low is None or interval.high is None:
        return ""
    low, high = interval.low - 1, interval.high - 1
    if low <= margin and high >= -margin:
        return ""
    return "slower" if (low > margin) != (figure == RATE) else "faster"


def without_interval(figure: str, interval: Interval) -> str:
    """Why a figure decides nothing, the end of its interval that is known, if any, and what would help."""
    known = f"{figure}:"
    if interval.low is not None:
        known = f"{figure} is at least {percent(interval.low - 1)},"
    elif interval.high is not None:
        known = f"{figure} is at most {percent(interval.high - 1)},"
    return f"{known} {interval.why}" + (f"; needs {interval.needs}" if interval.needs else "")


def _cannot_tell(why: str, runs: int | None = None) -> Verdict:
    enough = runs if runs is not None and runs <= _MOST_RUNS else None
    return Verdict(f"cannot tell: {why}", statuses.UNDECIDED, "cannot tell", enough)


def _runs_needed(figure: DecidingFigure, margin: float) -> int | None:
    """The number of runs a side that would tell; None where it is not known."""
    if margin <= 0 or not figure.by_runs:
        return None
    return math.ceil(figure.runs * max((_MORE_RUNS * figure.interval.half_width / margin) ** 2, _LEAST_MORE))


def _needed(figure: DecidingFigure, margin: float, runs: int | None) -> str:
    """How many more runs or queries would tell; ``runs`` a side, if that is known."""
    if margin <= 0:
        return "more runs or queries, or a --margin, would tell"
    if runs is not None:
        if runs > _MOST_RUNS:
            return f"the runs of a side differ too much from each other for fewer than {_rounded(runs):,} runs a side"
        return f"needs about {runs:,} runs a side" + ("; longer runs would not help" if figure.only_runs else "")
    times = max((_LONGER * figure.interval.half_width / margin) ** 2, _LEAST_MORE)
    more = figure.queries * (times - 1)
    return f"needs about {_rounded(more):,} more queries, {longer(times)}"


def _rounded(count: float) -> int:
    """The count, rounded up to two digits."""
    unit: int = 10 ** max(math.floor(math.log10(max(count, 1))) - 1, 0)
    return math.ceil(count / unit) * unit


def percent(change: float) -> str:
    """A change, a share, as ``+12 %``, ``-3.4 %`` or ``+1,227 %``."""
    return f"{signed(change)} %"


def signed(change: float) -> str:
    """A change in per cent without that sign: ``+12``."""
    text = f"{change * 100:+,.{0 if abs(change) >= 0.0995 else 1}f}"
    return text.replace("-", "+") if float(text.replace(",", "")) == 0 else text
