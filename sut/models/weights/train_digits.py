"""Trains the digits network and writes digits.onnx: ``python -m drumfire.sut.models.weights.train_digits``.

A tool for changing the network; a run of the benchmark never imports it.  Needs torch, onnx and onnxscript, and
scikit-learn for its only option, ``--data-from-sklearn``, which first makes digits.npz again.
"""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING

import numpy as np

from drumfire.sut.models import digits
from drumfire.sut.models.model import Form
from drumfire.sut.models.weights import forms

if TYPE_CHECKING:
    import torch
    from torch import nn

SEED = 0
HELD_OUT = 500
EPOCHS = 40
BATCH = 64
LEARNING_RATE = 1e-2
"""The peak of a one-cycle schedule."""


def make_data() -> None:
    """Write digits.npz: all 1797 images as uint8 of 0..16, the labels, and which 500 are held out (by a fixed seed)."""
    from sklearn.datasets import load_digits

    source = load_digits()
    order = np.random.default_rng(SEED).permutation(source.target.size)
    np.savez_compressed(
        digits.DATA,
        images=source.images.astype(np.uint8),
        labels=source.target.astype(np.uint8),
        held_out=np.sort(order[:HELD_OUT]).astype(np.uint16),
    )


def train(inputs: torch.Tensor, labels: torch.Tensor) -> nn.Sequential:
    """Fit a new network to ``inputs`` (n, 1, 8, 8) for a fixed number of epochs; returns its last state."""
    import torch

    from drumfire.sut.models.networks.digits import network

    torch.manual_seed(SEED)
    model = network()
    optimizer = torch.optim.AdamW(model.parameters(), weight_decay=1e-2)
    steps = EPOCHS * (len(inputs) // BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LEARNING_RATE, steps)
    loss_of = torch.nn.CrossEntropyLoss(label_smoothing=0.1)
    for _ in range(EPOCHS):
        order = torch.randperm(len(inputs))
        for batch in order[: len(inputs) // BATCH * BATCH].view(-1, BATCH):
            loss = loss_of(model(_shifted(inputs[batch])), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    return model.eval()


def _shifted(images: torch.Tensor) -> torch.Tensor:
    """Move each image by up to one pixel in each direction, filling with blank, and add a little noise."""
    import torch
    from torch.nn.functional import pad

    count = len(images)
    rows = torch.randint(0, 3, (count, 1, 1)) + torch.arange(8)[:, None]
    columns = torch.randint(0, 3, (count, 1, 1)) + torch.arange(8)
    moved = pad(images[:, 0], (1, 1, 1, 1))[torch.arange(count)[:, None, None], rows, columns]
    return (moved + 0.05 * torch.randn_like(moved))[:, None]


def main() -> None:
    match sys.argv[1:]:
        case []:
            pass
        case ["--data-from-sklearn"]:
            make_data()
        case _:
            sys.exit(__doc__)
    import torch

    data = digits.read()
    start = time.monotonic()
    model = train(torch.from_numpy(data.train_inputs), torch.from_numpy(data.train_labels))
    print(f"trained for {EPOCHS} epochs in {time.monotonic() - start:.0f} s")
    with torch.no_grad():
        predicted = model(torch.from_numpy(data.inputs)).argmax(1).numpy()
    good = int((predicted == data.labels).sum())
    print(f"held out: {good} of {len(data.labels)} correct, {good / len(data.labels):.2%}")
    forms.export(model, digits.Digits.tensors, digits.WEIGHTS, Form.ONNX)
    print(f"{digits.WEIGHTS}: {digits.WEIGHTS.stat().st_size} bytes")


if __name__ == "__main__":
    main()
