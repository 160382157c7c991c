"""The points of a sweep: what was measured at each, which are best, and which need not be measured."""

from __future__ import annotations

import random
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from drumfire.bench import gates
from drumfire.bench.compare.doubts import failed_share, is_meaningless
from drumfire.bench.compare.pairing import of_subject
from drumfire.bench.compare.subject import MEAN, RATE, SATURATED, Subject
from drumfire.bench.gates import Expectation
from drumfire.bench.report.sweeps import Named, Point
from drumfire.bench.session import axes as axes_
from drumfire.bench.session.axes import Place, SweepAxis
from drumfire.bench.session.session import Runs, Step
from drumfire.loadgen.saved import SavedRun

LOADS = ("qps", "concurrency")
"""Options by which a system gets more to do."""


@dataclass(frozen=True)
class _Measured:
    """What a point needs of one of its runs; times in ns, rates in 1/s."""

    rate: float | None
    mean: float | None
    p50: float | None
    p99: float | None
    errors: float | None
    """The share of samples that failed."""
    p99_low: float | None
    """The lower end of the interval of the p99 at about 95 %; None: open."""
    p99_high: float | None
    asked: float | None
    kept_up: float | None
    """The delivered share of what the schedule sent; None without a schedule."""
    validity: str
    reasons: Sequence[str]
    usable: bool


@dataclass(frozen=True)
class Sweep:
    """A run at each place of one axis or two, ``repeats`` times."""

    axes: Sequence[SweepAxis]
    repeats: int
    seed: int
    bounds: Sequence[Expectation]
    _known: dict[str, _Measured] = field(default_factory=dict)
    """By the name of the run's step."""
    _held: dict[tuple[str, ...], bool] = field(default_factory=dict)
    """Whether the bounds hold, by the names of the steps."""

    def order(self) -> list[tuple[str, Place]]:
        """The steps' names: all places in an order by the seed, and so again for each repeat."""
        found = []
        for number in range(1, self.repeats + 1):
            every = axes_.places(self.axes)
            random.Random(f"{self.seed} {number}").shuffle(every)
            found += [(self.step(place, number), place) for place in every]
        return found

    def step(self, place: Place, number: int) -> str:
        return f"{axes_.name(self.axes, place)}/{number}"

    def left(self, plan: Sequence[Step], runs: Runs) -> list[Step]:
        """What is still to be measured."""
        skipped = {place for place in axes_.places(self.axes) if self._saturated_below(place, runs)}
        places = dict(self.order())
        return [step for step in plan if step.name not in runs and places[step.name] not in skipped]

    def points(self, runs: Runs) -> list[Point]:
        """A point for each place, with the medians of its runs."""
        return _with_front([self._point(place, runs) for place in axes_.places(self.axes)])

    def named(self, points: Sequence[Point]) -> Named:
        """Which of the points are best by each rule."""
        rates = {at: one.rate for at, one in enumerate(points) if one.usable and one.rate}
        saturated: dict[tuple[str, ...], int] = {}
        for at, one in enumerate(points):
            if one.saturated:
                saturated.setdefault(tuple(value for label, value in one.at.items() if label != self.load), at)
        return Named(
            highest_valid=_most({at: rate for at, rate in rates.items() if points[at].validity == "VALID"}),
            saturated=list(saturated.values()),
            power=_most({at: rate / mean for at, rate in rates.items() if (mean := points[at].mean)}),
            best=_most({at: rate for at, rate in rates.items() if points[at].holds}),
        )

    @property
    def load(self) -> str:
        """The axis along which a curve goes."""
        labels = [axis.label for axis in self.axes]
        return next((label for label in LOADS if label in labels), labels[0])

    def _done(self, place: Place, runs: Runs) -> dict[str, SavedRun]:
        names = [self.step(place, number) for number in range(1, self.repeats + 1)]
        return {name: runs[name] for name in names if name in runs}

    def _measured(self, name: str, run: SavedRun) -> _Measured:
        if name not in self._known:
            self._known[name] = _measured(run, name)
        return self._known[name]

    def _saturated(self, place: Place, runs: Runs) -> bool:
        each = [self._measured(name, run) for name, run in self._done(place, runs).items()]
        shares = [one.kept_up for one in each if one.kept_up is not None]
        return bool(shares) and statistics.median(shares) < SATURATED

    def _saturated_below(self, place: Place, runs: Runs) -> str:
        """The lower rate at which a system delivers less than it is sent, so that it would at this one too."""
        labels = [axis.label for axis in self.axes]
        if "qps" not in labels:
            return ""
        at = labels.index("qps")
        for value in self.axes[at].values:
            lower = (*place[:at], value, *place[at + 1 :])
            if float(value) < float(place[at]) and self._saturated(lower, runs):
                return value
        return ""

    def _point(self, place: Place, runs: Runs) -> Point:
        done = self._done(place, runs)
        at = dict(zip((axis.label for axis in self.axes), place, strict=True))
        if not done:
            below = self._saturated_below(place, runs)
            return Point(at, skipped=f"saturated at {below}/s" if below else "")
        each = [self._measured(name, run) for name, run in done.items()]
        valid = {one.validity for one in each}
        lows = [one.p99_low for one in each if one.p99_low is not None]
        highs = [one.p99_high for one in each if one.p99_high is not None]
        return Point(
            at,
            runs=list(done),
            asked=each[0].asked,
            rate=_median([one.rate for one in each]),
            mean=_median([one.mean for one in each]),
            p50=_median([one.p50 for one in each]),
            p99=_median([one.p99 for one in each]),
            errors=_median([one.errors for one in each]),
            p99_interval=(min(lows, default=None), max(highs, default=None)),
            validity=valid.pop() if len(valid) == 1 else "INVALID",
            reasons=list(dict.fromkeys(text for one in each for text in one.reasons[:1])),
            usable=all(one.usable for one in each),
            saturated=self._saturated(place, runs),
            holds=self._holds(done) if self.bounds else None,
        )

    def _holds(self, done: Runs) -> bool:
        """Whether the runs hold the bounds, judged once for the same runs, as it reads all of their rows."""
        key = tuple(done)
        if key not in self._held:
            self._held[key] = all(gates.judge(bound, list(done.values())).met for bound in self.bounds)
        return self._held[key]


def _measured(run: SavedRun, name: str) -> _Measured:
    subject = Subject(run, name)
    rate, p99 = subject.value(RATE), of_subject(subject, "p99")
    return _Measured(
        rate=rate,
        mean=subject.value(MEAN),
        p50=subject.value("p50"),
        p99=subject.value("p99"),
        errors=failed_share(subject),
        p99_low=p99.low,
        p99_high=p99.high,
        asked=(run.result.get("asked") or {}).get("qps"),
        kept_up=_kept_up(subject, rate),
        validity=run.result["validity"],
        reasons=[" ".join(text.split()) for text in run.result.get("reasons") or ()],
        usable=not is_meaningless(subject),
    )


def _kept_up(run: Subject, rate: float | None) -> float | None:
    """The delivered share of what the schedule sent, which draws a little more or less than --qps asks for."""
    if not run.on_schedule:
        return None
    sent = float(run.result["asked"]["qps"])
    if run.has_rows and run.measured.scheduled.size > 1:
        sent = (run.measured.scheduled.size - 1) * 1e9 / max(int(run.measured.scheduled[-1]), 1)
    return (rate or 0.0) / sent


def _median(values: Sequence[float | None]) -> float | None:
    """None where a run has no such figure."""
    known = [value for value in values if value is not None]
    return statistics.median(known) if len(known) == len(values) else None


def _with_front(points: Sequence[Point]) -> list[Point]:
    """The points with ``front``: they are on the Pareto front where no other delivers more with a lower p99."""
    least, found = float("inf"), {}
    known = [(one.rate, one.p99, at) for at, one in enumerate(points) if one.usable and one.rate and one.p99]
    for _, p99, at in sorted(known, key=lambda one: (-one[0], one[1])):
        low = points[at].p99_interval[0]
        if p99 < least:
            found[at], least = "on", p99
        elif low is not None and low < least:
            found[at] = "near"
    return [replace(one, front=found.get(at, "")) for at, one in enumerate(points)]


def _most(figures: Mapping[int, float]) -> int | None:
    """The place of the greatest figure; None without one."""
    return max(figures, key=figures.__getitem__, default=None)
