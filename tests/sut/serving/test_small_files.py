"""Small ONNX files of every kind behind the server, asked by Triton's own clients: what a file alone computes."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest

from drumfire.sut.data.inputs import InputError
from drumfire.sut.data.ragged import Padding
from drumfire.sut.serving import model as serving
from tests.support.official_clients import CLIENTS, connected, infer, utils
from tests.support.running_server import Running, until
from tests.support.serving_fakes import Gate
from tests.support.small_files import BF16, NAMES, ONE_SAMPLE, Sample, computed_alone, load, same, samples

pytest.importorskip("onnxruntime")
shared_memory = pytest.importorskip("tritonclient.utils.shared_memory", exc_type=Exception)
PADDED = "padded_masked_text"


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    with Running(*map(load, NAMES), load(PADDED, Padding())) as running:
        yield running


@pytest.fixture(scope="module", params=["grpc", "http"])
def client(server: Running, request: pytest.FixtureRequest) -> Iterator[Any]:
    with connected(server.addresses, request.param) as made:
        yield made


@pytest.fixture(scope="module")
def for_threads(server: Running) -> Iterator[Any]:
    """A client that several threads may use, as the one of HTTP is not."""
    with connected(server.addresses, "grpc") as made:
        yield made


_OUT = 512
"""Bytes of an output, at most."""


@pytest.mark.parametrize("name", NAMES)
def test_answers_are_what_the_file_computes(client: Any, name: str) -> None:
    for rows in (1,) if name in ONE_SAMPLE else (1, 3):
        batch = samples(name, rows)
        same(infer(client, name, batch), computed_alone(name, batch))


def test_requests_of_many_lengths_at_once_get_their_own_answers(server: Running, for_threads: Any) -> None:
    """Those of equal lengths are computed together."""
    asked = [samples("two_inputs", 1 + seed % 3, 2 + seed % 4, seed) for seed in range(40)]
    before = server.ask("GET", "/v2/models/two_inputs/stats")[1]["model_stats"][0]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda batch: infer(for_threads, "two_inputs", batch), asked))
    for batch, answer in zip(asked, found, strict=True):
        np.testing.assert_allclose(answer[0], computed_alone("two_inputs", batch)[0], rtol=1e-5)
    after = server.ask("GET", "/v2/models/two_inputs/stats")[1]["model_stats"][0]
    assert after["inference_count"] - before["inference_count"] == sum(len(batch["input_ids"]) for batch in asked)


@pytest.mark.parametrize("protocol", CLIENTS)
def test_requests_padded_to_share_a_batch_get_what_they_get_alone(server: Running, protocol: str) -> None:
    """Bit for bit, in samples of all lengths; an output is cut back to the request's."""
    asked = [samples(PADDED, 1 + seed % 3, 1 + seed * 7 % 11, seed) for seed in range(60)]
    before = server.ask("GET", f"/v2/models/{PADDED}/stats")[1]["model_stats"][0]
    scheduler = next(one for one in server.server.service.schedulers if one.model.name == PADDED)
    gate = Gate()
    (instance,) = scheduler.model.instances
    run = instance.run

    def ask(batch: Sample) -> list[np.ndarray]:
        with connected(server.addresses, protocol) as client:
            return infer(client, PADDED, batch)

    with patch.object(instance, "run", lambda batch: (gate(batch), run(batch))[1]), ThreadPoolExecutor(60) as pool:
        found = [pool.submit(ask, batch) for batch in asked]
        gate.wait_entered()
        until(lambda: scheduler.under_way == len(asked))  # so that the order of arrival does not matter
        for _ in asked:
            gate.opened.release()
        for batch, answer in zip(asked, found, strict=True):
            same(answer.result(20), computed_alone(PADDED, batch))
    after = server.ask("GET", f"/v2/models/{PADDED}/stats")[1]["model_stats"][0]
    assert after["execution_count"] - before["execution_count"] < 30
    padding = scheduler.statistics.padding
    assert padding is not None
    assert 0 < padding <= 1 / 6
    text = server.ask("GET", "/metrics", port="metrics")[1].decode()
    assert f'drumfire_computed_size{{model="{PADDED}",version="1"}} {scheduler.statistics.computed_sizes}' in text
    wasted = scheduler.statistics.computed_sizes - scheduler.statistics.own_sizes
    assert f'drumfire_padding_size{{model="{PADDED}",version="1"}} {wasted}' in text
    assert 'drumfire_padding_size{model="two_inputs"' not in text


def test_a_length_beyond_the_rule_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with Running(load(PADDED, Padding.of("buckets:4,6"))) as server, connected(server.addresses, "http") as client:
        same(infer(client, PADDED, samples(PADDED, 2, 5)), computed_alone(PADDED, samples(PADDED, 2, 5)))
        with pytest.raises(
            utils.InferenceServerException, match=r"of the shape \[7\]: .* --pad buckets:4,6 takes sizes up"
        ):
            infer(client, PADDED, samples(PADDED, 2, 7))


def test_an_optional_input_may_be_left_out(client: Any) -> None:
    batch = samples("optional_input", 2)
    bias = {"bias": np.arange(16, dtype=np.float32).reshape(2, 8) % 8}
    same(infer(client, "optional_input", batch), computed_alone("optional_input", batch))
    same(infer(client, "optional_input", batch | bias), computed_alone("optional_input", batch | bias))
    # In any order.
    same(infer(client, "optional_input", bias | batch), computed_alone("optional_input", batch | bias))
    with pytest.raises(utils.InferenceServerException, match="is the same for all samples of a request"):
        infer(client, "optional_input", batch | {"bias": np.arange(16, dtype=np.float32).reshape(2, 8)})
    config = client.get_model_config("optional_input", **({"as_json": True} if client.kind is CLIENTS["grpc"] else {}))
    inputs = config.get("config", config)["input"]
    assert [one.get("optional", False) for one in inputs] == [False, False, True]


def test_requests_that_differ_in_what_a_batch_has_once_are_computed_apart(for_threads: Any) -> None:
    asked = [samples("state", 1, seed=seed) | {"rate": np.array([seed % 3])} for seed in range(24)]
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(lambda batch: infer(for_threads, "state", batch), asked))
    for batch, answer in zip(asked, found, strict=True):
        same(answer, computed_alone("state", batch))


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("two_inputs", {"attention_mask": None}, r"each of these inputs once: input_ids INT64\[-1\], attention_mask"),
        ("two_inputs", {"more": np.zeros((2, 3), np.int64)}, "the request has 'input_ids', 'attention_mask', 'more'"),
        (
            "two_inputs",
            {"attention_mask": np.ones((2, 4), np.int64)},
            "share the size 'sequence': the request has 3 and 4",
        ),
        ("two_inputs", {"attention_mask": np.ones((1, 3), np.int64)}, "have 2 and 1 samples"),
        ("two_inputs", {"attention_mask": np.ones((2, 3), np.int32)}, r"attention_mask INT64\[-1\] .* received INT32"),
        ("two_inputs", {"attention_mask": np.ones((2, 3, 1), np.int64)}, r"received the shape \[2,3,1\]"),
        ("scalar_output", {}, "2 samples in a request: 'scalar_output' takes 1 to 1"),
        ("bool", {"x": np.zeros((2, 4), np.uint8)}, r"x BOOL\[4\] .* received UINT8"),
    ],
)
def test_wrong_inputs_are_told_in_a_line(client: Any, name: str, changes: dict[str, Any], words: str) -> None:
    batch = {key: array for key, array in (samples(name, 2) | changes).items() if array is not None}
    with pytest.raises(utils.InferenceServerException, match=words) as error:
        infer(client, name, batch)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "bad", "words"),
    [
        ("string", {"x": np.array([[b"\xff", b"", b"", b""]], object)}, "utf-8"),
        ("text_length", {"ids": np.array([[1, 2, 1000]], np.int32)}, "out of data bounds"),
    ],
)
def test_what_the_model_cannot_compute_fails_alone(for_threads: Any, name: str, bad: Sample, words: str) -> None:
    good = samples(name, 1)

    def ask(batch: Sample) -> list[np.ndarray] | str:
        try:
            return infer(for_threads, name, batch)
        except utils.InferenceServerException as error:
            return str(error)

    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(ask, [good, bad] * 16))
    for answer in found[::2]:
        assert not isinstance(answer, str)
        same(answer, computed_alone(name, good))
    for answer in found[1::2]:
        assert isinstance(answer, str)
        assert answer.startswith("[StatusCode.INVALID_ARGUMENT] ")  # the request is at fault, not the server
        assert words in answer


@pytest.mark.parametrize("name", ["two_inputs", "string", PADDED])
def test_two_inputs_and_outputs_in_shared_memory(client: Any, name: str) -> None:
    batch = samples(name, 2, 5)
    texts = {key: utils.serialize_byte_tensor(array).item() for key, array in batch.items()} if name == "string" else {}
    contents = {key: texts.get(key) or array.tobytes() for key, array in batch.items()}
    size = sum(map(len, contents.values()))
    key = f"/drumfire-test-{os.getpid()}-{name}"
    region = shared_memory.create_shared_memory_region(name, key, size + _OUT)
    try:
        client.register_system_shared_memory(name, key, size + _OUT)
        inputs, at = [], 0
        for one, data in contents.items():
            shared_memory.set_shared_memory_region(region, [np.frombuffer(data, np.uint8)], offset=at)
            made = client.kind.InferInput(one, batch[one].shape, utils.np_to_triton_dtype(batch[one].dtype))
            made.set_shared_memory(name, len(data), offset=at)
            inputs.append(made)
            at += len(data)
        right = computed_alone(name, batch)[0]
        wanted = client.kind.InferRequestedOutput({"two_inputs": "vector", "string": "y", PADDED: "hidden"}[name])
        wanted.set_shared_memory(name, _OUT, offset=size)
        client.infer(name, inputs, outputs=[wanted])
        found = shared_memory.get_contents_as_numpy(region, right.dtype, right.shape, offset=size)
        same([found], [right])
        if name == "string":  # a length that runs past the end
            shared_memory.set_shared_memory_region(region, [np.full(4, 255, np.uint8)])
            with pytest.raises(utils.InferenceServerException, match="ends within an element"):
                client.infer(name, inputs)
    finally:
        client.unregister_system_shared_memory(name)
        shared_memory.destroy_shared_memory_region(region)


def test_values_in_json(server: Running) -> None:
    """Of several inputs, of bool and of texts; bfloat16 has no such form."""

    def ask(name: str, batch: Sample, datatype: str) -> Any:
        inputs = [
            {"name": key, "datatype": datatype, "shape": array.shape, "data": array.tolist()}
            for key, array in batch.items()
        ]
        said = server.ask("POST", f"/v2/models/{name}/infer", json.dumps({"inputs": inputs}).encode())[1]
        return said.get("error") or [(one["datatype"], one["shape"], one["data"]) for one in said["outputs"]]

    batch = samples("two_inputs", 2)
    ((datatype, shape, data),) = ask("two_inputs", batch, "INT64")
    assert (datatype, shape) == ("FP32", [2, 8])
    np.testing.assert_allclose(data, computed_alone("two_inputs", batch)[0].reshape(-1), rtol=1e-6)
    flags = samples("bool", 2)
    assert ask("bool", flags, "BOOL") == [("BOOL", [2, 4], flags["x"].reshape(-1).tolist())]
    texts = {"x": np.array([["a", "\u00f6", "", "\0"]], object)}
    assert ask("string", texts, "BYTES") == [("BYTES", [1, 4], texts["x"][0].tolist())]
    assert "send its bits as binary data" in ask(BF16, samples(BF16, 1), "BF16")
    assert [one[:2] for one in ask("several_outputs", samples("several_outputs", 2), "FP32")] == [
        ("FP32", [2, 4]), ("FP32", [2]), ("INT64", [2]),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "takes", "gives"),
    [
        ("two_inputs", "input_ids INT64[-1], attention_mask INT64[-1]", "vector FP32[8]"),
        ("open_image", "image FP32[3,-1,-1]", "mean FP32[3,1,1]"),
        ("bool", "x BOOL[4]", "y BOOL[4]"),
        ("string", "x BYTES[4]", "y BYTES[4]"),
        (BF16, "x BF16[4]", "y BF16[4]"),
        ("scalar_output", "x FP32[4]", "total FP32[]"),
        ("output_without_batch", "x FP32[4]", "columns FP32[4]"),
        ("several_outputs", "x FP32[4]", "twice FP32[4], largest FP32[], place INT64[]"),
        ("state", "x FP32[4], state FP32[2,4], rate INT64[]", "sum FP32[4], new_state FP32[2,4]"),
    ],
)
def test_what_is_told_of_a_model(server: Running, name: str, takes: str, gives: str) -> None:
    (model,) = (one.model for one in server.server.service.schedulers if one.model.name == name)
    interface = model.interface
    assert [", ".join(map(str, specs)) for specs in (interface.inputs, interface.outputs)] == [takes, gives]
    assert interface.max_batch_size == (1 if name in ONE_SAMPLE else 8)
    assert ("a sample at a time" in model.description) is (name in ONE_SAMPLE)
    told = server.ask("GET", f"/v2/models/{name}")[1]
    assert all(one["shape"][0] == -1 for one in [*told["inputs"], *told["outputs"]])


@pytest.mark.parametrize(
    ("name", "inputs", "takes", "tried"),
    [
        ("two_inputs", {"dim": ("sequence=12",)}, "input_ids INT64[12], attention_mask INT64[12]", (8, 12)),
        ("two_inputs", {"dim": ("sequence=3..20",)}, "input_ids INT64[-1], attention_mask INT64[-1]", (8, 20)),
        ("open_image", {"shape": ("image=3x32x40..48",)}, "image FP32[3,32,-1]", (8, 3, 32, 48)),
        (
            "text_length",
            {"dim": ("batch=2", "sequence=5")},
            "ids INT32[2,5]",
            (1, 2, 5),
        ),  # as the user has it: no batch
    ],
)
def test_sizes_that_the_user_gives(
    name: str, inputs: Any, takes: str, tried: tuple[int, ...], monkeypatch: Any
) -> None:
    seen: list[tuple[int, ...]] = []
    run = serving.run
    monkeypatch.setattr(
        serving, "run", lambda model, batch: seen.append(next(iter(batch.values())).shape) or run(model, batch)
    )
    model = load(name, **inputs)
    assert ", ".join(map(str, model.interface.inputs)) == takes
    model.reload()
    assert seen == [tried]


def test_sizes_that_the_model_does_not_have_are_refused() -> None:
    with pytest.raises(InputError, match="--dim length=12: the model has the open sizes sequence"):
        load("two_inputs", dim=("length=12",))
    with pytest.raises(InputError, match="--dim sequence=12: the model names no open size"):
        load("bool", dim=("sequence=12",))
