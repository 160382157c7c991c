"""The measures of models in processes of their own, and their goals.

Each measurement is a process of ``models`` or ``reference``.
"""

from __future__ import annotations

from typing import Any

from drumfire.bench.peers.goal import Figure, Figures, both, number
from drumfire.bench.peers.loadgen.measures import REFERENCE, highest, server, worker
from drumfire.bench.peers.rounds import Measure, Side

_DIGITS = {"model": "digits", "batch_size": 32}
_BOUND_NS = 10_000_000
_QUEUE_BATCH = 8
_SERVER = {
    "200": "at 200/s",
    "1000": "at 1,000/s",
    "15000": "at 15,000/s",
    "share": "at 60 % of the bare loop's rate",
}
"""What the runs of ``models.server`` are called in its figures, and here."""
_SERVER_GOALS_US = {("15000", "p50"): 75, ("15000", "p99"): 350, ("share", "p50"): 200, ("share", "p99"): 5000}


def _case(kind: str, length: float, **case: Any) -> Side:
    """A case of ``models``; a part of it takes ``length`` times the length of a plain run."""
    return lambda seconds: worker("models", {"kind": kind, "seconds": length * seconds, **case})


def _offline(processes: int, ours: str, theirs: str, goal: float) -> Measure:
    return Measure(
        f"digits@offline-{processes}",
        (
            Figure(f"digits Offline, {ours}, batches of 32", "samples_per_s", "1/s", more_is_better=True),
            Figure(f"the session alone in {theirs}", "bare_samples_per_s", "1/s", more_is_better=True),
            Figure(f"digits Offline, {ours}, over {theirs}", "share", "", more_is_better=True, goal=goal),
        ),
        _case("offline", 3, processes=processes, **_DIGITS),
    )


def _at(name: str, label: str) -> tuple[Figure, ...]:
    """The rows of a Server run of digits."""
    return (
        *(
            Figure(
                f"digits Server {label}: {part} {p}", f"{name}_{part}_{p}_ns", "us", 1e3,
                goal=_SERVER_GOALS_US.get((name, p)) if part == "latency" else None,
            )
            for part in ("latency", "lateness")
            for p in ("p50", "p99")
        ),
        Figure(f"digits Server {label}: issuing CPU a query", f"{name}_cpu_ns_per_query", "us", 1e3),
    )  # fmt: skip


def _server_note(medians: Figures) -> str:
    lines = []
    for name in _SERVER:
        parts = {part: medians[f"{name}_{part}_slowest_ns"] for part in ("lateness", "queue", "service")}
        whole = medians[f"{name}_latency_slowest_ns"]
        shares = ", ".join(f"{part} {number(ns / 1e3)} us ({ns / whole:.0%})" for part, ns in parts.items())
        lines.append(f"at {medians[f'{name}_per_s']:,.0f}/s the slowest 1 % take {number(whole / 1e3)} us: {shares}")
    return f"digits@server: {'; '.join(lines)}."


def _their_capacity(seconds: float) -> dict[str, float]:
    """The reference's highest VALID rate, with a Python thread that computes."""

    def probe(rate: float) -> dict[str, float] | None:
        settings = {
            **server(rate), "server_target_latency_ns": _BOUND_NS, "min_duration_ms": round(seconds * 1000),
            "min_query_count": 1,
        }  # fmt: skip
        figures = worker("reference", {"settings": settings, "trace": False, **_DIGITS})
        return {"valid_per_s": rate, **figures} if figures["valid"] else None

    return highest(probe, 10_000)


def _queue(model: str) -> Measure:
    def rows(name: str, bound: str) -> tuple[Figure, ...]:
        label = f"{model} Server, p99 within {bound}"
        return (
            Figure(f"{label}: highest rate", f"{name}_per_s", "1/s", more_is_better=True),
            Figure(f"{label}: a simulated queue", f"{name}_simulated_per_s", "1/s", more_is_better=True),
            Figure(f"{label}: over the simulated queue", f"{name}_share", "", more_is_better=True, goal=0.95),
            Figure(
                f"{label}: over one with the run's own times", f"{name}_own_share", "", more_is_better=True, goal=0.95
            ),
        )

    def note(medians: Figures) -> str:
        lone, full = (number(medians[name] / 1e6) for name in ("lone_ns", "full_ns"))
        return f"queue@{model}: a lone sample takes {lone} ms, a batch of {_QUEUE_BATCH} {full} ms."

    return Measure(
        f"queue@{model}",
        (*rows("fixed", "100 ms"), *rows("lone", "3 lone samples' time")),
        _case("queue", 3, model=model, batch_size=_QUEUE_BATCH),
        note=note,
    )


MODEL_MEASURES: tuple[Measure, ...] = (
    Measure(
        "digits@server",
        tuple(figure for name, label in _SERVER.items() for figure in _at(name, label)),
        _case("server", 2, **_DIGITS),
        note=_server_note,
    ),
    Measure(
        "digits@capacity",
        (
            both(
                "digits: highest VALID Server rate at p99 ≤ 10 ms (theirs: a Python thread computes)", "valid_per_s",
                "1/s", more_is_better=True, goal_ratio=3,
            ),
            Figure("digits: highest VALID Server rate over Offline's", "share", "", more_is_better=True, goal=0.75),
        ),
        _case("capacity", 1.5, bound_ns=_BOUND_NS, **_DIGITS),
        {REFERENCE: lambda seconds: _their_capacity(1.5 * seconds)},
    ),
    _offline(1, "one process", "a bare loop", 0.97),
    _offline(2, "two processes", "two bare loops run together", 0.95),
    *map(_queue, ("efficientnet-lite0", "mobilenet")),
)  # fmt: skip
