"""The training loop that a person would write by hand, as a baseline for the speed of a run.

``python -m drumfire.training.plain shapes --steps 40`` prints one JSON object.  The loop trains the same model on
tensors that are ready in memory, with torchvision's samplers, without ranks and without records.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from drumfire.loadgen.options import option
from drumfire.training import coco
from drumfire.training.batch import Batch
from drumfire.training.coco import Pictures
from drumfire.training.faults import USAGE, InputError
from drumfire.training.hyperparameters import MOMENTUM, WEIGHT_DECAY
from drumfire.training.learner import PRECISIONS
from drumfire.training.options import MOST_SEED, parse
from drumfire.training.sampler import epoch_batches
from drumfire.training.tasks import TASKS

_Ready = tuple[list[torch.Tensor], list[dict[str, torch.Tensor]]]
"""A batch's images and targets, as the model expects them."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of this program."""

    task: str = option(position=True, choices=tuple(TASKS), help="the benchmark")
    data_dir: Path = option(metavar="D", help="the data set")
    batch_size: int = option(8, help="images per step (default: 8)")
    steps: int = option(40, help="timed steps (default: 40)")
    warmup: int = option(5, least=0, help="steps before the timed ones (default: 5)")
    precision: str = option("fp32", choices=tuple(PRECISIONS), help="default: fp32")
    seed: int = option(1, least=0, most=MOST_SEED, help="default: 1")


def main(arguments: Sequence[str] | None = None) -> int:
    try:
        options = parse("drumfire.training.plain", __doc__, Options, arguments)
    except InputError as error:
        print(f"plain: {error}", file=sys.stderr)
        return USAGE
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    task, size = TASKS[options.task], options.batch_size
    settings = task.hyperparameters(size, size)
    torch.manual_seed(options.seed)
    model = task.build(max(settings.image_candidates // size, 1), None, lambda _: None).train().to(device)
    if device.type == "cuda":
        model.to(memory_format=torch.channels_last)
    optimizer = torch.optim.SGD(
        [p for p in model.parameters() if p.requires_grad],
        lr=settings.base_learning_rate,
        momentum=MOMENTUM,
        weight_decay=WEIGHT_DECAY,
    )
    ready = _ready(options.data_dir, size, options.seed, min(options.warmup + options.steps, 64), device)
    dtype = PRECISIONS[options.precision]
    began = cpu_began = 0.0
    for step in range(options.warmup + options.steps):
        if step == options.warmup:
            began, cpu_began = _now(device), time.process_time()
        batch, targets = ready[step % len(ready)]
        for group in optimizer.param_groups:
            group["lr"] = settings.learning_rate(step)
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast(device.type, dtype, enabled=dtype != torch.float32):
            loss = sum(model(batch, targets).values())
        loss.backward()
        optimizer.step()
    images, took_s, cpu_s = options.steps * size, _now(device) - began, time.process_time() - cpu_began
    print(json.dumps({"images_per_s": images / took_s, "images_per_cpu_s": images / cpu_s}))
    return 0


def _ready(folder: Path, size: int, seed: int, count: int, device: torch.device) -> list[_Ready]:
    """The first ``count`` batches that a run with this seed sees, on the device."""
    annotations = coco.read(folder, coco.TRAIN)
    pictures = annotations.trainable()
    shown = Pictures(pictures, annotations.categories, seed)
    tall = np.array([picture.height > picture.width for picture in pictures])
    batches: list[_Ready] = []
    epoch = 0
    while len(batches) < count:
        epoch += 1
        for indices in epoch_batches(tall, size, seed, epoch):
            batch = Batch.of([shown[epoch, index] for index in indices.tolist()])
            batches.append((batch.images(device), batch.targets(device)))
    return batches[:count]


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.monotonic()


if __name__ == "__main__":
    sys.exit(main())
