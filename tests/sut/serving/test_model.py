"""Models as they are served: names, shapes, layouts, the very answers of a run in this process."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from drumfire.loadgen.system import Batch
from drumfire.sut import models
from drumfire.sut.kserve.messages.tensors import TensorSpec
from drumfire.sut.local import backends
from drumfire.sut.local.backends import BackendError, BackendOptions
from drumfire.sut.models.digits import WEIGHTS
from drumfire.sut.models.shapes import WEIGHTS as SHAPES_WEIGHTS
from drumfire.sut.models.tensors import Input, Tensors
from drumfire.sut.serving import model as serving
from drumfire.sut.serving.batch import Gatherer
from drumfire.sut.serving.model import Batching, ServedModel, Source
from drumfire.sut.serving.request import Request
from drumfire.sut.serving.signature import signature
from tests.support.packages import VAD, need

F4 = np.dtype(np.float32)


def load(source: Source, **batching: Any) -> ServedModel:
    pytest.importorskip("onnxruntime")
    options = BackendOptions(instances=2)
    return serving.load(source, "onnxruntime", "cpu", threads=1, options=options, batching=Batching(**batching))


def test_digits_are_served_as_the_triton_repository_has_them() -> None:
    served = load(Source("digits", "1", WEIGHTS, models.get("digits")), max_size=64, preferred=(8, 16))
    assert served.interface.inputs == (TensorSpec("input", "FP32", (1, 8, 8)),)
    assert served.interface.outputs == (TensorSpec("logits", "FP32", (10,)),)
    assert served.interface.max_batch_size == 64
    config = served.configuration(["1"])
    assert config["input"] == [{"name": "input", "data_type": "TYPE_FP32", "dims": [1, 8, 8]}]
    assert config["output"] == [{"name": "logits", "data_type": "TYPE_FP32", "dims": [10]}]
    assert config["dynamic_batching"]["preferred_batch_size"] == [8, 16]
    assert config["instance_group"][0]["count"] == 2
    assert served.metadata(["1"])["inputs"] == [{"name": "input", "datatype": "FP32", "shape": [-1, 1, 8, 8]}]
    served.close()


def test_a_detector_has_all_its_outputs() -> None:
    served = load(Source("shapes", "1", SHAPES_WEIGHTS, models.get("shapes")))
    assert served.interface.inputs == (TensorSpec("input", "UINT8", (128, 128, 3)),)
    assert [one.name for one in served.interface.outputs] == ["boxes", "scores", "labels"]
    assert all(-1 not in one.shape for one in served.interface.outputs)


def test_a_bare_file_is_served_as_it_says_itself() -> None:
    served = load(Source("mine", "3", WEIGHTS, None))
    assert (served.name, served.version) == ("mine", "3")
    assert served.interface.inputs == (TensorSpec("input", "FP32", (1, 8, 8)),)


def test_a_file_for_other_data_is_refused() -> None:
    with pytest.raises(BackendError, match="digits's data is float32"):
        load(Source("digits", "1", SHAPES_WEIGHTS, models.get("digits")))


@pytest.mark.parametrize(("batch_s", "inline"), [(5e-5, True), (5e-3, False)])
def test_a_quick_model_needs_no_thread(batch_s: float, inline: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "service_times", lambda *_: [batch_s * 3, batch_s])
    source = Source("digits", "1", WEIGHTS, models.get("digits"))
    for instances in (1, 2):  # who wants two wants threads
        options = BackendOptions(instances=instances)
        served = serving.load(source, "onnxruntime", "cpu", threads=1, options=options, batching=Batching())
        assert served.inline is (inline and instances == 1)


def test_a_slow_model_is_tried_once_more_than_it_is_warmed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its largest batch may take seconds, which the server's start would wait for."""
    runs = []

    class Slow(ChannelsLast):
        def run(self, batch: Batch) -> list[np.ndarray]:
            runs.append(len(batch["x"]))
            time.sleep(0.03)
            return super().run(batch)

    monkeypatch.setattr(backends, "load", lambda *_: Slow())
    source = Source("pictures", "1", Path("w.pt2"), Pictures())  # type: ignore[arg-type]
    served = serving.load(source, "pytorch", "cpu", threads=1, options=BackendOptions(), batching=Batching(8))
    assert not served.inline
    assert runs == [1, 2, 1, 8, 8]


def test_identity() -> None:
    served = serving.identity("identity", "1", Batching(8))
    assert served.inline
    assert served.interface.inputs == (TensorSpec("INPUT0", "FP32", (-1,)),)
    assert served.interface.outputs == (TensorSpec("OUTPUT0", "FP32", (-1,)),)


class ChannelsLast:
    """Takes pictures as pytorch does: (height, width, channels) in memory."""

    description = "last"
    tensors = Tensors((Input("x", (4, 5, 3), F4),), ("y",))

    def run(self, batch: Batch) -> list[np.ndarray]:
        assert batch["x"].shape[1:] == (4, 5, 3)
        return [batch["x"][:, :, :, 1].copy()]

    def close(self) -> None:
        pass


class Pictures:
    name = "pictures"
    tensors = Tensors.of_one((3, 4, 5), ("green",))


@pytest.mark.parametrize(
    ("file", "model", "takes", "gives"),
    [
        ("w.pt2", Pictures(), "input FP32[3,4,5]", "green FP32[4,5]"),  # a named model's own, whatever its file says
        ("w.onnx", Pictures(), "x FP32[3,4,5]", "y FP32[4,5]"),  # but a published file's, which others serve too
        ("w.pt2", None, "x FP32[4,5,3]", "y FP32[4,5]"),
    ],
)
def test_names_on_the_wire(
    file: str, model: Pictures | None, takes: str, gives: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backends, "load", lambda *_: ChannelsLast())
    source = Source("pictures", "1", Path(file), model)  # type: ignore[arg-type]
    served = serving.load(source, "pytorch", "cpu", threads=1, options=BackendOptions(), batching=Batching())
    assert [*map(str, served.interface.inputs), *map(str, served.interface.outputs)] == [takes, gives]
    assert served.takes == (ChannelsLast.tensors.inputs[0]._replace(channels_moved=model is not None),)


def test_outputs_are_numbered_where_the_names_are_not_theirs(monkeypatch: pytest.MonkeyPatch) -> None:
    class Two(ChannelsLast):
        def run(self, batch: Batch) -> list[np.ndarray]:
            return super().run(batch) * 2

    monkeypatch.setattr(backends, "load", lambda *_: Two())
    source = Source("pictures", "1", Path("w.pt2"), Pictures())  # type: ignore[arg-type]
    served = serving.load(source, "pytorch", "cpu", threads=1, options=BackendOptions(), batching=Batching())
    assert [one.name for one in served.interface.outputs] == ["OUTPUT__0", "OUTPUT__1"]


def test_samples_are_turned_where_the_backend_wants_channels_last(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backends, "load", lambda *_: ChannelsLast())
    source = Source("pictures", "1", Path("w.pt2"), Pictures())  # type: ignore[arg-type]
    served = serving.load(source, "pytorch", "cpu", threads=1, options=BackendOptions(), batching=Batching())
    assert served.interface.inputs[0].shape == (3, 4, 5)
    (takes,) = served.takes
    assert takes.channels_moved
    sample = np.random.default_rng(1).random((2, 3, 4, 5), np.float32)
    gatherer = Gatherer(takes, 4)
    batch = gatherer.gather([Request((sample.tobytes(),), 2, ((3, 4, 5),), 0)])
    (output,) = served.instances[0].run({gatherer.name: batch})
    np.testing.assert_array_equal(output, sample[:, 1])


def test_sizes_that_differ_are_told_as_open() -> None:
    class Open(ChannelsLast):
        tensors = Tensors((Input("x", (None, 2), F4),), ("y", "z"))

        def run(self, batch: Batch) -> list[np.ndarray]:
            return [batch["x"].astype(np.int64), batch["x"].sum(axis=1)]

    found = signature(Open(), Open.tensors, ("y", "z"), 4)
    assert [*map(str, found.outputs)] == ["y INT64[-1,2]", "z FP32[2]"]
    assert found.largest["x"].shape == (4, 16, 2)


class Told(ChannelsLast):
    """Computes as told."""

    def __init__(self, takes: tuple[int | None, ...], compute: Any) -> None:
        self.tensors = Tensors((Input("x", takes, F4),), ("y",))
        self.compute = compute

    def run(self, batch: Batch) -> list[np.ndarray]:
        return [self.compute(batch["x"])]


@pytest.mark.parametrize("least", [1, 32, 128])
def test_open_sizes_are_tried_until_some_run(least: int) -> None:
    def compute(x: np.ndarray) -> np.ndarray:
        if x.shape[1] % least:
            raise RuntimeError(f"the width must be a multiple of {least}")
        return x[:, ::2]

    model = Told((None, 3), compute)
    found = signature(model, model.tensors, ("y",), 4)
    assert [*map(str, found.outputs)] == ["y FP32[-1,3]"]
    assert found.largest["x"].shape[1] % least == 0


@pytest.mark.parametrize(
    ("said", "told"),
    [
        ((None, None, 2), "y INT64[-1,2]"),  # zeros have no place, other values do
        ((None, 3, 2), "y INT64[0,2]"),  # the file is wrong
        (None, "y INT64[0,2]"),
    ],
)
def test_sizes_that_the_file_leaves_open_stay_open(said: tuple[int | None, ...] | None, told: str) -> None:
    model = Told((4,), lambda x: np.zeros((len(x), np.count_nonzero(x), 2), np.int64))
    tensors = replace(model.tensors, output_shapes=(said,))
    found = signature(model, tensors, ("y",), 4)
    assert [*map(str, found.outputs)] == [told]


def test_a_model_that_runs_on_no_size_is_told() -> None:
    model = Told((None, 3), lambda x: x.reshape(len(x), 7, 7))
    with pytest.raises(BackendError, match=r"cannot run on zeros of shape \[1, 8, 3\].* --dim NAME=SIZE") as error:
        signature(model, model.tensors, ("y",), 4)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("compute", "words"),
    [
        (lambda x: x.astype(np.complex64), "output 'y' cannot be served: KServe has no name for the type complex64"),
        (lambda x: x if len(x) < 4 else x[:, None], "output 'y' has a varying number of dimensions"),
    ],
)
def test_outputs_that_cannot_be_served_are_told(compute: Any, words: str) -> None:
    model = Told((None,), compute)
    with pytest.raises(BackendError, match=words):
        signature(model, model.tensors, ("y",), 4)


def test_a_fixed_batch_size_is_the_largest(monkeypatch: pytest.MonkeyPatch) -> None:
    class Fixed(ChannelsLast):
        tensors = Tensors((Input("x", (4, 5, 3), F4, 4),), ("y",))

        def run(self, batch: Batch) -> list[np.ndarray]:
            assert len(batch["x"]) == 4
            return [batch["x"]]

    monkeypatch.setattr(backends, "load", lambda *_: Fixed())
    source = Source("file", "1", Path("w.pt2"), None)
    served = serving.load(
        source, "pytorch", "cpu", threads=1, options=BackendOptions(), batching=Batching(32, 0, (2, 8))
    )
    assert served.interface.max_batch_size == served.rule.max_size == 4
    assert served.rule.preferred == (2,)
    assert served.interface.inputs[0].shape == (4, 5, 3)


@pytest.mark.extra
def test_a_model_without_a_batch_has_none_in_its_outputs_either(tmp_path: Path) -> None:
    """Its state goes in and comes out in one form."""
    need(*VAD)
    model = models.get("vad")
    served = load(Source("vad", "1", model.weights(tmp_path), model))
    shapes = {one["name"]: one["shape"] for kind in ("inputs", "outputs") for one in served.metadata(["1"])[kind]}
    assert shapes["h"] == shapes["c"] == shapes["hn"] == shapes["cn"] == [-1, 1, 1, 128]
    assert shapes["speech_probs"] == [-1, -1]
