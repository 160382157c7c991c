"""PyTorch's way on a GPU, on a stand-in for one that does all work as late and in any order as streams allow.

What only a GPU can show is marked ``gpu``.
"""

from __future__ import annotations

import asyncio
import itertools
import threading
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from drumfire.loadgen.record import Status
from drumfire.loadgen.run import Test
from drumfire.loadgen.settings import Mode, Scenario, TestSettings
from drumfire.loadgen.system import Batch
from drumfire.sut.data.options import InputOptions
from drumfire.sut.data.ragged import Padding
from drumfire.sut.local import backends
from drumfire.sut.local.backends import Backend, BackendError, HasLanes, RunsSeveral, interface
from drumfire.sut.local.backends.arranged import arranged, with_outputs
from drumfire.sut.local.loaded import Loaded, LoadedElsewhere, Source

torch = pytest.importorskip("torch")

from drumfire.sut.local.backends import torch_gpu  # noqa: E402
from drumfire.sut.local.backends.pytorch import PyTorchOptions  # noqa: E402
from drumfire.sut.serving import model as serving  # noqa: E402
from drumfire.sut.serving.request import Request  # noqa: E402
from drumfire.sut.serving.scheduler import Scheduler  # noqa: E402
from tests.support.plain_device import PlainDevice  # noqa: E402
from tests.support.serving_fakes import Handed, Loop  # noqa: E402

DRAWS = np.random.default_rng(5)


class Two(torch.nn.Module):
    """Of an image and a vector.  Exact: sums of few small integers."""

    def forward(self, picture: Any, vector: Any) -> Any:
        return picture.sum((2, 3)) + vector, {"twice": picture * 2}["twice"]


class Words(torch.nn.Module):
    """Of tokens, of which a text has any number."""

    def __init__(self) -> None:
        super().__init__()
        self.table = torch.nn.Embedding(50, 4)
        self.table.weight.data = torch.arange(200.0).reshape(50, 4)

    def forward(self, ids: Any, mask: Any) -> Any:
        return (self.table(ids) * mask[:, :, None]).sum(1)


@pytest.fixture(scope="module")
def programs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, size = tmp_path_factory.mktemp("programs"), torch.export.Dim("N", max=1000)
    length = torch.export.Dim("T", max=1000)
    zeros = torch.zeros

    def save(name: str, network: Any, inputs: tuple[Any, ...], sizes: Any) -> None:
        torch.export.save(torch.export.export(network.eval(), inputs, dynamic_shapes=sizes), folder / f"{name}.pt2")

    save("two", Two(), (zeros(2, 3, 4, 5), zeros(2, 3)), ({0: size}, {0: size}))
    ids = zeros(2, 6, dtype=torch.int64)
    save("words", Words(), (ids, ids), ({0: size, 1: length}, {0: size, 1: length}))

    class Late(torch.nn.Module):
        """The batch comes second, in a state, and an input has none."""

        def forward(self, x: Any, state: Any, factor: Any) -> Any:
            return x * factor, state + x[None]

    save("late", Late(), (zeros(2, 4), zeros(3, 2, 4), zeros(())), ({0: size}, {1: size}, {}))

    class Half(torch.nn.Module):
        def forward(self, x: Any) -> Any:
            return x * 2

    save("half", Half(), (zeros(2, 4, dtype=torch.bfloat16),), ({0: size},))
    return folder


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> list[PlainDevice]:
    """The stand-ins that are made."""
    made: list[PlainDevice] = []

    class Kept(PlainDevice):
        def __init__(self, *, spins: bool) -> None:
            super().__init__(spins=spins)
            made.append(self)

    monkeypatch.setattr(torch_gpu, "Device", Kept)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    return made


def loaded(path: Path, device: str = "gpu", **options: Any) -> Any:
    return backends.load("pytorch", path, device, 1, PyTorchOptions(**{"max_batch_size": 8} | options))


def numbers(backend: Backend, count: int, size: int = 6) -> Batch:
    """Small integers for each input, by the backend's names."""
    shapes = {one: tuple(size if each is None else each for each in one.sample_shape) for one in backend.tensors.inputs}
    return {one.name: DRAWS.integers(0, 9, (count, *shape)).astype(one.dtype) for one, shape in shapes.items()}


def same(given: Any, expected: Any) -> None:
    assert len(given) == len(expected)
    for one, other in zip(given, expected, strict=True):
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one, other)


def test_every_size_of_a_batch_gives_what_the_cpu_gives(programs: Path, device: list[PlainDevice]) -> None:
    gpu, cpu = loaded(programs / "two.pt2"), loaded(programs / "two.pt2", "cpu")
    assert isinstance(gpu, HasLanes)
    assert isinstance(gpu, RunsSeveral)
    assert gpu.description.endswith(
        "fp32, channels last, eager, plain memory, CUDA graphs, batches filled up to 1, 2, 3, 4, 6, 8"
    )
    assert gpu.tensors == cpu.tensors
    for lane in backends.lanes(gpu):
        for count in (8, 1, 5, 2, 7, 3, 5):
            batch = numbers(cpu, count)
            same(lane.run(batch), cpu.run(batch))
    with pytest.raises(ValueError, match="a batch of 9 samples"):
        gpu.run(numbers(cpu, 9))


def test_samples_are_gathered_where_the_gpu_reads_them(programs: Path, device: list[PlainDevice]) -> None:
    gpu, cpu = loaded(programs / "two.pt2"), loaded(programs / "two.pt2", "cpu")
    first, second = backends.lanes(gpu)
    for count in (3, 8, 3):
        batch = numbers(cpu, count)
        room = first.room(count)  # type: ignore[attr-defined]
        for name, samples in batch.items():
            room[name][:] = samples
        other = second.run(numbers(cpu, count))  # in memory of its own
        assert first.room(count) is room  # type: ignore[attr-defined]
        same(first.run(room), cpu.run(batch))
        assert len(other) == 2
        batch["vector"] += 1
        same(first.run(room | {"vector": batch["vector"]}), cpu.run(batch))  # one that lies elsewhere


def test_answers_stay_when_the_memory_is_used_again(programs: Path, device: list[PlainDevice]) -> None:
    gpu, cpu = loaded(programs / "two.pt2"), loaded(programs / "two.pt2", "cpu")
    batches = [numbers(cpu, 4) for _ in range(5)]
    for given, batch in zip([gpu.run(batch) for batch in batches], batches, strict=True):
        same(given, cpu.run(batch))


@pytest.mark.parametrize("seed", range(4))
def test_several_batches_overlap(
    seed: int, programs: Path, device: list[PlainDevice], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PlainDevice, "seed", seed)
    gpu, cpu = loaded(programs / "two.pt2"), loaded(programs / "two.pt2", "cpu")
    for number in (2, 7, 1):
        batch = numbers(cpu, 4 * number)
        parts = [{name: one[at : at + 4] for name, one in batch.items()} for at in range(0, 4 * number, 4)]
        for given in (batch, _put(gpu.room(4, number), batch)):
            before = device[-1].computed
            found = gpu.several(given, 4, number)
            for at, part in enumerate(parts):
                same(next(found), cpu.run(part))
                assert device[-1].computed - before == min(at + 3, number), "so many are under way ahead"
    abandoned = gpu.several(numbers(cpu, 12), 4, 3)
    next(abandoned)
    assert not device[-1].is_idle
    abandoned.close()
    assert device[-1].is_idle
    same(gpu.run(parts[0]), cpu.run(parts[0]))


def _put(room: Batch, batch: Batch) -> Batch:
    for name, samples in batch.items():
        room[name][:] = samples
    return room


@pytest.mark.parametrize("seed", range(6))
@pytest.mark.parametrize("eager", [0.0, 0.7])
def test_two_threads_share_graphs_and_nothing_else(
    seed: int, eager: float, programs: Path, device: list[PlainDevice], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(PlainDevice, "seed", seed)
    monkeypatch.setattr(PlainDevice, "eager", eager)
    gpu, cpu = loaded(programs / "two.pt2"), loaded(programs / "two.pt2", "cpu")
    wrong: list[BaseException] = []

    def work(lane: Any, draws: np.random.Generator) -> None:
        try:
            for count in draws.integers(1, 9, 25).tolist():
                batch = {one.name: draws.integers(0, 9, (count, *one.sample_shape)).astype(one.dtype)
                         for one in cpu.tensors.inputs}  # fmt: skip
                same(lane.run(_put(lane.room(count), batch)), cpu.run(batch))
        except BaseException as error:
            wrong.append(error)

    threads = [
        threading.Thread(target=work, args=(lane, np.random.default_rng((seed, at))))
        for at, lane in enumerate(backends.lanes(gpu))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert wrong == []


def test_a_batch_that_fails_on_the_gpu_fails_alone(programs: Path, device: list[PlainDevice]) -> None:
    gpu, cpu = loaded(programs / "two.pt2"), loaded(programs / "two.pt2", "cpu")
    batch = numbers(cpu, 12)
    parts = [{name: one[at : at + 4] for name, one in batch.items()} for at in (0, 4, 8)]
    (stand_in,) = device
    broken = stand_in.computed + 1

    def fault(number: int) -> None:
        if number == broken:
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    stand_in.fault = fault
    same(gpu.run(parts[0]), cpu.run(parts[0]))
    with pytest.raises(RuntimeError, match="illegal memory access"):
        gpu.run(parts[1])
    same(gpu.run(parts[2]), cpu.run(parts[2]))
    broken = stand_in.computed + 1
    found = gpu.several(batch, 4, 3)
    same(next(found), cpu.run(parts[0]))
    with pytest.raises(RuntimeError, match="illegal memory access"):
        next(found)
    same(gpu.run(parts[2]), cpu.run(parts[2]))  # whose memory nothing reads or writes any more


def test_a_batch_that_cannot_be_given_to_the_gpu(programs: Path, device: list[PlainDevice]) -> None:
    gpu, cpu = loaded(programs / "two.pt2"), loaded(programs / "two.pt2", "cpu")
    batch = numbers(cpu, 2)
    picture, vector = batch["picture"], batch["vector"]
    for wrong, error in (
        ({"picture": picture[:, :2], "vector": vector}, ValueError),
        ({"picture": picture, "vector": vector[:1]}, ValueError),
        ({"picture": picture, "vector": vector.astype(np.float64)}, TypeError),
        ({"picture": picture}, KeyError),
    ):
        with pytest.raises(error):
            gpu.run(wrong)
    same(gpu.run(batch), cpu.run(batch))


def test_samples_of_any_size_run_without_graphs(programs: Path, device: list[PlainDevice]) -> None:
    gpu, cpu = loaded(programs / "words.pt2"), loaded(programs / "words.pt2", "cpu")
    assert gpu.description.endswith(
        "plain memory, without CUDA graphs, as samples may have any size (--pad N has them)"
    )
    assert gpu.room(4) is None
    assert gpu.several(numbers(cpu, 4), 2, 2) is None
    for count, size in ((2, 3), (8, 17), (1, 40), (5, 3), (9, 3)):
        batch = numbers(cpu, count, size)
        same(gpu.run(batch), cpu.run(batch))


def test_sizes_that_samples_are_padded_to_have_graphs(programs: Path, device: list[PlainDevice]) -> None:
    gpu = loaded(programs / "words.pt2", padded_sizes=(8, 16), max_batch_size=4)
    cpu = loaded(programs / "words.pt2", "cpu")
    assert gpu.description.endswith("CUDA graphs, batches filled up to 1, 2, 4, samples filled up to 8, 16")
    for count, size in ((2, 8), (4, 16), (3, 16), (1, 8), (2, 11), (3, 8)):  # 11: of a library that has its own rule
        batch = numbers(cpu, count, size)
        same(gpu.run(batch), cpu.run(batch))
    one = loaded(programs / "words.pt2", padded_sizes=(8,), max_batch_size=4)
    assert "batches filled up to 1, 2, 3, 4, samples filled up to 8" in one.description


def test_a_batch_elsewhere_or_nowhere(programs: Path, device: list[PlainDevice]) -> None:
    found = [loaded(programs / "late.pt2", kind) for kind in ("gpu", "cpu")]
    gpu, cpu = (arranged(one, with_outputs(one, one.tensors)) for one in found)
    assert [lane.tensors.output_axes for lane in backends.lanes(gpu)] == [(0, 1), (0, 1)]
    for count in (5, 8, 1):
        batch = numbers(cpu, count)
        for lane in backends.lanes(gpu):
            same(lane.run(batch), cpu.run(batch))


def test_an_image_whose_batch_is_elsewhere_is_none(programs: Path, tmp_path: Path) -> None:
    """A tensor of (channels, batch, height, width), and one image for a whole batch."""

    class Network(torch.nn.Module):
        def forward(self, x: Any, pictures: Any, one: Any) -> Any:
            return x + pictures.sum((0, 2, 3))[:, None] + one.sum()

    size = torch.export.Dim("N", max=100)
    inputs = (torch.zeros(2, 4), torch.zeros(3, 2, 5, 6), torch.zeros(3, 5, 6))
    program = torch.export.export(Network(), inputs, dynamic_shapes=({0: size}, {1: size}, {}))
    torch.export.save(program, tmp_path / "late.pt2")
    backend = arranged(loaded(tmp_path / "late.pt2", "cpu"))
    batch = numbers(backend, 2)
    (found,) = backend.run(batch)
    expected = batch["x"] + batch["pictures"].sum((1, 2, 3))[:, None] + batch["one"][0].sum()
    np.testing.assert_array_equal(found, expected)


def test_bfloat16_is_taken_as_its_bits(programs: Path, device: list[PlainDevice]) -> None:
    gpu, cpu = loaded(programs / "half.pt2"), loaded(programs / "half.pt2", "cpu")
    bits = np.array([[0x3FC0, 0xC000, 0, 0x4120]], np.uint16)
    same(gpu.run({"x": bits}), cpu.run({"x": bits}))


@pytest.mark.parametrize("precision", ["tf32", "fp32"])
def test_precisions_of_the_gpu_are_told_to_all_of_torch(
    precision: str, programs: Path, device: list[PlainDevice]
) -> None:
    gpu = loaded(programs / "two.pt2", precision=precision)
    assert precision in gpu.description
    assert torch.backends.cudnn.allow_tf32 == torch.backends.cuda.matmul.allow_tf32 == (precision == "tf32")
    assert ("tf32" in (torch.backends.cudnn.conv.fp32_precision, torch.backends.cudnn.rnn.fp32_precision)) == (
        precision == "tf32"
    )
    torch.export.export(torch.nn.ReLU(), (torch.zeros(2),))  # which failed where these differed


@pytest.mark.parametrize(("instances", "cores", "spins"), [(1, 3, True), (1, 2, False), (4, 9, True), (4, 8, False)])
def test_threads_that_wait_for_the_gpu_keep_a_core_only_where_there_is_one(
    instances: int, cores: int, spins: bool, programs: Path, device: list[PlainDevice], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch_gpu, "usable_cores", lambda: cores)
    loaded(programs / "half.pt2", instances=instances)
    assert device[-1].spins == spins


@pytest.mark.parametrize(("kind", "workers"), [("gpu", 6), ("cpu", 3)])
def test_a_process_has_a_place_for_each_thread(
    kind: str, workers: int, programs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def own(*_: object, **options: Any) -> Any:
        assert options["workers"] == workers
        return SimpleNamespace(library=None)

    monkeypatch.setattr("drumfire.sut.local.loaded.OwnProcess", own)
    program = programs / "two.pt2"
    LoadedElsewhere(
        Source("pytorch", str(program), program, kind, 1, PyTorchOptions(instances=3), 0.0, None, None, None), []
    )


def test_a_network_that_cannot_be_recorded(
    programs: Path, device: list[PlainDevice], monkeypatch: pytest.MonkeyPatch
) -> None:
    def graph(*_: Any) -> Any:
        raise RuntimeError("operation not permitted when stream is capturing\nand advice")

    monkeypatch.setattr(PlainDevice, "graph", graph)
    with pytest.raises(BackendError, match=r"^torch cannot make a CUDA graph of the model: operation .* capturing$"):
        loaded(programs / "two.pt2")


# Whole runs.


def ran(program: Path, device: str, scenario: Scenario, mode: Mode, **options: Any) -> tuple[Test, dict[int, bytes]]:
    """A run, and the answer of each row that was kept."""
    padding = options.pop("padding", None)
    own = PyTorchOptions(**{"max_batch_size": 4} | options)
    inputs = InputOptions()
    if program.stem == "words":
        (length,) = interface.of_program(program)[1].inputs[0].dims
        inputs = InputOptions(dim=[f"{length}=3..9"])
    source = Source(
        "pytorch", str(program), program, device, 1, own, 0.0, None, None, None, padding=padding, inputs=inputs
    )  # fmt: skip
    made = Loaded(source)
    settings = TestSettings(
        scenario=scenario, mode=mode, min_duration_ms=0, min_query_count=60, server_target_qps=4000.0,
        multi_stream_samples_per_query=6, performance_issue_unique=False,
    )  # fmt: skip
    test = Test(made.system, made.library, settings, patience_s=5)
    asyncio.run(test.run())
    made.close()
    kept = {
        row: bytes(response)
        for batch in test.answers.kept
        for row, response in zip(batch.rows.tolist(), batch.responses, strict=True)
    }
    return test, kept


RUNS: dict[str, dict[str, Any]] = {"two": {}, "late": {}, "words": {}, "words, padded": {"padding": Padding((4, 9))}}


def _case(name: str, scenario: Scenario, instances: int) -> Any:
    """The default run has each program and each scenario once."""
    quick = instances == 1 and (name, scenario) in zip(RUNS, Scenario, strict=True)
    return pytest.param(name, scenario, instances, marks=() if quick else pytest.mark.slow)


@pytest.mark.parametrize(
    ("name", "scenario", "instances"), [_case(*one) for one in itertools.product(RUNS, Scenario, (1, 2))]
)
def test_a_run_answers_as_on_the_cpu(
    name: str, scenario: Scenario, instances: int, programs: Path, device: list[PlainDevice]
) -> None:
    program, options = programs / f"{name.partition(',')[0]}.pt2", RUNS[name]
    expected, answers = ran(program, "cpu", scenario, Mode.AccuracyOnly, **options)
    test, found = ran(program, "gpu", scenario, Mode.AccuracyOnly, instances=instances, **options)
    assert expected.spoiled() == test.spoiled() == []
    assert len(found) == test.record.issued_rows
    assert found == answers
    timed, _ = ran(program, "gpu", scenario, Mode.PerformanceOnly, instances=instances, **options)
    assert timed.spoiled() == []
    assert all(one.is_idle for one in device)


def test_a_fault_of_the_gpu_in_a_run_fails_a_batch(
    programs: Path, device: list[PlainDevice], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fault(self: PlainDevice, number: int) -> None:
        if number == 9:
            raise RuntimeError("CUDA error")

    monkeypatch.setattr(PlainDevice, "fault", fault)
    for mode in (Mode.PerformanceOnly, Mode.AccuracyOnly):
        test, _ = ran(programs / "two.pt2", "gpu", Scenario.Offline, mode)
        assert sum(test.answers.faults.failed.values()) == 4
        assert test.answers.faults.unanswered == 0
        assert np.count_nonzero(test.record.status == Status.FAILED) == 4


@pytest.mark.parametrize("name", ["two", "late", "words"])
def test_a_server_answers_as_on_the_cpu(name: str, programs: Path, device: list[PlainDevice]) -> None:
    program = programs / f"{name}.pt2"
    cpu = loaded(program, "cpu")
    cpu = arranged(cpu, with_outputs(cpu, cpu.tensors.with_open_sizes(5)))
    found = serving.load(
        serving.Source(name, "1", program, None), "pytorch", "gpu", threads=1,
        options=PyTorchOptions(max_batch_size=4), batching=serving.Batching(4),
    )  # fmt: skip
    assert not found.inline
    handed = Handed()
    scheduler = Scheduler(found, handed, Loop(), most_requests=1000, most_bytes=1 << 30)
    scheduler.start()
    batches = [numbers(cpu, 1 + at % 3, 3 + at % 2) for at in range(60)]
    if name == "late":
        for batch in batches:
            batch["factor"][:] = 3
    requests = []
    for batch in batches:
        arrays = [batch[one.name] for one in found.takes]
        shown = [
            np.moveaxis(array, -1, 1) if one.channels_moved else array
            for array, one in zip(arrays, found.takes, strict=True)
        ]
        shapes = tuple(one.shape[1:] for one in shown)
        requests.append(Request(tuple(one.tobytes() for one in shown), len(shown[0]), shapes, 0, size=9))
        scheduler.submit(requests[-1])
    handed.wait(len(requests))
    scheduler.close()
    assert scheduler.join(20)
    for batch, request in zip(batches, requests, strict=True):
        assert request.refusal is None
        for expected, contents in zip(cpu.run(batch), request.contents, strict=True):
            assert bytes(contents) == expected.tobytes()
    assert device[-1].is_idle


@pytest.fixture
def real_gpu() -> Iterator[None]:
    if not torch.cuda.is_available():
        pytest.skip("no GPU")
    yield
    torch.cuda.synchronize()


@pytest.mark.gpu
@pytest.mark.usefixtures("real_gpu")
@pytest.mark.parametrize(
    ("name", "options"), [("two", {}), ("half", {}), ("words", {}), ("words", {"padded_sizes": (8,)})]
)
def test_a_real_gpu_gives_what_the_cpu_gives(name: str, options: dict[str, Any], programs: Path) -> None:
    gpu, cpu = loaded(programs / f"{name}.pt2", **options), loaded(programs / f"{name}.pt2", "cpu")
    assert ("without" in gpu.description) == (name == "words" and not options)
    wrong: list[BaseException] = []

    def work(lane: Any) -> None:
        try:
            for count in (8, 1, 5, 3) * 10:
                batch = numbers(cpu, count, 8)
                same(lane.run(batch), cpu.run(batch))
        except BaseException as error:
            wrong.append(error)

    threads = [threading.Thread(target=work, args=(lane,)) for lane in backends.lanes(gpu)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert wrong == []


@pytest.mark.gpu
@pytest.mark.usefixtures("real_gpu")
def test_a_real_gpu_reads_pinned_memory(programs: Path) -> None:
    gpu, cpu = loaded(programs / "two.pt2"), loaded(programs / "two.pt2", "cpu")
    batch = numbers(cpu, 8)
    room = _put(gpu.room(8), batch)
    assert all(torch.from_numpy(samples).is_pinned() for samples in room.values())
    given = gpu.run(room)
    assert all(torch.from_numpy(output).is_pinned() for output in given)
    same(given, cpu.run(batch))
    several = [[one.copy() for one in outputs] for outputs in gpu.several(_put(gpu.room(4, 2), batch), 4, 2)]
    same([np.concatenate(pair) for pair in zip(*several, strict=True)], cpu.run(batch))
