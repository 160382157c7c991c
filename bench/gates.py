"""Expectations: what a run's figures must be, as ``p99<50ms`` or ``p99<=base+5%``, and whether they are.

An absolute bound is judged by the exact figure, whose interval is only shown, so that reading a run again gives the
same answer.  A bound relative to a base is judged by the interval of the ratio, as ``drumfire compare`` does, so that
it may be undecided.
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from drumfire.bench import statuses
from drumfire.bench.compare import intervals
from drumfire.bench.compare.comparison import ratio_of
from drumfire.bench.compare.doubts import failed_share
from drumfire.bench.compare.intervals import NO_INTERVAL, Interval
from drumfire.bench.compare.pairing import of_subject
from drumfire.bench.compare.sides import FORMS, opened
from drumfire.bench.compare.subject import (
    MEAN,
    RATE,
    EndedRun,
    Run,
    Subject,
    check_figure,
    distinct,
    of_side,
    percentile,
)
from drumfire.bench.compare.verdict import too_few_runs
from drumfire.bench.report import outputs
from drumfire.bench.report.expectations import shown
from drumfire.loadgen.errors import UserError, nearest
from drumfire.loadgen.options import option
from drumfire.loadgen.run import Test
from drumfire.loadgen.settings import percentile_name
from drumfire.loadgen.wording import counted

_OPERATORS = {"<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge}
_TIMES = {"ns": 1.0, "us": 1e3, "\u00b5s": 1e3, "\u03bcs": 1e3, "ms": 1e6, "s": 1e9}
_PARTS = {
    "lateness": ("lateness_ns", ("p50", "p99", "max")),
    "queue": ("queue_ns", ("p50", "p99")),
    "service": ("service_ns", ("p50", "p99")),
}
"""Figures of a part of a query's way: the document's key, and the figures there."""
_UNITS = {RATE: "1/s", "errors": "share", "accuracy": "share", "batch.mean": "samples"}
"""The units of figures that are not times in ns."""
_BOUNDS: Mapping[str, tuple[Sequence[str], str]] = {
    "ns": (tuple(_TIMES), "a time with its unit, ns, us, ms or s"),
    "1/s": (("/s", "1/s"), "a rate, as 1900/s"),
    "share": (("%", ""), "a share, as 0.1%"),
    "samples": (("",), "a number without a unit"),
}
"""By a figure's unit: the units of a bound, and what a bound is, in words."""
NAMES = (
    *("p50", "p90", "p99", "p99.9", MEAN, RATE, "min", "max", "errors", "accuracy", "batch.mean"),
    *(f"{part}.{figure}" for part, (_, figures) in _PARTS.items() for figure in figures),
)
"""Figures that can be expected, besides any other percentile."""
BESIDE_BASE = ("the base", "this run")
"""The names of the two sides in what is said of a bound relative to a base."""
_NUMBER = r"[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?"
_EXPECTATION = re.compile(r"\s*([^<>=\s]+)\s*(<=|>=|<|>)\s*([^<>=]*?)\s*")
_LIMIT = re.compile(rf"({_NUMBER})\s*(.*)")
_BASE = re.compile(rf"base(?:\s*([+-])\s*({_NUMBER})\s*%)?")


@dataclass(frozen=True)
class ExpectOptions:
    """What is expected of a run.

    The options stand here, and not with a command, as ``run``, ``report``, ``compare``, ``ab`` and ``sweep`` have them.
    """

    TITLE: ClassVar = "expectations"

    expect: tuple[str, ...] = option(
        (),
        metavar="E",
        check=lambda text: parse(text),
        help="a figure and its bound in quotes, such as 'p99<50ms', 'errors<=0.1%' or 'p99<=base+5%'; may be repeated. "
        "Status 3 where one is not met, 4 where that cannot be told",
    )
    base: Path | None = option(None, metavar="RUN", needs=("expect",), help=f"what 'base' stands for: {FORMS}")
    single: bool = option(False, help="judge also fewer than 3 runs a side, which says nothing of the next runs")
    junit: Path | None = option(None, help="write the verdict and each expectation as JUnit XML")


@dataclass(frozen=True)
class Expectation:
    """A figure and its bound."""

    text: str
    """As the user wrote it."""
    figure: str
    op: str
    limit: float
    """In ``unit``; if ``is_relative``, a factor of the base's figure."""
    is_relative: bool = False

    @property
    def unit(self) -> str:
        """The unit of the figure's values: ns, 1/s, share or samples."""
        return _UNITS.get(self.figure, "ns")

    @property
    def is_compared(self) -> bool:
        """Whether ``compare`` has the figure, and with it an interval."""
        return self.figure in (MEAN, RATE) or percentile(self.figure) is not None

    def holds(self, value: float, limit: float) -> bool:
        return bool(_OPERATORS[self.op](value, limit))


@dataclass(frozen=True)
class JudgedExpectation:
    """An expectation, the figure's value in its unit, and whether it is met."""

    expectation: Expectation
    value: float | None
    """None where the run lacks the figure."""
    met: bool | None
    """None: cannot tell."""
    why: str
    """Why it cannot tell, or why there is no interval."""
    interval: Interval = NO_INTERVAL
    """The interval of the value at about 95 %."""
    doubts: tuple[str, ...] = ()
    """What makes the comparison with the base doubtful."""

    @property
    def verdict(self) -> str:
        return {True: "met", False: "not met", None: "cannot tell"}[self.met]

    def document(self) -> dict[str, Any]:
        """The judgement as a result document has it."""
        return {
            "text": self.expectation.text,
            "verdict": self.verdict,
            "figure": self.expectation.figure,
            "value": self.value,
            "unit": self.expectation.unit,
            "interval": [self.interval.low, self.interval.high],
            "why": self.why,
            "doubts": list(self.doubts),
        }


def parse(text: str) -> Expectation:
    """An expectation from text that a user wrote.  Raises ``UserError``."""
    found = _EXPECTATION.fullmatch(text)
    if found is None:
        raise UserError(
            f"{text[:60]!r} is not an expectation: write a figure, <, <=, > or >=, and a bound, as 'p99<50ms'"
        )
    figure, op, bound = _figure(found[1]), found[2], found[3]
    if based := _BASE.fullmatch(bound):
        share = float(f"{based[1]}{based[2]}") / 100 if based[1] else 0.0
        if share <= -1:
            raise UserError(f"{text[:60]!r}: base - {-share * 100:g} % leaves nothing: subtract less than 100 %")
        return Expectation(text, figure, op, 1 + share, is_relative=True)
    number = _LIMIT.fullmatch(bound)
    if number is None or not math.isfinite(float(number[1])):
        raise UserError(f"{text[:60]!r}: {bound[:60]!r} is not a bound: write a number with its unit, base, or base+5%")
    return Expectation(text, figure, op, _limit(text, figure, float(number[1]), number[2]))


def _figure(word: str) -> str:
    part, dot, of_part = word.partition(".")
    if (p := percentile(word)) is not None:
        return percentile_name(p)
    if dot and part in _PARTS and (p := percentile(of_part)) is not None:
        word = f"{part}.{percentile_name(p)}"
    if word not in NAMES:
        raise UserError(f"{word[:60]!r} is not a figure{nearest(word[:60], NAMES)}: {', '.join(NAMES)}, or any pNN")
    return word


def _limit(text: str, figure: str, number: float, unit: str) -> float:
    """The bound in the figure's own unit.  Raises ``UserError``."""
    kind = _UNITS.get(figure, "ns")
    units, wanted = _BOUNDS[kind]
    if unit not in units or (kind == "share" and not unit and number > 1):
        raise UserError(f"{text[:60]!r}: {figure} is {wanted}")
    return number / 100 if unit == "%" else number * _TIMES.get(unit, 1.0)


def judge(
    expectation: Expectation,
    runs: Sequence[Run],
    base: Sequence[Run] = (),
    *,
    single: bool = False,
    letters: tuple[str, str] = BESIDE_BASE,
    intended: bool = False,
) -> JudgedExpectation:
    """Judge an expectation of one run, or of several of the same kind.

    ``base``: the runs that an expectation may refer to.  ``single``: judge also fewer than three runs against a base.
    ``letters``: the names of the base and of the runs.  ``intended``: as in ``compare``.
    """
    subjects = of_side(runs)
    value = _mean(expectation, subjects)
    if value is None:
        return JudgedExpectation(expectation, None, None, f"the run has no {expectation.figure}")
    if expectation.is_relative:
        try:
            return _against(expectation, value, runs, base, single, letters, intended)
        except UserError as error:  # the base has no figures, or those of another scenario
            return JudgedExpectation(expectation, value, None, str(error))
    interval = NO_INTERVAL
    if expectation.is_compared and len(subjects) == 1:
        interval = of_subject(subjects[0], expectation.figure)
    elif expectation.is_compared:
        interval = intervals.of_runs([math.log(run.value(expectation.figure) or math.nan) for run in subjects])
    why = f"no interval: {interval.why}" if interval.why and interval.why != intervals.OPEN else ""
    return JudgedExpectation(expectation, value, expectation.holds(value, expectation.limit), why, interval)


def _against(
    expectation: Expectation,
    value: float,
    runs: Sequence[Run],
    base: Sequence[Run],
    single: bool,
    letters: tuple[str, str],
    intended: bool,
) -> JudgedExpectation:
    """Judge by whether the ratio to the base is on the right side of the bound's factor."""
    if not base:
        return JudgedExpectation(expectation, value, None, "there is no base")
    figure, limit = expectation.figure, expectation.limit
    if not expectation.is_compared:
        of_base = _mean(expectation, of_side(base))
        if of_base is None:
            return JudgedExpectation(expectation, value, None, f"the base has no {figure}")
        why = f"the base has {shown(of_base, expectation.unit)}, no interval for this figure"
        return JudgedExpectation(expectation, value, expectation.holds(value, of_base * limit), why)
    row, doubts, open_why = ratio_of(base, runs, figure, letters, single=single, limit=limit, intended=intended)
    of_base_text = f"the base has {shown(row.a, expectation.unit)}" if row.a else "the base has none"
    interval = NO_INTERVAL
    if row.a is not None and row.low is not None and row.high is not None:
        interval = Interval(row.a * row.low, row.a * row.high)
    sure = {expectation.holds(end, limit) for end in (row.low or 0.0, row.high or 0.0)}
    met = sure.pop() if len(sure) == 1 and not open_why else None
    of_these = "of these runs" if single and not open_why else ""
    why = "; ".join(filter(None, [of_base_text, open_why, of_these]))
    return JudgedExpectation(expectation, value, met, why, interval, doubts)


def _mean(expectation: Expectation, runs: Sequence[Subject]) -> float | None:
    return intervals.mean_of_runs([_value(run, expectation) for run in runs])


def _value(run: Subject, expectation: Expectation) -> float | None:
    """The exact figure of one run; None where it has none."""
    figure, result = expectation.figure, run.result
    if expectation.is_compared:
        return run.value(figure)
    if figure == "errors":
        return failed_share(run)
    system = result.get("system") or {}
    if figure == "accuracy":
        value = (result.get("accuracy") or {}).get("value")
    elif figure == "batch.mean":
        batches: Mapping[str, int] = system.get("batch_sizes") or {}
        samples = sum(int(size) * count for size, count in batches.items())
        value = samples / sum(batches.values()) if batches else None
    else:
        part, _, name = figure.rpartition(".")
        section = result if part == "lateness" else system
        value = ((section.get(_PARTS[part][0]) or {}) if part else run.latency_ns).get(name)
    return None if value is None else float(value)


def judge_all(
    options: ExpectOptions,
    runs: Sequence[Run],
    base: Sequence[Run] = (),
    letters: tuple[str, str] = BESIDE_BASE,
    *,
    intended: bool = False,
) -> list[dict[str, Any]]:
    """The judgements of all expectations, as a result document has them."""
    return [
        judge(parse(text), runs, base, single=options.single, letters=letters, intended=intended).document()
        for text in options.expect
    ]


def expected(result: dict[str, Any], test: Test, options: ExpectOptions) -> dict[str, Any]:
    """The result of a run that has ended, with its ``expectations`` if there are any."""
    if options.expect:
        base = [] if options.base is None else opened(str(options.base))
        measured = next((test.measured(r) for r in test.reports if not r.phase.accuracy and r.issued_rows), None)
        run = EndedRun(result, measured, test.record.columns)
        result["expectations"] = judge_all(options, [run], base)
    return result


def check(
    options: ExpectOptions,
    *,
    has_base: bool = False,
    scenario: str | None = None,
    accuracy: bool | None = None,
    folder: Path | None = None,
    runs: int | None = None,
) -> None:
    """Refuse what could not be judged or written at the end, so that nothing is measured in vain.

    ``has_base``: there is another base without --base, and ``single`` is not about the base alone.  ``scenario``: of
    what will be measured; ``accuracy``: whether that is the accuracy alone or, False, the performance alone.
    ``folder``: where it will be saved.  ``runs``: how many runs will be measured and judged together; None: none, as
    they are there already.  Raises ``UserError``.
    """
    wanted = [parse(text) for text in options.expect]
    relative = [one for one in wanted if one.is_relative]
    if options.single and not relative and not has_base:
        raise UserError("--single has no effect, as no --expect names base: leave it out")
    for one in wanted:
        check_measured(one, scenario, accuracy)
    if relative and options.base is None and not has_base:
        raise UserError(f"{relative[0].text[:60]!r} needs the run that it means: add --base RUN")
    if options.base is not None and not relative:
        raise UserError("--base has no effect, as no --expect names base: leave it out")
    if options.base is not None and runs is not None:
        base = distinct(opened(str(options.base)))
        for run in base:
            if scenario is not None and run.result.get("scenario") != scenario:
                raise UserError(
                    f"--base {options.base} is {run.result.get('scenario')}, and what will be measured is {scenario}: "
                    "name a base of this scenario"
                )
        compared = next((one.text for one in relative if one.is_compared), None)
        why = too_few_runs(min(runs, len(base)), single=options.single)
        if compared is not None and why:
            beside = f"{counted(runs, 'run')} beside {len(base):,} of the base"
            raise UserError(f"{compared[:60]!r} cannot be judged by {beside}: {why}")
    outputs.check({"--junit": options.junit}, folder=folder)


def check_measured(wanted: Expectation, scenario: str | None, accuracy: bool | None) -> None:
    """Raise ``UserError`` for a figure that such a run does not have; None is for what is not known."""
    if scenario is not None and wanted.is_compared:
        check_figure(scenario, wanted.figure)
    if accuracy is False and wanted.figure == "accuracy":
        raise UserError(f"{wanted.text[:60]!r}: a performance run has no accuracy: add --accuracy or --submission")
    if accuracy and wanted.figure not in ("accuracy", "errors"):
        raise UserError(f"{wanted.text[:60]!r}: an accuracy run has accuracy and errors alone: leave --accuracy out")


def status(documents: Sequence[Mapping[str, Any]]) -> int:
    """The exit status of the expectations of a result document."""
    of = {"met": statuses.DONE, "not met": statuses.UNMET, "cannot tell": statuses.UNDECIDED}
    return statuses.worst(statuses.DONE, *(of[one["verdict"]] for one in documents))
