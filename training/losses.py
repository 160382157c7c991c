"""Makes the loss of a global batch independent of its division over ranks.

torchvision draws anchors and regions for its losses from the global generator and takes means over one rank's draws.
Here the draws of an image follow from its sample, and a rank's means are weighted by its share of all ranks' draws.  So
N ranks have the same loss and gradient as one rank that sees the whole batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from drumfire.training.vision import MaskRCNN

_ANCHORS, _REGIONS, _POSITIVES = range(3)
_MEAN_OVER = {
    "loss_objectness": _ANCHORS,
    "loss_rpn_box_reg": _ANCHORS,
    "loss_classifier": _REGIONS,
    "loss_box_reg": _REGIONS,
    "loss_mask": _POSITIVES,
}


def seed_draws(model: MaskRCNN) -> Draws:
    """Replace the model's samplers by ours.  Returns the object that holds the seeds of the next forward pass."""
    draws = Draws()
    for part, sampler in ((model.rpn, AnchorSampler), (model.roi_heads, RegionSampler)):
        before = part.fg_bg_sampler
        part.fg_bg_sampler = sampler(draws, before.batch_size_per_image, before.positive_fraction)
    return draws


@dataclass
class Draws:
    """The seeds of one forward pass, set before it, and the number of anchors and regions that it drew."""

    seeds: Sequence[int] = ()
    """One for each image."""
    anchors: int = 0
    regions: int = 0
    positives: int = 0

    def counts(self) -> tuple[int, int, int]:
        return self.anchors, self.regions, self.positives


class AnchorSampler:
    """Replaces the sampler of the region proposal network."""

    def __init__(self, draws: Draws, batch_size_per_image: int, positive_fraction: float) -> None:
        self._draws, self._size, self._fraction = draws, batch_size_per_image, positive_fraction

    def __call__(self, matched: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        positive, negative = _drawn(matched, self._draws.seeds, self._size, self._fraction)
        self._draws.anchors = _count(positive) + _count(negative)
        return positive, negative


class RegionSampler:
    """Replaces the sampler of the heads."""

    def __init__(self, draws: Draws, batch_size_per_image: int, positive_fraction: float) -> None:
        self._draws, self._size, self._fraction = draws, batch_size_per_image, positive_fraction

    def __call__(self, matched: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        positive, negative = _drawn(matched, [seed + 1 for seed in self._draws.seeds], self._size, self._fraction)
        self._draws.positives = _count(positive)
        self._draws.regions = self._draws.positives + _count(negative)
        return positive, negative


def loss_of_rank(losses: Mapping[str, Tensor], counts: Sequence[int], totals: Sequence[float]) -> Tensor:
    """A rank's part of the batch's loss, which is the sum of all ranks' parts.

    ``counts`` of this rank and ``totals`` of all ranks: anchors, regions, positives.
    """
    parts = []
    for name, loss in losses.items():
        over = _MEAN_OVER[name]
        if counts[over] == 0:
            # The mean over nothing is NaN.  As 0 it does not count, but its parameters stay in the graph.
            loss = loss.nan_to_num(0.0)
        parts.append(loss * (counts[over] / max(totals[over], 1.0)))
    return torch.stack(parts).sum()


def _count(masks: Sequence[Tensor]) -> int:
    return sum(int(mask.sum()) for mask in masks)


def _drawn(
    matched: Sequence[Tensor], seeds: Sequence[int], size: int, fraction: float
) -> tuple[list[Tensor], list[Tensor]]:
    """Draw positives and negatives for each image, as masks: at most ``size``, and at most ``fraction`` positive."""
    positives, negatives = [], []
    for of_image, seed in zip(matched, seeds, strict=True):
        generator = torch.Generator(of_image.device)
        generator.manual_seed(seed)
        positive = _subset(of_image >= 1, int(size * fraction), generator)
        negative = _subset(of_image == 0, size - int(positive.sum()), generator)
        positives.append(positive)
        negatives.append(negative)
    return positives, negatives


def _subset(candidates: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """Draw at most ``most`` of the candidates, as a mask."""
    places = candidates.nonzero().squeeze(1)
    chosen = torch.zeros_like(candidates, dtype=torch.uint8)
    chosen[places[torch.randperm(len(places), generator=generator, device=places.device)[:most]]] = 1
    return chosen
