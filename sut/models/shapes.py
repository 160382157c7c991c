"""Circles, boxes and triangles: a detector with a real mAP that comes with the package, on pictures drawn when needed.

``weights.train_shapes`` made the file in ``data``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from drumfire.sut.data import scenes
from drumfire.sut.data.coco import AnnotatedPictures
from drumfire.sut.data.library import ArrayLibrary
from drumfire.sut.models.detector import OUTPUTS, DetectionJudge
from drumfire.sut.models.model import Form, bundled_count
from drumfire.sut.models.tensors import Tensors
from drumfire.sut.models.weights import bundle

if TYPE_CHECKING:
    from drumfire.sut.models.networks.ssd import SsdMobileNet

WEIGHTS = bundle.DATA / "shapes.onnx"
SIDE = 128
CLASSES = len(scenes.KINDS) + 1
"""Includes the background."""
TENSORS = Tensors.of_one((SIDE, SIDE, 3), OUTPUTS, np.uint8)
_COUNT = 200
_HELD_OUT_SEED, _TRAIN_SEED = 2, 1
_MOST_SHAPES = 5


class Drawings(NamedTuple):
    """Drawn pictures, uint8 of shape (n, side, side, 3), and their scenes."""

    pixels: npt.NDArray[np.uint8]
    scenes: Sequence[scenes.Scene]


def held_out() -> Drawings:
    """The pictures that the benchmark runs on."""
    return _drawn(_HELD_OUT_SEED, _COUNT)


def training(count: int) -> Drawings:
    """Pictures to train on, without those that are held out."""
    return _drawn(_TRAIN_SEED, count)


def _drawn(seed: int, count: int) -> Drawings:
    drawn = []
    for number in range(count):
        draws = np.random.default_rng([seed, number])
        drawn.append(scenes.draw(SIDE, SIDE, int(draws.integers(1, _MOST_SHAPES + 1)), draws))
    return Drawings(np.stack([scene.pixels for scene in drawn]), drawn)


class Shapes(DetectionJudge):
    """A quarter-width SSD-MobileNet; dataset index i is the i-th held-out picture.  Category k is ``KINDS[k-1]``."""

    name = "shapes"
    description = f"circles, boxes and triangles, {SIDE}x{SIDE} pixels: {_COUNT} drawn pictures, not trained on"
    licence = "weights Apache-2.0; the pictures are drawn when they are needed"
    extra: str | None = None
    tensors = TENSORS
    quality_target = 0.99 * 0.8737  # 99 % of the mAP of the bundled weights
    target_latency_ms: int | None = 50
    total_count = _COUNT
    reservations: Sequence[str] = ()
    score_threshold, overlap, most = 0.05, 0.5, 20

    @cached_property
    def _data(self) -> Drawings:
        return held_out()

    def weights(self, cache: Path, given: Path | None = None, form: Form = Form.ONNX) -> Path:
        """The file in the package; forms other than ONNX are made from it."""
        return given or bundle.in_form(WEIGHTS, form, cache, self.new_network, TENSORS)

    def new_network(self) -> SsdMobileNet:
        """A quarter-width SSD-MobileNet on the first 12 layers of its trunk."""
        from drumfire.sut.models.networks import ssd

        return ssd.SsdMobileNet(CLASSES, SIDE, 0.25, taken=(6, 12), extras=0, scales=(0.2, 0.36), candidates=100)

    def library(
        self, dataset_path: Path | None = None, count: int | None = None, performance_count: int | None = None
    ) -> ArrayLibrary:
        """See ``Model.library``."""
        total = bundled_count(self.name, self.total_count, dataset_path, count)
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
                shape = {"id": len(annotations) + 1, "image_id": number, "category_id": kind + 1, "iscrowd": 0}
                annotations.append(shape | {"bbox": [x1, y1, width, height], "area": width * height})
        categories = [{"id": number, "name": kind} for number, kind in enumerate(scenes.KINDS, 1)]
        files = [Path(f"{image['id']}") for image in images]
        return AnnotatedPictures(files, images, annotations, categories)

    def truth(self) -> AnnotatedPictures:
        return self._truth
