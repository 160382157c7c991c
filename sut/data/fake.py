"""Generated data sets in the layouts of ImageNet, COCO and OpenImages: any number of pictures, without a download.

Pictures have the sizes of photos, some odd or tiny, and some are grey.  Each ImageNet picture shows its class as ten
light or dark fields, so that a test can follow a label through the whole chain (``shown_class``).  The same count and
seed give the same pixels.  Does not depend on models.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from drumfire.loadgen import installation
from drumfire.sut.data import EXTRA, DataError, imagenet, scenes
from drumfire.sut.data.coco import COCO, OPENIMAGES, Layout

_SIZES = ((500, 375), (375, 500), (640, 480), (333, 501), (500, 333), (256, 256), (1024, 683), (481, 321), (37, 29))
"""Width and height in pixels, used in turn."""
_GREY_EVERY = 7
_EMPTY_EVERY, _CROWD_EVERY = 11, 13
"""Every 11th annotated picture shows nothing; every 13th has its first shape marked as a crowd."""
_COLUMNS, _ROWS = 5, 2
_FIELDS_SHARE = 0.8
"""The fields form a square of this share of the shorter side, so every crop contains it."""
_QUALITY = 95

_Write = Callable[[Path, int, int], Any]


def generate(kind: str, folder: Path, count: int, seed: int = 1) -> None:
    """Write ``count`` pictures of ``kind`` (a key of ``KINDS``) to ``folder``, which appears only when complete.

    Raises ``DataError`` if the folder exists and is not empty, or cannot be written.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder} exists already: remove it, or choose another place with --output")
    try:
        import cv2  # noqa: F401
    except ImportError as error:
        raise DataError(f"drawing pictures needs {error.name}: {installation.command(EXTRA)}") from None
    partial: Path | None = None
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
        partial.chmod(0o755)  # mkdtemp makes a folder that only its owner can read
        KINDS[kind](partial, count, seed)
        os.replace(partial, folder)
    except OSError as error:
        raise DataError(f"cannot write {folder}: {error.strerror or error}") from None
    finally:
        if partial is not None:
            shutil.rmtree(partial, ignore_errors=True)


def shown_class(pixels: npt.NDArray[Any]) -> int:
    """The class that a picture's ten fields show, from its centre crop of shape (side, side, 3) in any linear scale."""
    side = len(pixels)
    brightness = pixels.astype(np.float64).mean(axis=2)
    span = side * _FIELDS_SHARE / 0.875  # the crop shows 87.5 % of the shorter side
    start = (side - span) / 2
    means = []
    for row in range(_ROWS):
        for column in range(_COLUMNS):
            # Only the middle half of the field, as its edges are blurred.
            y = [round(start + span / _ROWS * (row + share)) for share in (0.25, 0.75)]
            x = [round(start + span / _COLUMNS * (column + share)) for share in (0.25, 0.75)]
            means.append(brightness[y[0] : y[1], x[0] : x[1]].mean())
    middle = (brightness.min() + brightness.max()) / 2
    return sum(1 << bit for bit, mean in enumerate(means) if mean > middle)


def _imagenet(folder: Path, count: int, seed: int) -> None:
    (folder / "val").mkdir()
    labels = np.random.default_rng(seed).integers(0, imagenet.CLASSES, count)
    names = [f"val/fake_{number:08d}.jpg" for number in range(1, count + 1)]

    def write(number: int) -> None:
        width, height = _SIZES[number % len(_SIZES)]
        draws = np.random.default_rng([seed, number])
        pixels = scenes.draw(width, height, 0, draws).pixels
        _paint_class(pixels, int(labels[number]), draws)
        _write(folder / names[number], pixels, grey=_is_grey(number))

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(write, range(count)))
    lines = [f"{name} {label}\n" for name, label in zip(names, labels, strict=True)]
    (folder / imagenet.LIST).write_text("".join(lines))


def _paint_class(pixels: scenes.Pixels, label: int, draws: np.random.Generator) -> None:
    height, width = pixels.shape[:2]
    span = min(width, height) * _FIELDS_SHARE
    top, left = (height - span) / 2, (width - span) / 2
    for bit in range(_ROWS * _COLUMNS):
        row, column = divmod(bit, _COLUMNS)
        light = label >> bit & 1
        colour = draws.integers(215, 256, 3) if light else draws.integers(0, 41, 3)
        y = [round(top + span / _ROWS * at) for at in (row, row + 1)]
        x = [round(left + span / _COLUMNS * at) for at in (column, column + 1)]
        pixels[y[0] : y[1], x[0] : x[1]] = colour


def _annotated(layout: Layout) -> Callable[[Path, int, int], None]:
    def generated(folder: Path, count: int, seed: int) -> None:
        (folder / layout.pictures).mkdir(parents=True)

        def write(number: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
            width, height = _SIZES[number % len(_SIZES)]
            draws = np.random.default_rng([seed, number])
            shapes = 0 if number % _EMPTY_EVERY == _EMPTY_EVERY - 1 else int(draws.integers(1, 6))
            scene = scenes.draw(width, height, shapes, draws)
            name = f"{number + 1:012d}.jpg"
            _write(folder / layout.pictures / name, scene.pixels, grey=_is_grey(number))
            image = {"id": number + 1, "file_name": name, "width": width, "height": height}
            found = []
            for at, (x1, y1, x2, y2) in enumerate(scene.boxes.astype(float).round(2).tolist()):
                box = [x1, y1, round(x2 - x1, 2), round(y2 - y1, 2)]
                crowd = at == 0 and number % _CROWD_EVERY == _CROWD_EVERY - 1
                found.append(
                    {
                        "image_id": number + 1,
                        "category_id": int(draws.choice(layout.categories)),
                        "bbox": box,
                        "area": round(box[2] * box[3], 2),
                        "iscrowd": int(crowd),
                    }
                )
            return image, found

        with ThreadPoolExecutor(os.cpu_count()) as pool:
            written = list(pool.map(write, range(count)))
        annotations = [annotation for _, found in written for annotation in found]
        for number, annotation in enumerate(annotations, 1):
            annotation["id"] = number
        file = folder / layout.annotations
        file.parent.mkdir()
        categories = [{"id": number, "name": f"category {number}"} for number in layout.categories]
        images = [image for image, _ in written]
        file.write_text(json.dumps({"images": images, "annotations": annotations, "categories": categories}))

    return generated


KINDS: dict[str, _Write] = {"imagenet": _imagenet, COCO.name: _annotated(COCO), OPENIMAGES.name: _annotated(OPENIMAGES)}


def _is_grey(number: int) -> bool:
    return number % _GREY_EVERY == _GREY_EVERY - 1


def _write(file: Path, pixels: scenes.Pixels, *, grey: bool) -> None:
    import cv2

    image = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY if grey else cv2.COLOR_RGB2BGR)
    encoded = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, _QUALITY])[1]
    file.write_bytes(encoded.tobytes())
