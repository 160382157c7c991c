"""The shapes that come with the package: pictures never trained on, and weights that find what is drawn."""

from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from drumfire.sut.models import shapes
from drumfire.sut.models.boxes import suppressed
from drumfire.sut.models.shapes import Shapes


@pytest.fixture(scope="module")
def answers() -> list[bytes]:
    """To every held-out picture, asked in batches of eight."""
    model = Shapes()
    library, everything = model.library(), np.arange(model.total_count)
    library.load(everything)
    session = onnxruntime.InferenceSession(model.weights(Path()), providers=["CPUExecutionProvider"])
    batches = everything.reshape(-1, 8)
    return [one for batch in batches for one in model.respond(session.run(None, library.batch(batch)))]


def test_no_held_out_picture_was_trained_on() -> None:
    trained = {picture.tobytes() for picture in shapes.training(300).pixels}
    held_out = [picture.tobytes() for picture in shapes.held_out().pixels]
    assert len(set(held_out)) == 200
    assert not trained.intersection(held_out)


def test_shapes_are_found(answers: list[bytes]) -> None:
    """Without an evaluator: of what is drawn, the best box of the right kind overlaps it well."""
    found = shown = 0
    for answer, scene in zip(answers, shapes.held_out().scenes, strict=True):
        rows = np.frombuffer(answer, "<f4").reshape(-1, 7)
        for box, kind in zip(scene.boxes / shapes.SIDE, scene.kinds, strict=True):
            candidates = rows[(rows[:, 6] == kind + 1) & (rows[:, 5] > 0.3)]
            boxes = np.concatenate((box[None], candidates[:, (2, 1, 4, 3)]))
            scores = np.arange(len(boxes), 0, -1.0)
            kept = suppressed(boxes, scores, np.zeros(len(boxes)), 0.7, 1000)
            found += len(kept) < len(boxes)  # one of them was a double of the drawn box
            shown += 1
    assert shown > 500
    assert found / shown > 0.9


def test_precision(answers: list[bytes]) -> None:
    pytest.importorskip("pycocotools")
    model = Shapes()
    everything = np.arange(model.total_count)
    accuracy = model.accuracy(everything, model.logged(everything, answers))
    assert accuracy.total == 200
    assert accuracy.reached, accuracy
