"""Two sides compared: each figure with the interval of its ratio, what makes it doubtful, and the verdict.

A side is one run or several.  Two single runs are compared by their parts, which says nothing of what differs from run
to run; several a side by one number a run.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from drumfire.bench import statuses
from drumfire.bench.compare import doubts
from drumfire.bench.compare.doubts import Doubts, Side
from drumfire.bench.compare.pairing import Pairing, Row, Runs, same_schedule
from drumfire.bench.compare.subject import RATE, SHOWN, Run, check_figure, figure_named, of_side
from drumfire.bench.compare.verdict import NOT_COMPARED, Judged, Verdict, clearly, judge, too_few_runs, without_interval
from drumfire.loadgen.errors import UserError
from drumfire.loadgen.wording import counted

DEFAULT_MARGIN = 0.05


@dataclass(frozen=True)
class Comparison:
    """What two sides come to."""

    letters: tuple[str, str]
    names: tuple[tuple[str, ...], tuple[str, ...]]
    """The folders of each side's runs."""
    rows: tuple[Row, ...]
    judged: str
    """The figure that decides."""
    margin: float
    single: bool
    doubts: tuple[str, ...]
    """What to read first: what differs, and what makes the figures doubtful."""
    verdict: Verdict

    def row(self, figure: str) -> Row:
        return next(row for row in self.rows if row.name == figure)

    def document(self) -> dict[str, Any]:
        """As JSON holds it."""
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
        """From what ``document`` gave, which may have further keys.  Raises ``LookupError`` or ``TypeError``."""
        (first, a), (second, b) = document["sides"].items()
        return cls(
            (first, second),
            (tuple(a), tuple(b)),
            tuple(Row(**row) for row in document["figures"]),
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
    a, b = _cut([of_side(side) for side in sides], skip_s)
    found = doubts.doubts(a, b, letters, intended=intended)
    judged = a[0].judged if figure is None else figure_named(figure)
    check_figure(a[0].scenario, judged)
    pairing = Pairing.of(a, b)
    wanted = [judged] if a[0].is_offline else [*SHOWN, *([judged] if judged not in SHOWN else [])]
    rows = tuple(pairing.row(one) for one in wanted)
    lines = [*_repeated(sides, (a, b), letters), *found.lines, *pairing.lines]
    if found.broken:
        verdict = Verdict(found.broken, statuses.INVALID, NOT_COMPARED)
    else:
        verdict = _verdict(pairing, rows, judged, found, margin, single, letters[1])
    names = tuple(tuple(one.name for one in side) for side in (a, b))
    return Comparison(letters, (names[0], names[1]), rows, judged, margin, single, tuple(lines), verdict)


def ratio_of(
    a: Sequence[Run],
    b: Sequence[Run],
    figure: str,
    letters: tuple[str, str],
    *,
    single: bool = False,
    limit: float = 1.0,
    intended: bool = False,
) -> tuple[Row, tuple[str, ...], str]:
    """One figure of two sides, what makes it doubtful, and why its ratio cannot be told, empty where it can.

    ``limit``: the ratio that it is wanted to be above or below.  ``intended``: as of ``compare``.
    Raises ``UserError`` where they have no figures in common.
    """
    sides = (a, b)
    first, second = _cut([of_side(side) for side in sides], 0.0)
    pairing = Pairing.of(first, second)
    found = doubts.doubts(first, second, letters, intended=intended)
    row = pairing.row(figure_named(figure))
    why = found.broken or too_few_runs(pairing.fewer, single=single) or _undecided(pairing, row, found, limit)
    if not why and (row.low is None or row.high is None):
        why = without_interval(row.name, row.interval)
    return row, (*_repeated(sides, (first, second), letters), *found.lines, *pairing.lines), why


def _repeated(given: Sequence[Sequence[Run]], kept: Sequence[Side], letters: Sequence[str]) -> list[str]:
    return [
        f"{letter} names a run more than once, which counts once: {counted(len(few), 'run')} of {len(many)}"
        for letter, many, few in zip(letters, given, kept, strict=True)
        if len(few) < len(many)
    ]


def _cut(sides: Sequence[Side], skip_s: float) -> list[Side]:
    """The sides with the queries that are compared.  Raises ``UserError`` where there are none to compare."""
    every = [one for side in sides for one in side]
    for one in every:
        if one.scenario != every[0].scenario:
            scenarios = " and ".join(sorted({one.scenario for one in every}))
            raise UserError(f"{scenarios} have no figure in common: compare runs of one scenario")
        if not one.result.get("latency_ns"):
            raise UserError(f"{one.name} has no latencies, as of accuracy alone: leave it out")
    skipped = 0
    if skip_s:
        if every[0].is_offline:
            raise UserError("--skip has no meaning in Offline, which is one query: leave it out")
        if lacking := next((one for one in every if not one.has_rows), None):
            raise UserError(f"{lacking.name} has no columns, so that nothing can be skipped: leave --skip out")
        skipped = max(one.queries_before(skip_s) for one in every)
        if skipped >= (least := min(one.queries for one in every)):
            raise UserError(f"--skip {skip_s:g} leaves nothing of the shortest run, of {least:,} queries: skip less")
    last = None
    if all(len(side) == 1 and side[0].has_rows and side[0].on_schedule for side in sides):
        counts = {one.queries for one in every}
        last = min(counts) if len(counts) > 1 and same_schedule(*every) else None
    if skipped or last is not None:
        return [[one.cut(skipped, last) for one in side] for side in sides]
    return list(sides)


def _undecided(pairing: Pairing, row: Row, found: Doubts, limit: float = 1.0) -> str:
    """Why there can be no verdict whatever the interval is; empty where there can."""
    late = max(doubts.late_p99(pairing.a), doubts.late_p99(pairing.b))
    if late and row.name != RATE and row.a is not None and row.b is not None and abs(row.b - row.a * limit) < late:
        return found.undecided or "the difference is less than how late the queries were sent"
    return found.undecided


def _verdict(
    pairing: Pairing, rows: Sequence[Row], figure: str, found: Doubts, margin: float, single: bool, letter: str
) -> Verdict:
    row = next(row for row in rows if row.name == figure)
    judged = Judged(
        row.name,
        row.ratio,
        row.interval,
        runs=pairing.fewer,
        queries=min(one.queries for one in (*pairing.a, *pairing.b)),
        by_runs=isinstance(pairing, Runs),
        only_runs=isinstance(pairing, Runs) and pairing.differ_more_than_within(row.name),
        others=_clearly(rows, figure, margin),
    )
    return judge(judged, margin, single=single, letter=letter, undecided=_undecided(pairing, row, found))


def _clearly(rows: Sequence[Row], judged: str, margin: float) -> str:
    """Which figures besides the one that decides are slower or faster by more than the margin."""
    told = {row.name: clearly(row.name, row.interval, margin) for row in rows if row.name != judged}
    texts = []
    for word in ("slower", "faster"):
        if names := [name for name, found in told.items() if found == word]:
            listed = " and ".join(filter(None, [", ".join(names[:-1]), names[-1]]))
            texts.append(f"{listed} {'is' if len(names) == 1 else 'are'} clearly {word}")
    return f"{', '.join(texts)} (not judged: --figure)" if texts else ""
