"""Circles, boxes and triangles: a detector with a real mAP that comes with the package, and pictures drawn on the spot.

Knows the file in ``data``, which ``train_shapes`` made, and how the pictures are drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from drumfire.sut.data import scenes
from drumfire.sut.data.coco import AnnotatedPictures
from drumfire.sut.data.library import ArrayLibrary
from drumfire.sut.models.detector import OUTPUTS, DetectionJudge
from drumfire.sut.models.model import Form
from drumfire.sut.models.weights import bundle

WEIGHTS = Path(__file__).parent / "data" / "shapes.onnx"
SIDE = 128
CLASSES = len(scenes.KINDS) + 1
"""The background included."""
WIDTH, TAKEN, SCALES, CANDIDATES = 0.25, (6, 12), (0.2, 0.36), 100
"""Of the network: see ``networks.ssd.SsdMobileNet``."""
_COUNT = 200
_HELD_OUT_SEED, _TRAIN_SEED = 2, 1
_MOST_SHAPES = 5


class Data(NamedTuple):
    """Drawn pictures, uint8 of shape (n, side, side, 3), and what each shows."""

    pixels: npt.NDArray[np.uint8]
    scenes: Sequence[scenes.Scene]


def held_out() -> Data:
    """The pictures that the benchmark shows."""
    return _drawn(_HELD_OUT_SEED, _COUNT)


def training(count: int) -> Data:
    """Pictures to learn from, none of which is held out."""
    return _drawn(_TRAIN_SEED, count)


def _drawn(seed: int, count: int) -> Data:
    drawn = []
    for number in range(count):
        draws = np.random.default_rng([seed, number])
        drawn.append(scenes.draw(SIDE, SIDE, int(draws.integers(1, _MOST_SHAPES + 1)), draws))
    return Data(np.stack([scene.pixels for scene in drawn]), drawn)


class Shapes(DetectionJudge):
    """A quarter-width SSD-MobileNet; dataset index i is the i-th held-out picture.  Category k is ``KINDS[k-1]``."""

    name = "shapes"
    description = f"circles, boxes and triangles, {SIDE}x{SIDE} pixels: {_COUNT} drawn pictures, not trained on"
    licence = "weights Apache-2.0; the pictures are drawn when they are needed"
    extra: str | None = None
    input_shape: tuple[int, ...] = (SIDE, SIDE, 3)
    input_dtype: np.dtype[Any] = np.dtype(np.uint8)
    quality_target = 0.99 * 0.8737  # of what the stored weights reach
    target_latency_ms: int | None = 50
    total_count = _COUNT
    reservations: Sequence[str] = ()
    score_threshold, overlap, most = 0.05, 0.5, 20

    @cached_property
    def _data(self) -> Data:
        return held_out()

    def weights(self, cache: Path, given: Path | None = None, form: Form = Form.ONNX) -> Path:
        """The file in the package; other forms than ONNX are made of it."""
        from drumfire.sut.models.weights.train_shapes import network

        return given or bundle.in_form(
            WEIGHTS, form, cache, network, self.input_shape, outputs=OUTPUTS, dtype=self.input_dtype
        )

    def library(
        self, dataset_path: Path | None = None, count: int | None = None, performance_count: int | None = None
    ) -> ArrayLibrary:
        """See ``Model.library``."""
        if dataset_path is not None:
            raise ValueError(f"{self.name} draws its own data: leave --dataset-path {dataset_path} out")
        total = self.total_count if count is None else count
        if not 1 <= total <= self.total_count:
            raise ValueError(f"{self.name} has {self.total_count} samples: a count of {total} can not be had")
        pixels = self._data.pixels
        return ArrayLibrary(self.name, lambda indices: pixels[indices], total, min(total, performance_count or total))

    def calibration(self, count: int) -> npt.NDArray[np.uint8]:
        """See ``Calibrated``: pictures that the network was trained on."""
        return training(count).pixels

    @cached_property
    def _truth(self) -> AnnotatedPictures:
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for number, scene in enumerate(self._data.scenes, 1):
            images.append({"id": number, "width": SIDE, "height": SIDE})
            for (x1, y1, x2, y2), kind in zip(scene.boxes.astype(float).tolist(), scene.kinds.tolist(), strict=True):
                width, height = x2 - x1, y2 - y1
                found = {"id": len(annotations) + 1, "image_id": number, "category_id": kind + 1, "iscrowd": 0}
                annotations.append(found | {"bbox": [x1, y1, width, height], "area": width * height})
        categories = [{"id": number, "name": kind} for number, kind in enumerate(scenes.KINDS, 1)]
        files = [Path(f"{image['id']}") for image in images]
        return AnnotatedPictures(files, images, annotations, categories)

    def truth(self) -> AnnotatedPictures:
        return self._truth
