"""Silero's voice activity detector, on made-up recordings of different lengths.  Weights from an installed package.

Its file for whole recordings has no batch: the first size of its input is time.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from drumfire.loadgen.responses import Responses, table_of
from drumfire.loadgen.system import IndexArray
from drumfire.sut.data import voices
from drumfire.sut.data.ragged import Ragged
from drumfire.sut.models.model import Accuracy, first_answers
from drumfire.sut.models.packaged_model import PackagedModel
from drumfire.sut.models.tensors import Input, Tensors
from drumfire.sut.models.weights.installed import InstalledFile

HOP, CONTEXT = 512, 64
"""New samples of sound in a frame, and those of the frame before that it begins with."""
STATE = (1, 1, 128)
_COUNT = 32
_SEED = 1
_SECONDS = 3, 12
"""The length of a recording is drawn between these."""

Float32Array = npt.NDArray[np.float32]


def frames(sound: Float32Array) -> Float32Array:
    """Sound, shape (n,), as frames, shape (n // 512, 576)."""
    rows = sound[: sound.size // HOP * HOP].reshape(-1, HOP)
    before = np.concatenate([np.zeros((1, CONTEXT), np.float32), rows[:-1, -CONTEXT:]])
    return np.concatenate([before, rows], 1)


def area(scores: npt.NDArray[Any], is_speech: npt.NDArray[np.bool_]) -> float:
    """The area under the ROC curve: how often a frame of speech scores above one without; 0 if either lacks."""
    speech = int(np.count_nonzero(is_speech))
    others = is_speech.size - speech
    if not speech or not others:
        return 0.0
    _, place, counts = np.unique(scores, return_inverse=True, return_counts=True)
    ranks = np.cumsum(counts) - (counts - 1) / 2  # equal scores share their mean rank, from 1
    return float((ranks[place][is_speech].sum() - speech * (speech + 1) / 2) / (speech * others))


@lru_cache(maxsize=_COUNT)
def recording(index: int) -> voices.Sound:
    draws = np.random.default_rng([_SEED, index])
    return voices.draw(float(draws.uniform(*_SECONDS)), draws)


class Vad(PackagedModel):
    """Dataset index i is the i-th recording, and an answer is the probability of speech in each of its frames."""

    name = "vad"
    task = "voice activity detection"
    description = f"Silero VAD, 16 kHz, whole recordings: {_COUNT} of 3 to 12 s, made-up syllables in noise"
    licence = "weights MIT (Silero); the sound is made when it is needed"
    extra = "vad"
    quality_target = 0.99 * 0.9659  # 99 % of what the package's weights reach on onnxruntime
    target_latency_ms: int | None = 100
    total_count = _COUNT
    shipped = InstalledFile(
        "silero_vad",
        "data/silero_vad_16k_sequence.onnx",
        "9ccdacc4719d8aa7e45a77536bfabec45a03ba1f2fad5e241ab4060b24238a85",
    )
    metric = "AUC"
    tensors = Tensors(
        (
            Input("input", (None, CONTEXT + HOP), np.dtype(np.float32), 1, ("sequence_length", ""), None),
            Input("h", STATE, np.dtype(np.float32), 1, batch_axis=None),
            Input("c", STATE, np.dtype(np.float32), 1, batch_axis=None),
        ),
        ("speech_probs", "hn", "cn"),
        output_axes=(None, None, None),
    )

    def read(self, indices: IndexArray) -> dict[str, Ragged | npt.NDArray[Any]]:
        sound = Ragged.of([frames(recording(index).samples) for index in indices.tolist()])
        state = np.zeros((len(indices), *STATE), np.float32)  # at the start of each recording
        return {"input": sound, "h": state, "c": state}

    def respond(self, outputs: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
        """The probability of speech in each frame of the only recording: float32 of shape (1, frames)."""
        return outputs[0].reshape(1, -1)

    def accuracy(self, indices: IndexArray, responses: Responses) -> Accuracy:
        """See ``Model.accuracy``: the area under the ROC curve over all frames of the recordings that were answered."""
        samples, first = first_answers(self.name, _COUNT, indices, responses)
        scores, truth = [np.empty(0, np.float32)], [np.empty(0, bool)]
        for index, at in zip(samples.tolist(), first.tolist(), strict=True):
            truth.append(frames_of_speech(index))
            scores.append(table_of([index], [responses[at]], truth[-1].size, "an answer")[0])
        value, is_speech = area(np.concatenate(scores), np.concatenate(truth)), np.concatenate(truth)
        table = f"{is_speech.size} frames, {np.count_nonzero(is_speech)} of them speech"
        return Accuracy(self.metric, value, None, samples.size, self.quality_target, (table,))


def frames_of_speech(index: int) -> npt.NDArray[np.bool_]:
    """Whether at least half of each frame of a recording is speech."""
    is_speech = recording(index).is_speech
    shares = is_speech[: is_speech.size // HOP * HOP].reshape(-1, HOP).mean(1)
    found: npt.NDArray[np.bool_] = shares >= 0.5
    return found
