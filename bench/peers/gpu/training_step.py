"""Training steps of Mask R-CNN, beside the plain loop.  Runs as a program: see ``child``."""

from __future__ import annotations

import sys
from collections.abc import Iterator

from drumfire.bench.peers.gpu.child import Case, Found, carry_out
from drumfire.bench.peers.gpu.plan import Missing, absent
from drumfire.bench.peers.training import measures

_NEEDS = {
    "torchvision": "torchvision",
    "mlperf_logging": "mlperf-logging",
    "faster_coco_eval": "faster-coco-eval",
    "PIL": "pillow",
}
"""The modules that training imports, and their packages."""


def measure(case: Case) -> Iterator[Found]:
    """Figures of kind ``training``."""
    if lacking := absent(_NEEDS):
        yield Missing(f"training steps of {case['label']}", f"{', '.join(lacking)} not installed")
        return
    for precision in case["precisions"]:
        steps = measures.Case(
            case["task"], case["data"], case["batch_size"], case["step_s"], case["warmup"],
            (*case["options"], "--device", "cuda" if case["device"] == "gpu" else "cpu"), precision,
        )  # fmt: skip
        ours = measures.ours(steps, case["run_s"])
        figure = {"of": "training", "label": case["label"], "precision": precision, **ours}
        plain = measures.plain(steps, case["run_s"])
        yield figure | {"over_bare": ours["images_per_s"] / plain["images_per_s"], "bare": plain["images_per_s"]}


if __name__ == "__main__":
    sys.exit(carry_out(measure))
