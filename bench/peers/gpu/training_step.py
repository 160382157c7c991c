"""Training steps of Mask R-CNN, beside the plain loop.  Runs as a program: see ``child``."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence

from drumfire.bench.peers.goal import number
from drumfire.bench.peers.gpu.cells import Kinds, block, ratio, share
from drumfire.bench.peers.gpu.child import Case, Found, carry_out
from drumfire.bench.peers.gpu.plan import Missing
from drumfire.bench.peers.training import measures
from drumfire.loadgen import installation

_NEEDS = {
    "torchvision": "torchvision",
    "mlperf-logging": "mlperf_logging",
    "faster-coco-eval": "faster_coco_eval",
    "pillow": "PIL",
}
"""The packages that training imports, and their modules."""


def measure(case: Case) -> Iterator[Found]:
    """Figures of kind ``training``."""
    if lacking := installation.lacking(_NEEDS):
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


def tables(of: Kinds) -> Sequence[str]:
    """What ``measure`` found, in Markdown."""
    head = ("training", "precision", "images/s", "over the plain loop", "slowest step, ms", "waiting for data")
    rows = [
        (
            one["label"], one["precision"], number(one["images_per_s"]), ratio(one["over_bare"]),
            number(one["slowest_step_s"] * 1e3), share(one["waiting"]),
        )
        for one in of["training"]
    ]  # fmt: skip
    return [block(head, rows)]


if __name__ == "__main__":
    sys.exit(carry_out(measure))
