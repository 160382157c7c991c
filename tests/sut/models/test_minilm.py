"""The sentence encoder: its texts, how its answers are judged, and what the real weights reach on two backends."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from drumfire.sut.data.data_set import DataSet
from drumfire.sut.kserve.messages.tensors import ModelInterface, TensorSpec
from drumfire.sut.local import backends
from drumfire.sut.models import minilm
from drumfire.sut.models.minilm import MiniLM
from tests.support.packages import MINILM, PACKAGES, need


def embeddings(count: int = 512) -> np.ndarray[Any, np.dtype[np.float32]]:
    """A first sentence and the rest of its docstring have the same, and no other text has a near one."""
    own = np.random.default_rng(0).standard_normal((count // 2, minilm.WIDTH)).astype(np.float32)
    return np.repeat(own / np.linalg.norm(own, axis=1, keepdims=True), 2, axis=0)


def test_the_texts() -> None:
    texts = minilm.read()
    lengths = np.diff(texts.offsets)
    assert (lengths.size, lengths.min(), lengths.max(), int(np.median(lengths))) == (512, 8, 256, 23)
    starts, ends = texts.tokens[texts.offsets[:-1]], texts.tokens[texts.offsets[1:] - 1]
    assert (set(starts), set(ends)) == ({101}, {102})  # [CLS] and [SEP]
    assert 0 <= texts.tokens.min() <= texts.tokens.max() < 30522
    assert texts.embeddings.shape == (32, 384)
    np.testing.assert_allclose(np.linalg.norm(texts.embeddings, axis=1), 1, atol=1e-3)


def test_recall() -> None:
    answers = embeddings()
    everything = np.arange(512)
    assert minilm.recalled(everything, answers) == (256, 256)
    answers[[1, 3]] = answers[[3, 1]]  # two rests change places
    assert minilm.recalled(everything, answers) == (254, 256)
    assert minilm.recalled(np.array([8, 9, 21]), answers[[8, 9, 21]]) == (1, 1)  # 21 has no first sentence
    assert minilm.recalled(np.array([21, 9, 8, 20]), answers[[21, 9, 8, 20]]) == (2, 2)  # in any order
    assert minilm.recalled(np.array([2, 5]), answers[[2, 5]]) == (0, 0)


def test_accuracy() -> None:
    model, answers = MiniLM(), embeddings()
    everything = np.arange(512)
    found = model.accuracy(everything, answers)
    assert (found.value, found.total, found.good, found.reached) == (1, 512, None, True)
    assert model.accuracy(everything, [row.tobytes() for row in answers]) == found
    repeated = np.concatenate([everything, [0]])  # the first answer counts
    assert model.accuracy(repeated, np.concatenate([answers, -answers[:1]])).value == 1
    assert model.accuracy(np.array([], int), []).value == 0
    with pytest.raises(ValueError, match="the response to sample 0 has 8 bytes: an embedding is 384 float32"):
        model.accuracy(np.array([0]), [b"\0" * 8])
    with pytest.raises(ValueError, match=r"384 float32, not \(3,\)"):
        model.accuracy(np.array([0]), np.zeros((1, 3), np.float32))


def test_agreement() -> None:
    known = minilm.read().embeddings
    texts = np.array([16, 3, 0])
    given = np.stack([known[1], known[2], -2 * known[0]])
    np.testing.assert_allclose(minilm.agreement(texts, given, known), [1, -1], atol=1e-6)
    table = MiniLM().accuracy(texts[:1], given[:1]).table
    assert table[1].startswith("cosine to the float32 network's embeddings: 1.00000 or more of 1")


def test_an_answer_is_the_embedding_wherever_it_stands() -> None:
    embedding, hidden = np.ones((2, 384), np.float32), np.zeros((2, 5, 384), np.float32)
    assert MiniLM().respond([hidden, embedding]) is embedding
    assert MiniLM().respond([embedding]) is embedding
    with pytest.raises(ValueError, match=r"gives \[2, 5, 384\]: minilm gives an embedding of 384 numbers"):
        MiniLM().respond([hidden])


def test_a_remote_run_sends_each_text_in_its_own_length() -> None:
    texts, names = minilm.read(), ("input_ids", "attention_mask", "token_type_ids")
    interface = ModelInterface("minilm", "1", "", tuple(TensorSpec(name, "INT64", (-1,)) for name in names), (), 8)
    samples = DataSet(MiniLM().library(), interface)
    for index in (0, 1, 511):
        tokens = texts.tokens[texts.offsets[index] : texts.offsets[index + 1]]
        ids, mask, types = samples.sample(index)
        assert ids.shape == mask.shape == types.shape == tokens.shape
        assert samples.shapes(index) == [tokens.shape] * 3
        assert bytes(ids.data) == tokens.tobytes()
        assert (bytes(mask.data), bytes(types.data)) == (np.ones_like(tokens).tobytes(), bytes(8 * tokens.size))


@pytest.mark.extra
@pytest.mark.parametrize("backend", ["onnxruntime", pytest.param("pytorch", marks=pytest.mark.slow)])
def test_what_the_weights_reach(backend: str, tmp_path: Path) -> None:
    """Also with another text's padding in the batch."""
    need(*MINILM, *PACKAGES[backend])
    model, texts = MiniLM(), minilm.read()
    loaded = backends.load(backend, model.weights(tmp_path, form=backends.form(backend)), "cpu", 1)
    indices = np.arange(0, 512, 16)
    answers = []
    for first in range(0, indices.size, 2):
        pair = [texts.tokens[slice(*texts.offsets[index : index + 2])] for index in indices[first : first + 2]]
        ids = np.zeros((2, max(map(len, pair))), np.int64)
        mask = ids.copy()
        for row, tokens in enumerate(pair):
            ids[row, : len(tokens)], mask[row, : len(tokens)] = tokens, 1
        batch = {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
        answers.append(model.respond(loaded.run(batch)))
    assert minilm.agreement(indices, np.concatenate(answers), texts.embeddings).min() >= 0.998
