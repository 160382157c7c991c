"""Expectations: what a run's figures must be, as ``p99<50ms`` or ``p99<=base+5%``, and whether they are.

A bound of its own is judged by the exact figure, whose interval is only shown, so that reading a run again gives the
same answer.  One against a base is judged by the interval of the ratio, as ``drumfire compare`` does, so that it may be
undecided.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar

from drumfire.bench import statuses
from drumfire.bench.compare import intervals
from drumfire.bench.compare.comparison import ratio_of
from drumfire.bench.compare.doubts import failed_share
from drumfire.bench.compare.pairing import of_subject
from drumfire.bench.compare.sides import opened
from drumfire.bench.compare.subject import MEAN, RATE, Ended, Run, Subject, check_figure, of_side, percentile
from drumfire.bench.report import outputs
from drumfire.bench.report.expectations import shown
from drumfire.loadgen.errors import UserError, nearest
from drumfire.loadgen.options import option
from drumfire.loadgen.run import Test
from drumfire.loadgen.settings import percentile_name

_OPERATORS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
_TIMES = {"ns": 1.0, "us": 1e3, "\u00b5s": 1e3, "\u03bcs": 1e3, "ms": 1e6, "s": 1e9}
_PARTS = {
    "lateness": ("lateness_ns", ("p50", "p99", "max")),
    "queue": ("queue_ns", ("p50", "p99")),
    "service": ("service_ns", ("p50", "p99")),
}
"""Figures of a part of the way: the document's key, and what it has."""
_OTHERS = ("min", "max", "errors", "accuracy", "batch.mean")
_SHARES = ("errors", "accuracy")
NAMES = ("p50", "p90", "p99", "p99.9", MEAN, RATE, *_OTHERS, *(f"{k}.{one}" for k, v in _PARTS.items() for one in v[1]))
"""Besides any other percentile."""
_NUMBER = r"[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?"
_EXPECTATION = re.compile(r"\s*([^<>=\s]+)\s*(<=|>=|<|>)\s*([^<>=]*?)\s*")
_LIMIT = re.compile(rf"({_NUMBER})\s*(.*)")
_BASE = re.compile(rf"base(?:\s*([+-])\s*({_NUMBER})\s*%)?")


@dataclass(frozen=True)
class ExpectOptions:
    """What is expected of a run."""

    TITLE: ClassVar = "expectations"

    expect: tuple[str, ...] = option(
        (),
        metavar="E",
        check=lambda text: parse(text),
        help="a figure and its bound in quotes, such as 'p99<50ms', 'errors<=0.1%' or 'p99<=base+5%'; may be repeated. "
        "Status 3 where one is not met, 4 where that cannot be told",
    )
    base: Path | None = option(
        None,
        metavar="RUN",
        needs=("expect",),
        help="what 'base' stands for: a run's folder, a part of its name in runs, or last; several with commas between "
        "them; or a folder that holds several",
    )
    single: bool = option(False, help="judge also fewer than 3 runs a side, which says nothing of the next runs")
    junit: Path | None = option(None, help="write the verdict and each expectation as JUnit XML")


@dataclass(frozen=True)
class Expectation:
    """A figure and its bound."""

    text: str
    """As it was written."""
    figure: str
    op: str
    limit: float
    """In ns, 1/s, or as a share; with ``is_relative``, a factor of the base's figure."""
    is_relative: bool = False


@dataclass(frozen=True)
class Judged:
    """An expectation and what became of it.  Values are in ``unit``: ns, 1/s, a share, or samples."""

    text: str
    figure: str
    value: float | None
    """None where the run has no such figure."""
    unit: str
    low: float | None
    """Of the interval at about 95 %; None: open, or none."""
    high: float | None
    met: bool | None
    """None: it cannot be told."""
    why: str
    """Why it cannot be told, or has no interval."""
    doubts: tuple[str, ...] = ()
    """What makes the comparison with the base doubtful."""

    @property
    def verdict(self) -> str:
        return {True: "met", False: "not met", None: "cannot tell"}[self.met]

    def document(self) -> dict[str, Any]:
        """As a result document has it."""
        return {
            "text": self.text,
            "verdict": self.verdict,
            "figure": self.figure,
            "value": self.value,
            "unit": self.unit,
            "interval": [self.low, self.high],
            "why": self.why,
            "doubts": list(self.doubts),
        }


def parse(text: str) -> Expectation:
    """An expectation as people write it.  Raises ``UserError``."""
    found = _EXPECTATION.fullmatch(text)
    if found is None:
        raise UserError(f"{text[:60]!r} is no expectation: write a figure, <, <=, > or >=, and a bound, as 'p99<50ms'")
    figure, op, bound = _figure(found[1]), found[2], found[3]
    if based := _BASE.fullmatch(bound):
        share = float(f"{based[1]}{based[2]}") / 100 if based[1] else 0.0
        if share <= -1:
            raise UserError(f"{text[:60]!r}: base - {-share * 100:g} % leaves nothing: subtract less than 100 %")
        return Expectation(text, figure, op, 1 + share, is_relative=True)
    number = _LIMIT.fullmatch(bound)
    if number is None or not math.isfinite(float(number[1])):
        raise UserError(f"{text[:60]!r}: {bound[:60]!r} is no bound: write a number with its unit, base, or base+5%")
    return Expectation(text, figure, op, _limit(text, figure, float(number[1]), number[2]))


def _figure(word: str) -> str:
    part, dot, of_part = word.partition(".")
    if (p := percentile(word)) is not None:
        return percentile_name(p)
    if dot and part in _PARTS and percentile(of_part) is not None:
        word = f"{part}.{percentile_name(percentile(of_part) or 0)}"
    if word not in NAMES:
        raise UserError(f"{word[:60]!r} is no figure{nearest(word[:60], NAMES)}: {', '.join(NAMES)}, or any pNN")
    return word


def _unit(figure: str) -> str:
    """Of a figure's value."""
    return "1/s" if figure == RATE else "share" if figure in _SHARES else "samples" if figure == "batch.mean" else "ns"


def _limit(text: str, figure: str, number: float, unit: str) -> float:
    """The bound in the figure's own unit.  Raises ``UserError``."""
    kind, wanted = _unit(figure), ""
    if kind == "ns":
        if unit in _TIMES:
            return number * _TIMES[unit]
        wanted = "a time with its unit, ns, us, ms or s"
    elif kind == "1/s":
        if unit in ("/s", "1/s"):
            return number
        wanted = "a rate, as 1900/s"
    elif kind == "share":
        if unit == "%" or (not unit and number <= 1):
            return number / 100 if unit else number
        wanted = "a share, as 0.1%"
    elif not unit:
        return number
    raise UserError(f"{text[:60]!r}: {figure} is {wanted or 'a number without a unit'}")


def judge(
    expectation: Expectation,
    runs: Sequence[Run],
    base: Sequence[Run] = (),
    *,
    single: bool = False,
    letters: tuple[str, str] = ("the base", "this run"),
    intended: bool = False,
) -> Judged:
    """Judge by one run, or by several of the same.

    ``base``: the runs that an expectation may refer to.  ``single``: judge also fewer than three runs beside fewer than
    three.  ``letters``: what the base and the runs are called.  ``intended``: as of ``compare``.
    """
    subjects = of_side(runs)
    value = intervals.mean_of_runs([_value(one, expectation.figure) for one in subjects])
    if value is None:
        return _judged(expectation, None, None, None, f"the run has no {expectation.figure}")
    if expectation.is_relative:
        try:
            return _against(expectation, value, runs, base, single, letters, intended)
        except UserError as error:  # the base has no figures, or those of another scenario
            return _judged(expectation, value, None, None, str(error))
    interval = _interval(subjects, expectation.figure)
    why = f"no interval: {interval.why}" if interval.why and interval.why != intervals.OPEN else ""
    return _judged(expectation, value, interval, _OPERATORS[expectation.op](value, expectation.limit), why)


def _against(
    expectation: Expectation,
    value: float,
    runs: Sequence[Run],
    base: Sequence[Run],
    single: bool,
    letters: tuple[str, str],
    intended: bool,
) -> Judged:
    """Judge by the ratio to the base, which is the bound's factor or not."""
    if not base:
        return _judged(expectation, value, None, None, "there is no base")
    figure, holds = expectation.figure, _OPERATORS[expectation.op]
    if not _is_compared(figure):
        of_base = intervals.mean_of_runs([_value(one, figure) for one in of_side(base)])
        if of_base is None:
            return _judged(expectation, value, None, None, f"the base has no {figure}")
        why = f"the base has {shown(of_base, _unit(figure))}, no interval for this figure"
        return _judged(expectation, value, None, holds(value, of_base * expectation.limit), why)
    limit = expectation.limit
    row, doubts, open_why = ratio_of(base, runs, figure, letters, single=single, limit=limit, intended=intended)
    of_base_text = f"the base has {shown(row.a, _unit(figure))}" if row.a else "the base has none"
    interval = None
    if row.a is not None and row.low is not None and row.high is not None:
        interval = intervals.Interval(row.a * row.low, row.a * row.high)
    sure = {holds(end, expectation.limit) for end in (row.low or 0.0, row.high or 0.0)}
    met = sure.pop() if len(sure) == 1 and not open_why else None
    of_these = "of these runs" if single and not open_why else ""
    why = "; ".join(filter(None, [of_base_text, open_why, of_these]))
    return replace(_judged(expectation, value, interval, met, why), doubts=doubts)


def _judged(
    expectation: Expectation,
    value: float | None,
    interval: intervals.Interval | None,
    met: bool | None,
    why: str,
) -> Judged:
    low, high = (None, None) if interval is None else (interval.low, interval.high)
    return Judged(expectation.text, expectation.figure, value, _unit(expectation.figure), low, high, met, why)


def unmet(expectation: Expectation, why: str) -> Judged:
    """Of what there is nothing that could meet it."""
    return _judged(expectation, None, None, False, why)


def _is_compared(figure: str) -> bool:
    """Whether ``compare`` knows the figure."""
    return figure in (MEAN, RATE) or percentile(figure) is not None


def _interval(runs: Sequence[Subject], figure: str) -> intervals.Interval:
    if not _is_compared(figure):
        return intervals.none("")
    if len(runs) == 1:
        return of_subject(runs[0], figure)
    return intervals.of_runs([math.log(run.value(figure) or math.nan) for run in runs])


def _value(run: Subject, figure: str) -> float | None:
    """The exact figure of one run; None where it has none."""
    if _is_compared(figure):
        return run.value(figure)
    result = run.result
    if figure == "errors":
        return failed_share(run)
    if figure == "accuracy":
        value = (result.get("accuracy") or {}).get("value")
    elif figure == "batch.mean":
        sizes = {int(size): count for size, count in ((result.get("system") or {}).get("batch_sizes") or {}).items()}
        # By size, so many batches.
        value = sum(size * count for size, count in sizes.items()) / sum(sizes.values()) if sizes else None
    else:
        part, _, name = figure.rpartition(".")
        section = result if part == "lateness" else result.get("system") or {}
        value = ((section.get(_PARTS[part][0]) or {}) if part else run.latency_ns).get(name)
    return None if value is None else float(value)


def judge_all(
    options: ExpectOptions,
    runs: Sequence[Run],
    base: Sequence[Run] = (),
    letters: tuple[str, str] = ("the base", "this run"),
    *,
    intended: bool = False,
) -> list[dict[str, Any]]:
    """Judge expectations as they were written; as a result document has them."""
    return [
        judge(parse(text), runs, base, single=options.single, letters=letters, intended=intended).document()
        for text in options.expect
    ]


def expected(result: dict[str, Any], test: Test, options: ExpectOptions) -> dict[str, Any]:
    """The result of a run that has ended with its ``expectations``, where there are any."""
    if options.expect:
        base = [] if options.base is None else opened(str(options.base))
        measured = next((test.measured(r) for r in test.reports if not r.phase.accuracy and r.issued_rows), None)
        run = Ended(result, measured, test.record.columns)
        result["expectations"] = judge_all(options, [run], base)
    return result


def check(
    options: ExpectOptions,
    *,
    has_base: bool = False,
    scenario: str | None = None,
    accuracy: bool | None = None,
    folder: Path | None = None,
) -> None:
    """Refuse what could not be judged or written at the end: nothing is measured in vain.

    ``has_base``: without --base, there is another one, and ``single`` is not about the base alone.  ``scenario``: what
    will be measured; ``accuracy``: whether that is the accuracy alone or, False, the performance alone.  ``folder``:
    where it will be saved.  Raises ``UserError``.
    """
    wanted = [parse(text) for text in options.expect]
    relative = [one.text for one in wanted if one.is_relative]
    if options.single and not relative and not has_base:
        raise UserError("--single has no effect, as no --expect names base: leave it out")
    for one in wanted:
        check_measured(one, scenario, accuracy)
    if relative and options.base is None and not has_base:
        raise UserError(f"{relative[0][:60]!r} needs the run that it means: add --base RUN")
    if options.base is not None and not relative:
        raise UserError("--base has no effect, as no --expect names base: leave it out")
    if options.base is not None and scenario is not None:
        for run in opened(str(options.base)):
            if run.result.get("scenario") != scenario:
                raise UserError(f"--base {options.base} is {run.result.get('scenario')}, and this run {scenario}")
    outputs.check({"--junit": options.junit}, folder=folder)


def check_measured(wanted: Expectation, scenario: str | None, accuracy: bool | None) -> None:
    """Raise ``UserError`` for a figure that such a run does not have.  What is None is not known."""
    if scenario is not None and _is_compared(wanted.figure):
        check_figure(scenario, wanted.figure)
    if accuracy is False and wanted.figure == "accuracy":
        raise UserError(f"{wanted.text[:60]!r}: a performance run has no accuracy: add --accuracy or --submission")
    if accuracy and wanted.figure not in ("accuracy", "errors"):
        raise UserError(f"{wanted.text[:60]!r}: an accuracy run has accuracy and errors alone: leave --accuracy out")


def status(documents: Sequence[Mapping[str, Any]]) -> int:
    """The exit status of the expectations of a result document."""
    of = {"met": statuses.DONE, "not met": statuses.UNMET, "cannot tell": statuses.UNDECIDED}
    return statuses.worst(statuses.DONE, *(of[one["verdict"]] for one in documents))
