"""Generates data sets in COCO's layout: shapes to learn from, and a few larger pictures to try maskrcnn with.

A picture has a flat, noisy background and circles, boxes and triangles that do not overlap.  Its annotations have their
polygons, and category numbers with gaps.  The same seed draws the same pictures.
"""

from __future__ import annotations

import json
import math
import os
import shutil
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

from drumfire.training import coco

_KINDS = ("circle", "box", "triangle")
_CORNERS = ((-1, -1), (1, -1), (1, 1), (-1, 1))
_COCO_GAPS = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}


@dataclass(frozen=True)
class Recipe:
    """What to draw.  The pictures take the ``sizes`` (width, height), in pixels, in turn."""

    sizes: tuple[tuple[int, int], ...]
    train: int
    validation: int
    categories: tuple[int, ...]
    """Three: one for each kind of shape.  More: each shape has a random one."""
    crowd_every: int = 0
    """Every n-th image has its first shape marked as a crowd; 0: no image has."""
    empty_every: int = 0
    """Every n-th image shows nothing; 0: every image shows shapes."""


SHAPES = Recipe(sizes=((96, 96),), train=240, validation=60, categories=(1, 3, 7))
SAMPLE = Recipe(
    sizes=((640, 480), (480, 640), (500, 375)),
    train=16,
    validation=8,
    categories=tuple(number for number in range(1, 91) if number not in _COCO_GAPS),
    crowd_every=4,
    empty_every=5,
)
"""COCO's sizes and categories, crowds, and images without boxes."""


def generate(folder: Path, recipe: Recipe, seed: int = 2017) -> None:
    """Draw both parts into ``folder``, as a whole or not at all.  Raises ``OSError``."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        for number, (part, count) in enumerate(((coco.TRAIN, recipe.train), (coco.VALIDATION, recipe.validation))):
            _generate_part(partial, part, count, recipe, np.random.default_rng([seed, number]))
        os.replace(partial, folder)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


def _generate_part(folder: Path, part: str, count: int, recipe: Recipe, draws: np.random.Generator) -> None:
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    coco.image_folder(folder, part).mkdir(parents=True)
    for number in range(1, count + 1):
        width, height = recipe.sizes[number % len(recipe.sizes)]
        empty = recipe.empty_every and number % recipe.empty_every == 0
        crowd = recipe.crowd_every and number % recipe.crowd_every == 0
        picture, shapes = _draw(width, height, 0 if empty else int(draws.integers(1, 4)), recipe.categories, draws)
        name = f"{number:012d}.jpg"
        picture.save(coco.image_folder(folder, part) / name, quality=95)
        images.append({"id": number, "file_name": name, "width": width, "height": height})
        for at, shape in enumerate(shapes):
            is_crowd = bool(crowd) and at == 0
            segmentation = _run_lengths(shape["polygon"], width, height) if is_crowd else [shape["polygon"]]
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": number,
                    "category_id": shape["category"],
                    "bbox": shape["box"],
                    "area": shape["area"],
                    "iscrowd": int(is_crowd),
                    "segmentation": segmentation,
                }
            )
    categories = [{"id": category, "name": str(category), "supercategory": "shape"} for category in recipe.categories]
    file = coco.annotation_file(folder, part)
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))


def _draw(
    width: int, height: int, count: int, categories: tuple[int, ...], draws: np.random.Generator
) -> tuple[Image.Image, list[dict[str, Any]]]:
    background = draws.integers(40, 216, 3)
    picture = Image.new("RGB", (width, height), tuple(background.tolist()))
    canvas = ImageDraw.Draw(picture)
    shapes: list[dict[str, Any]] = []
    side = min(width, height)
    for _ in range(20 * count):
        if len(shapes) == count:
            break
        radius = float(draws.uniform(0.1, 0.24)) * side
        x, y = (float(draws.uniform(radius + 1, length - radius - 1)) for length in (width, height))
        if any(math.hypot(x - s["x"], y - s["y"]) < radius + s["radius"] + 2 for s in shapes):
            continue
        kind = int(draws.integers(len(_KINDS)))
        polygon = _polygon(_KINDS[kind], x, y, radius, float(draws.uniform(0, math.tau)))
        colour = draws.integers(0, 256, 3)
        while np.abs(colour - background).max() < 60:
            colour = draws.integers(0, 256, 3)
        canvas.polygon(polygon, fill=tuple(colour.tolist()))
        category = categories[kind if len(categories) == len(_KINDS) else int(draws.integers(len(categories)))]
        shapes.append({"x": x, "y": y, "radius": radius, "category": category} | _measured(polygon))
    noise = draws.normal(0, 8, (height, width, 3))
    return Image.fromarray(np.clip(np.asarray(picture) + noise, 0, 255).astype(np.uint8)), shapes


def _polygon(kind: str, x: float, y: float, radius: float, turn: float) -> list[tuple[float, float]]:
    if kind == "box":
        half_width = radius * (0.55 + 0.3 * math.cos(turn) ** 2)
        half_height = radius * (0.55 + 0.3 * math.sin(turn) ** 2)
        return [(x + at_x * half_width, y + at_y * half_height) for at_x, at_y in _CORNERS]
    corners = 24 if kind == "circle" else 3
    angles = [turn + math.tau * at / corners for at in range(corners)]
    return [(x + radius * math.cos(angle), y + radius * math.sin(angle)) for angle in angles]


def _measured(polygon: list[tuple[float, float]]) -> dict[str, Any]:
    """The flat polygon, its box and its area, rounded as in COCO."""
    xs, ys = np.array(polygon).T
    area = abs(float(np.dot(xs, np.roll(ys, 1)) - np.dot(ys, np.roll(xs, 1)))) / 2
    box = [float(xs.min()), float(ys.min()), float(np.ptp(xs)), float(np.ptp(ys))]
    return {
        "polygon": [round(float(value), 2) for point in polygon for value in point],
        "box": [round(value, 2) for value in box],
        "area": round(area, 2),
    }


def _run_lengths(polygon: list[float], width: int, height: int) -> dict[str, Any]:
    """The form in which COCO stores crowds: lengths of runs of 0 and 1, down the columns."""
    canvas = Image.new("1", (width, height))
    ImageDraw.Draw(canvas).polygon(polygon, fill=1)
    pixels = np.asarray(canvas).T.reshape(-1).astype(np.int8)
    changes = np.flatnonzero(np.diff(np.concatenate(([0], pixels))))
    counts = np.diff(np.concatenate(([0], changes, [len(pixels)])))
    return {"size": [height, width], "counts": counts.tolist()}
