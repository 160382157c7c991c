"""Drawn pictures of circles, boxes and triangles, by numpy alone: the same seed gives the same pixels everywhere.

Does not depend on files, layouts or models.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

Pixels = npt.NDArray[np.uint8]

KINDS = ("circle", "box", "triangle")
_TRIES = 20
_LEAST_CONTRAST = 70
"""Least difference between a shape's colour and the background's, in the channel where they differ most (of 255)."""


@dataclass(frozen=True)
class Scene:
    """A picture and what it shows."""

    pixels: Pixels
    """Shape (height, width, 3)."""
    boxes: npt.NDArray[np.float32]
    """x1, y1, x2, y2 of the ``n`` shapes in pixels, shape (n, 4)."""
    kinds: npt.NDArray[np.int64]
    """Indices into ``KINDS``, shape (n,)."""


def draw(width: int, height: int, shapes: int, draws: np.random.Generator) -> Scene:
    """Draw a noisy background and ``shapes`` shapes that do not touch, or fewer if they do not fit."""
    base = draws.integers(30, 226, 3)
    slope = draws.integers(-10, 11, (2, 3))
    y, x = np.linspace(-1, 1, height)[:, None, None], np.linspace(-1, 1, width)[None, :, None]
    canvas = base + y * slope[0] + x * slope[1]
    placed: list[tuple[float, float, float]] = []
    boxes, kinds = [], []
    side = min(width, height)
    for _ in range(_TRIES * shapes):
        if len(placed) == shapes:
            break
        radius = float(draws.uniform(0.08, 0.22)) * side
        centre_x, centre_y = (float(draws.uniform(radius, length - radius)) for length in (width, height))
        if any(math.hypot(centre_x - a, centre_y - b) < radius + r + 2 for a, b, r in placed):
            continue
        kind = int(draws.integers(len(KINDS)))
        colour = draws.integers(0, 256, 3)
        while np.abs(colour - base).max() < _LEAST_CONTRAST:
            colour = draws.integers(0, 256, 3)
        placed.append((centre_x, centre_y, radius))
        boxes.append(_paint(canvas, kind, centre_x, centre_y, radius, colour, draws))
        kinds.append(kind)
    noisy = canvas + draws.integers(-12, 13, canvas.shape)
    return Scene(
        np.clip(noisy, 0, 255).astype(np.uint8), np.array(boxes, np.float32).reshape(-1, 4), np.array(kinds, np.int64)
    )


def _paint(
    canvas: npt.NDArray[np.float64],
    kind: int,
    x: float,
    y: float,
    radius: float,
    colour: npt.NDArray[np.int64],
    draws: np.random.Generator,
) -> tuple[float, float, float, float]:
    """Blend the shape into the canvas, with soft edges of one pixel; returns its box (x1, y1, x2, y2) in pixels."""
    height, width = canvas.shape[:2]
    top, bottom = max(int(y - radius) - 1, 0), min(int(y + radius) + 3, height)
    left, right = max(int(x - radius) - 1, 0), min(int(x + radius) + 3, width)
    dy, dx = np.mgrid[top:bottom, left:right] + 0.5
    dy, dx = dy - y, dx - x
    inside: npt.NDArray[Any]  # distance to the edge in pixels, positive inside
    if KINDS[kind] == "circle":
        inside = radius - np.hypot(dx, dy)
        extent = (-radius, -radius, radius, radius)
    elif KINDS[kind] == "box":
        half_width, half_height = (radius * float(share) for share in draws.uniform(0.5, 0.85, 2))
        inside = np.minimum(half_width - np.abs(dx), half_height - np.abs(dy))
        extent = (-half_width, -half_height, half_width, half_height)
    else:
        angles = float(draws.uniform(0, math.tau)) + math.tau / 3 * np.arange(3)
        corners_x, corners_y = radius * np.cos(angles), radius * np.sin(angles)
        normals = angles + math.pi / 3  # outward at the middle of each edge, which is radius / 2 from the centre
        inside = radius / 2 - np.max([dx * math.cos(n) + dy * math.sin(n) for n in normals], axis=0)
        extent = (corners_x.min(), corners_y.min(), corners_x.max(), corners_y.max())
    share = np.clip(inside + 0.5, 0, 1)[..., None]
    patch = canvas[top:bottom, left:right]
    patch += share * (colour - patch)
    x1, y1, x2, y2 = (float(value) for value in extent)
    return max(x + x1, 0.0), max(y + y1, 0.0), min(x + x2, width), min(y + y2, height)
