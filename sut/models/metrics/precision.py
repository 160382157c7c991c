"""Detection: COCO's mean average precision of a file's boxes."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path

import numpy as np

from drumfire.loadgen.annotations import read_annotations
from drumfire.loadgen.errors import UserError, printable
from drumfire.loadgen.responses import Responses
from drumfire.loadgen.system import IndexArray
from drumfire.sut.data import DataError, coco
from drumfire.sut.data.coco import AnnotatedPictures
from drumfire.sut.local.responses import OutputError
from drumfire.sut.models.boxes import suppressed
from drumfire.sut.models.detector import DetectionJudge, detections_of
from drumfire.sut.models.metrics.metric import Array, Metric, Outputs
from drumfire.sut.models.model import Accuracy

_SHOWN = 5


class MeanPrecision(Metric):
    """COCO's mAP: labels are its annotations, and sample i is the picture at place i in their file.

    The outputs are boxes as x1, y1, x2, y2, scores and whole numbers of categories, in any order, or TensorFlow's four.
    """

    name, written = "mAP", "map"

    def __init__(self, text: str = "") -> None:
        """``text``: ``SIZE`` or ``HEIGHTxWIDTH`` of the network's picture, if boxes are its pixels; ``:OVERLAP``.

        Raises ``UserError``.
        """
        super().__init__()
        found = re.fullmatch(r"(?:(\d{1,5})(?:x(\d{1,5}))?)?(?::(0?\.\d+))?", text)
        if found is None or any(size and not int(size) for size in found.groups()[:2]):
            raise UserError(
                f"--metric map:{printable(text):.60}: write map for boxes as fractions of the picture, map:640 or "
                "map:480x640 for pixels of the network's height and width, and map:640:0.5 to drop what overlaps a "
                "better box by more"
            )
        height = int(found[1] or 1)
        self._boxes = _Boxes(height, int(found[2] or height), float(found[3] or 1.0), self._truth)

    @cached_property
    def _whole_truth(self) -> AnnotatedPictures:
        document = read_annotations(self._file, masks=False, fetched=False)
        files = [Path(image["file_name"]) for image in document["images"]]
        return AnnotatedPictures(files, document["images"], document["annotations"], document["categories"])

    def _truth(self) -> AnnotatedPictures:
        return self._whole_truth

    @property
    def count(self) -> int:
        return len(self._whole_truth.files)

    def prepare(self) -> None:
        coco.check_evaluator()
        super().prepare()

    def answers(self, outputs: Outputs) -> list[bytes]:
        try:
            return self._boxes.respond(outputs)
        except OutputError:
            raise
        except ValueError:
            shapes = ", ".join(f"{output.dtype} {list(output.shape)}" for output in outputs)
            raise OutputError(
                f"the model gives {shapes}: --metric map takes boxes (x1, y1, x2, y2), their scores and whole numbers "
                "of categories, or TensorFlow's four outputs"
            ) from None

    def logged(self, indices: IndexArray, responses: Responses) -> list[bytes]:
        """See ``Model.logged``: each detection starts with its picture's dataset index."""
        return self._boxes.logged(indices, responses)

    def accuracy(self, indices: IndexArray, responses: Responses) -> Accuracy:
        """See ``Model.accuracy``.  Raises ``UserError`` also where no detection has a category of the labels."""
        rows = (detections_of(*answer) for answer in zip(indices.tolist(), responses, strict=True))
        found = {category for detections in rows for category in detections[:, 6].tolist()}
        known = {float(category["id"]) for category in self._whole_truth.categories}
        if found and not found & known:
            raise DataError(
                f"no detection has a category of {self._file}: the model's are {_few(found)}, the file's {_few(known)}"
            )
        return replace(self._boxes.accuracy(indices, responses), target=self.quality_target)

    def _chosen(self, names: Sequence[str]) -> None:
        """All outputs: they tell apart by their form."""


class _Boxes(DetectionJudge):
    """Judges as the named detectors, but takes the network's word for which boxes are good."""

    name, quality_target = "the data", 0.0
    most = 300

    def __init__(self, height: int, width: int, overlap: float, truth: Callable[[], AnnotatedPictures]) -> None:
        """``height`` and ``width``: of the network's picture in its units; ``overlap``: 1 keeps all boxes."""
        self.overlap, self._truth = overlap, truth
        self._sides = np.array((width, height, width, height), np.float32)

    def truth(self) -> AnnotatedPictures:
        return self._truth()

    def _payload(self, boxes: Array, scores: Array, labels: Array) -> bytes:
        good = np.flatnonzero(scores > 0)
        boxes, scores, labels = boxes[good] / self._sides, scores[good], labels[good]
        if good.size and self._sides[0] == 1 and np.median(boxes) > 2:
            raise OutputError(
                f"the model's boxes are pixels, up to {boxes.max():.0f}: --metric map:HEIGHTxWIDTH says of which "
                "picture, such as map:480x640"
            )
        if self.overlap < 1:
            kept = suppressed(boxes, scores, labels, self.overlap, self.most)
        else:
            kept = np.argsort(-scores, kind="stable")[: self.most]
        rows = np.zeros((kept.size, 7), np.float32)
        rows[:, 1:5] = boxes[kept][:, (1, 0, 3, 2)]
        rows[:, 5], rows[:, 6] = scores[kept], labels[kept]
        return rows.tobytes()


def _few(numbers: set[float]) -> str:
    shown = [f"{number:g}" for number in sorted(numbers)]
    return ", ".join(shown[:_SHOWN]) + (" ..." if len(shown) > _SHOWN else "")
