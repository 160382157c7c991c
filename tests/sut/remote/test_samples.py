"""A remote model's samples: what a batch of them is, apart from how they are sent."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from drumfire.sut.data.inputs import InputError
from drumfire.sut.data.json_file import JsonFile
from drumfire.sut.data.random_values import generated
from drumfire.sut.data.sizes import Chosen
from drumfire.sut.kserve.messages.http_client import HttpMessages
from drumfire.sut.kserve.messages.tensors import ModelInterface, TensorSpec, as_array
from drumfire.sut.remote.samples import RemoteLibrary, UnexpectedOutput, differing


def test_a_batch_has_every_input_by_its_name() -> None:
    inputs = (TensorSpec("words", "INT64", (3,)), TensorSpec("mask", "BOOL", (3,)))
    interface = ModelInterface("m", "", "", inputs, (TensorSpec("y", "FP32", (1,)),), 8)
    samples = generated(Chosen(interface), kind="random")
    library = RemoteLibrary(samples, interface, HttpMessages(interface), total_count=8, performance_count=8)
    batch = library.batch(np.array([5, 2]))
    assert list(batch) == ["words", "mask"]
    for position, spec in enumerate(inputs):
        assert batch[spec.name].shape == (2, 3)
        for row, index in enumerate((5, 2)):
            tensor = samples.sample(index)[position]
            assert (batch[spec.name][row] == as_array(spec.datatype, tensor.shape, tensor.data)).all()


def library_of(folder: Path, document: object, interface: ModelInterface, *, batch_size: int = 1) -> RemoteLibrary:
    (folder / "inputs.json").write_text(json.dumps(document))
    samples, messages = JsonFile(folder / "inputs.json", interface), HttpMessages(interface, values=True)
    return RemoteLibrary(
        samples,
        interface,
        messages,
        total_count=samples.total_count,
        performance_count=samples.total_count,
        batch_size=batch_size,
        values=True,
    )


def test_a_batch_holds_an_optional_input_for_all_or_for_none(tmp_path: Path) -> None:
    inputs = (TensorSpec("a", "INT8", (1,)), TensorSpec("b", "INT8", (1,), optional=True))
    interface = ModelInterface("m", "", "", inputs, (TensorSpec("y", "FP32", (1,)),), 8)
    data = [{"a": [1]}, {"a": [2]}, {"a": [3], "b": [4]}, {"a": [5], "b": [6]}]
    library = library_of(tmp_path, {"data": data}, interface, batch_size=2)
    library.load(np.arange(4))
    assert [library.together(memoryview(np.array(one))) for one in ([0, 1, 2, 3], [2, 3], [3, 0], [1])] == [2, 2, 1, 1]
    sent = [json.loads(library.batched(pair).body)["inputs"] for pair in ((0, 1), (2, 3))]
    assert [[one["data"] for one in inputs] for inputs in sent] == [[[1, 2]], [[3, 5], [4, 6]]]
    with pytest.raises(InputError, match=r"some samples leave out the input b INT8\[1\]: send them one by one"):
        library.batched((1, 2))
    assert list(library.batch(np.array([0, 1]))) == ["a"]
    for mixed in ((0, 2), (2, 0)):  # whichever comes first
        with pytest.raises(InputError, match=r"some samples leave out the input b INT8\[1\]: send them one by one"):
            library.batch(np.array(mixed))


def test_what_is_expected_may_be_nan(tmp_path: Path) -> None:
    interface = ModelInterface("m", "", "", (TensorSpec("a", "INT8", (1,)),), (TensorSpec("y", "FP32", (3,)),), 0)
    expected = [{"y": [1, float("nan"), -0.0]}]
    library = library_of(tmp_path, {"data": [{"a": [1]}], "validation_data": expected}, interface)
    library.check_expected([0], [np.array([1, -np.float32("nan"), -0.0], np.float32)])
    for wrong, told in (
        ([1, 2, -0.0], "2.0 at element 1, expected nan"),
        ([1, np.nan, 0.0], "0.0 at element 2, expected -0.0"),
        ([np.nan, np.nan, -0.0], "nan at element 0, expected 1.0"),
    ):
        library = library_of(tmp_path, {"data": [{"a": [1]}], "validation_data": expected}, interface)
        with pytest.raises(UnexpectedOutput, match=rf"inputs.json: data\[0\]: output y has {told}$"):
            library.check_expected([0], [np.array(wrong, np.float32)])


def test_values_of_few_answers_are_told_and_the_rest_counted_in_one(tmp_path: Path) -> None:
    outputs = tuple(TensorSpec(name, kind, (1,)) for name, kind in (("y", "BF16"), ("t", "BYTES")))
    interface = ModelInterface("m", "", "", (TensorSpec("a", "INT8", (1,)),), outputs, 8)
    document = {"data": [{"a": [1]}] * 9, "validation_data": [{"t": ["yes"]}] * 9}
    library = library_of(tmp_path, document, interface)
    told = []
    for index in [3, 3, *range(9)]:
        with pytest.raises(UnexpectedOutput) as error:
            library.check_expected([index], [np.zeros((1, 1), np.uint16), np.array([[b"no"]], object)])
        told.append(str(error.value).removeprefix(f"{tmp_path}/"))
    assert told[0] == "inputs.json: data[3]: output t has b'no' at element 0, expected b'yes'"
    assert told.count("output t of further answers differs from what is expected") == 6
    assert len(set(told)) == 6


def test_few_samples_show_whether_any_can_share_a_request(tmp_path: Path) -> None:
    inputs = (TensorSpec("a", "INT8", (-1,)), TensorSpec("b", "INT8", (1,)))
    interface = ModelInterface("m", "", "", inputs, (TensorSpec("y", "FP32", (1,)),), 8)
    data = [{"a": a, "b": b} for a, b in (([1, 2], [1]), ([1, 2], [1]), ([7], [1]), ([3, 4], [1]), ([3, 4], [2]))]
    samples = library_of(tmp_path, {"data": data}, interface).inputs
    assert differing(samples, 5, 8) == [0, 3, 4]
    assert differing(samples, 5, 2) == [0, 3]
    assert differing(samples, 3, 8) == [0]
