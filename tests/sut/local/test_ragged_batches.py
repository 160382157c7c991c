"""The batcher on samples of different sizes: which batches it makes, and that each answer is its own row's."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

import drumfire
from drumfire.loadgen.answers import Answers
from drumfire.loadgen.record import Record, Status
from drumfire.loadgen.run import Test
from drumfire.loadgen.settings import Mode, Scenario, TestSettings
from drumfire.loadgen.system import Batch
from drumfire.loadgen.traffic import Phase
from drumfire.sut.data import DataError
from drumfire.sut.data.lengths import Lengths
from drumfire.sut.data.library import ArrayLibrary
from drumfire.sut.data.options import InputOptions
from drumfire.sut.data.ragged import OpenSizes, Padding, Ragged, RaggedLibrary
from drumfire.sut.local import backends, loaded
from drumfire.sut.local.backends import BackendError
from drumfire.sut.local.batcher import BatchedSystem
from drumfire.sut.local.batching import batching
from drumfire.sut.local.loaded import Loaded, Source, fit, run_batch
from drumfire.sut.local.rows import BatchRule
from drumfire.sut.local.sorted_rows import SortedRows
from drumfire.sut.models.tensors import Input, Tensors

COUNT = 300
LENGTHS = Lengths(1, 40, 8).draw(COUNT, 1)


def library(rule: str | None = "longest", lengths: npt.NDArray[np.int64] = LENGTHS) -> RaggedLibrary:
    """A sample is its own index, as often as it is long; padded with -1."""

    def read(indices: npt.NDArray[Any]) -> dict[str, Ragged]:
        return {"x": Ragged.of([np.full(lengths[i], i, np.int64) for i in indices])}

    made = RaggedLibrary("numbers", read, len(lengths), len(lengths))
    made.pad({"x": OpenSizes((0,), None if rule is None else -1)}, None if rule is None else Padding.of(rule))
    return made


class Worker:
    """Answers each sample with its index and its length."""

    def __init__(self) -> None:
        self.shapes: list[tuple[int, ...]] = []
        self.before: Callable[[npt.NDArray[Any]], object] = lambda samples: None

    def __call__(self, batch: Batch) -> npt.NDArray[np.int64]:
        samples = batch["x"]
        self.shapes.append(samples.shape)
        self.before(samples)
        return np.stack([samples[:, 0], (samples >= 0).sum(axis=1)], axis=1)


def answered(test: Test, dtype: type = np.int64) -> dict[int, tuple[float, ...]]:
    return {
        row: tuple(np.frombuffer(bytes(response), dtype).tolist())
        for kept in test.answers.kept
        for row, response in zip(kept.rows.tolist(), kept.responses, strict=True)
    }


@pytest.mark.parametrize("scenario", Scenario)
@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("rule", ["longest", "40", "buckets:8,16,40", None])
def test_every_answer_is_its_own_rows(rule: str | None, workers: int, scenario: Scenario) -> None:
    made = [Worker() for _ in range(workers)]
    data = library(rule)
    system = BatchedSystem("ragged", made, data, max_batch_size=4)
    settings = TestSettings(
        scenario=scenario, mode=Mode.AccuracyOnly, min_duration_ms=0, min_query_count=COUNT,
        server_target_qps=20_000.0, multi_stream_samples_per_query=10,
    )  # fmt: skip
    test = Test(system, data, settings)
    asyncio.run(test.run())
    assert test.spoiled() == []
    index = test.record.sample_index[: test.record.issued_rows].tolist()
    assert answered(test) == {row: (i, LENGTHS[i]) for row, i in enumerate(index)}
    shapes = [shape for worker in made for shape in worker.shapes]
    assert max(rows for rows, _ in shapes) <= 4
    columns = test.record.columns
    assert columns["size"].tolist() == LENGTHS[index].tolist()
    # What the columns say is what was computed.
    assert sum(rows * width for rows, width in shapes) == columns["padded_size"].sum()
    assert sum(rows for rows, _ in shapes) == len(index)
    widths = {width for _, width in shapes}
    assert widths <= ({40} if rule == "40" else {8, 16, 40} if rule and "b" in rule else set(range(41)))
    if rule is None:
        assert (columns["padded_size"] == columns["size"]).all()


def test_a_worker_may_use_its_arrays_again_for_the_next_batch_of_a_query() -> None:
    worker, again, data = Worker(), np.empty((4, 2), np.int64), library()

    def work(batch: Batch) -> npt.NDArray[np.int64]:
        answers = worker(batch)
        again[: len(answers)] = answers
        return again[: len(answers)]

    system = BatchedSystem("ragged", [work], data, max_batch_size=4)
    record = Record(10, system.columns)
    record.sample_index[:] = np.arange(10) * 7
    data.load(np.arange(COUNT))

    async def main() -> list[bytes]:
        await system.open(Answers(record, in_turn=True))
        assert system.answer is not None
        return [bytes(one) for one in system.answer(0, 10)]  # type: ignore[union-attr]

    found = np.frombuffer(b"".join(asyncio.run(main())), np.int64).reshape(10, 2)
    assert found.tolist() == [[7 * i, LENGTHS[7 * i]] for i in range(10)]
    assert len(worker.shapes) == 3


def offline(system: BatchedSystem, data: RaggedLibrary, rows: int) -> Test:
    settings = TestSettings(
        scenario=Scenario.Offline, min_duration_ms=0, min_query_count=rows, offline_expected_qps=1.0
    )  # fmt: skip
    test = Test(system, data, settings)
    asyncio.run(test.run())
    return test


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_what_waits_is_sorted_by_size_so_that_little_is_padded(workers: int) -> None:
    padding = {}
    for in_order in (False, True):
        made, data = [Worker() for _ in range(workers)], library()
        system = BatchedSystem("ragged", made, data, max_batch_size=8, in_order=in_order)
        test = offline(system, data, 512)
        assert test.spoiled() == []
        padding[in_order] = batching(test.columns)["sizes"]["padding"]
        shapes = [shape for worker in made for shape in worker.shapes]
        assert [rows for rows, _ in shapes] == [8] * 64  # sorting costs no fuller batch
        widths = sorted(width for _, width in shapes)
        # However many workers there are, all that waits is sorted.
        assert (widths == np.sort(LENGTHS[test.record.sample_index])[7::8].tolist()) is not in_order
    assert padding[False] < 0.05 < 0.4 < padding[True]


def test_rows_stay_taken_under_a_number_until_all_of_them_are_computed() -> None:
    """By it, the rows of a process that is lost are found."""
    data, system = library(), BatchedSystem("ragged", [Worker()], library(), max_batch_size=2)
    data.load(np.arange(COUNT))
    record = Record(12, system.columns)
    record.sample_index[:] = np.arange(12)
    rows = SortedRows(data, Answers(record, in_turn=False), 2, 3, in_order=True)
    taken: list[tuple[int, int]] = []

    def take(worker: int, most: int) -> tuple[int, int] | None:
        first = 4 * len(taken)
        taken.append((worker, first))
        return (first, first + 4) if first < 12 else None

    def of(worker: int) -> list[int]:
        got = rows.next(worker, take)
        assert isinstance(got, np.ndarray)
        return got.tolist()

    assert [of(1), of(0)] == [[0, 1], [2, 3]]
    assert taken == [(1, 0)]
    assert [of(0), of(0)] == [[4, 5], [6, 7]]
    assert taken == [(1, 0), (0, 4)]  # worker 1 still computes what was taken as 1
    assert of(1) == [8, 9]
    assert taken[2] == (1, 8)
    assert of(2) == [10, 11]
    assert rows.next(2, take) is None


def test_the_figures_are_those_of_the_columns() -> None:
    lengths = np.array([4, 1, 2, 3])
    data = library("longest", lengths)
    test = offline(BatchedSystem("ragged", [Worker()], data, max_batch_size=4), data, 4)
    found = batching(test.columns)
    # All four samples are in one batch, padded to 4.
    assert found["sizes"] == {"mean": 2.5, "least": 1, "most": 4, "padding": 1 - 10 / 16}
    assert found["batch_sizes"] == {"4": 1}


@pytest.mark.parametrize("rule", ["longest", "40", None])
@pytest.mark.parametrize("workers", [1, 2])
def test_a_sample_that_comes_alone_needs_no_plan(
    rule: str | None, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Which would take longer than a small model."""
    data = library(rule)
    monkeypatch.setattr(data, "plan", lambda *_, **__: pytest.fail("a plan of one batch of one sample"))
    system = BatchedSystem("ragged", [Worker() for _ in range(workers)], data, max_batch_size=4)
    settings = TestSettings(scenario=Scenario.SingleStream, min_duration_ms=0, min_query_count=COUNT)
    test = Test(system, data, settings)
    asyncio.run(test.run())
    assert test.spoiled() == []
    lengths = LENGTHS[test.record.sample_index[: test.record.issued_rows]]
    columns = test.record.columns
    assert (columns["size"] == lengths).all()
    assert (columns["padded_size"] == (40 if rule == "40" else lengths)).all()
    assert (columns["batch_size"] == 1).all()


class Bench:
    """Rows issued by hand, to one worker."""

    def __init__(self, data: RaggedLibrary, worker: Worker, rows: npt.NDArray[Any]) -> None:
        self.system = BatchedSystem("bench", [worker], data, max_batch_size=2)
        self.record = Record(len(rows), self.system.columns)
        self.record.sample_index[:] = rows
        self.answers = Answers(self.record, in_turn=False)
        self._data = data

    async def run(self, issued: int, answers: int) -> None:
        """Issue so many rows at once, and wait for so many answers."""
        rows = self.record.sample_index
        self._data.load(np.arange(self._data.total_count))
        self.answers.begin(Phase(True, 0, rows, 1, rows, None, 0, None))
        await self.system.open(self.answers)
        self.answers.issued = issued
        self.system.issue(0, issued)
        assert await self.answers.wait(answers, 20.0)


def test_a_batch_that_fails_fails_its_own_rows_alone() -> None:
    worker = Worker()

    def fail(samples: npt.NDArray[Any]) -> None:
        if 7 in samples[:, 0]:
            raise MemoryError("seven")

    worker.before = fail
    bench = Bench(library(lengths=np.arange(40)[::-1] + 1), worker, np.arange(40))

    async def main() -> None:
        await bench.run(40, 40)
        await bench.system.close()

    asyncio.run(main())
    failed = np.flatnonzero(bench.record.status == Status.FAILED)
    assert 7 in failed
    assert failed.size == bench.record.columns["batch_size"][7] <= 2
    assert bench.answers.faults.failed == {"MemoryError: seven": failed.size}
    assert (bench.record.status[np.setdiff1d(np.arange(40), failed)] == Status.OK).all()


@pytest.mark.parametrize("rule", ["longest", "40"])
def test_of_a_batch_only_samples_whose_values_are_refused_fail(rule: str) -> None:
    worker = Worker()

    def fail(samples: npt.NDArray[Any]) -> None:
        if 7 in samples[:, 0]:
            raise ArithmeticError("seven")

    worker.before = fail
    bench = Bench(library(rule, np.arange(40)[::-1] + 1), worker, np.arange(40))

    async def main() -> None:
        await bench.run(40, 40)
        await bench.system.close()

    asyncio.run(main())
    columns = bench.record.columns
    assert np.flatnonzero(bench.record.status == Status.FAILED).tolist() == [7]
    assert bench.answers.faults.failed == {"ArithmeticError: seven": 1}
    assert sorted(np.flatnonzero(columns["batch_size"] == 1).tolist()) == [6, 7]  # of neighbouring sizes
    assert columns["padded_size"][6:8].tolist() == ([34, 33] if rule == "longest" else [40, 40])
    assert sorted(row for kept in bench.answers.kept for row in kept.rows.tolist()) == [*range(7), *range(8, 40)]


def test_samples_that_are_not_loaded_fail_and_the_run_continues() -> None:
    data = library()
    bench = Bench(data, Worker(), np.array([0, 1, 2, 3]))

    async def main() -> None:
        await bench.run(4, 4)
        bench.record.status[:] = Status.PENDING
        data.unload(np.array([2]))
        bench.system.issue(0, 4)
        assert await bench.answers.wait(8, 20.0)
        await bench.system.close()

    asyncio.run(main())
    (message,) = bench.answers.faults.failed
    assert "sample 2 is not loaded" in message


def test_a_run_that_has_given_up_its_rows_is_not_computed_to_the_end() -> None:
    """Many batches that were taken together may last for long."""
    worker, reached, go = Worker(), threading.Event(), threading.Event()
    bench = Bench(library(), worker, np.arange(257))

    def wait(samples: npt.NDArray[Any]) -> None:
        reached.set()
        assert go.wait(20.0)

    worker.before = wait

    async def main() -> None:
        await bench.run(256, 0)
        assert await asyncio.to_thread(reached.wait, 20.0)
        bench.answers.give_up()
        bench.answers.issued = 257
        bench.system.issue(256, 257)
        go.set()
        assert await bench.answers.wait(257, 20.0)
        await bench.system.close()

    asyncio.run(main())
    assert len(worker.shapes) == 2  # the batch under way and the row after, not the others of its window
    assert bench.answers.faults.refused.total() <= 1


@pytest.mark.parametrize(
    ("waiting", "workers", "rows"),
    # In order, a worker takes a quarter of its share.  To sort it, all.
    [(32, 1, 32), (35, 1, 32), (32, 2, 16), (3, 1, 3), (4, 1, 4), (4000, 1, 64)],
)
def test_a_worker_takes_more_of_what_waits_to_sort_it(waiting: int, workers: int, rows: int) -> None:
    assert BatchRule(4, sorts=True).run(waiting, workers, 16) == rows
    assert BatchRule(4).run(32, workers, 16) == 8 // workers


@pytest.mark.parametrize(
    ("waiting", "workers", "rows"),
    [
        (40, 1, 40),
        (33, 1, 33),
        (32, 1, 32),
        (3, 1, 3),
        (2048, 1, 512),
        (40, 2, 32),
        (300, 2, 160),
        (96, 2, 64),
        (5, 2, 5),
    ],
)
def test_where_no_row_follows_the_last_ones_are_sorted_too(waiting: int, workers: int, rows: int) -> None:
    assert BatchRule(32, sorts=True).run(waiting, workers, 16, last=True) == rows
    assert BatchRule(32).run(waiting, workers, 16, last=True) == BatchRule(32).run(waiting, workers, 16)


def test_the_rest_beyond_full_batches_is_sorted_with_them() -> None:
    data = library("longest", np.arange(40)[::-1] + 1)
    worker = Worker()
    system = BatchedSystem("ragged", [worker], data, max_batch_size=32)
    offline(system, data, 40)
    assert worker.shapes == [(32, 32), (8, 40)]


def test_the_result_has_sizes_elements_a_second_and_padding(tmp_path: Path) -> None:
    data = library("longest", np.array([4, 1, 2, 3]))
    test = offline(BatchedSystem("ragged", [Worker()], data, max_batch_size=4), data, 4)
    saved = drumfire.save(test, tmp_path / "run")
    delivered = saved.result["delivered"]
    assert saved.result["system"]["sizes"] == {"mean": 2.5, "least": 1, "most": 4, "padding": 0.375}
    assert delivered["elements_per_second"] == pytest.approx(2.5 * delivered["samples_per_second"])
    assert sorted(saved.columns["size"].tolist()) == [1, 2, 3, 4]
    assert saved.columns["padded_size"].tolist() == [4] * 4
    words = r"[0-9,.]+ elements a second; 38% of what was computed is padding".replace(" ", r"\s+")
    sizes = rf"\nsizes +1 to 4 elements, mean 2\.50; {words}"
    assert re.search(sizes, saved.report)


class Texts:
    """A model of texts of different lengths; its answer is a mean over the tokens, so padding without a mask shows."""

    name = "texts"
    reservations = ()

    def __init__(self, padding: int | None) -> None:
        self.tensors = Tensors((Input("ids", (None,), np.dtype(np.int32), dims=("sequence",), padding=padding),))

    def library(self, *_: Any) -> RaggedLibrary:
        def read(indices: npt.NDArray[Any]) -> dict[str, Ragged]:
            return {"ids": Ragged.of([np.full(LENGTHS[i], i % 100, np.int32) for i in indices])}

        return RaggedLibrary("texts", read, COUNT, COUNT)

    def respond(self, outputs: Sequence[npt.NDArray[Any]]) -> npt.NDArray[Any]:
        return outputs[0]


def source(**values: Any) -> Source:
    file = Path(__file__).parents[2] / "data" / "onnx" / "text_length.onnx"
    options = backends.kinds()["onnxruntime"](max_batch_size=4)
    return Source("onnxruntime", "texts", file, "cpu", 1, options, 0.0, None, None, None, **values)


@pytest.mark.extra
@pytest.mark.parametrize(
    ("padding", "rule", "same"), [(None, None, True), (0, None, False), (None, "longest", False), (0, "40", False)]
)
def test_a_file_gets_padded_batches_or_such_of_equal_sizes(
    padding: int | None, rule: str | None, same: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")
    monkeypatch.setattr(loaded, "named", lambda name: Texts(padding))
    made = Loaded(source(padding=None if rule is None else Padding.of(rule)))
    assert len(made.times(4, 0.0, 1)) == 1  # on samples of several lengths
    settings = TestSettings(
        scenario=Scenario.Offline, mode=Mode.AccuracyOnly, min_duration_ms=0, offline_expected_qps=1.0
    )
    test = Test(made.system, made.library, settings)
    asyncio.run(test.run())
    assert test.spoiled() == []
    answers = answered(test, np.float32)
    alone = Loaded(source())
    alone.library.load(np.arange(COUNT))
    run = run_batch(alone._instances[0], Texts(None))
    index = test.record.sample_index.tolist()
    equal = [
        np.allclose(answers[row], np.asarray(run(alone.library.batch(np.array([i]))))[0]) for row, i in enumerate(index)
    ]
    assert all(equal) is same
    made.close()
    alone.close()


def of_tokens(rule: str | None, **values: Any) -> tuple[Loaded, dict[int, bytes]]:
    """A file with an answer for each token and one for each text, and the answers by sample."""
    file = Path(__file__).parents[2] / "data" / "onnx" / "masked_text.onnx"
    options = backends.kinds()["onnxruntime"](max_batch_size=4, instances=values.pop("instances", 1))
    made = Loaded(
        Source(
            "onnxruntime", str(file), file, "cpu", 1, options, 0.0, None, 40, None,
            padding=None if rule is None else Padding.of(rule), inputs=InputOptions(dim=("sequence=1..40",)), **values,
        )
    )  # fmt: skip
    settings = TestSettings(
        scenario=Scenario.Offline, mode=Mode.AccuracyOnly, min_duration_ms=0, offline_expected_qps=1.0
    )
    test = Test(made.system, made.library, settings)
    asyncio.run(test.run())
    assert test.spoiled() == []
    made.close()
    index = test.record.sample_index
    found = {
        int(index[row]): bytes(response)
        for kept in test.answers.kept
        for row, response in zip(kept.rows.tolist(), kept.responses, strict=True)
    }
    sizes = dict(zip(index.tolist(), test.record.columns["size"].tolist(), strict=True))
    assert len(set(sizes.values())) > 10
    if not values:
        assert {at: len(answer) for at, answer in found.items()} == {at: 32 * n + 8 for at, n in sizes.items()}
    return made, found


@pytest.mark.parametrize("instances", [1, 2])
@pytest.mark.parametrize("rule", ["longest", "40", "buckets:8,16,40"])
def test_answers_for_each_token_end_with_their_own_text(rule: str, instances: int) -> None:
    pytest.importorskip("onnxruntime")
    _, alone = of_tokens(None)
    made, padded = of_tokens(rule, instances=instances)
    assert padded == alone
    assert not any("padding" in text for text in made.facts()["reservations"])


def test_a_metric_gets_the_answers_for_a_text_s_own_tokens() -> None:
    pytest.importorskip("onnxruntime")
    _, alone = of_tokens(None, metric="exact:hidden")
    _, padded = of_tokens("longest", metric="exact:hidden")
    assert padded == alone
    assert len({len(answer) for answer in padded.values()}) > 10


def test_a_file_of_one_size_takes_data_that_is_padded_to_it() -> None:
    model, backend = Texts(0), SimpleNamespace(tensors=Tensors((Input("ids", (64,), np.dtype(np.int32)),)))
    with pytest.raises(BackendError, match=r"takes int32 of shape \[64\], and texts's data is .*\[sequence\].*--pad N"):
        fit(model.library(), backend, model)
    with pytest.raises(BackendError, match=r"\[64\], and texts's data is .*\[50\].*--pad N"):
        fit(model.library(), backend, model, Padding((50,)))
    data = fit(model.library(), backend, model, Padding((64,)))
    data.load(np.arange(3))
    assert data.batch(np.arange(3))["ids"].shape == (3, 64)


@pytest.mark.parametrize(("values", "option"), [({"padding": Padding()}, "--pad"), ({"in_order": True}, "--no-sort")])
def test_options_of_sizes_are_refused_where_all_samples_have_one(
    values: dict[str, Any], option: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("onnxruntime")
    model = Texts(None)
    model.library = lambda *_: ArrayLibrary("equal", lambda indices: np.ones((len(indices), 5), np.int32), 9, 9)  # type: ignore[assignment]
    monkeypatch.setattr(loaded, "named", lambda name: model)
    with pytest.raises(DataError, match=f"^{option} is for samples of different sizes, and equal has one size"):
        Loaded(source(**values))
