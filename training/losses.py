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


@dataclass
class AnchorSampler:
    """Replaces the sampler of the region proposal network."""

    draws: Draws
    batch_size_per_image: int
    positive_fraction: float

    def __call__(self, matched: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        positive, negative = self._drawn(matched, self.draws.seeds)
        self.draws.anchors = _count(positive) + _count(negative)
        return positive, negative

    def _drawn(self, matched: Sequence[Tensor], seeds: Sequence[int]) -> tuple[list[Tensor], list[Tensor]]:
        """Positives and negatives of each image, as masks: as many and in the proportion that the model asks for."""
        positives, negatives = [], []
        for of_image, seed in zip(matched, seeds, strict=True):
            generator = torch.Generator(of_image.device)
            generator.manual_seed(seed)
            positive = _subset(of_image >= 1, int(self.batch_size_per_image * self.positive_fraction), generator)
            negative = _subset(of_image == 0, self.batch_size_per_image - int(positive.sum()), generator)
            positives.append(positive)
            negatives.append(negative)
        return positives, negatives


class RegionSampler(AnchorSampler):
    """Replaces the sampler of the heads."""

    def __call__(self, matched: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        positive, negative = self._drawn(matched, [seed + 1 for seed in self.draws.seeds])
        self.draws.positives = _count(positive)
        self.draws.regions = self.draws.positives + _count(negative)
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


def _subset(candidates: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """Draw at most ``most`` of the candidates, as a mask."""
    places = candidates.nonzero().squeeze(1)
    chosen = torch.zeros_like(candidates, dtype=torch.uint8)
    chosen[places[torch.randperm(len(places), generator=generator, device=places.device)[:most]]] = 1
    return chosen
