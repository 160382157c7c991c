"""What the server does, whatever protocol asks: takes requests for its models, and tells of them.

Knows models, schedulers and shared memory; must not know bytes or sockets.  All of it belongs to the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from drumfire.loadgen import VERSION
from drumfire.sut.kserve.grpc.framing import SERVICE, Status
from drumfire.sut.kserve.messages import operations
from drumfire.sut.kserve.messages.exchange import Buffer, Region
from drumfire.sut.kserve.messages.inference import (
    AnswerOutput,
    InferAnswer,
    InferRequest,
    RequestedOutput,
    RequestInput,
)
from drumfire.sut.kserve.messages.operations import Operation
from drumfire.sut.kserve.messages.tensors import DATATYPES, Shape
from drumfire.sut.serving.model import ServedModel
from drumfire.sut.serving.refusal import Refusal
from drumfire.sut.serving.request import DEFAULT_PRIORITY, PRIORITIES, Request, SharedPlace, Wanted
from drumfire.sut.serving.scheduler import Scheduler
from drumfire.sut.serving.shared_memory import SystemRegions

EXTENSIONS = ("model_configuration", "statistics", "model_repository", "system_shared_memory", "binary_tensor_data",
              "schedule_policy")  # fmt: skip
"""Of Triton's, those that are served."""
OPEN = frozenset(one.method for one in (operations.SERVER_LIVE, operations.SERVER_READY, operations.HEALTH_CHECK))
"""The methods that may be asked without a token: load balancers have none."""


class Connection(Protocol):
    """Who made a request, and is told what came of it."""

    def answer(self, request: Request) -> None:
        """Make ready what is to be sent."""

    def flush(self) -> None:
        """Send what was made ready."""


class Service:
    """The models by name and version."""

    def __init__(
        self,
        models: Sequence[ServedModel],
        loop: asyncio.AbstractEventLoop,
        *,
        most_requests: int,
        most_bytes: int,
    ) -> None:
        self.draining = False
        """No new requests are taken; those taken are answered."""
        self.open_requests = 0
        """Taken, and not answered."""
        self.regions = SystemRegions()
        self._models: dict[str, dict[str, Scheduler]] = {}
        for model in models:
            hand_back = self._hand_out if model.inline else _from_thread(loop, self._hand_out)
            scheduler = Scheduler(model, hand_back, loop, most_requests=most_requests, most_bytes=most_bytes)
            self._models.setdefault(model.name, {})[model.version] = scheduler
        # Unless one is asked for: the newest.
        self._newest = {name: max(versions, key=int) for name, versions in self._models.items()}
        self._by_name = {(name, ""): versions[self._newest[name]] for name, versions in self._models.items()}
        self._by_name |= {(one.model.name, one.model.version): one for one in self.schedulers}
        self._outputs: dict[Scheduler, tuple[Sequence[RequestedOutput], tuple[Wanted, ...]]] = {}
        """By model, the last outputs that were asked for without shared memory."""

    @property
    def schedulers(self) -> list[Scheduler]:
        return [scheduler for versions in self._models.values() for scheduler in versions.values()]

    @property
    def has_deadlines(self) -> bool:
        """Something that waits must be answered by a certain time."""
        return any(scheduler.has_deadlines for scheduler in self.schedulers)

    def start(self) -> None:
        for scheduler in self.schedulers:
            scheduler.start()

    def sweep(self) -> None:
        """To be called some times a second: refuses what has waited too long."""
        for scheduler in self.schedulers:
            scheduler.sweep()

    def drain(self) -> None:
        """Take no new requests; those taken are computed without waiting for fuller batches."""
        self.draining = True
        for scheduler in self.schedulers:
            scheduler.flush()

    def close(self) -> None:
        """Compute nothing more; what still waits is refused."""
        self.draining = True
        for scheduler in self.schedulers:
            scheduler.close()
        self.regions.unregister()

    def join(self, patience_s: float) -> bool:
        """After ``close``, from a thread of its own: whether all workers have ended within the time; then the models
        are closed too."""
        ended = all(scheduler.join(patience_s) for scheduler in self.schedulers)
        if ended:
            for scheduler in self.schedulers:
                scheduler.model.close()
        return ended

    # Inference.

    def take(
        self,
        asked: InferRequest,
        connection: Connection,
        ticket: object,
        received_ns: int,
        timeout_s: float | None = None,
    ) -> Request:
        """Let a request wait for its turn; ``connection`` gets it back.  Raises ``Refusal``: it gets nothing.

        ``timeout_s``: the time that the client gives it, beside what the request itself may say.
        """
        if self.draining:
            raise Refusal(Status.UNAVAILABLE, "the server is going down: it takes no new requests")
        scheduler = self._by_name.get((asked.model, asked.version))
        if scheduler is None:
            raise self._unknown(asked.model, asked.version)
        data, samples, shape = self._input(scheduler.model, asked.inputs)
        last = self._outputs.get(scheduler)
        if not asked.outputs:
            wanted: tuple[Wanted, ...] = ()
        elif last is not None and last[0] is asked.outputs:
            wanted = last[1]
        else:
            wanted = self._wanted(scheduler, asked.outputs)
        priority, deadline_ns = DEFAULT_PRIORITY, 0
        if asked.parameters:
            priority = _priority(asked.parameters)
            deadline_ns = _deadline_ns(asked.parameters, received_ns)
        if timeout_s is not None:
            by_client_ns = received_ns + round(timeout_s * 1e9)
            deadline_ns = min(deadline_ns, by_client_ns) if deadline_ns else by_client_ns
        request = Request(
            data, samples, shape, received_ns, deadline_ns=deadline_ns, priority=priority, wanted=wanted,
            connection=connection, ticket=ticket, head=asked, scheduler=scheduler,
        )  # fmt: skip
        scheduler.submit(request)
        self.open_requests += 1
        return request

    def cancel(self, request: Request) -> None:
        """The client has given it up, or is gone."""
        if request.scheduler.cancel(request):
            self.open_requests -= 1

    def answer(self, request: Request) -> InferAnswer:
        """What is said to a request that was handed back without a refusal."""
        interface = request.scheduler.model.interface
        samples, asked = request.samples, request.head
        contents, tails = request.contents, request.tails
        if not request.wanted:
            outputs = [
                AnswerOutput(spec.name, spec.datatype, (samples, *tail), one)
                for spec, tail, one in zip(interface.outputs, tails, contents, strict=True)
            ]
        else:
            outputs = []
            for position, place in request.wanted:
                spec, shape = interface.outputs[position], (samples, *tails[position])
                if place is None:
                    outputs.append(AnswerOutput(spec.name, spec.datatype, shape, contents[position]))
                else:
                    outputs.append(AnswerOutput(spec.name, spec.datatype, shape, None, place.region))
        return InferAnswer(interface.name, interface.version, asked.id, outputs)

    def _hand_out(self, requests: Sequence[Request]) -> None:
        self.open_requests -= len(requests)
        touched: dict[Connection, None] = {}
        for request in requests:
            connection = request.connection
            connection.answer(request)
            touched[connection] = None
        for connection in touched:
            connection.flush()

    def _input(self, model: ServedModel, inputs: Sequence[RequestInput]) -> tuple[Buffer, int, Shape]:
        """Contents, samples and the shape of a sample.  Raises ``Refusal`` for what the model does not take."""
        (spec,) = model.interface.inputs
        if len(inputs) != 1 or inputs[0].name != spec.name:
            names = ", ".join(repr(given.name) for given in inputs[:8]) or "none"
            raise invalid(f"model {model.name!r} takes one input, {spec}, and was given {names}")
        _, datatype, shape, data = inputs[0]
        if datatype != spec.datatype:
            raise invalid(f"input {spec} of {model.name!r} was given {datatype}")
        sample = shape[1:]
        if not shape or (sample != spec.shape and not spec.fits(sample)) or min(shape) < 0:
            raise invalid(
                f"input {spec} of {model.name!r} was given the shape [{','.join(map(str, shape))}], which should be "
                "the batch and the shape of a sample"
            )
        most = model.interface.max_batch_size
        if not 1 <= shape[0] <= most:
            raise invalid(f"{shape[0]} samples in a request: {model.name!r} takes 1 to {most}")
        if isinstance(data, Region):
            size = math.prod(shape) * DATATYPES[datatype].itemsize
            if data.size != size:
                raise invalid(f"input {spec}: {data.size} bytes of shared memory where its shape has {size}")
            data = self.regions.view(data)
        return data, shape[0], sample

    def _wanted(self, scheduler: Scheduler, asked: Sequence[RequestedOutput]) -> tuple[Wanted, ...]:
        """Raises ``Refusal`` for an output that there is not, or that is asked for twice."""
        specs = scheduler.model.interface.outputs
        positions = {spec.name: position for position, spec in enumerate(specs)}
        wanted: list[Wanted] = []
        for one in asked:
            position = positions.pop(one.name, None)
            if position is None:
                have = ", ".join(map(str, specs))
                raise invalid(f"output {one.name[:80]!r}: {scheduler.model.name!r} gives, once each, {have}")
            wanted.append(
                Wanted(position, None if one.region is None else SharedPlace(one.region, self.regions.view(one.region)))
            )
        if any(one.place is not None for one in wanted):
            return tuple(wanted)
        if [one.position for one in wanted] == list(range(len(specs))):
            wanted = []  # as if none was named
        self._outputs[scheduler] = (asked, tuple(wanted))
        return tuple(wanted)

    # All else.

    def perform(self, operation: Operation, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to anything but inference.  Raises ``Refusal``."""
        return _ACTS[operation.method](self, arguments)

    def _live(self, _: Mapping[str, Any]) -> dict[str, Any]:
        return {"live": True}

    def _ready(self, _: Mapping[str, Any]) -> dict[str, Any]:
        return {"ready": not self.draining}

    def _health(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        if asked["service"] not in ("", SERVICE.strip("/")):
            raise Refusal(Status.NOT_FOUND, f"no service {asked['service'][:80]!r}")
        return {"status": "NOT_SERVING" if self.draining else "SERVING"}

    def _server(self, _: Mapping[str, Any]) -> dict[str, Any]:
        return {"name": "drumfire", "version": VERSION, "extensions": list(EXTENSIONS)}

    def _model_ready(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        return {"ready": (asked["name"], asked["version"]) in self._by_name and not self.draining}

    def _metadata(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        scheduler = self._scheduler(asked)
        return scheduler.model.metadata(list(self._models[scheduler.model.name]))

    def _configuration(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        scheduler = self._scheduler(asked)
        return scheduler.model.configuration(list(self._models[scheduler.model.name]))

    def _statistics(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        name, version = asked["name"], asked["version"]
        if name or version:
            self._scheduler(asked)
        return {
            "model_stats": [
                one.statistics.model_stats(one.model.name, one.model.version)
                for one in self.schedulers
                if name in ("", one.model.name) and version in ("", one.model.version)
            ]
        }

    def _index(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        state = "UNAVAILABLE" if self.draining else "READY"
        if asked["ready"] and self.draining:
            return {"models": []}
        return {
            "models": [
                {"name": one.model.name, "version": one.model.version, "state": state, "reason": ""}
                for one in self.schedulers
            ]
        }

    def _register(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        self.regions.register(asked["name"], asked["key"], asked["offset"], asked["byte_size"])
        return {}

    def _unregister(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        self.regions.unregister(asked["name"])
        return {}

    def _regions(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        return {"regions": {one["name"]: one for one in self.regions.status(asked["name"])}}

    def _register_cuda(self, _: Mapping[str, Any]) -> dict[str, Any]:
        raise Refusal(Status.UNIMPLEMENTED, "CUDA shared memory is not served: use system shared memory")

    def _unregister_cuda(self, _: Mapping[str, Any]) -> dict[str, Any]:
        return {}  # there are none, so none is left

    def _cuda_regions(self, _: Mapping[str, Any]) -> dict[str, Any]:
        return {"regions": {}}

    def _scheduler(self, asked: Mapping[str, Any]) -> Scheduler:
        found = self._by_name.get((asked["name"], asked["version"]))
        if found is None:
            raise self._unknown(asked["name"], asked["version"])
        return found

    def _unknown(self, name: str, version: str) -> Refusal:
        if name in self._models:
            have = ", ".join(self._models[name])
            return Refusal(Status.NOT_FOUND, f"model {name!r} has no version {version[:80]!r}: there is {have}")
        return Refusal(Status.NOT_FOUND, f"unknown model {name[:80]!r}: there is {', '.join(self._models)}")


_ACTS = {
    operations.SERVER_LIVE.method: Service._live,
    operations.SERVER_READY.method: Service._ready,
    operations.HEALTH_CHECK.method: Service._health,
    operations.SERVER_METADATA.method: Service._server,
    operations.MODEL_READY.method: Service._model_ready,
    operations.MODEL_METADATA.method: Service._metadata,
    operations.MODEL_CONFIG.method: Service._configuration,
    operations.MODEL_STATISTICS.method: Service._statistics,
    operations.REPOSITORY_INDEX.method: Service._index,
    operations.REGISTER_MEMORY.method: Service._register,
    operations.UNREGISTER_MEMORY.method: Service._unregister,
    operations.MEMORY_STATUS.method: Service._regions,
    operations.REGISTER_CUDA_MEMORY.method: Service._register_cuda,
    operations.UNREGISTER_CUDA_MEMORY.method: Service._unregister_cuda,
    operations.CUDA_MEMORY_STATUS.method: Service._cuda_regions,
}


def _from_thread(loop: asyncio.AbstractEventLoop, hand_out: Any) -> Any:
    """One call into the loop for all requests of a batch."""

    def hand_back(requests: Sequence[Request]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: nobody is left to be answered
            loop.call_soon_threadsafe(hand_out, requests)

    return hand_back


def invalid(text: str) -> Refusal:
    return Refusal(Status.INVALID_ARGUMENT, text)


def _priority(parameters: Mapping[str, Any]) -> int:
    priority = parameters.get("priority", 0)
    if type(priority) is not int or priority < 0:
        raise invalid("the parameter priority is no number of 0 or more")
    return priority if 1 <= priority <= PRIORITIES else DEFAULT_PRIORITY


def _deadline_ns(parameters: Mapping[str, Any], received_ns: int) -> int:
    """Triton's ``timeout`` is in microseconds; 0 is none."""
    timeout_us = parameters.get("timeout", 0)
    if type(timeout_us) is not int or timeout_us < 0:
        raise invalid("the parameter timeout is no number of microseconds")
    return received_ns + timeout_us * 1000 if timeout_us else 0


def now_ns() -> int:
    """The clock of all times here."""
    return time.monotonic_ns()
