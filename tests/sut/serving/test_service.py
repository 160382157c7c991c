"""What the service takes, refuses and tells, without a byte of any protocol."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from drumfire.sut.kserve.grpc.framing import Status
from drumfire.sut.kserve.messages import operations
from drumfire.sut.kserve.messages.exchange import Region
from drumfire.sut.kserve.messages.inference import InferAnswer, InferRequest, RequestedOutput, RequestInput
from drumfire.sut.kserve.messages.operations import Operation
from drumfire.sut.serving.refusal import HTTP_STATUS, Refusal
from drumfire.sut.serving.service import Accepted, Service, now_ns
from drumfire.sut.serving.shared_memory import SystemRegions
from tests.support.serving_fakes import Doubler, served

X = np.array([[1, 2], [3, 4]], np.float32)


class Peer:
    """A connection that keeps what it is told."""

    def __init__(self) -> None:
        self.answered: list[tuple[object, InferAnswer | Refusal]] = []
        self.flushes = 0

    def answer(self, ticket: object, answer: InferAnswer) -> None:
        self.answered.append((ticket, answer))

    def refuse(self, ticket: object, refusal: Refusal) -> None:
        self.answered.append((ticket, refusal))

    @property
    def last(self) -> InferAnswer:
        """The last answer."""
        _, answer = self.answered[-1]
        assert isinstance(answer, InferAnswer)
        return answer

    def flush(self) -> None:
        self.flushes += 1


class Bench:
    def __init__(self, **options: Any) -> None:
        self.loop = asyncio.new_event_loop()
        self.peer = Peer()
        models = [
            served(Doubler(), inline=True),
            served(Doubler(), inline=True, version="10"),
            served(Doubler((None,)), inline=True, name="open", shape=(-1,)),
        ]
        self.service = Service(models, self.loop, **({"most_requests": 9, "most_bytes": 1 << 20} | options))

    def take(self, asked: InferRequest, **options: Any) -> Accepted:
        return self.service.take(asked, self.peer, "ticket", now_ns(), **options)

    def turn(self) -> None:
        self.loop.run_until_complete(asyncio.sleep(0))

    def refused(self, asked: InferRequest, status: Status, *words: str) -> None:
        with pytest.raises(Refusal) as error:
            self.take(asked)
        assert error.value.status is status
        for word in words:
            assert word in error.value.text
        assert "\n" not in error.value.text
        assert self.service.open_requests == 0


@pytest.fixture
def bench() -> Iterator[Bench]:
    made = Bench()
    yield made
    made.loop.close()


def ask(data: Any = None, **changes: Any) -> InferRequest:
    given = {"name": "x", "datatype": "FP32", "shape": X.shape, "data": X.tobytes() if data is None else data}
    given |= {name: changes.pop(name) for name in list(changes) if name in given and name != "name"}
    given["name"] = changes.pop("input", "x")
    return InferRequest("double", "", "7", {}, (RequestInput(**given),), ())._replace(**changes)


def test_an_answer_has_all_outputs_of_the_newest_version(bench: Bench) -> None:
    bench.take(ask())
    assert bench.service.open_requests == 1
    bench.turn()
    ((ticket, answer),) = bench.peer.answered
    assert ticket == "ticket"
    assert answer is bench.peer.last
    assert bench.peer.flushes == 1
    assert (answer.model, answer.version, answer.id) == ("double", "10", "7")
    assert [(one.name, one.datatype, one.shape) for one in answer.outputs] == [
        ("twice", "FP32", (2, 2)), ("minus", "FP32", (2, 2)),
    ]  # fmt: skip
    assert bytes(answer.outputs[0].data or b"") == (2 * X).tobytes()
    assert bench.service.open_requests == 0


def test_a_version_can_be_named(bench: Bench) -> None:
    bench.take(ask(version="1"))
    bench.turn()
    assert bench.peer.last.version == "1"


def test_several_requests_of_a_peer_are_told_at_once(bench: Bench) -> None:
    for _ in range(2):
        bench.take(ask())
    bench.turn()
    assert (len(bench.peer.answered), bench.peer.flushes) == (2, 1)


@pytest.mark.parametrize("names", [["minus"], ["minus", "twice"], ["twice", "minus"]])
def test_outputs_are_those_asked_for_in_that_order(bench: Bench, names: list[str]) -> None:
    asked = ask(outputs=tuple(RequestedOutput(name) for name in names))
    for _ in range(2):  # a request like the last one is not looked at again
        bench.take(asked)
        bench.turn()
        assert [one.name for one in bench.peer.last.outputs] == names


def test_requests_of_any_shape_where_the_model_leaves_it_open(bench: Bench) -> None:
    for width in (1, 5):
        data = np.zeros((1, width), np.float32)
        bench.take(ask(data.tobytes(), shape=(1, width), model="open"))
        bench.turn()
        assert bench.peer.last.outputs[0].shape == (1, width)


@pytest.mark.parametrize(
    ("asked", "status", "words"),
    [
        (ask(model="none"), Status.NOT_FOUND, ["unknown model 'none'", "double"]),
        (ask(version="3"), Status.NOT_FOUND, ["no version '3'", "1, 10"]),
        (ask(input="y"), Status.INVALID_ARGUMENT, ["x FP32[2]", "'y'"]),
        (ask(inputs=()), Status.INVALID_ARGUMENT, ["none"]),
        (ask(inputs=ask().inputs * 2), Status.INVALID_ARGUMENT, ["one input"]),
        (ask(datatype="FP16"), Status.INVALID_ARGUMENT, ["FP16"]),
        (ask(shape=(2,)), Status.INVALID_ARGUMENT, ["[2]"]),
        (ask(shape=()), Status.INVALID_ARGUMENT, ["[]"]),
        (ask(shape=(1, 4)), Status.INVALID_ARGUMENT, ["[1,4]"]),
        (ask(shape=(2, 2, 1)), Status.INVALID_ARGUMENT, ["[2,2,1]"]),
        (ask(shape=(-1, -2), model="open"), Status.INVALID_ARGUMENT, ["[-1,-2]"]),
        (ask(b"", shape=(0, 2)), Status.INVALID_ARGUMENT, ["0 samples", "1 to 4"]),
        (ask(bytes(40), shape=(5, 2)), Status.INVALID_ARGUMENT, ["5 samples"]),
        (ask(outputs=(RequestedOutput("thrice"),)), Status.INVALID_ARGUMENT, ["thrice", "twice FP32[2]"]),
        (ask(outputs=(RequestedOutput("twice"),) * 2), Status.INVALID_ARGUMENT, ["twice"]),
        (ask(Region("r", 0, 16)), Status.INVALID_ARGUMENT, ["region 'r'"]),
        (ask(Region("r", 0, 15)), Status.INVALID_ARGUMENT, ["15 bytes", "16"]),
        (ask(outputs=(RequestedOutput("twice", Region("r", 0, 16)),)), Status.INVALID_ARGUMENT, ["region 'r'"]),
        (ask(parameters={"priority": "high"}), Status.INVALID_ARGUMENT, ["priority"]),
        (ask(parameters={"timeout": -1}), Status.INVALID_ARGUMENT, ["timeout"]),
    ],
)
def test_what_the_model_does_not_take_is_refused(
    bench: Bench, asked: InferRequest, status: Status, words: list[str]
) -> None:
    bench.refused(asked, status, *words)


def test_deadlines_and_priorities(bench: Bench) -> None:
    plain = bench.take(ask())
    assert (plain.deadline_ns, plain.priority) == (0, 8)
    both = bench.take(ask(parameters={"timeout": 5, "priority": 3}), timeout_s=1.0)
    assert both.deadline_ns - both.received_ns == 5_000
    assert both.priority == 3
    by_client = bench.take(ask(parameters={"timeout": 5_000_000, "priority": 99}), timeout_s=1.0)
    assert by_client.deadline_ns - by_client.received_ns == 1_000_000_000
    assert by_client.priority == 8


def test_cancelled_and_late_requests_are_closed_once(bench: Bench) -> None:
    cancelled = bench.take(ask())
    bench.service.cancel(cancelled)
    bench.service.cancel(cancelled)
    assert bench.service.open_requests == 0
    late = bench.take(ask(), timeout_s=0.0)
    bench.service.sweep()
    assert bench.peer.answered == [("ticket", late.refusal)]
    assert late.refusal is not None
    assert bench.service.open_requests == 0
    bench.turn()
    assert len(bench.peer.answered) == 1


def test_a_full_queue_is_refused_and_counted() -> None:
    bench = Bench(most_requests=1)
    bench.take(ask())
    with pytest.raises(Refusal, match="full") as error:
        bench.take(ask())
    assert error.value.http_status == 503
    assert bench.service.open_requests == 1
    bench.loop.close()


def test_tensors_in_shared_memory(bench: Bench, tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(X.tobytes() + bytes(48))
    bench.service.regions = SystemRegions(tmp_path)
    bench.service.perform(
        operations.REGISTER_MEMORY, {"name": "r", "key": "/key", "offset": 0, "byte_size": 64}
    )  # fmt: skip
    bench.take(
        ask(Region("r", 0, 16), outputs=(RequestedOutput("minus", Region("r", 32, 16)), RequestedOutput("twice")))
    )
    bench.turn()
    minus, twice = bench.peer.last.outputs
    assert minus == ("minus", "FP32", (2, 2), None, Region("r", 32, 16))
    assert bytes(twice.data or b"") == (2 * X).tobytes()
    assert (tmp_path / "key").read_bytes()[32:48] == (-X).tobytes()
    told = bench.service.perform(operations.MEMORY_STATUS, {"name": ""})
    assert told == {"regions": {"r": {"name": "r", "key": "/key", "offset": 0, "byte_size": 64}}}
    bench.service.perform(operations.UNREGISTER_MEMORY, {"name": "r"})
    assert bench.service.perform(operations.MEMORY_STATUS, {"name": ""}) == {"regions": {}}


def test_draining_takes_nothing_new_and_says_so(bench: Bench) -> None:
    bench.take(ask())
    bench.service.drain()
    with pytest.raises(Refusal, match="shutting down") as error:
        bench.take(ask())
    assert error.value.status is Status.UNAVAILABLE
    assert bench.service.perform(operations.SERVER_READY, {}) == {"ready": False}
    assert bench.service.perform(operations.SERVER_LIVE, {}) == {"live": True}
    assert bench.service.perform(operations.HEALTH_CHECK, {"service": ""}) == {"status": "NOT_SERVING"}
    assert not bench.service.perform(operations.MODEL_READY, {"name": "double", "version": ""})["ready"]
    bench.turn()
    assert [ticket for ticket, _ in bench.peer.answered] == ["ticket"]
    assert bench.peer.last.id == "7"


def test_what_is_told_of_models(bench: Bench) -> None:
    tell: Callable[[Operation], dict[str, Any]] = lambda operation: bench.service.perform(  # noqa: E731
        operation, {"name": "double", "version": ""}
    )
    metadata = tell(operations.MODEL_METADATA)
    assert metadata["versions"] == ["1", "10"]
    assert metadata["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, 2]}]
    config = tell(operations.MODEL_CONFIG)
    assert config["max_batch_size"] == 4
    assert config["input"] == [{"name": "x", "data_type": "TYPE_FP32", "dims": [2]}]
    assert tell(operations.MODEL_READY) == {"ready": True}
    assert len(tell(operations.MODEL_STATISTICS)["model_stats"]) == 2
    index = bench.service.perform(operations.REPOSITORY_INDEX, {"repository_name": "", "ready": False})
    assert [(one["name"], one["version"], one["state"]) for one in index["models"]] == [
        ("double", "1", "READY"), ("double", "10", "READY"), ("open", "1", "READY"),
    ]  # fmt: skip
    for operation in (operations.MODEL_METADATA, operations.MODEL_CONFIG, operations.MODEL_STATISTICS):
        with pytest.raises(Refusal, match="unknown model 'none'"):
            bench.service.perform(operation, {"name": "none", "version": ""})
    with pytest.raises(Refusal, match="no service"):
        bench.service.perform(operations.HEALTH_CHECK, {"service": "other"})


def test_every_operation_is_served() -> None:
    inference = {operations.MODEL_INFER.method, operations.MODEL_STREAM_INFER.method}
    from drumfire.sut.serving.service import _HANDLERS

    assert _HANDLERS.keys() == operations.BY_METHOD.keys() - inference


def test_every_status_has_its_own_meaning_over_http() -> None:
    assert HTTP_STATUS.keys() == set(Status) - {Status.OK}
    assert all(400 <= status < 600 for status in HTTP_STATUS.values())
