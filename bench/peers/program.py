"""Runs of Drumfire's command line, of this checkout or another revision, and their figures.

Depends only on the command line and its files, so a revision of another layout can be measured too.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from drumfire.bench.peers.process import PROGRAM, MeasurementError, run

JUDGED = (0, 1)
"""Exit statuses of a run that was measured; 1: it is INVALID, as it missed its latency bound."""

Program = Sequence[str]
"""The words that start a revision's command line."""
Columns = Mapping[str, npt.NDArray[np.int64]]
"""Columns of a run by name, each of shape (rows,)."""


class Done(NamedTuple):
    """A finished run."""

    result: Mapping[str, Any]
    columns: Columns
    cpu_s: float
    """Of the whole process."""


def carry_out(words: Sequence[str], program: Program = PROGRAM) -> Done:
    """Run ``program`` with these words.  Raises ``MeasurementError``, also where a request failed."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made) / "run"
        command = [*program, *words, "--json", "--no-dashboard", "--output", str(folder)]
        done = run(command, fine=JUDGED)
        columns = {path.stem: np.load(path) for path in (folder / "columns").glob("*.npy")}
    return Done(without_errors(done.document), columns, done.cpu_s)


def without_errors(result: Mapping[str, Any]) -> Mapping[str, Any]:
    """The result itself.  Raises ``MeasurementError`` where a request failed."""
    errors = {name: result["errors"][name] for name in ("failed", "unanswered", "refused") if result["errors"][name]}
    if errors:
        raise MeasurementError(f"Drumfire's run has errors: {errors}, {result['errors']['messages']}")
    return result


def timed(words: Sequence[str], program: Program, seconds: float) -> dict[str, float]:
    """The figures of a run of this length.  Raises ``MeasurementError``."""
    return run_figures(carry_out([*words, "--time", f"{seconds:g}"], program).result)


def run_figures(result: Mapping[str, Any]) -> dict[str, float]:
    """Figures of a run's JSON.  Raises ``MeasurementError`` where it lacks one.

    CPU is that of the generator's process without the pacer's spin, which fills idle time, and of the processes in
    which a local system computes.  Older revisions record the spin as wall time: where the system took the core away
    for much of it the difference is not positive, and is left out.
    """
    try:
        delivered, overhead = result["delivered"], result["overhead"]
        cpu_s = cpu_seconds(result) - overhead["pacer_spin_s"]
        return {
            "rate_per_s": delivered["samples_per_second"],
            "wall_ns_per_sample": 1e9 / delivered["samples_per_second"],
            **({"cpu_ns_per_sample": cpu_s / delivered["samples"] * 1e9} if cpu_s > 0 else {}),
            **{
                f"{p}_{what}_ns": float(result[f"{what}_ns"][p])
                for what in ("lateness", "latency")
                for p in ("p50", "p99")
            },
        }
    except (KeyError, TypeError) as error:
        raise MeasurementError(f"the result does not hold {error}") from None


def cpu_seconds(result: Mapping[str, Any]) -> float:
    """CPU of the measured phase: of the generator's process, and of those in which a local system computes, s."""
    computing = result["system"].get("processes") or ()
    return float(result["overhead"]["process_cpu_s"] + sum(one["cpu_s"] for one in computing))


def one_input(elements: int = 4) -> list[str]:
    """The options of a run that always sends the same input of an identity model."""
    return ["--input", f"INPUT0:{elements}", "--input-data", "random", "--performance-sample-count", "1"]


def p50_and_p99(values: Sequence[int] | npt.NDArray[np.int64]) -> tuple[float, float]:
    """By nearest rank."""
    p50, p99 = np.percentile(values, (50, 99), method="inverted_cdf")
    return float(p50), float(p99)
