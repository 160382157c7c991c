"""The measures of a text model, with their cases and goals.

Each measure has Drumfire's usual way and one other side in turns.  All runs of a measure compute the same samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

from drumfire.bench.peers.goal import Figure, both
from drumfire.bench.peers.hosted import weights
from drumfire.bench.peers.program import carry_out, run_figures
from drumfire.bench.peers.rounds import BothSides, Measure, Side
from drumfire.bench.peers.server import Running
from drumfire.bench.peers.serving import servers
from drumfire.bench.peers.serving.client import Load, closed_loop, in_process
from drumfire.bench.peers.texts.repository import repository
from drumfire.sut.environments import Say
from drumfire.sut.remote.triton_local.environment import check_platform

ANOTHER = "the other"
"""The other side of any measure; the label names it."""
MODEL, BATCH_SIZE = "minilm", 8
SAMPLES_PER_S = 64
"""Samples of a run for each second of its length: about what a core computes."""
IN_FLIGHT = 32
_BACKEND = "onnxruntime"
_BACKENDS = (_BACKEND, "pytorch")
_LONGEST = 128
_LENGTHS = f"8..24..{_LONGEST}"
_OUTPUTS: Mapping[str, str] = {"last_hidden_state": "-1, 384", "sentence_embedding": "384"}
_TRITON = {"triton": "equal lengths in a batch", "triton-ragged": "any lengths in a batch"}
"""Measures beside the real Triton, and what it batches."""
_OFFLINE, _SERVED = "offline@", "served@"
_TRAFFIC = ("--qps", str(SAMPLES_PER_S))
_WORDS = ("--threads", "1", "--max-batchsize", str(BATCH_SIZE))


def _offline(backend: str) -> Measure:
    label = f"{MODEL} on {backend}, Offline, beside a bare loop on the same padded batches"
    turns = BothSides(
        "drumfire.bench.peers.texts.turns",
        {"backend": backend, "model": MODEL, "batch_size": BATCH_SIZE, "samples_per_s": SAMPLES_PER_S},
    )
    return Measure(
        f"{_OFFLINE}{backend}",
        (
            both(f"{label}: samples/s", "rate_per_s", "1/s", more_is_better=True, goal_ratio=0.97),
            both(f"{label}: CPU a sample", "cpu_ns_per_sample", "ms", 1e6),
            Figure(f"{label}: share that is padding", "padding", "%", 0.01),
        ),
        turns.side("ours"),
        {ANOTHER: turns.side("bare")},
    )


# Samples of different lengths.


def _padded(*options: str) -> Side:
    """An Offline run of the model's file on lengths that are drawn, with these options of padding."""

    def measure(seconds: float) -> dict[str, float]:
        file = str(weights(MODEL, _BACKEND))
        words = ["run", _BACKEND, file, "--dim", f"sequence={_LENGTHS}", *_WORDS, *options, *_TRAFFIC]
        result = carry_out([*words, "--scenario", "Offline", "--time", f"{seconds:g}"]).result
        about = {
            "tokens_per_s": result["delivered"]["elements_per_second"],
            "padding": result["system"]["sizes"]["padding"],
        }
        return run_figures(result) | about

    return measure


def _sorted(name: str, what: str, goal: float, *options: str) -> Measure:
    label = f"{MODEL}, lengths {_LENGTHS} log-normal, sorted and padded to the longest, beside {what}"
    return Measure(
        f"sorted@{name}",
        (
            both(f"{label}: samples/s", "rate_per_s", "1/s", more_is_better=True, goal_ratio=goal),
            both(f"{label}: tokens/s", "tokens_per_s", "1/s", more_is_better=True),
            both(f"{label}: CPU a sample", "cpu_ns_per_sample", "ms", 1e6),
            both(f"{label}: share that is padding", "padding", "%", 0.01),
        ),
        _padded("--pad", "longest"),
        {ANOTHER: _padded(*options)},
    )


# Served.


def _served(name: str, what: str, goal: float, theirs: Side, figures: Callable[[str], tuple[Figure, ...]]) -> Measure:
    label = f"{MODEL}, gRPC, {IN_FLIGHT} at a time, beside {what}"
    return Measure(
        f"{_SERVED}{name}",
        (both(f"{label}: samples/s", "rate_per_s", "1/s", more_is_better=True, goal_ratio=goal), *figures(label)),
        partial(closed_loop, lambda: servers.drumfire(_BACKEND, MODEL, *_WORDS), _LOAD),
        {ANOTHER: theirs},
    )


_LOAD = Load(MODEL, "grpc", IN_FLIGHT, ("--input-data", MODEL, *_TRAFFIC))


def _beside_process(label: str) -> tuple[Figure, ...]:
    return (
        both(f"{label}: CPU a sample, with the client's", "all_cpu_ns_per_request", "ms", 1e6),
        Figure(f"{label}: mean batch", "mean_batch", "", more_is_better=True),
    )


def _beside_triton(label: str) -> tuple[Figure, ...]:
    return (
        both(f"{label}: server CPU a sample", "server_cpu_ns_per_request", "ms", 1e6),
        both(f"{label}: client CPU a sample", "cpu_ns_per_request", "ms", 1e6),
        both(f"{label}: latency p50", "p50_latency_ns", "ms", 1e6),
        both(f"{label}: latency p99", "p99_latency_ns", "ms", 1e6),
        both(f"{label}: mean batch", "mean_batch", "", more_is_better=True),
    )


def _triton(say: Say, ragged: bool) -> Side:
    @contextmanager
    def started() -> Iterator[Running]:
        with (
            repository(MODEL, _OUTPUTS, BATCH_SIZE, ragged=ragged) as folder,
            servers.triton(folder, say) as running,
        ):
            yield running

    return partial(closed_loop, started, _LOAD)


def measures(say: Say) -> list[Measure]:
    """All of them, in the order of the table."""
    words = (_BACKEND, MODEL, *_WORDS, *_TRAFFIC)
    return [
        *map(_offline, _BACKENDS),
        _sorted("fixed", f"padded to {_LONGEST}", 3.0, "--pad", str(_LONGEST)),
        _sorted("unsorted", "in their order", 1.5, "--pad", "longest", "--no-sort"),
        _served("process", "the same in process", 0.95, partial(in_process, words), _beside_process),
        *(
            _served(name, f"Triton's Python backend, {what}", 1.0, _triton(say, name != "triton"), _beside_triton)
            for name, what in _TRITON.items()
        ),
    ]


def need(name: str) -> None:
    """Raises ``UserError`` where something that the measure of this name needs is missing."""
    if name.removeprefix(_SERVED) in _TRITON:
        check_platform()
    weights(MODEL, name.removeprefix(_OFFLINE) if name.startswith(_OFFLINE) else _BACKEND)
