"""Packs samples into a few tensors, so that a batch moves as one from a worker process and to a device.

Unpacking makes views, not copies.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from drumfire.training.coco import Sample, Unreadable


@dataclass(frozen=True)
class Batch:
    """Images and their objects; or nothing but a fault, if an image could not be read."""

    pixels: Tensor
    """uint8, flat: the images (3, height, width), one after the other"""
    masks: Tensor
    """uint8, flat: the images' masks (n, height, width), one after the other"""
    boxes: Tensor
    """float32, (sum of n, 4)"""
    labels: Tensor
    """int64, (sum of n,)"""
    sizes: list[tuple[int, int, int]]
    """height, width and n of each image"""
    picture_ids: list[int]
    draws: list[int]
    """A number drawn for each image."""
    fault: str | None = None

    @staticmethod
    def of(samples: Sequence[Sample | Unreadable]) -> Batch:
        for sample in samples:
            if isinstance(sample, Unreadable):
                return Batch.failed(sample.fault)
        good = [sample for sample in samples if isinstance(sample, Sample)]
        return Batch(
            torch.cat([sample.image.reshape(-1) for sample in good]),
            torch.cat([sample.masks.reshape(-1) for sample in good]),
            torch.cat([sample.boxes for sample in good]),
            torch.cat([sample.labels for sample in good]),
            [(*sample.image.shape[1:], len(sample.labels)) for sample in good],
            [sample.picture_id for sample in good],
            [sample.draw for sample in good],
        )

    @staticmethod
    def failed(fault: str) -> Batch:
        nothing = torch.empty(0)
        return Batch(nothing, nothing, nothing, nothing, [], [], [], fault)

    def pin_memory(self) -> Batch:
        """A copy in pinned memory.  torch's loader calls this before a transfer to a GPU."""
        return replace(
            self,
            pixels=self.pixels.pin_memory(),
            masks=self.masks.pin_memory(),
            boxes=self.boxes.pin_memory(),
            labels=self.labels.pin_memory(),
        )

    def images(self, device: torch.device) -> list[Tensor]:
        """The images on the device as the model expects them: float32, (3, height, width), in 0..1."""
        pixels = self.pixels.to(device, non_blocking=True).float().div_(255)
        parts = pixels.split([3 * height * width for height, width, _ in self.sizes])
        return [part.view(3, height, width) for part, (height, width, _) in zip(parts, self.sizes, strict=True)]

    def targets(self, device: torch.device) -> list[dict[str, Tensor]]:
        """Boxes, labels and masks of each image on the device, as the model expects them."""
        boxes, labels, masks = (part.to(device, non_blocking=True) for part in (self.boxes, self.labels, self.masks))
        counts = [count for _, _, count in self.sizes]
        areas = [height * width * count for height, width, count in self.sizes]
        return [
            {"boxes": of_boxes, "labels": of_labels, "masks": of_masks.view(-1, height, width)}
            for of_boxes, of_labels, of_masks, (height, width, _) in zip(
                boxes.split(counts), labels.split(counts), masks.split(areas), self.sizes, strict=True
            )
        ]
