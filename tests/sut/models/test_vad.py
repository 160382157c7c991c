"""The voice activity detector: its frames, how its answers are judged, and what the real weights reach."""

from pathlib import Path

import numpy as np
import pytest

from drumfire.sut.models import vad
from drumfire.sut.models.vad import STATE, Vad
from tests.support.packages import VAD, need


def test_a_frame_begins_with_the_end_of_the_one_before() -> None:
    sound = np.arange(1, 512 * 3 + 100, dtype=np.float32)
    rows = vad.frames(sound)
    assert rows.shape == (3, 576)  # what is left over is no frame
    assert not rows[0, :64].any()
    assert rows[1].tolist() == sound[512 - 64 : 1024].tolist()
    assert rows[2].tolist() == sound[1024 - 64 : 1536].tolist()


def test_the_area_under_the_curve() -> None:
    draws = np.random.default_rng(0)
    for _ in range(20):
        scores, truth = draws.integers(0, 6, 40) / 5, draws.random(40) < 0.4
        pairs = [(a > b) + (a == b) / 2 for a in scores[truth] for b in scores[~truth]]
        assert vad.area(scores, truth) == pytest.approx(np.mean(pairs))
    assert vad.area(np.ones(3), np.ones(3, bool)) == vad.area(np.ones(0), np.ones(0, bool)) == 0


def test_accuracy() -> None:
    model = Vad()
    truth = [vad.frames_of_speech(index).astype(np.float32) for index in (4, 7)]
    right = model.accuracy(np.array([4, 7]), [one.tobytes() for one in truth])
    assert (right.value, right.total, right.reached) == (1, 2, True)
    frames = sum(one.size for one in truth)
    assert right.table == (f"{frames} frames, {int(sum(one.sum() for one in truth))} of them speech",)
    assert model.accuracy(np.array([4]), [(1 - truth[0]).tobytes()]).value == 0
    with pytest.raises(ValueError, match=rf"sample 4 has 4 bytes: an answer is {truth[0].size} float32"):
        model.accuracy(np.array([4]), [b"\0" * 4])


@pytest.mark.extra
def test_what_the_weights_reach(tmp_path: Path) -> None:
    need(*VAD)
    import onnxruntime

    model = Vad()
    session = onnxruntime.InferenceSession(model.weights(tmp_path), providers=["CPUExecutionProvider"])
    state = np.zeros(STATE, np.float32)
    indices = np.arange(8)
    frames = [vad.frames(vad.recording(index).samples) for index in indices.tolist()]
    answers = [model.respond(session.run(None, {"input": one, "h": state, "c": state}))[0].tobytes() for one in frames]
    assert model.accuracy(indices, answers).value >= 0.95
