"""Two sides compared: each figure with the interval of its ratio, what makes it doubtful, and the verdict.

A side is one run or several.  Two single runs are compared by their parts, which says nothing of how much runs differ
from each other; several runs a side are compared by one number a run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from drumfire.bench import statuses
from drumfire.bench.compare import doubts
from drumfire.bench.compare.doubts import Doubts
from drumfire.bench.compare.pairing import ByRuns, FigureRatio, Pairing, same_schedule
from drumfire.bench.compare.subject import RATE, SHOWN, Run, Side, check_figure, figure_named, of_side
from drumfire.bench.compare.verdict import (
    NOT_COMPARED,
    DecidingFigure,
    Verdict,
    clearly,
    judge,
    too_few_runs,
    without_interval,
)
from drumfire.loadgen.errors import UserError
from drumfire.loadgen.wording import counted, each_is

DEFAULT_MARGIN = 0.05


@dataclass(frozen=True)
class Comparison:
    """The result of comparing two sides."""

    letters: tuple[str, str]
    names: tuple[tuple[str, ...], tuple[str, ...]]
    """The folders of each side's runs."""
    rows: tuple[FigureRatio, ...]
    judged: str
    """The figure that decides."""
    margin: float
    single: bool
    doubts: tuple[str, ...]
    """Lines to read first: what differs, and what makes the figures doubtful."""
    verdict: Verdict

    def row(self, figure: str) -> FigureRatio:
        return next(row for row in self.rows if row.name == figure)

    def document(self) -> dict[str, Any]:
        """The comparison as JSON holds it."""
        return {
            "verdict": asdict(self.verdict),
            "doubts": list(self.doubts),
            "judged": self.judged,
            "margin": self.margin,
            "single": self.single,
            "sides": {letter: list(names) for letter, names in zip(self.letters, self.names, strict=True)},
            "figures": [asdict(row) for row in self.rows],
        }

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> Comparison:
        """The comparison of a document; further keys are ignored.  Raises ``LookupError`` or ``TypeError``."""
        (first, a), (second, b) = document["sides"].items()
        return cls(
            (first, second),
            (tuple(a), tuple(b)),
            tuple(FigureRatio(**row) for row in document["figures"]),
            document["judged"],
            document["margin"],
            document["single"],
            tuple(document["doubts"]),
            Verdict(**document["verdict"]),
        )


def compare(
    sides: Sequence[Sequence[Run]],
    *,
    margin: float = DEFAULT_MARGIN,
    figure: str | None = None,
    single: bool = False,
    skip_s: float = 0.0,
    letters: tuple[str, str] = ("A", "B"),
    intended: bool = False,
) -> Comparison:
    """Compare the second side with the first, each of one run or several, as ``drumfire.load`` opens them.

    ``margin``: the share up to which a difference does not matter.  ``figure``: what is judged, by default the
    scenario's.  ``single``: judge also fewer than three runs a side.  ``skip_s``: leave out the queries of the first
    seconds, the same of all runs.  ``intended``: the sides were made to differ, as by ``drumfire ab``, so settings and
    versions that differ do not make the verdict open.  Raises ``UserError``.
    """
    if len(sides) != 2 or not all(sides):
        raise UserError("a comparison needs two sides, of one run or more each")
    if not 0 <= margin < 1:
        raise UserError(f"a margin is a share from 0 to 1, and not {margin:g}")
    pairing, found, lines = _paired(sides, letters, skip_s=skip_s, intended=intended)
    first = pairing.a[0]
    judged = first.judged if figure is None else figure_named(figure)
    check_figure(first.scenario, judged)
    wanted = [judged] if first.is_offline else [*SHOWN, *([judged] if judged not in SHOWN else [])]
    rows = tuple(pairing.ratio(one) for one in wanted)
    if found.broken:
        verdict = Verdict(found.broken, statuses.INVALID, NOT_COMPARED)
    else:
        verdict = _verdict(pairing, rows, judged, found, margin, single, letters[1])
    a, b = (tuple(one.name for one in side) for side in (pairing.a, pairing.b))
    return Comparison(letters, (a, b), rows, judged, margin, single, lines, verdict)


def ratio_of(
    a: Sequence[Run],
    b: Sequence[Run],
    figure: str,
    letters: tuple[str, str],
    *,
    single: bool = False,
    limit: float = 1.0,
    intended: bool = False,
) -> tuple[FigureRatio, tuple[str, ...], str]:
    """One figure of two sides, its doubts, and why its ratio decides nothing, empty where it does.

    ``limit``: the bound of the ratio.  ``single``, ``intended``: as in ``compare``.  Raises ``UserError`` for runs of
    different scenarios.
    """
    pairing, found, lines = _paired((a, b), letters, intended=intended)
    row = pairing.ratio(figure_named(figure))
    why = found.broken or too_few_runs(pairing.fewer, single=single) or _undecided(pairing, row, found, limit)
    if not why and (row.low is None or row.high is None):
        why = without_interval(row.name, row.interval)
    return row, lines, why


def _paired(
    sides: Sequence[Sequence[Run]], letters: tuple[str, str], *, skip_s: float = 0.0, intended: bool
) -> tuple[Pairing, Doubts, tuple[str, ...]]:
    """The sides as they are compared, the doubts about that, and all lines to read first.  Raises ``UserError``."""
    a, b = _cut([of_side(side) for side in sides], letters, skip_s)
    found, pairing = doubts.doubts(a, b, letters, intended=intended), Pairing.of(a, b)
    repeated = [
        f"{letter} names a run more than once, which counts once: {counted(len(few), 'run')} of {len(many)}"
        for letter, many, few in zip(letters, sides, (a, b), strict=True)
        if len(few) < len(many)
    ]
    return pairing, found, (*repeated, *found.lines, *pairing.lines)


def _cut(sides: Sequence[Side], letters: Sequence[str], skip_s: float) -> Sequence[Side]:
    """The sides with the queries that are compared.  Raises ``UserError`` where there are none to compare."""
    named = [(f"{letter} ({one.name})", one) for letter, side in zip(letters, sides, strict=True) for one in side]
    every = [one for _, one in named]
    for name, one in named:
        if one.scenario != every[0].scenario:
            raise UserError(
                f"{named[0][0]} is {every[0].scenario}, and {name} is {one.scenario}, which have no figure in common: "
                "compare runs of one scenario"
            )
        if not one.result.get("latency_ns"):
            raise UserError(f"{name} has no latencies, as of accuracy alone: leave it out")
    skipped = 0
    if skip_s:
        if every[0].is_offline:
            raise UserError("--skip has no meaning in Offline, which is one query: leave it out")
        if lacking := next((name for name, one in named if not one.has_rows), None):
            raise UserError(f"{lacking} has no columns, so that nothing can be skipped: leave --skip out")
        skipped = max(one.queries_before(skip_s) for one in every)
        if skipped >= (least := min(one.queries for one in every)):
            raise UserError(f"--skip {skip_s:g} leaves nothing of the shortest run, of {least:,} queries: skip less")
    last = None
    if all(len(side) == 1 and side[0].has_rows and side[0].on_schedule for side in sides):
        counts = {one.queries for one in every}
        last = min(counts) if len(counts) > 1 and same_schedule(*every) else None
    if skipped or last is not None:
        return [[one.cut(skipped, last) for one in side] for side in sides]
    return sides


def _undecided(pairing: Pairing, row: FigureRatio, found: Doubts, limit: float = 1.0) -> str:
    """Why there can be no verdict whatever the interval is; empty where there can."""
    late = max(doubts.late_p99(pairing.a), doubts.late_p99(pairing.b))
    if late and row.name != RATE and row.a is not None and row.b is not None and abs(row.b - row.a * limit) < late:
        return found.undecided or "the difference is less than how late the queries were sent"
    return found.undecided


def _verdict(
    pairing: Pairing, rows: Sequence[FigureRatio], figure: str, found: Doubts, margin: float, single: bool, letter: str
) -> Verdict:
    row = next(row for row in rows if row.name == figure)
    deciding = DecidingFigure(
        row.name,
        row.ratio,
        row.interval,
        runs=pairing.fewer,
        queries=min(one.queries for one in (*pairing.a, *pairing.b)),
        by_runs=isinstance(pairing, ByRuns),
        only_runs=isinstance(pairing, ByRuns) and pairing.differ_more_than_within(row.name),
        others=_clearly(rows, figure, margin),
    )
    return judge(deciding, margin, single=single, letter=letter, undecided=_undecided(pairing, row, found))


def _clearly(rows: Sequence[FigureRatio], judged: str, margin: float) -> str:
    """The figures besides the one that decides that are slower or faster by more than the margin, in words."""
    changes = {row.name: clearly(row.name, row.interval, margin) for row in rows if row.name != judged}
    texts = []
    for word in ("slower", "faster"):
        if names := [name for name, change in changes.items() if change == word]:
            listed = " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
            texts.append(f"{listed} {each_is(len(names))} clearly {word}")
    return f"{', '.join(texts)} (not judged: --figure)" if texts else ""
