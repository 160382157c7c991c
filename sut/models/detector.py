"""Detection: what its models share, the payload of an answer, the suppression of duplicates and the mAP.

Handles the forms in which networks output boxes.  Does not depend on a backend.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from drumfire.loadgen.responses import Responses, rows_of
from drumfire.loadgen.system import IndexArray
from drumfire.sut.data import coco
from drumfire.sut.data.coco import AnnotatedPictures, Detections
from drumfire.sut.models.boxes import suppressed
from drumfire.sut.models.model import Accuracy, first_answers

OUTPUTS = ("boxes", "scores", "labels")
"""The outputs of our own exports, in this order: candidates before suppression."""

_Outputs = Sequence[npt.NDArray[Any]]
_FLOATS = 7
"""Numbers in a detection: dataset index, ymin, xmin, ymax, xmax, score, category."""


class DetectionJudge:
    """Makes the answers of a detector from its outputs, and judges them."""

    name: str
    quality_target: float
    task = "object detection"
    metric = "mAP"
    score_threshold: float
    overlap: float
    """If two boxes of the same class overlap by more than this (intersection over union), only the better is kept."""
    most: int
    """The largest number of detections in a picture."""
    box_unit: float = 1.0
    """The divisor that turns the network's coordinates into fractions of the picture."""

    @abstractmethod
    def truth(self) -> AnnotatedPictures:
        """The annotations of the pictures."""

    def categories(self, labels: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """The data set's category ids for a network's labels; the labels themselves unless a model overrides this."""
        return labels

    def respond(self, outputs: _Outputs) -> list[bytes]:
        """Each picture's detections, best first, as rows of seven float32; empty if there are no detections.

        ``outputs`` are usually boxes, labels and scores, or TensorFlow's four: see ``candidates``.  ``logged`` fills in
        the dataset index.
        """
        return [self._payload(*candidates) for candidates in self.candidates(outputs)]

    def candidates(self, outputs: _Outputs) -> Iterable[tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]]:
        """Each picture's boxes as x1, y1, x2, y2 (k, 4), scores and labels (k,), from the outputs, before suppression.

        Raises ``ValueError`` for outputs of another network.
        """
        return zip(*_as_three(outputs, self.name), strict=True)

    def located(self, boxes: npt.NDArray[np.float32], index: int) -> npt.NDArray[np.float32]:
        """Boxes of an answer, ymin, xmin, ymax, xmax (k, 4), as fractions of the picture with this dataset index.

        The boxes themselves unless a model overrides this, whose network sees each picture in a place of its own.
        """
        return boxes

    def _payload(self, boxes: npt.NDArray[Any], scores: npt.NDArray[Any], labels: npt.NDArray[Any]) -> bytes:
        good = np.flatnonzero(scores >= self.score_threshold)
        boxes, scores, labels = boxes[good], scores[good], labels[good]
        kept = suppressed(boxes, scores, labels, self.overlap, self.most)
        rows = np.zeros((kept.size, _FLOATS), np.float32)
        rows[:, 1:5] = boxes[kept][:, (1, 0, 3, 2)] / np.float32(self.box_unit)
        rows[:, 5], rows[:, 6] = scores[kept], self.categories(labels[kept])
        return rows.tobytes()

    def logged(self, indices: IndexArray, responses: Responses) -> list[bytes]:
        """See ``Model.logged``: each detection starts with its picture's dataset index; boxes are ``located``."""
        payloads = []
        for index, response in zip(np.asarray(indices).tolist(), responses, strict=True):
            rows = detections_of(index, response).copy()
            rows[:, 0], rows[:, 1:5] = index, self.located(rows[:, 1:5], index)
            payloads.append(rows.tobytes())
        return payloads

    def accuracy(self, indices: IndexArray, responses: Responses) -> Accuracy:
        """See ``Model.accuracy``: COCO's mAP over the pictures that were answered.

        Raises ``ValueError`` also for a detection that names another picture than the one it answers.
        """
        truth = self.truth()
        samples, first = first_answers(self.name, len(truth.files), indices, responses)
        found = [
            detections_of(index, responses[at]) for at, index in zip(first.tolist(), samples.tolist(), strict=True)
        ]
        for index, rows in zip(samples.tolist(), found, strict=True):
            if not (rows[:, 0] == index).all():
                raise ValueError(f"a detection of picture {rows[rows[:, 0] != index][0, 0]:g} in the answer to {index}")
        detections: Detections = np.concatenate([np.empty((0, _FLOATS), np.float32), *found])
        precision = coco.evaluate(truth, samples, detections)
        return Accuracy(self.metric, precision.mean, None, samples.size, self.quality_target, precision.table)


def detections_of(index: int, response: Any) -> Detections:
    """The response to sample ``index``: shape (k, 7).  Raises ``ValueError``."""
    return rows_of(index, response, _FLOATS, "a detection")


def _as_three(outputs: _Outputs, name: str) -> tuple[Any, Any, Any]:
    """Boxes as x1, y1, x2, y2 (n, k, 4), scores and labels (n, k), from outputs in any order; or ``ValueError``.

    Boxes are recognised by their shape, and labels by their integer type.  A network for single pictures omits n.
    TensorFlow's four outputs hold boxes as y1, x1, y2, x2 and the number of valid boxes.
    """
    most = max((output.ndim for output in outputs), default=0)
    boxes = [output for output in outputs if output.ndim == most >= 2 and output.shape[-1] == 4]
    others = [output for output in outputs if output is not boxes[0]] if boxes else []
    if len(outputs) == 4 and boxes:
        counts = [output for output in others if output.ndim == 1 or output.shape[-1] == 1]
        pair = [output for output in others if not any(output is count for count in counts)]
        if len(counts) == 1 and len(pair) == 2:
            return _from_tensorflow(boxes[0], counts[0].reshape(-1), pair)
    if len(outputs) == 3 and boxes:
        labels = [output for output in others if np.issubdtype(output.dtype, np.integer)]
        scores = [output for output in others if np.issubdtype(output.dtype, np.floating)]
        if len(labels) == len(scores) == 1:
            found = boxes[0], scores[0], labels[0]
            return found if boxes[0].ndim == 3 else tuple(part[None] for part in found)  # type: ignore[return-value]
    shapes = ", ".join(f"{output.dtype} {list(output.shape)}" for output in outputs)
    raise ValueError(f"the network gives {shapes}: {name} gives boxes, scores and labels; are these its weights?")


def _from_tensorflow(boxes: Any, counts: Any, pair: Sequence[Any]) -> tuple[Any, Any, Any]:
    """Boxes, scores and labels; in ``pair`` the classes are whole numbers from 1, and the scores at most 1."""
    first_is_classes = pair[0].max(initial=0) > pair[1].max(initial=0)
    classes, scores = pair if first_is_classes else (pair[1], pair[0])
    counted = np.arange(scores.shape[1]) < counts[:, None]
    return boxes[..., (1, 0, 3, 2)], np.where(counted, scores, -1), classes.astype(np.int64)
