"""A model's file gets the samples that it takes, as arrays by name, and answers with all of its outputs."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from drumfire.loadgen.responses import as_bytes
from drumfire.sut.data.inputs import InputError
from drumfire.sut.data.options import InputOptions
from drumfire.sut.data.ragged import Padding, Ragged, RaggedLibrary
from drumfire.sut.models.file import FileModel, OutputBytes
from drumfire.sut.models.tensors import Input, Tensors

I8, F4, TEXT = np.dtype(np.int64), np.dtype(np.float32), np.dtype(object)
IDS = Input("ids", (None,), I8, dims=("s",))


class File:
    """A loaded file that gives its first input back."""

    def __init__(self, *inputs: Input, batch: str = "N") -> None:
        self.tensors = Tensors(inputs, ("y",), batch)
        self.ran: list[list[tuple[int, ...]]] = []
        """The shapes that it has run."""

    def run(self, batch: dict[str, np.ndarray]) -> list[np.ndarray]:
        arrays = list(batch.values())
        self.ran.append([array.shape for array in arrays])
        return arrays[:1]


def model(
    *inputs: Input, batch: str = "N", padded_to: int | None = None, file: File | None = None, **options: Any
) -> FileModel:
    """A model whose file takes these inputs."""
    made = FileModel(Path("m.pt2"), InputOptions(**options), padded_to=padded_to)
    made.learn(file or File(*inputs, batch=batch))  # type: ignore[arg-type]
    return made


def loaded(made: FileModel, *indices: int) -> dict[str, np.ndarray]:
    library = made.library()
    every = np.arange(library.total_count)
    library.load(every)
    return library.batch(np.array(indices))  # type: ignore[return-value]


def test_samples_are_arrays_by_name_of_the_input_s_type() -> None:
    made = model(
        Input("x", (3, 2), F4), Input("t", (2,), TEXT), Input("h", (2,), np.dtype(np.uint16), is_bfloat16=True)
    )
    batch = loaded(made, 5, 3)
    assert {name: (array.shape, array.dtype) for name, array in batch.items()} == {
        "x": ((2, 3, 2), F4),
        "t": ((2, 2), TEXT),
        "h": ((2, 2), np.dtype(np.uint16)),
    }
    assert all(isinstance(element, bytes) and len(element) == 8 for element in batch["t"].flat)
    assert np.array_equal(loaded(made, 5)["x"][0], batch["x"][0])


def test_sizes_that_differ_make_a_ragged_library() -> None:
    file = File(IDS, Input("mask", (None,), I8, dims=("s",)))
    made = model(file=file, dim=("s=2..40",))
    assert made.tensors.inputs[0].sample_shape == (None,)
    library = made.library()
    assert isinstance(library, RaggedLibrary)
    library.load(np.arange(10))
    lengths = library.sizes(np.arange(10)).tolist()
    assert len(set(lengths)) > 3
    assert all(2 <= length <= 40 for length in lengths)
    assert [loaded(made, row)["mask"].tolist() for row in range(3)] == [[[1] * length] for length in lengths[:3]]
    assert isinstance(made._read(np.arange(3))["ids"], Ragged)
    assert file.ran == [[(rows, lengths[0])] * 2 for rows in (1, 2)]


def test_lengths_of_the_data_that_are_all_alike_leave_nothing_open(tmp_path: Path) -> None:
    path = tmp_path / "data.json"
    path.write_text(json.dumps({"data": [{"ids": [1, 2, 3]}, {"ids": [4, 5, 6]}]}))
    made = model(IDS, input_data=str(path))
    assert made.tensors.inputs[0].sample_shape == (3,)
    assert (made.total_count, loaded(made, 1)["ids"].tolist()) == (2, [[4, 5, 6]])


def test_the_batch_s_own_size_is_a_size_of_the_sample_where_the_user_names_it() -> None:
    mean = File(IDS)
    mean.run = lambda batch: [batch["ids"].mean()]  # type: ignore[method-assign]
    made = model(file=mean, dim=("N=3", "s=4"))
    assert not made.tensors.has_batch
    assert made.tensors.inputs[0].sample_shape == (3, 4)
    with pytest.raises(InputError, match="has the open sizes s, and N for its batch"):
        model(IDS, dim=("M=3",))
    with pytest.raises(InputError, match="--dim N: this is the batch of the model"):
        model(IDS, dim=("N=3", "s=4"))


def test_an_image_that_the_backend_has_channels_last_is_the_file_s_to_the_user() -> None:
    made = model(Input("x", (3, None, None), F4, dims=("", "H", "W")).as_channels_last, shape=("x=3x4x5",))
    assert made.tensors.inputs[0].sample_shape == (3, 4, 5)
    assert made.tensors.laid_out_as(Tensors((Input("x", (3, 4, 5), F4).as_channels_last,))).inputs[0].sample_shape == (
        4,
        5,
        3,
    )


def test_an_input_without_a_batch_is_the_same_for_all_samples(tmp_path: Path) -> None:
    rate = Input("rate", (), I8, batch_axis=None)
    drawn = loaded(model(Input("x", (2,), F4), rate), 0, 1, 2)
    assert len(set(drawn["rate"].tolist())) == 1
    assert len({row.tobytes() for row in drawn["x"]}) == 3
    for rates, fits in (([7, 7], True), ([7, 8], False)):
        np.savez(tmp_path / "data.npz", x=np.zeros((2, 2), F4), rate=np.array(rates))
        if fits:
            made = model(Input("x", (2,), F4), rate, input_data=str(tmp_path / "data.npz"))
            assert loaded(made, 1)["rate"].tolist() == [7]
        else:
            with pytest.raises(InputError, match="sample 1 has another rate than sample 0"):
                model(Input("x", (2,), F4), rate, input_data=str(tmp_path / "data.npz"))


def test_optional_inputs_come_with_all_samples_or_none(tmp_path: Path) -> None:
    bias = Input("b", (1,), F4, optional=True)
    made = model(Input("x", (1,), F4), bias)
    assert list(loaded(made, 0)) == ["x"]
    assert any("left out, as the file has a value of its own: b" in one for one in made.reservations)
    assert list(loaded(model(Input("x", (1,), F4), bias, shape=("b=1",)), 0)) == ["x", "b"]
    (tmp_path / "data.jsonl").write_text('{"x": [1], "b": [2]}\n{"x": [1]}\n')
    with pytest.raises(InputError, match="some do not: give it to all or none"):
        loaded(model(Input("x", (1,), F4), bias, input_data=str(tmp_path / "data.jsonl")), 0)


def test_a_file_whose_outputs_have_no_batch_gets_a_sample_at_a_time() -> None:
    made = FileModel(Path("m.pt2"))
    tensors = Tensors((Input("x", (2,), F4),), ("y", "z"))
    made.learn(SimpleNamespace(tensors=tensors, run=lambda batch: [np.zeros((2, 3)), batch["x"]]))  # type: ignore[arg-type]
    assert (made.tensors.batch_size, made.tensors.output_axes) == (1, (None, 0))
    assert made.reservations[-1] == "an output has no batch, so each batch is one sample"


def test_expected_outputs_are_said_to_have_no_effect(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", x=np.zeros((2, 2), F4), y=np.zeros(2, F4))
    made = model(Input("x", (2,), F4), input_data=str(tmp_path / "data.npz"))
    assert made.reservations[1] == "expected outputs are compared with a server's only: y.npy had no effect"


def test_the_response_is_the_bytes_of_all_outputs() -> None:
    made = FileModel(Path("m.onnx"))
    one, two = np.arange(6, dtype=F4).reshape(2, 3), np.array([[b"a", b"bcd"], [b"", b"e"]], object)
    assert made.respond([one]) is one
    responses = made.respond([one, two])
    assert len(responses) == 2
    assert list(as_bytes(responses)) == [
        one[0].tobytes() + b"\1\0\0\0a\3\0\0\0bcd",
        one[1].tobytes() + b"\0\0\0\0\1\0\0\0e",
    ]
    assert list(made.respond([np.array([b"a", b"b"], object)])) == [b"\1\0\0\0a", b"\1\0\0\0b"]
    assert OutputBytes([one, one])[1:] == [one[1].tobytes() * 2]


def test_a_network_that_fails_on_values_gets_advice() -> None:
    made = model(Input("ids", (2,), I8), Input("x", (2,), F4))
    assert made.advice("indices element out of data bounds, idx=121") == (
        " (say which values an input may have: --range ids=0..N)"
    )
    assert made.advice("another error") == ""


MASKED = (IDS, Input("mask", (None,), I8, dims=("s",)))


def test_inputs_that_share_a_size_have_it_in_every_sample(tmp_path: Path) -> None:
    """Each would be padded by itself, and a run on such samples be valid."""
    lines = [{"ids": [1] * size, "mask": [1] * other} for size, other in ((2, 2), (5, 5), (5, 3))]
    (tmp_path / "x.jsonl").write_text("\n\n".join(map(json.dumps, lines)))
    with pytest.raises(InputError, match=r"x.jsonl: line 5: ids has the shape \[5\] and mask \[3\].* size s in both"):
        model(*MASKED, input_data=str(tmp_path / "x.jsonl"))
    values, offsets = np.arange(9), np.array([0, 4, 9])
    parts = {"ids.values": values, "ids.offsets": offsets, "mask.values": values, "mask.offsets": np.array([0, 5, 9])}
    np.savez(tmp_path / "x.npz", **parts)
    with pytest.raises(InputError, match=r"x.npz: sample 0: ids has the shape \[4\] and mask \[5\]"):
        model(*MASKED, input_data=str(tmp_path / "x.npz"))
    # Also where all samples are alike, and within one input.
    np.savez(tmp_path / "even.npz", ids=np.ones((2, 4), int), mask=np.ones((2, 5), int))
    with pytest.raises(InputError, match=r"sample 0: ids has the shape \[4\] and mask \[5\]"):
        model(*MASKED, input_data=str(tmp_path / "even.npz"))
    np.savez(tmp_path / "square.npz", x=np.ones((2, 4, 5), int))
    with pytest.raises(InputError, match=r"sample 0: x has the shape \[4,5\]"):
        model(Input("x", (None, None), I8, dims=("s", "s")), input_data=str(tmp_path / "square.npz"))
    assert model(Input("x", (None, None), I8), input_data=str(tmp_path / "square.npz")).total_count == 2


def test_samples_of_the_user_may_be_shorter_than_a_file_of_one_size_that_they_are_padded_to(tmp_path: Path) -> None:
    full = Input("ids", (6,), I8), Input("mask", (6,), I8), Input("more", (6,), I8), Input("x", (2,), F4)
    lines = [{"ids": [1] * size, "mask": [1] * size, "more": [1] * 6, "x": [0, 0]} for size in (4, 4)]
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(
        InputError, match=r"the shape \[4\] does not fit ids INT64\[6\] \(--pad 6 pads shorter samples\)$"
    ):
        model(*full, input_data=str(tmp_path / "x.jsonl"))
    file = File(*full)
    made = model(file=file, input_data=str(tmp_path / "x.jsonl"), padded_to=6)
    shapes = [(None,), (None,), (6,), (2,)]
    assert [one.sample_shape for one in made.tensors.inputs] == shapes
    assert file.ran[0] == [(1, 6), (1, 6), (1, 6), (1, 2)]
    # As a backend compiles it.
    assert made.sized(Tensors(full)).inputs == full
    library = made.library()
    assert isinstance(library, RaggedLibrary)
    library.pad(made.tensors.open_inputs, Padding((6,)))
    library.load(np.arange(2))
    batch = library.batch(np.arange(2))
    assert batch["ids"].tolist() == batch["mask"].tolist() == [[1, 1, 1, 1, 0, 0]] * 2
    assert batch["more"].tolist() == [[1] * 6] * 2
    (tmp_path / "long.jsonl").write_text(json.dumps({"ids": [1] * 7, "mask": [1] * 7, "more": [1] * 6, "x": [0, 0]}))
    with pytest.raises(InputError, match=r"the shape \[7\] does not fit ids INT64\[6\]$"):
        model(*full, input_data=str(tmp_path / "long.jsonl"))
    lines[1]["mask"] = [1] * 3
    (tmp_path / "x.jsonl").write_text("\n".join(map(json.dumps, lines)))
    with pytest.raises(InputError, match=r"line 2: ids has the shape \[4\] and mask \[3\].* size 6 in both"):
        model(*full, input_data=str(tmp_path / "x.jsonl"), padded_to=6)
    # Made-up samples have the file's size.
    assert [one.sample_shape for one in model(*full, padded_to=6).tensors.inputs] == [(6,), (6,), (6,), (2,)]
