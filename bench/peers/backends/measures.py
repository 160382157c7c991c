"""The measures of the backends and their goals: Offline beside the bare loop, and Server beside Offline.

Each measurement is a process of ``turns``.
"""

from __future__ import annotations

from collections.abc import Sequence

from drumfire.bench.peers.goal import Figure, Figures, number
from drumfire.bench.peers.rounds import BothSides, Measure

BARE = "bare loop"
_BATCH_SIZE = 8
_BACKENDS = ("onnxruntime", "tflite", "pytorch")
_MODELS = ("mobilenet", "efficientnet-lite0")


def _case(kind: str, backend: str, model: str) -> BothSides:
    return BothSides(
        "drumfire.bench.peers.backends.turns",
        {"kind": kind, "backend": backend, "model": model, "batch_size": _BATCH_SIZE},
    )


def _offline(backend: str, model: str) -> Measure:
    label, case = f"{model} on {backend}, Offline", _case("offline", backend, model)
    return Measure(
        f"offline@{backend}-{model}",
        (
            Figure(label, "samples_per_s", "samples/s", theirs="samples_per_s", more_is_better=True, goal_ratio=0.97),
            Figure(f"{label}: CPU a sample", "cpu_s_per_sample", "ms", 1e-3, "cpu_s_per_sample"),
        ),
        case.side("ours"),
        {BARE: case.side("bare")},
    )


def _server(backend: str, model: str) -> Measure:
    label = f"{model} on {backend}, Server"
    share = f"{label}: of Offline's samples/s, within"
    return Measure(
        f"server@{backend}-{model}",
        (
            Figure(f"{share} its own bound", "own_share", "", more_is_better=True, goal=0.85),
            Figure(f"{share} 20 times a lone sample's time", "wide_share", "", more_is_better=True, goal=0.85),
        ),
        _case("server", backend, model).side("ours"),
        note=lambda medians: f"{label}: {_bounds(medians)}.",
    )


def _bounds(medians: Figures) -> str:
    texts = [
        f"a lone sample takes {number(medians['lone_s'] * 1e3)} ms, Offline is {number(medians['offline_per_s'])}/s"
    ]
    for name in ("own", "wide"):
        bound = f"within {number(medians[f'{name}_bound_s'] * 1e3)} ms"
        if medians[f"{name}_share"]:
            p99, size = number(medians[f"{name}_latency_s"] * 1e3), number(medians[f"{name}_mean_batch"])
            texts.append(f"{bound}: p99 {p99} ms at {number(medians[f'{name}_samples_per_s'])}/s, batches of {size}")
        else:
            texts.append(f"{bound}: not even at the lowest share that was tried")
    return "; ".join(texts)


MEASURES: Sequence[Measure] = (
    *(_offline(backend, model) for model in _MODELS for backend in _BACKENDS),
    *(_server(backend, model) for model in _MODELS for backend in _BACKENDS),
)
