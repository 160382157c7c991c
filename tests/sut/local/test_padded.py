"""Whether a model's answers change with padding, as a result says it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from drumfire.loadgen.system import Batch
from drumfire.sut.data.inputs import bfloat16
from drumfire.sut.data.ragged import OpenSizes, Padding, Ragged, RaggedLibrary
from drumfire.sut.local.padded import pair, reservation

Array = npt.NDArray[Any]
LENGTHS = (5, 2, 9, 7)
CHANGED = "the model's answers change with padding: sample 1, of size 2, is answered otherwise when padded with 0 to 9"
UNKNOWN = "padded with 0: answers depend on the padding"


def library(rule: Padding | None = None, lengths: tuple[int, ...] = LENGTHS) -> RaggedLibrary:
    def read(indices: Array) -> dict[str, Ragged | Array]:
        sounds = [np.arange(1, lengths[i] + 1, dtype=np.float32) for i in indices]
        return {"x": Ragged.of(sounds), "scale": np.full((len(indices), 1), 2, np.float32)}

    made = RaggedLibrary("sounds", read, len(lengths), len(lengths))
    made.pad({"x": OpenSizes((0,))}, rule or Padding())
    return made


def drawn(batch: Batch) -> list[Array]:
    return [np.random.default_rng().random(3)[None]]


def of_nine_only(batch: Batch) -> list[Array]:
    if batch["x"].shape[1] != 9:
        raise RuntimeError("a size of 9 is wanted")
    return [batch["x"]]


@pytest.mark.parametrize(
    ("outputs", "says"),
    [
        (lambda batch: [batch["x"].sum(axis=1) * batch["scale"][:, 0]], ""),
        (lambda batch: [batch["x"].mean(axis=1)], CHANGED),
        # Of a row for each element, those of the sample count.
        (lambda batch: [batch["x"] + 1, batch["x"].cumsum(axis=1)], ""),
        (lambda batch: [batch["x"], batch["x"] - batch["x"].mean(axis=1, keepdims=True)], CHANGED),
        (lambda batch: [batch["x"][:, ::-1]], CHANGED),
        # An answer of another form, whole numbers and texts.
        (lambda batch: [batch["x"][:, :, None] if batch["x"].shape[1] > 2 else batch["x"]], CHANGED),
        (lambda batch: [(batch["x"] == 0).sum(axis=1)], CHANGED),
        (lambda batch: [batch["x"].argmax(axis=1)], ""),
        (lambda batch: [batch["x"].astype("S8").astype(object)], ""),
        # Rounding is no change, and an answer that is none may be the same.
        (lambda batch: [batch["x"] * (1 + 1e-6 * batch["x"].shape[1])], ""),
        (lambda batch: [batch["x"] * (1 + 1e-3 * batch["x"].shape[1])], CHANGED),
        (lambda batch: [(batch["x"] * (1 + 1e-4 * batch["x"].shape[1])).astype(np.float16)], ""),
        (lambda batch: [batch["x"][:, :1] * np.nan], ""),
        (drawn, UNKNOWN),
        (of_nine_only, UNKNOWN),
    ],
)
def test_a_short_sample_is_answered_alone_and_padded(outputs: Callable[[Batch], list[Array]], says: str) -> None:
    data = library()
    count = len(outputs({"x": np.ones((1, 9), np.float32), "scale": np.ones((1, 1), np.float32)}))
    found = reservation(outputs, pair(data), [False] * count, 1e-4)
    assert found.startswith(says)
    assert bool(found) == bool(says)


@pytest.mark.parametrize(("noise", "says"), [(2e-4, ""), (1e-2, CHANGED)])
def test_bits_of_bfloat16_are_numbers(noise: float, says: str) -> None:
    def rounded(batch: Batch) -> list[Array]:
        return [bfloat16(batch["x"] * (1 + noise * batch["x"].shape[1]))]

    found = reservation(rounded, pair(library()), [True], 1e-4)
    assert found.startswith(says)
    assert bool(found) == bool(says)


def test_a_rough_computation_may_differ_more() -> None:
    assert (
        reservation(lambda batch: [batch["x"] * (1 + 1e-3 * batch["x"].shape[1])], pair(library()), [False], 0.02) == ""
    )


def test_the_size_is_the_rule_s_and_none_is_known_where_nothing_is_padded() -> None:
    def mean(batch: Batch) -> list[Array]:
        return [batch["x"].mean(axis=1)]

    assert "padded with 0 to 32 (" in reservation(mean, pair(library(Padding((32,)))), [False], 1e-4)
    assert reservation(mean, pair(library(lengths=(4, 4))), [False], 1e-4).startswith(UNKNOWN)
    assert "sample 0, of size 4" in reservation(mean, pair(library(Padding((8,)), (4, 4))), [False], 1e-4)
