"""Recipes that turn a picture into a model's input, bit for bit as MLPerf's reference harness does.

A recipe has two steps: it resizes and crops the picture (the result can be cached), then computes the input's numbers
from the pixels.  Works on arrays; does not depend on files, data sets or models.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[Any]
"""A picture of shape (height, width, 3), in the order RGB."""
Size = tuple[int, int]
"""Height and width in pixels."""

_SHARE_KEPT = 87.5
"""Percent of the shorter side that the centre crop keeps."""
_MEAN = np.array([0.485, 0.456, 0.406], np.float32)
_DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)
_BYTE_MEAN = np.array([123.68, 116.78, 103.94], np.float32)
STEP = 32
"""Pixels: the sides of a detector's frames are multiples of this."""
_MARGIN = 114
"""The grey beside a picture in its frame."""


@dataclass(frozen=True)
class Recipe:
    """The preprocessing for one kind of network."""

    name: str
    size: Size
    """Of the input."""
    resized: Callable[[Pixels, Size], Pixels]
    """Maps a uint8 picture of any size, and ``size``, to ``kept_shape`` of ``kept_dtype``."""
    kept_dtype: np.dtype[Any]
    numbers: Callable[[Pixels], Pixels]
    """Maps the output of ``resized`` to numbers of ``dtype`` in the same shape.  May change its argument."""
    dtype: np.dtype[Any]
    channels_first: bool = True

    @property
    def kept_shape(self) -> tuple[int, ...]:
        return *self.size, 3

    @property
    def shape(self) -> tuple[int, ...]:
        return (3, *self.size) if self.channels_first else self.kept_shape

    def fill(self, row: Pixels, kept: Pixels) -> None:
        """Write the input made from ``kept`` into ``row``, of the recipe's shape and dtype."""
        numbers = self.numbers(kept)
        row[...] = numbers.transpose(2, 0, 1) if self.channels_first else numbers


def _cropped(pixels: Pixels, size: Size, interpolation: int) -> Pixels:
    """Scale the shorter side to a square's / 87.5 %, then crop the centre; truncates to whole pixels."""
    import cv2

    side = size[0]
    height, width = pixels.shape[:2]
    short = int(100.0 * side / _SHARE_KEPT)
    scaled = (short, int(short * height / width)) if height > width else (int(short * width / height), short)
    pixels = cv2.resize(pixels, scaled, interpolation=interpolation)
    height, width = pixels.shape[:2]
    left, top = int((width - side) / 2), int((height - side) / 2)
    return pixels[top : top + side, left : left + side]


def _cropped_by_area(pixels: Pixels, size: Size) -> Pixels:
    import cv2

    return _cropped(pixels, size, cv2.INTER_AREA)


def _cropped_bilinear(pixels: Pixels, size: Size) -> Pixels:
    import cv2

    return _cropped(pixels, size, cv2.INTER_LINEAR)


def _cropped_by_pillow(pixels: Pixels, size: Size) -> Pixels:
    """As torchvision's transforms do for a Pillow image: they use another filter and round the crop's corner."""
    from PIL import Image

    side = size[0]
    short = int(100.0 * side / _SHARE_KEPT)
    height, width = pixels.shape[:2]
    scaled = (short, int(short * height / width)) if width <= height else (int(short * width / height), short)
    image = Image.fromarray(pixels).resize(scaled, Image.Resampling.BILINEAR)
    left, top = round((image.width - side) / 2), round((image.height - side) / 2)
    return np.asarray(image.crop((left, top, left + side, top + side)))


def _stretched(pixels: Pixels, size: Size) -> Pixels:
    """Ignores the aspect ratio; in floating point, because OpenCV rounds uint8 pictures differently."""
    import cv2

    resized: Pixels = cv2.resize(pixels.astype(np.float32), size[::-1], interpolation=cv2.INTER_LINEAR)
    return resized


def _stretched_to_bytes(pixels: Pixels, size: Size) -> Pixels:
    """Truncates fractions, as the reference's cast does."""
    return _stretched(pixels, size).astype(np.uint8)


class Place(NamedTuple):
    """Where a picture lies in its frame, in whole pixels."""

    top: int
    left: int
    height: int
    width: int
    frame: Size


class Letterbox(NamedTuple):
    """Lays pictures whole into frames, in the middle; a frame's sides are multiples of ``STEP``, or those of ``most``.

    A picture is scaled, up or down, until it fills one side of ``most``; its frame is the smallest that holds it.
    """

    least: Size
    """The smallest frame."""
    most: Size
    """The largest; as ``least``, if all pictures have the same."""

    @property
    def is_fixed(self) -> bool:
        """Whether all pictures have one frame."""
        return self.least == self.most

    def place(self, height: int, width: int) -> Place:
        """Of a picture of ``height`` x ``width``.

        Rounds halves to even, and an odd row or column of margin goes to the bottom or the right.
        """
        scale = min(self.most[0] / height, self.most[1] / width)
        new_height, new_width = max(round(height * scale), 1), max(round(width * scale), 1)
        tall, wide = (
            max(least, min(most, -(-new // STEP) * STEP))
            for least, most, new in zip(self.least, self.most, (new_height, new_width), strict=True)
        )
        top, left = round((tall - new_height) / 2 - 0.1), round((wide - new_width) / 2 - 0.1)
        return Place(top, left, new_height, new_width, (tall, wide))

    def recipe(self, frame: Size) -> Recipe:
        """For the pictures that have this frame."""
        square = RECIPES["coco-640-letterbox"]
        if self.is_fixed and frame == square.size:
            return square
        name = "-".join(("coco-letterbox", *(f"{height}x{width}" for height, width in (self.most, frame))))
        return replace(square, name=name, size=frame, resized=lambda pixels, _: self._laid(pixels))

    def _laid(self, pixels: Pixels) -> Pixels:
        import cv2

        top, left, height, width, frame = self.place(*pixels.shape[:2])
        framed = np.full((*frame, 3), _MARGIN, np.uint8)
        framed[top : top + height, left : left + width] = cv2.resize(
            pixels, (width, height), interpolation=cv2.INTER_LINEAR
        )
        return framed


def _letterboxed(pixels: Pixels, size: Size) -> Pixels:
    return Letterbox(size, size)._laid(pixels)


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
        Recipe("imagenet", (224, 224), _cropped_by_area, _BYTES, _less_byte_mean, _FLOATS),
        Recipe("imagenet_mobilenet", (224, 224), _cropped_bilinear, _BYTES, _minus_one_to_one, _FLOATS),
        Recipe("imagenet_pytorch", (224, 224), _cropped_by_pillow, _BYTES, _standardised, _FLOATS),
        Recipe("coco-300", (300, 300), _stretched_to_bytes, _BYTES, _unchanged, _BYTES, channels_first=False),
        Recipe("coco-300-pt", (300, 300), _stretched, _FLOATS, _around_zero, _FLOATS),
        Recipe("coco-1200", (1200, 1200), _stretched, _FLOATS, _standardised, _FLOATS),
        Recipe("openimages-800-retinanet", (800, 800), _stretched, _FLOATS, _zero_to_one, _FLOATS),
        Recipe("coco-640-letterbox", (640, 640), _letterboxed, _BYTES, _zero_to_one, _FLOATS),
    )
}
"""By the names of the data set bundles in the reference harness; it has none for the last."""
