"""Recipes that turn a picture into a model's input, bit for bit as MLPerf's reference harness does.

A recipe has two steps: it resizes and crops the picture (the result can be cached), then computes the input's numbers
from the pixels.  Works on arrays; does not depend on files, data sets or models.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[Any]
"""A picture of shape (height, width, 3), in the order RGB."""

_SHARE_KEPT = 87.5
"""Percent of the shorter side that the centre crop keeps."""
_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
_DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)
_BYTE_MEAN = np.array([123.68, 116.78, 103.94], np.float32)
_MARGIN = 114
"""The grey beside a picture that is not square."""


@dataclass(frozen=True)
class Recipe:
    """The preprocessing for one kind of network."""

    name: str
    side: int
    """Width and height of the input in pixels."""
    resized: Callable[[Pixels, int], Pixels]
    """Maps a uint8 picture of any size, and ``side``, to shape (side, side, 3) of ``kept_dtype``."""
    kept_dtype: np.dtype[Any]
    numbers: Callable[[Pixels], Pixels]
    """Maps the output of ``resized`` to numbers of ``dtype`` in the same shape.  May change its argument."""
    dtype: np.dtype[Any]
    channels_first: bool = True

    @property
    def kept_shape(self) -> tuple[int, ...]:
        return self.side, self.side, 3

    @property
    def shape(self) -> tuple[int, ...]:
        return (3, self.side, self.side) if self.channels_first else self.kept_shape

    def fill(self, row: Pixels, kept: Pixels) -> None:
        """Write the input made from ``kept`` into ``row``, of the recipe's shape and dtype."""
        numbers = self.numbers(kept)
        row[...] = numbers.transpose(2, 0, 1) if self.channels_first else numbers


def _cropped(pixels: Pixels, side: int, interpolation: int) -> Pixels:
    """Scale the shorter side to ``side`` / 87.5 %, then crop the centre; truncates to whole pixels as the reference."""
    import cv2

    height, width = pixels.shape[:2]
    short = int(100.0 * side / _SHARE_KEPT)
    size = (short, int(short * height / width)) if height > width else (int(short * width / height), short)
    pixels = cv2.resize(pixels, size, interpolation=interpolation)
    height, width = pixels.shape[:2]
    left, top = int((width - side) / 2), int((height - side) / 2)
    return pixels[top : top + side, left : left + side]


def _cropped_by_area(pixels: Pixels, side: int) -> Pixels:
    import cv2

    return _cropped(pixels, side, cv2.INTER_AREA)


def _cropped_bilinear(pixels: Pixels, side: int) -> Pixels:
    import cv2

    return _cropped(pixels, side, cv2.INTER_LINEAR)


def _cropped_by_pillow(pixels: Pixels, side: int) -> Pixels:
    """As torchvision's transforms do for a Pillow image: they use another filter and round the crop's corner."""
    from PIL import Image

    short = int(100.0 * side / _SHARE_KEPT)
    height, width = pixels.shape[:2]
    size = (short, int(short * height / width)) if width <= height else (int(short * width / height), short)
    image = Image.fromarray(pixels).resize(size, Image.Resampling.BILINEAR)
    left, top = round((image.width - side) / 2), round((image.height - side) / 2)
    return np.asarray(image.crop((left, top, left + side, top + side)))


def _stretched(pixels: Pixels, side: int) -> Pixels:
    """Ignores the aspect ratio; in floating point, because OpenCV rounds uint8 pictures differently."""
    import cv2

    resized: Pixels = cv2.resize(pixels.astype(np.float32), (side, side), interpolation=cv2.INTER_LINEAR)
    return resized


def _stretched_to_bytes(pixels: Pixels, side: int) -> Pixels:
    """Truncates fractions, as the reference's cast does."""
    return _stretched(pixels, side).astype(np.uint8)


class Place(NamedTuple):
    """Where a picture lies in its square input, in whole pixels."""

    top: int
    left: int
    height: int
    width: int


def letterbox(height: int, width: int, side: int) -> Place:
    """Where a picture of ``height`` x ``width`` lies in a square of ``side``: in the middle, its longer side fills it.

    Rounds halves to even, and an odd row or column of margin goes to the bottom or the right.
    """
    scale = min(side / height, side / width)
    new_height, new_width = max(round(height * scale), 1), max(round(width * scale), 1)
    return Place(round((side - new_height) / 2 - 0.1), round((side - new_width) / 2 - 0.1), new_height, new_width)


def _letterboxed(pixels: Pixels, side: int) -> Pixels:
    import cv2

    top, left, height, width = letterbox(pixels.shape[0], pixels.shape[1], side)
    square = np.full((side, side, 3), _MARGIN, np.uint8)
    square[top : top + height, left : left + width] = cv2.resize(
        pixels, (width, height), interpolation=cv2.INTER_LINEAR
    )
    return square


def _less_byte_mean(pixels: Pixels) -> Pixels:
    return pixels.astype(np.float32) - _BYTE_MEAN


def _minus_one_to_one(pixels: Pixels) -> Pixels:
    numbers = pixels.astype(np.float32)
    numbers /= np.float32(255)
    numbers -= np.float32(0.5)
    numbers *= np.float32(2)
    return numbers


def _standardised(pixels: Pixels) -> Pixels:
    numbers: Pixels = (pixels.astype(np.float32, copy=False) / np.float32(255) - _MEAN) / _DEVIATION
    return numbers


def _around_zero(pixels: Pixels) -> Pixels:
    return (pixels - np.float32(127.5)) / np.float32(127.5)


def _zero_to_one(pixels: Pixels) -> Pixels:
    numbers: Pixels = pixels / np.float32(255)
    return numbers


def _unchanged(pixels: Pixels) -> Pixels:
    return pixels


_BYTES, _FLOATS = np.dtype(np.uint8), np.dtype(np.float32)

RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe("imagenet", 224, _cropped_by_area, _BYTES, _less_byte_mean, _FLOATS),
        Recipe("imagenet_mobilenet", 224, _cropped_bilinear, _BYTES, _minus_one_to_one, _FLOATS),
        Recipe("imagenet_pytorch", 224, _cropped_by_pillow, _BYTES, _standardised, _FLOATS),
        Recipe("coco-300", 300, _stretched_to_bytes, _BYTES, _unchanged, _BYTES, channels_first=False),
        Recipe("coco-300-pt", 300, _stretched, _FLOATS, _around_zero, _FLOATS),
        Recipe("coco-1200", 1200, _stretched, _FLOATS, _standardised, _FLOATS),
        Recipe("openimages-800-retinanet", 800, _stretched, _FLOATS, _zero_to_one, _FLOATS),
        Recipe("coco-640-letterbox", 640, _letterboxed, _BYTES, _zero_to_one, _FLOATS),
    )
}
"""By the names of the data set bundles in the reference harness; it has none for the last."""
