"""``python -m bench.peers.loadgen``: rounds of both sides in turns, then the section of RESULTS.md.

Progress goes to standard error.  A measurement that fails is told there and its round is left out.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from bench.peers import results
from bench.peers.goal import Figure, Round, Row, number
from bench.peers.loadgen.measures import MEASURES, Measure, MeasurementError, Side

_OUTPUT = Path(__file__).resolve().parent.parent / "RESULTS.md"
_HEAD = ("measure", "Drumfire", "mlcommons-loadgen", "times better", "goal", "met")

Rounds = Mapping[str, Sequence[Round]]


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    load = os.getloadavg()
    chosen = [m for m in MEASURES if not options.only or {m.name, m.family} & set(options.only)]
    rounds = measure(chosen, options.rounds, options.time)
    words = sys.argv[1:] if arguments is None else arguments
    command = shlex.join(["python", "-m", "bench.peers.loadgen", *words])
    machine = results.machine(("mlcommons-loadgen", "onnxruntime"), load)
    results.put_section(options.output, "loadgen", section(chosen, rounds, command, machine))
    raw = options.output.parent / "loadgen" / "rounds.json"
    raw.parent.mkdir(parents=True, exist_ok=True)
    raw.write_text(compact(rounds), encoding="utf-8")
    return 0


def measure(chosen: Sequence[Measure], count: int, seconds: float) -> Rounds:
    """All measures round by round; the side that goes first changes with the round."""
    rounds: dict[str, list[Round]] = defaultdict(list)
    for at in range(count):
        for one in chosen:
            if one.once and at:
                continue
            sides = [("ours", one.ours), ("theirs", one.theirs)]
            told: dict[str, dict[str, float]] = {"ours": {}, "theirs": {}}
            for name, side in sides if at % 2 == 0 else reversed(sides):
                if side is not None:
                    told[name] = _measure_side(f"round {at + 1}/{count} {one.name} {name}", side, seconds)
            rounds[one.name].append(Round(told["ours"], told["theirs"]))
    return rounds


def _measure_side(what: str, side: Side, seconds: float) -> dict[str, float]:
    print(f"{what} ...", end=" ", file=sys.stderr, flush=True)
    began = time.monotonic()
    try:
        figures = side(seconds)
    except (MeasurementError, subprocess.TimeoutExpired) as error:
        print(f"failed: {error}", file=sys.stderr)
        return {}
    told = ", ".join(f"{name} {number(value)}" for name, value in list(figures.items())[:8])
    print(f"{told}  ({time.monotonic() - began:.1f} s)", file=sys.stderr)
    return figures


def section(chosen: Sequence[Measure], rounds: Rounds, command: str, machine: str) -> str:
    """The Markdown of one comparison."""
    rows = [(m, figure.row(rounds[m.name])) for m in chosen for figure in m.figures]
    lost = [f"* {m.name}, {row.figure.label}: {text}.{_noise(row)}" for m, row in rows for text in row.missed()]
    notes = [f"* {m.note(_medians(rounds[m.name]))}" for m in chosen if m.note and rounds[m.name][0].ours]
    parts = [
        "## Beside mlcommons-loadgen",
        f"{machine}\n* command: `{command}`",
        "Medians over the rounds; both sides in turns, each measurement in a fresh process, through its fastest\n"
        "public Python API and with a system that answers at once, unless a row says otherwise. Raw rounds:\n"
        "`loadgen/rounds.json`. *Times better* is the median of the rounds' ratios.",
        results.table(_HEAD, [_cells(row) for _, row in rows]),
        "### What lost and why",
        "\n".join(lost) or "Nothing: every goal was met.",
    ]
    if notes:
        parts += ["### Where it goes", "\n".join(notes)]
    return "\n\n".join(parts)


def compact(rounds: Rounds) -> str:
    """The raw rounds as JSON, a line a round."""
    lines = [
        json.dumps({"measure": name, "round": at, "ours": r.ours, "theirs": r.theirs}, separators=(",", ":"))
        for name, of_measure in rounds.items()
        for at, r in enumerate(of_measure, 1)
    ]
    return "[\n" + ",\n".join(lines) + "\n]\n"


def _cells(row: Row) -> tuple[str, ...]:
    figure = row.figure

    def value(of_side: float | None) -> str:
        return "" if of_side is None else f"{number(of_side)} {figure.unit}".rstrip()

    ratio = "" if row.ratio is None else f"{number(row.ratio)}x"
    met = {True: "yes", False: "**no**", None: ""}[row.met]
    return figure.label, value(row.ours), value(row.theirs), ratio, _goal(figure), met


def _goal(figure: Figure) -> str:
    goals = []
    if figure.goal is not None:
        goals.append(f"{'≥' if figure.more_is_better else '≤'} {number(figure.goal)} {figure.unit}".rstrip())
    if figure.goal_ratio is not None:
        goals.append(f"≥ {number(figure.goal_ratio)}x")
    return ", ".join(goals)


def _noise(row: Row) -> str:
    """How far the rounds lie apart: a difference within that says little."""
    if not (row.ours_spread or row.theirs_spread):
        return ""
    told = f" The rounds spread over {row.ours_spread:.0%} of the median"
    if row.theirs is not None:
        told += f", the other side's over {row.theirs_spread:.0%}"
    return f"{told}."


def _medians(of_measure: Sequence[Round]) -> dict[str, float]:
    told = [r.ours for r in of_measure if r.ours]
    return {name: statistics.median(figures[name] for figures in told) for name in told[0]}


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.peers.loadgen", description=__doc__)
    names = sorted({name for m in MEASURES for name in (m.name, m.family)})
    parser.add_argument("--rounds", type=int, default=5, metavar="N", help="rounds of every measure (default: 5)")
    parser.add_argument(
        "--time", type=float, default=1.0, metavar="S",
        help="length of a plain run in seconds (default: 1); longer ones grow with it",
    )  # fmt: skip
    parser.add_argument(
        "--only", nargs="+", choices=names, metavar="NAME", help=f"these measures only: {', '.join(names)}"
    )
    parser.add_argument(
        "--output", type=Path, default=_OUTPUT, metavar="F", help="the Markdown file (default: bench/peers/RESULTS.md)"
    )
    options = parser.parse_args(arguments)
    if options.rounds < 1 or not options.time > 0:
        parser.error("--rounds and --time must be above 0")
    return options


if __name__ == "__main__":
    sys.exit(main())
