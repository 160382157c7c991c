"""The measures of the servers, with their cases and goals.

Each measure has Drumfire's server and one other side in turns, as the figures differ from server to server.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from drumfire.bench.peers.goal import Figure, Figures, both, number
from drumfire.bench.peers.process import MeasurementError
from drumfire.bench.peers.rounds import Measure, family
from drumfire.bench.peers.server import Running
from drumfire.bench.peers.serving import environments, servers
from drumfire.bench.peers.serving.client import Load, closed_loop, in_process
from drumfire.bench.peers.serving.environments import KSERVE, MLSERVER
from drumfire.bench.peers.serving.same_schedule import IN_PROCESS, PERCENTILES, SERVED, SameSchedule
from drumfire.bench.peers.serving.servers import IDENTITY, Start
from drumfire.bench.peers.triton.case import PROTOCOLS
from drumfire.sut.environments import Say

ANOTHER = "the other"
"""The other side of any measure; the label names it."""
TRITON, PROCESS = "triton", "process"
_NAMES = {TRITON: "Triton's Python backend", KSERVE: "kserve", MLSERVER: "mlserver", PROCESS: "the same in process"}
_PROTOCOLS = PROTOCOLS | {"json": "HTTP with JSON"}
_IDENTITY_AT_ONCE = 16
_IDENTITY_GOALS = {TRITON: 1.5, KSERVE: 5.0, MLSERVER: 5.0}
_WITHOUT_BINARY = {MLSERVER}
_THREADS = "1"
"""Threads of a model, on all sides; the code of Triton's digits sets the same."""


@dataclass(frozen=True)
class _Computed:
    """A model that computes, from the same file on all sides."""

    name: str
    batch: int
    """The largest batch, on all sides."""
    outputs: int
    rate: float
    """Queries a second of its Server run."""
    times_longer: float
    """How many times longer its Server run lasts than other runs, for the sake of the percentiles."""
    in_process_goal: float | None
    """None where a sample costs less than a request."""

    @property
    def words(self) -> tuple[str, ...]:
        return ("onnxruntime", self.name, "--threads", _THREADS, "--max-batchsize", str(self.batch))

    def serve(self) -> Start:
        return lambda: servers.drumfire(*self.words)

    def triton(self, say: Say) -> Start:
        if self.name == "digits":  # which Triton has
            return lambda: servers.triton(None, say)

        @contextmanager
        def started() -> Iterator[Running]:
            with (
                servers.onnx_repository(self.name, self.outputs, self.batch) as repository,
                servers.triton(repository, say) as running,
            ):
                yield running

        return started


_COMPUTED = (_Computed("efficientnet-lite0", 8, 1000, 10, 10, 0.95), _Computed("digits", 64, 10, 500, 1, None))
_IN_FLIGHT = (8, 32)
_TRITON_GOAL = 1.0

NAMES: tuple[str, ...] = (
    *(
        f"identity-{protocol}@{peer}"
        for protocol in _PROTOCOLS
        for peer in _IDENTITY_GOALS
        if protocol != "http" or peer not in _WITHOUT_BINARY
    ),
    *(f"{one.name}-{count}@{peer}" for one in _COMPUTED for count in _IN_FLIGHT for peer in (PROCESS, TRITON)),
    *(f"added@{one.name}" for one in _COMPUTED),
)
"""The names of all measures, in the order of the table."""


def chosen(only: Sequence[str] | None) -> list[str]:
    """The measures named in ``only``, directly or by family; None: all."""
    return [name for name in NAMES if not only or {name, family(name)} & set(only)]


def others(names: Sequence[str], say: Say) -> tuple[Mapping[str, Start], Sequence[str]]:
    """The other servers of the identity model that these measures need, and why any of them is missing."""
    available: dict[str, Start] = {TRITON: lambda: servers.triton(None, say)}
    missing = []
    starts: Mapping[str, Callable[[Path], Start]] = {
        KSERVE: lambda python: lambda: servers.kserve(python),
        MLSERVER: lambda python: lambda: servers.mlserver(python),
    }
    needed = {name.partition("@")[2] for name in names}
    for name, start in starts.items():
        if name in needed:
            try:
                available[name] = start(environments.python(name, say))
            except MeasurementError as error:
                missing.append(f"{name} is left out: {error}")
    return available, missing


def measures(identities: Mapping[str, Start], say: Say) -> list[Measure]:
    """``identities``: the other servers of the identity model, by name."""
    made: dict[str, Measure] = {}
    for protocol in _PROTOCOLS:
        for peer, start in identities.items():
            name = f"identity-{protocol}@{peer}"
            if name in NAMES:
                made[name] = _identity(name, protocol, peer, start)
    for one in _COMPUTED:
        for count in _IN_FLIGHT:
            load = Load(one.name, "grpc", count)
            ours = partial(closed_loop, one.serve(), load)
            label = f"{one.name}, {count} at a time, gRPC, beside"
            name = f"{one.name}-{count}@{PROCESS}"
            made[name] = Measure(
                name,
                _beside_process(f"{label} {_NAMES[PROCESS]}", one.in_process_goal),
                ours,
                {ANOTHER: partial(in_process, one.words)},
            )
            name = f"{one.name}-{count}@{TRITON}"
            theirs = partial(closed_loop, one.triton(say), load)
            made[name] = Measure(name, _beside_triton(f"{label} {_NAMES[TRITON]}"), ours, {ANOTHER: theirs})
        schedule = SameSchedule(one.name, one.rate, one.serve(), one.words, times_longer=one.times_longer)
        made[f"added@{one.name}"] = _added(one, schedule)
    return [made[name] for name in NAMES if name in made]


def _identity(name: str, protocol: str, peer: str, start: Start) -> Measure:
    load = Load(IDENTITY, protocol, _IDENTITY_AT_ONCE)
    label = f"identity, {_PROTOCOLS[protocol]}, {_IDENTITY_AT_ONCE} at a time, beside {_NAMES[peer]}"
    return Measure(
        name,
        (
            both(f"{label}: requests/s", "rate_per_s", "1/s", more_is_better=True, goal_ratio=_IDENTITY_GOALS[peer]),
            both(f"{label}: server CPU a request", "server_cpu_ns_per_request", "us", 1e3),
            both(f"{label}: latency p50", "p50_latency_ns", "us", 1e3),
            both(f"{label}: latency p99", "p99_latency_ns", "us", 1e3),
        ),
        partial(closed_loop, lambda: servers.drumfire("null", IDENTITY), load),
        {ANOTHER: partial(closed_loop, start, load)},
    )


def _beside_process(label: str, goal: float | None) -> tuple[Figure, ...]:
    return (
        both(f"{label}: samples/s", "rate_per_s", "1/s", more_is_better=True, goal_ratio=goal),
        both(f"{label}: CPU a sample, with the client's", "all_cpu_ns_per_request", "ms", 1e6),
        Figure(f"{label}: mean batch", "mean_batch", "", more_is_better=True),
    )


def _beside_triton(label: str) -> tuple[Figure, ...]:
    return (
        both(f"{label}: samples/s", "rate_per_s", "1/s", more_is_better=True, goal_ratio=_TRITON_GOAL),
        both(f"{label}: server CPU a sample", "server_cpu_ns_per_request", "ms", 1e6),
        both(f"{label}: latency p50", "p50_latency_ns", "ms", 1e6),
        both(f"{label}: mean batch", "mean_batch", "", more_is_better=True),
    )


def _added(one: _Computed, schedule: SameSchedule) -> Measure:
    label = f"{one.name}, Server at {number(one.rate)}/s, beside {_NAMES[PROCESS]}: latency"
    return Measure(
        f"added@{one.name}",
        (
            *(both(f"{label} {p}", f"{p}_ns", "us", 1e3) for p in PERCENTILES),
            *(Figure(f"{label} {p}, added", f"added_{p}_ns", "us", 1e3) for p in PERCENTILES),
        ),
        schedule.side(SERVED),
        {ANOTHER: schedule.side(IN_PROCESS)},
        note=lambda medians: (
            f"{one.name}: serving on loopback adds {_added_times(medians)} ({medians['requests']:.0f} queries)"
        ),
    )


def _added_times(medians: Figures) -> str:
    return ", ".join(f"{number(medians[f'added_{p}_ns'] / 1e3)} us at {p}" for p in PERCENTILES)
