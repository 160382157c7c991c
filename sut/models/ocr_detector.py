"""PP-OCRv6's small text detector, on drawn pages of different sizes.  Weights from an installed package."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from drumfire.loadgen.responses import Responses, rows_of
from drumfire.loadgen.system import IndexArray
from drumfire.sut.data import pages
from drumfire.sut.data.ragged import Ragged, RaggedLibrary
from drumfire.sut.models import text_boxes
from drumfire.sut.models.model import Accuracy, first_answers, missing_extra
from drumfire.sut.models.packaged_model import PackagedModel
from drumfire.sut.models.tensors import Input, Tensors
from drumfire.sut.models.text_boxes import Float32Array, Matches
from drumfire.sut.models.weights.installed import InstalledFile

SIZES = ((320, 320), (512, 256), (640, 320), (1024, 256), (480, 640), (320, 512))
"""Width and height of pages 0 to 5, 6 to 11, and so on: multiples of 32, which is what the network takes."""
_COUNT = 48
_SEED = 1
_ROW = 5
"""Numbers in a found box: x1, y1, x2, y2 in pixels, score."""


class OcrDetector(PackagedModel):
    """Dataset index i is the i-th page."""

    name = "ocr-detector"
    task = "text detection"
    description = f"PP-OCRv6 small detector, pages of {len(SIZES)} sizes: {_COUNT} drawn pages with lines of text"
    licence = "weights Apache-2.0 (PaddleOCR); the pages are drawn when they are needed"
    extra = "ocr"
    quality_target = 0.99 * 0.9507  # 99 % of what the package's weights reach on onnxruntime
    target_latency_ms: int | None = 500
    total_count = _COUNT
    shipped = InstalledFile(
        "rapidocr",
        "models/PP-OCRv6_det_small.onnx",
        "090f04abcd9d9a7498bc4ebf677e4cb9bdce1fe4197ddb7e529f1ef44e1ff94f",
    )
    metric = "hmean"
    tensors = Tensors(
        (Input("x", (3, None, None), np.dtype(np.float32), dims=("", "height", "width")),), ("fetch_name_0",), "batch"
    )

    def library(
        self, dataset_path: Path | None = None, count: int | None = None, performance_count: int | None = None
    ) -> RaggedLibrary:
        """See ``Model.library``."""
        self.page(0)  # a missing extra raises here rather than in the run
        return super().library(dataset_path, count, performance_count)

    def read(self, indices: IndexArray) -> dict[str, Ragged]:
        return {"x": Ragged.of([self.inputs(index) for index in indices.tolist()])}

    def inputs(self, index: int) -> Float32Array:
        """A page as the network takes it, shape (3, height, width): blue, green, red, of -1..1."""
        pixels = self.page(index).pixels[..., ::-1].transpose(2, 0, 1)
        half = np.float32(0.5)
        return (pixels.astype(np.float32) / np.float32(255) - half) / half

    def page(self, index: int) -> pages.Page:
        """Raises ``MissingExtra``."""
        try:
            return pages.draw(*SIZES[index % len(SIZES)], np.random.default_rng([_SEED, index]))
        except ImportError as error:
            raise missing_extra(self.name, error.name or "a Pillow with its typeface", self.extra) from None

    def respond(self, outputs: Sequence[npt.NDArray[Any]]) -> list[bytes]:
        """The boxes found on each page, best first, as rows of five float32: x1, y1, x2, y2 in pixels, and the score.

        ``outputs[0]``: the probability of text, shape (n, 1, height, width).
        """
        if outputs[0].ndim != 4 or outputs[0].shape[1] != 1:
            raise ValueError(f"the network gives {list(outputs[0].shape)}: {self.name} gives one map for each page")
        return [text_boxes.found(page[0]).tobytes() for page in outputs[0]]

    def accuracy(self, indices: IndexArray, responses: Responses) -> Accuracy:
        """See ``Model.accuracy``: the harmonic mean of precision and recall over the pages that were answered."""
        samples, first = first_answers(self.name, _COUNT, indices, responses)
        score = Matches(0, 0, 0)
        for index, at in zip(samples.tolist(), first.tolist(), strict=True):
            boxes, true = rows_of(index, responses[at], _ROW, "a box"), self.page(index).boxes
            good = text_boxes.matched(boxes[:, :4], true)
            score = Matches(score.matched + good, score.found + len(boxes), score.true + len(true))
        table = f"precision={score.precision:.3%}, recall={score.recall:.3%}, lines={score.true}"
        return Accuracy(self.metric, score.mean, None, samples.size, self.quality_target, (table,))
