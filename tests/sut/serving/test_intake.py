"""Inputs of requests: brought into the model's order, or refused in a line that says what the model takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from drumfire.sut.kserve.messages.exchange import Region
from drumfire.sut.kserve.messages.inference import RequestInput
from drumfire.sut.kserve.messages.tensors import ModelInterface, Shape, pack_bytes
from drumfire.sut.local.rows import BatchRule
from drumfire.sut.models.tensors import Input, Tensors
from drumfire.sut.serving.intake import Given, Intake
from drumfire.sut.serving.model import ServedModel
from drumfire.sut.serving.refusal import Refusal
from drumfire.sut.serving.shared_memory import SharedBytes, SystemRegions

I8, TEXT = np.dtype(np.int64), np.dtype(object)
IDS = Input("ids", (None,), I8, dims=("sequence",))
PAIRS = Input("pairs", (None, None), I8, dims=("sequence", "sequence"))
RATE = Input("rate", (2,), I8, batch_axis=None)
MODE = Input("mode", (1,), TEXT, batch_axis=None, optional=True)


class Bench:
    """An intake of a model of these inputs, with regions of shared memory."""

    def __init__(self, *takes: Input, most: int = 4, folder: Path = Path("/nowhere")) -> None:
        interface = ModelInterface("m", "1", "test", Tensors(takes).specs, (), most)
        model = ServedModel(interface, BatchRule(most), takes, "cpu", "", [], lambda: None)  # type: ignore[arg-type, return-value]
        self.intake, self.regions = Intake(model), SystemRegions(folder)

    def take(self, *inputs: RequestInput) -> Given:
        return self.intake.take(inputs, self.regions)


def given(name: str, shape: Shape, data: Any = None, datatype: str = "INT64") -> RequestInput:
    return RequestInput(name, datatype, shape, bytes(8 * int(np.prod(shape))) if data is None else data)


def numbers(*values: int) -> bytes:
    return np.array(values, np.int64).tobytes()


def test_inputs_come_in_the_models_order_with_none_for_those_left_out() -> None:
    bench = Bench(IDS, PAIRS, MODE)
    for _ in range(2):  # the second is known
        ids, pairs = given("ids", (2, 3)), given("pairs", (2, 3, 3))
        data, samples, shapes, size, is_shared, alike = bench.take(pairs, ids)
        assert [*data] == [ids.data, pairs.data, None]
        assert (samples, shapes, size, is_shared) == (2, ((3,), (3, 3), None), 8 * (6 + 18), False)
        assert alike == (shapes, None)


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        (
            [given("pairs", (1, 3, 3)), given("ids", (1, 4))],
            "inputs 'pairs' and 'ids' of 'm' share the size 'sequence'",
        ),
        ([given("ids", (1, 3)), given("pairs", (1, 3, 2))], "share the size 'sequence': the request has 3 and 2"),
        ([given("pairs", (1, 3, 2)), given("ids", (1, 2))], "input 'pairs' of 'm' has twice the size 'sequence'"),
        ([given("ids", (1, 3)), given("pairs", (2, 3, 3))], "have 1 and 2 samples"),
        ([given("ids", (5, 3)), given("pairs", (5, 3, 3))], "5 samples in a request: 'm' takes 1 to 4"),
        ([given("ids", (1, 3))], r"takes each of these inputs once: ids INT64\[-1\], pairs INT64\[-1,-1\], mode BYTES"),
        ([given("mode", (1, 1), b"", "BYTES")], r"mode BYTES\[1\] \(optional\); the request has 'mode'"),
        ([given("ids", (1, 3))] * 2, "the request has 'ids', 'ids'"),
        ([given(f"i{n}", (1, 3)) for n in range(99)], "'i7' and 91 more"),
        ([given("x" * 10_000, (1, 3))], "the request has 'x"),
    ],
)
def test_what_does_not_fit_is_refused_in_a_line(inputs: list[RequestInput], words: str) -> None:
    bench = Bench(IDS, PAIRS, MODE)
    for _ in range(2):  # what was refused is not kept as known
        with pytest.raises(Refusal, match=words) as error:
            bench.take(*inputs)
        assert "\n" not in error.value.text
        assert len(error.value.text) < 500


def test_what_a_batch_has_once_is_compared_and_equal_within_a_request() -> None:
    bench = Bench(IDS, RATE, MODE)
    ids = given("ids", (2, 1))

    def alike(rate: bytes, mode: str | None = None) -> Any:
        modes = [] if mode is None else [given("mode", (2, 1), pack_bytes([mode] * 2), "BYTES")]
        return bench.take(ids, given("rate", (2, 2), rate * 2), *modes)[-1]

    assert alike(numbers(1, 2)) == alike(numbers(1, 2))
    assert alike(numbers(1, 2)) != alike(numbers(1, 3))
    assert alike(numbers(1, 2), "a") == alike(numbers(1, 2), "a")
    assert len({alike(numbers(1, 2), "a"), alike(numbers(1, 2), "b"), alike(numbers(1, 2))}) == 3
    long = [alike(numbers(1, 2), text) for text in ("a" * 999, "a" * 999, "a" * 998 + "b")]
    assert long[0] == long[1] != long[2]
    (one_sample,) = (bench.take(given("ids", (1, 1)), given("rate", (1, 2), numbers(1, 2)))[-1],)
    assert one_sample == alike(numbers(1, 2))
    for wrong in (
        [given("rate", (2, 2), numbers(1, 2, 1, 3))],
        [given("rate", (2, 2)), given("mode", (2, 1), pack_bytes(["a", "b"]), "BYTES")],
    ):
        with pytest.raises(Refusal, match="is the same for all samples of a request"):
            bench.take(ids, *wrong)
    # Alone in every batch, a sample is compared with nothing.
    assert Bench(IDS, RATE, most=1).take(given("ids", (1, 1)), given("rate", (1, 2)))[-1] is None


def test_inputs_in_shared_memory(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(numbers(1, 2) * 2 + bytes(64))
    bench = Bench(IDS, RATE, folder=tmp_path)
    bench.regions.register("r", "key", 0, 96)
    ids, rate = given("ids", (2, 1), Region("r", 32, 16)), given("rate", (2, 2), Region("r", 0, 32))
    data, _, _, size, is_shared, alike = bench.take(ids, rate)
    assert isinstance(data[0], SharedBytes)
    assert data[1] == numbers(1, 2) * 2  # read at once, as it is compared
    assert (size, is_shared) == (32, True)
    assert alike == bench.take(given("ids", (2, 1)), given("rate", (2, 2), numbers(1, 2) * 2))[-1]
    with pytest.raises(Refusal, match="15 bytes of shared memory; its shape has 16"):
        bench.take(ids._replace(data=Region("r", 32, 15)), rate)


def test_texts_in_shared_memory_have_room_for_their_lengths(tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(bytes(64))
    bench = Bench(Input("x", (None,), TEXT), folder=tmp_path)
    bench.regions.register("r", "key", 0, 64)
    for elements in (17, 1 << 40):
        with pytest.raises(Refusal, match="64 bytes of shared memory; its shape has at least"):
            bench.take(given("x", (1, elements), Region("r", 0, 64), "BYTES"))
