"""Files whose batch is not first: in another place, in some tensors only, or nowhere."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from drumfire.loadgen.system import Batch
from drumfire.sut.local.backends import BackendError
from drumfire.sut.local.backends.arranged import arranged, with_outputs
from drumfire.sut.local.backends.interface import as_inputs, taken
from drumfire.sut.models.tensors import Tensors

F4 = np.float32


class Told:
    """A backend of these inputs that computes as told, and remembers the shapes that it was given."""

    description = "told"

    def __init__(
        self, takes: dict[str, Sequence[object]], compute: Callable[..., Sequence[npt.NDArray[Any]]], gives: int = 1
    ) -> None:
        inputs, batch = as_inputs([taken(name, sizes, F4) for name, sizes in takes.items()])
        self.tensors = Tensors(inputs, tuple(f"out{number}" for number in range(gives)), batch)
        self._compute = compute
        self.seen: dict[str, tuple[int, ...]] = {}

    def run(self, batch: Batch) -> Sequence[npt.NDArray[Any]]:
        self.seen = {name: array.shape for name, array in batch.items()}
        assert all(array.flags.c_contiguous for array in batch.values())
        return self._compute(**batch)

    def close(self) -> None:
        pass


@pytest.mark.parametrize(
    ("sizes", "shapes", "axes", "batch_size"),
    [
        ([["N", 3]], [(3,)], [0], None),
        ([[None, 3]], [(3,)], [0], None),
        ([["?", 3, "H"]], [(3, None)], [0], None),
        ([[4, 3], [4]], [(3,), ()], [0, 0], 4),
        ([["batch", "sequence"], [2, "batch", 128], []], [(None,), (2, 128), ()], [0, 1, None], None),
        ([["b", "s"], ["b", "s"]], [(None,), (None,)], [0, 0], None),
        ([["N", 3], [10, 4]], [(3,), (10, 4)], [0, None], None),  # a constant of all samples
        ([[5], [3, 2]], [(5,), (3, 2)], [None, None], 1),  # no first size is common
        ([[]], [()], [None], 1),
    ],
)
def test_which_size_is_the_batch(
    sizes: list[list[object]], shapes: list[tuple[int | None, ...]], axes: list[int | None], batch_size: int | None
) -> None:
    inputs, _ = as_inputs([taken(f"in{number}", one, F4) for number, one in enumerate(sizes)])
    assert [one.sample_shape for one in inputs] == shapes
    assert [one.batch_axis for one in inputs] == axes
    assert Tensors(inputs).batch_size == batch_size


def test_open_sizes_keep_their_names() -> None:
    inputs, batch = as_inputs([taken("ids", ["batch", "sequence"], F4), taken("x", ["batch", 3, "H", None], F4)])
    assert batch == "batch"
    assert [one.open_dims for one in inputs] == [{"sequence": 0}, {"H": 1}]
    assert inputs[1].dims == ("", "H", "")


def test_no_input_at_all() -> None:
    with pytest.raises(BackendError, match="has no input"):
        as_inputs([])


def test_a_state_has_its_batch_second_and_a_rate_has_none() -> None:
    def compute(x: Any, state: Any, rate: Any) -> Any:
        return [x.sum(axis=1, keepdims=True) * rate, state + x[:, 0]]

    told = Told({"x": ["N", 2], "state": [3, "N"], "rate": []}, compute, gives=2)
    tensors = with_outputs(told, told.tensors)
    assert tensors.output_axes == (0, 1)
    x, state = np.arange(8, dtype=F4).reshape(4, 2), np.arange(12, dtype=F4).reshape(4, 3)
    batch = {"x": x, "state": state, "rate": np.full(4, 2, F4)}
    total, new_state = arranged(told, tensors).run(batch)
    assert told.seen == {"x": (4, 2), "state": (3, 4), "rate": ()}
    np.testing.assert_array_equal(total, 2 * x.sum(axis=1, keepdims=True))
    np.testing.assert_array_equal(new_state, state + x[:, :1])


def test_one_utterance_is_one_sample() -> None:
    """Its first size, which is open, is the time and no batch."""
    told = Told({"x": ["time", 2], "h": [1, 3]}, lambda x, h: [x.sum(axis=1), h + 1], gives=2)
    tensors = told.tensors.without_batch()
    assert [one.sample_shape for one in tensors.inputs] == [(None, 2), (1, 3)]
    assert tensors.inputs[0].open_dims == {"time": 0}
    assert tensors.batch_size == 1
    speech, h = arranged(told, tensors).run({"x": np.ones((1, 5, 2), F4), "h": np.zeros((1, 1, 3), F4)})
    assert (speech.shape, h.shape) == ((1, 5), (1, 1, 3))


@pytest.mark.parametrize(
    "gives", [lambda x: [x.sum()], lambda x: [x[:1]], lambda x: [x, x.mean(axis=0)], lambda x: [x.reshape(1, 2)]]
)
def test_an_output_without_a_batch_means_one_sample_at_a_time(gives: Callable[[Any], Any]) -> None:
    count = len(gives(np.ones((1, 2), F4)))
    told = Told({"x": ["N", 2]}, gives, count)
    tensors = with_outputs(told, told.tensors)
    assert tensors.batch_size == 1
    outputs = arranged(told, tensors).run({"x": np.ones((1, 2), F4)})
    assert all(len(output) == 1 for output in outputs)


def test_a_size_of_1_is_no_batch_where_no_input_has_one() -> None:
    told = Told({"x": ["time", 2], "h": [1, 3]}, lambda x, h: [x[:, 0], h], gives=2)
    tensors = with_outputs(told, told.tensors.without_batch())
    assert tensors.output_axes == (None, None)
    speech, h = arranged(told, tensors).run({"x": np.ones((1, 5, 2), F4), "h": np.zeros((1, 1, 3), F4)})
    assert (speech.shape, h.shape) == ((1, 5), (1, 1, 3))


def test_a_size_of_1_is_no_batch_where_two_samples_leave_it_so() -> None:
    told = Told({"x": ["N", 2]}, lambda x: [x, x.sum(axis=0, keepdims=True)], gives=2)
    assert with_outputs(told, told.tensors).output_axes == (0, None)


def test_what_is_plain_stays_the_backend_itself() -> None:
    told = Told({"x": ["N", 2]}, lambda x: [x])
    assert arranged(told, with_outputs(told, told.tensors)) is told
    fixed = Told({"x": [4, 2]}, lambda x: [x])
    assert arranged(fixed, with_outputs(fixed, fixed.tensors)) is fixed


def test_a_model_that_zeros_break() -> None:
    def fails(x: Any) -> Any:
        raise ValueError("bad\nlong")

    told = Told({"x": ["N", 2]}, fails)
    with pytest.raises(BackendError, match=r"^the model cannot run on zeros of shape \[1, 2\]: bad$"):
        with_outputs(told, replace(told.tensors))


def test_an_output_s_sizes_are_those_that_the_file_says_and_that_it_has() -> None:
    told = Told({"x": ["N", 2]}, lambda x: [x, x[:, None], x[:, :1], x], gives=4)
    said = ((None, 2), (None, None, 2), (None, 5), (None, 2, 1))
    tensors = with_outputs(told, replace(told.tensors, output_shapes=said))
    assert tensors.output_samples == [(2,), (None, 2), (None,), None]
    assert with_outputs(told, told.tensors).output_samples == []
    second = Told({"y": ["N"], "x": [3, "N"]}, lambda y, x: [x])
    axes = with_outputs(second, replace(second.tensors, output_shapes=((3, None),)))
    assert (axes.output_axes, axes.output_samples) == ((1,), [(3,)])
