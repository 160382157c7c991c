"""The text detector: its answers, how they are judged, and what the real weights reach."""

from pathlib import Path

import numpy as np
import pytest

from drumfire.sut.models.ocr_detector import SIZES, OcrDetector
from tests.support.packages import OCR, need


def test_answers_are_boxes_of_each_page() -> None:
    page = np.zeros((2, 1, 64, 96), np.float32)
    page[1, 0, 20:40, 10:80] = 0.9
    nothing, line = OcrDetector().respond([page])
    assert nothing == b""
    assert np.frombuffer(line, np.float32).shape == (5,)
    with pytest.raises(ValueError, match=r"gives \[2, 64, 96\]: ocr-detector gives one map"):
        OcrDetector().respond([page[:, 0]])


def test_accuracy() -> None:
    need("PIL")
    model = OcrDetector()
    true = [
        np.c_[model.page(index).boxes, np.ones(len(model.page(index).boxes))].astype(np.float32) for index in (0, 1)
    ]
    answers = [boxes.tobytes() for boxes in true]
    assert model.accuracy(np.array([0, 1]), answers).value == 1
    half = [true[0].tobytes(), b""]
    found = model.accuracy(np.array([0, 1]), half)
    lines = [len(boxes) for boxes in true]
    assert found.value == pytest.approx(2 * lines[0] / (lines[0] + sum(lines)))
    assert found.table == (f"precision=100.000%, recall={lines[0] / sum(lines):.3%}, lines={sum(lines)}",)
    assert model.accuracy(np.array([], int), []).value == 0
    with pytest.raises(ValueError, match="sample 1 has 19 bytes"):
        model.accuracy(np.array([1]), [b"\0" * 19])


def test_pages_have_sizes_that_the_network_takes() -> None:
    assert all(side % 32 == 0 for size in SIZES for side in size)


@pytest.mark.extra
def test_what_the_weights_reach(tmp_path: Path) -> None:
    need(*OCR)
    import onnxruntime

    model = OcrDetector()
    session = onnxruntime.InferenceSession(model.weights(tmp_path), providers=["CPUExecutionProvider"])
    indices = np.arange(12)  # each size twice
    answers = [model.respond(session.run(None, {"x": model.inputs(index)[None]}))[0] for index in indices.tolist()]
    assert model.accuracy(indices, answers).value >= 0.93
