"""Trains the shapes network and writes shapes.onnx: ``python -m drumfire.sut.models.weights.train_shapes``.

A tool for changing the network; a run of the benchmark never imports it.  Needs torch, onnx and onnxscript, and
pycocotools for the mAP that it prints at the end.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import numpy as np

from drumfire.sut.models import shapes
from drumfire.sut.models.model import Form
from drumfire.sut.models.weights import forms

if TYPE_CHECKING:
    from torch import Tensor

    from drumfire.sut.models.networks.ssd import SsdMobileNet

SEED = 0
PICTURES = 4000
EPOCHS = 13
BATCH = 32
LEARNING_RATE = 6e-3
"""The peak of a one-cycle schedule."""
_MATCHED = 0.4
"""The overlap (intersection over union) from which a prior is trained to detect a shape."""
_NEGATIVES = 3
"""Background priors in the loss, those of the highest loss, for each prior that matches a shape."""


def targets(data: shapes.Drawings, priors: Tensor) -> tuple[Tensor, Tensor]:
    """The wanted outputs for each prior: offsets (n, priors, 4), and labels (n, priors) with 0 for the background."""
    import torch

    corners = torch.cat((priors[:, :2] - priors[:, 2:] / 2, priors[:, :2] + priors[:, 2:] / 2), dim=1)
    offsets, labels = [], []
    for scene in data.scenes:
        boxes = torch.from_numpy(scene.boxes) / shapes.SIDE
        overlap = _overlap(corners, boxes)
        best, which = overlap.max(dim=1)
        mine = overlap.argmax(dim=0)  # each shape has its best prior, however little they overlap
        which[mine], best[mine] = torch.arange(len(boxes)), 1.0
        chosen = boxes[which]
        centre, size = (chosen[:, :2] + chosen[:, 2:]) / 2, chosen[:, 2:] - chosen[:, :2]
        offsets.append(
            torch.cat(((centre - priors[:, :2]) / priors[:, 2:] / 0.1, (size / priors[:, 2:]).log() / 0.2), dim=1)
        )
        kinds = torch.from_numpy(scene.kinds)[which] + 1
        labels.append(torch.where(best >= _MATCHED, kinds, 0))
    return torch.stack(offsets), torch.stack(labels)


def _overlap(first: Tensor, second: Tensor) -> Tensor:
    """Intersection over union of all pairs of boxes x1, y1, x2, y2: (n, m)."""
    import torch

    low = torch.maximum(first[:, None, :2], second[None, :, :2])
    high = torch.minimum(first[:, None, 2:], second[None, :, 2:])
    shared = (high - low).clamp(min=0).prod(dim=2)
    areas = [(boxes[:, 2:] - boxes[:, :2]).prod(dim=1) for boxes in (first, second)]
    return shared / (areas[0][:, None] + areas[1][None] - shared)


def train(data: shapes.Drawings) -> SsdMobileNet:
    """Fit a new network for a fixed number of epochs; returns its last state."""
    import torch

    torch.manual_seed(SEED)
    torch.set_num_threads(1)  # in layers this small, threads wait more than they compute
    model = shapes.Shapes().new_network()
    model.train()
    pixels = torch.from_numpy(data.pixels)
    offsets, labels = targets(data, model.priors)
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=1e-3)
    steps = EPOCHS * (len(pixels) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, steps)
    for epoch in range(EPOCHS):
        order, total = torch.randperm(len(pixels)), 0.0
        for batch in order[: len(pixels) // BATCH * BATCH].view(-1, BATCH):
            found_offsets, found_logits = model.raw(pixels[batch])
            loss = _loss(found_offsets, found_logits, offsets[batch], labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += float(loss.detach())
        print(f"epoch {epoch + 1}: loss {total * EPOCHS / steps:.3f}", flush=True)
    model.eval()
    return model


def _loss(offsets: Tensor, logits: Tensor, wanted_offsets: Tensor, labels: Tensor) -> Tensor:
    """Smooth L1 at priors that match a shape; cross entropy there and at the background priors of the highest loss."""
    import torch
    from torch.nn import functional

    shown = labels > 0
    count = shown.sum()
    place = functional.smooth_l1_loss(offsets[shown], wanted_offsets[shown], reduction="sum", beta=0.2)
    truth = functional.one_hot(labels, logits.shape[-1])[..., 1:].to(logits.dtype)
    kinds = functional.binary_cross_entropy_with_logits(logits[..., 1:], truth, reduction="none").sum(dim=2)
    worst = torch.where(shown, 0.0, kinds).flatten().topk(int(_NEGATIVES * count)).values
    return (place + kinds[shown].sum() + worst.sum()) / count


def main() -> None:
    import torch

    start = time.monotonic()
    model = train(shapes.training(PICTURES))
    parameters = sum(parameter.numel() for parameter in model.parameters())
    print(f"{parameters} parameters trained for {EPOCHS} epochs in {time.monotonic() - start:.0f} s")
    judge = shapes.Shapes()
    with torch.no_grad():
        outputs = [part.numpy() for part in model(torch.from_numpy(shapes.held_out().pixels))]
    everything = np.arange(judge.total_count)
    found = judge.accuracy(everything, judge.logged(everything, judge.respond(outputs)))
    print(f"held out: mAP {found.value:.4f} on {found.total} pictures")
    forms.export(model, shapes.TENSORS, shapes.WEIGHTS, Form.ONNX)
    print(f"{shapes.WEIGHTS}: {shapes.WEIGHTS.stat().st_size} bytes")


if __name__ == "__main__":
    main()
