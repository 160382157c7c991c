"""What is measured on each device, in the order of its weight: what comes late is left out first.

The CPU's proof only shows that the code runs, on models that are small enough.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from drumfire.bench.peers.gpu.plan import Missing, Part

BACKEND = "pytorch"
MINUTES = {"gpu": 8.0, "cpu": 5.0}
"""How long all may take."""


@dataclass(frozen=True)
class _Model:
    """A model to measure, and how."""

    batch_size: int
    in_memory: int
    """Samples that are loaded."""


_MODELS: Mapping[str, Mapping[str, _Model]] = {
    "gpu": {"resnet50": _Model(32, 64), "retinanet": _Model(16, 32), "minilm": _Model(32, 128)},
    "cpu": {"digits": _Model(8, 64), "shapes": _Model(4, 16), "minilm": _Model(4, 16)},
}
_PRECISIONS: Mapping[str, Mapping[str, Sequence[str]]] = {
    "gpu": {"bf16": tuple(_MODELS["gpu"]), "tf32": tuple(_MODELS["gpu"])},
    "cpu": {"fp32": tuple(_MODELS["cpu"]), "bf16": ("digits",)},
}
"""The models that are measured in each."""
_CEILINGS = {"gpu": ("fp32", "tf32", "bf16"), "cpu": ("fp32", "bf16")}
_RUN_S = {"gpu": 1.5, "cpu": 1.0}
"""The length of a scenario's run."""
_LIMITS = {
    "gpu": {"ceiling": (15, 40), "prepare": (40, 120), "tests": (30, 100), "model": (45, 80), "training": (40, 90),
            "memory": (12, 30)},
    "cpu": {"ceiling": (5, 20), "prepare": (10, 40), "tests": (10, 45), "model": (20, 50), "training": (20, 90),
            "memory": (3, 15)},
}  # fmt: skip
"""The least and the most of each kind, s."""
_TRAINING = {
    "gpu": {"label": "Mask R-CNN R50-FPN, 4 images of 800 px a step", "task": "maskrcnn", "data": "sample",
            "batch_size": 4, "step_s": 0.3, "warmup": 6, "options": ("--from-scratch",),
            "precisions": ("bf16",), "run_s": 4.0},
    "cpu": {"label": "Mask R-CNN, a small backbone, 4 images of 96 px a step", "task": "shapes", "data": "shapes",
            "batch_size": 4, "step_s": 0.3, "warmup": 1, "options": (), "precisions": ("fp32",), "run_s": 1.0},
}  # fmt: skip
_EXPECTED = {
    "gpu": (
        Missing("onnxruntime and tf on a GPU", "this proof measures pytorch", expected=True),
        Missing("several GPUs at once", "this proof measures one", expected=True),
        Missing("accuracy", "the weights of resnet50 and retinanet are random without a network", expected=True),
    ),
    "cpu": (Missing("resnet50 and retinanet", "digits and shapes, which are small, stand for them", expected=True),),
}


def of(device: str) -> tuple[Sequence[Part], Sequence[Missing]]:
    """The parts for ``gpu`` or ``cpu``, and what they leave unproven in any case."""
    limits, chosen = _LIMITS[device], _MODELS[device]
    run_s = _RUN_S[device]
    parts = [
        Part("ceiling", "ceiling", {"precisions": _CEILINGS[device]}, *limits["ceiling"]),
        Part(
            "prepare", "prepare", {"in_memory": {name: model.in_memory for name, model in chosen.items()}},
            *limits["prepare"],
        ),
        Part("tests", "gpu_tests", {}, *limits["tests"]),
    ]  # fmt: skip
    inference = [
        Part(
            f"{name} {precision}", "inference",
            {"model": name, "precision": precision, "run_s": run_s, **vars(chosen[name])}, *limits["model"],
        )
        for precision, names in _PRECISIONS[device].items()
        for name in names
    ]  # fmt: skip
    # One model first: all that is of another kind comes before the same of another model.
    parts += [
        inference[0],
        Part("shared memory", "shared_memory", {}, *limits["memory"]),
        Part("training", "training_step", _TRAINING[device], *limits["training"]),
        *inference[1:],
    ]
    return parts, _EXPECTED[device]
