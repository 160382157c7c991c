"""The points of a sweep: what was measured at each, which are best, and which need not be measured."""

from __future__ import annotations

import random
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from drumfire.bench import gates
from drumfire.bench.compare.doubts import failed_share, is_meaningless
from drumfire.bench.compare.pairing import of_subject
from drumfire.bench.compare.subject import MEAN, RATE, SATURATED, Subject
from drumfire.bench.gates import Expectation
from drumfire.bench.session import axes as axes_
from drumfire.bench.session.axes import Axis, Place
from drumfire.bench.session.session import Runs, Step
from drumfire.loadgen.saved import SavedRun

LOADS = ("qps", "concurrency")
"""Options by which a system gets more to do."""
_MEDIANS = (RATE, MEAN, "p50", "p99")
Point = dict[str, Any]
"""See ``Sweep.points``."""


@dataclass(frozen=True)
class Sweep:
    """A run at each place of one axis or two, ``repeats`` times."""

    axes: Sequence[Axis]
    repeats: int
    seed: int
    bounds: Sequence[Expectation]
    _known: dict[str, Point] = field(default_factory=dict)
    """What was measured by a run, by the name of its step."""
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
        """A point for each place, with the medians of its runs' figures, in ns or 1/s; None where there are none."""
        found = [self._point(place, runs) for place in axes_.places(self.axes)]
        _mark_front(found)
        return found

    def named(self, points: Sequence[Point]) -> dict[str, Any]:
        """The places of those that are best by a rule; None where there is none."""
        usable = [one for one in points if one["usable"] and one[RATE]]
        saturated: list[Point] = []
        for one in points:
            if one["saturated"] and not any(self._series(one) == self._series(other) for other in saturated):
                saturated.append(one)
        found = {
            "highest_valid": _most([one for one in usable if one["validity"] == "VALID"], lambda one: one[RATE]),
            "saturated": [points.index(one) for one in saturated],
            "power": _most([one for one in usable if one[MEAN]], lambda one: one[RATE] / one[MEAN]),
            "best": _most([one for one in usable if one["holds"]], lambda one: one[RATE]) if self.bounds else None,
        }
        return {name: points.index(one) if isinstance(one, dict) else one for name, one in found.items()}

    @property
    def load(self) -> str:
        """The axis along which a curve goes."""
        labels = [axis.label for axis in self.axes]
        return next((label for label in LOADS if label in labels), labels[0])

    def _series(self, point: Point) -> list[Any]:
        return [value for label, value in point["at"].items() if label != self.load]

    def _done(self, place: Place, runs: Runs) -> dict[str, SavedRun]:
        names = [self.step(place, number) for number in range(1, self.repeats + 1)]
        return {name: runs[name] for name in names if name in runs}

    def _of_run(self, name: str, run: SavedRun) -> Point:
        if name not in self._known:
            self._known[name] = _of_run(run, name)
        return self._known[name]

    def _saturated(self, place: Place, runs: Runs) -> bool:
        shares = [
            share
            for name, run in self._done(place, runs).items()
            if (share := self._of_run(name, run)["kept_up"]) is not None
        ]
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
        each = [self._of_run(name, run) for name, run in done.items()]
        below = "" if each else self._saturated_below(place, runs)
        point: Point = {
            "at": dict(zip((axis.label for axis in self.axes), place, strict=True)),
            "runs": list(done),
            "skipped": f"saturated at {below}/s" if below else "",
            "asked": each[0]["asked"] if each else None,
        }
        for name in (*_MEDIANS, "errors"):
            values = [one[name] for one in each]
            point[name] = statistics.median(values) if values and None not in values else None
        ends = [one["p99_interval"] for one in each]
        lows, highs = ([end[side] for end in ends if end[side] is not None] for side in (0, 1))
        point["p99_interval"] = [min(lows, default=None), max(highs, default=None)]
        valid = {one["validity"] for one in each}
        point["validity"] = (valid.pop() if len(valid) == 1 else "INVALID") if each else None
        point["reasons"] = list(dict.fromkeys(text for one in each for text in one["reasons"][:1]))
        point["usable"] = bool(each) and all(one["usable"] for one in each)
        point["saturated"] = self._saturated(place, runs)
        point["holds"] = self._holds(done) if self.bounds and each else None
        return point

    def _holds(self, done: Runs) -> bool:
        """It takes a look at the rows of each run, so only once."""
        key = tuple(done)
        if key not in self._held:
            self._held[key] = all(gates.judge(bound, list(done.values())).met for bound in self.bounds)
        return self._held[key]


def _of_run(run: SavedRun, name: str) -> Point:
    subject = Subject(run, name)
    found: Point = {figure: subject.value(figure) for figure in _MEDIANS}
    p99 = of_subject(subject, "p99")
    return found | {
        "p99_interval": [p99.low, p99.high],
        "asked": (run.result.get("asked") or {}).get("qps"),
        "kept_up": _kept_up(subject, found[RATE]),
        "errors": failed_share(subject),
        "validity": run.result["validity"],
        "reasons": [" ".join(text.split()) for text in run.result.get("reasons") or ()],
        "usable": not is_meaningless(subject),
    }


def _kept_up(run: Subject, rate: float | None) -> float | None:
    """What was delivered, as a share of what its schedule sent, which draws a little more or less than was asked."""
    if not run.on_schedule:
        return None
    sent = float(run.result["asked"]["qps"])
    if run.has_rows and run.measured.scheduled.size > 1:
        sent = (run.measured.scheduled.size - 1) * 1e9 / max(int(run.measured.scheduled[-1]), 1)
    return (rate or 0.0) / sent


def _mark_front(points: Sequence[Point]) -> None:
    """Set ``front``: ``on`` where none delivers more with a lower p99, ``near`` where that cannot be told."""
    least = float("inf")
    known = [one for one in points if one["usable"] and one[RATE] and one["p99"]]
    for one in points:
        one["front"] = ""
    # No other point delivers more with a lower p99: Pareto's.
    for one in sorted(known, key=lambda one: (-one[RATE], one["p99"])):
        if one["p99"] < least:
            one["front"], least = "on", one["p99"]
        elif (low := one["p99_interval"][0]) is not None and low < least:
            one["front"] = "near"


def _most(points: Sequence[Point], figure: Any) -> Point | None:
    return max(points, key=figure, default=None)
