"""The loss of a global batch, whichever way it is divided over ranks.

torchvision draws anchors and regions for its losses from the global generator and takes means over one rank's draws.
Here the draws of an image follow from its sample, and a rank's means count by its share of all ranks' draws: so N ranks
have the loss, and the gradient, of one rank that sees the whole batch.
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
    """Put our samplers in the place of the model's; returns where to set what its next forward pass draws from."""
    draws = Draws()
    for part, sampler in ((model.rpn, AnchorSampler), (model.roi_heads, RegionSampler)):
        before = part.fg_bg_sampler
        part.fg_bg_sampler = sampler(draws, before.batch_size_per_image, before.positive_fraction)
    return draws


@dataclass
class Draws:
    """What one forward pass draws from, set before it, and how much it drew."""

    seeds: Sequence[int] = ()
    anchors: int = 0
    regions: int = 0
    positives: int = 0

    def counts(self) -> tuple[int, int, int]:
        return self.anchors, self.regions, self.positives


class AnchorSampler:
    """In place of the region proposal network's sampler."""

    def __init__(self, draws: Draws, batch_size_per_image: int, positive_fraction: float) -> None:
        self._draws, self._size, self._fraction = draws, batch_size_per_image, positive_fraction

    def __call__(self, matched: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        positive, negative = _sampled(matched, self._draws.seeds, self._size, self._fraction)
        self._draws.anchors = _count(positive) + _count(negative)
        return positive, negative


class RegionSampler:
    """In place of the heads' sampler."""

    def __init__(self, draws: Draws, batch_size_per_image: int, positive_fraction: float) -> None:
        self._draws, self._size, self._fraction = draws, batch_size_per_image, positive_fraction

    def __call__(self, matched: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        positive, negative = _sampled(matched, [seed + 1 for seed in self._draws.seeds], self._size, self._fraction)
        self._draws.positives = _count(positive)
        self._draws.regions = self._draws.positives + _count(negative)
        return positive, negative


def loss_of_rank(losses: Mapping[str, Tensor], counts: Sequence[int], totals: Sequence[float]) -> Tensor:
    """A rank's part of the batch's loss: the sum of the parts of all ranks is the loss.

    ``counts`` of this rank and ``totals`` of all: anchors, regions, positives.
    """
    parts = []
    for name, loss in losses.items():
        over = _MEAN_OVER[name]
        if counts[over] == 0:
            # A mean over nothing is not a number.  It counts for nothing, but keeps its place in the graph.
            loss = loss.nan_to_num(0.0)
        parts.append(loss * (counts[over] / max(totals[over], 1.0)))
    return torch.stack(parts).sum()


def _count(masks: Sequence[Tensor]) -> int:
    return sum(int(mask.sum()) for mask in masks)


def _sampled(
    matched: Sequence[Tensor], seeds: Sequence[int], size: int, fraction: float
) -> tuple[list[Tensor], list[Tensor]]:
    """For each image the chosen positives and negatives as masks; at most ``size``, ``fraction`` of them positive."""
    positives, negatives = [], []
    for of_image, seed in zip(matched, seeds, strict=True):
        generator = torch.Generator(of_image.device)
        generator.manual_seed(seed)
        positive = _some(of_image >= 1, int(size * fraction), generator)
        negative = _some(of_image == 0, size - int(positive.sum()), generator)
        positives.append(positive)
        negatives.append(negative)
    return positives, negatives


def _some(candidates: Tensor, most: int, generator: torch.Generator) -> Tensor:
    """At most ``most`` of the candidates, as a mask."""
    places = candidates.nonzero().squeeze(1)
    chosen = torch.zeros_like(candidates, dtype=torch.uint8)
    chosen[places[torch.randperm(len(places), generator=generator, device=places.device)[:most]]] = 1
    return chosen
