"""The server's operations, independent of the protocol: inference, and information about models.

Handles models, schedulers and shared memory.  Does not depend on bytes or sockets.  Runs on the event loop.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from drumfire.loadgen.version import VERSION
from drumfire.sut.kserve.grpc.framing import SERVICE, Status
from drumfire.sut.kserve.messages import operations
from drumfire.sut.kserve.messages.inference import AnswerOutput, InferAnswer, InferRequest, RequestedOutput
from drumfire.sut.kserve.messages.operations import Operation
from drumfire.sut.serving.intake import Intake
from drumfire.sut.serving.model import ServedModel
from drumfire.sut.serving.refusal import Refusal, invalid
from drumfire.sut.serving.request import DEFAULT_PRIORITY, PRIORITIES, Request, Wanted
from drumfire.sut.serving.scheduler import Scheduler
from drumfire.sut.serving.shared_memory import SystemRegions

EXTENSIONS = ("model_configuration", "statistics", "model_repository", "system_shared_memory", "binary_tensor_data",
              "schedule_policy")  # fmt: skip
"""Triton's extensions that this server implements."""
OPEN = frozenset(one.method for one in (operations.SERVER_LIVE, operations.SERVER_READY, operations.HEALTH_CHECK))
"""The methods that need no token: load balancers have none."""


class Connection(Protocol):
    """The sender of requests, who receives an answer or a refusal for each, with the request's own ticket."""

    def answer(self, ticket: Any, answer: InferAnswer) -> None:
        """Prepare the answer to a request."""

    def refuse(self, ticket: Any, refusal: Refusal) -> None:
        """Prepare the refusal of a request that was accepted before."""

    def flush(self) -> None:
        """Send what was prepared."""


class Accepted(Request):
    """A request of a connection.  To the connection, it is something to ``cancel``."""

    __slots__ = ("connection", "id", "scheduler", "ticket")

    connection: Connection
    id: str
    scheduler: Scheduler
    """The scheduler with its queue."""
    ticket: object


class Service:
    """The models by name and version, and the operations on them."""

    def __init__(
        self, models: Sequence[ServedModel], loop: asyncio.AbstractEventLoop, *, most_requests: int, most_bytes: int
    ) -> None:
        self.draining = False
        """No new requests are accepted; accepted requests are answered."""
        self.open_requests = 0
        """Accepted requests that are not answered."""
        self.regions = SystemRegions()
        self._models: dict[str, dict[str, Scheduler]] = {}
        for model in models:
            hand_back = self._hand_out if model.inline else _from_thread(loop, self._hand_out)
            scheduler = Scheduler(model, hand_back, loop, most_requests=most_requests, most_bytes=most_bytes)
            self._models.setdefault(model.name, {})[model.version] = scheduler
        # The version for requests that name none.
        self._newest = {name: max(versions, key=int) for name, versions in self._models.items()}
        self._by_name = {(name, ""): versions[self._newest[name]] for name, versions in self._models.items()}
        self._by_name |= {(one.model.name, one.model.version): one for one in self.schedulers}
        self._intakes = {scheduler: Intake(scheduler.model) for scheduler in self.schedulers}
        self._outputs: dict[Scheduler, tuple[Sequence[RequestedOutput], tuple[Wanted, ...]]] = {}
        """By model, the outputs of the last request that named outputs without shared memory."""

    @property
    def schedulers(self) -> list[Scheduler]:
        return [scheduler for versions in self._models.values() for scheduler in versions.values()]

    @property
    def has_deadlines(self) -> bool:
        """Whether any waiting request has a deadline."""
        return any(scheduler.has_deadlines for scheduler in self.schedulers)

    def start(self) -> None:
        for scheduler in self.schedulers:
            scheduler.start()

    def sweep(self) -> None:
        """Refuse requests whose deadline has passed.  Call this several times a second."""
        for scheduler in self.schedulers:
            scheduler.sweep()

    def drain(self) -> None:
        """Accept no new requests; compute the accepted ones without waiting for fuller batches."""
        self.draining = True
        for scheduler in self.schedulers:
            scheduler.flush()

    def close(self) -> None:
        """Start no more batches and refuse the waiting requests."""
        self.draining = True
        for scheduler in self.schedulers:
            scheduler.close()
        self.regions.unregister()

    def join(self, patience_s: float) -> bool:
        """After ``close``, on another thread: wait for the workers, then close the models.  Returns whether all workers
        ended within ``patience_s`` each."""
        ended = all(scheduler.join(patience_s) for scheduler in self.schedulers)
        if ended:
            for scheduler in self.schedulers:
                scheduler.model.close()
        return ended

    # Inference.

    def take(
        self,
        received: InferRequest,
        connection: Connection,
        ticket: object,
        received_ns: int,
        timeout_s: float | None = None,
    ) -> Accepted:
        """Queue a request; ``connection`` gets the answer with ``ticket``.  Raises ``Refusal``, and then it gets none.

        ``timeout_s``: the client's timeout, in addition to a timeout in the request itself.
        """
        if self.draining:
            raise Refusal(Status.UNAVAILABLE, "the server is shutting down: it accepts no new requests")
        scheduler = self._by_name.get((received.model, received.version))
        if scheduler is None:
            raise self._unknown(received.model, received.version)
        data, samples, shapes, size, is_shared, alike = self._intakes[scheduler].take(received.inputs, self.regions)
        last = self._outputs.get(scheduler)
        if not received.outputs:
            wanted: tuple[Wanted, ...] = ()
        elif last is not None and last[0] is received.outputs:
            wanted = last[1]
        else:
            wanted = self._wanted(scheduler, received.outputs)
        priority, deadline_ns = DEFAULT_PRIORITY, 0
        if received.parameters:
            priority = _priority(received.parameters)
            deadline_ns = _deadline_ns(received.parameters, received_ns)
        if timeout_s is not None:
            by_client_ns = received_ns + round(timeout_s * 1e9)
            deadline_ns = min(deadline_ns, by_client_ns) if deadline_ns else by_client_ns
        request = Accepted(
            data, samples, shapes, received_ns, size=size, alike=alike, is_shared=is_shared, deadline_ns=deadline_ns,
            priority=priority, wanted=wanted,
        )  # fmt: skip
        request.connection = connection
        request.ticket = ticket
        request.id = received.id
        request.scheduler = scheduler
        scheduler.submit(request)
        self.open_requests += 1
        return request

    def cancel(self, request: Accepted) -> None:
        """Cancel a request whose client no longer waits."""
        if request.scheduler.cancel(request):
            self.open_requests -= 1

    def _hand_out(self, requests: Sequence[Any]) -> None:
        """Give each ``Accepted`` request's answer or refusal to its connection."""
        self.open_requests -= len(requests)
        touched: dict[Connection, None] = {}
        for request in requests:
            connection = request.connection
            touched[connection] = None
            if request.refusal is not None:
                connection.refuse(request.ticket, request.refusal)
                continue
            interface, samples = request.scheduler.model.interface, request.samples
            if not request.wanted:
                outputs = [
                    AnswerOutput(spec.name, spec.datatype, (samples, *tail), one)
                    for spec, tail, one in zip(interface.outputs, request.tails, request.contents, strict=True)
                ]
            else:
                outputs = []
                for position, place in request.wanted:
                    spec, shape = interface.outputs[position], (samples, *request.tails[position])
                    if place is None:
                        outputs.append(AnswerOutput(spec.name, spec.datatype, shape, request.contents[position]))
                    else:
                        outputs.append(AnswerOutput(spec.name, spec.datatype, shape, None, place.region))
            connection.answer(request.ticket, InferAnswer(interface.name, interface.version, request.id, outputs))
        for connection in touched:
            connection.flush()

    def _wanted(self, scheduler: Scheduler, named: Sequence[RequestedOutput]) -> tuple[Wanted, ...]:
        """The requested outputs.  Raises ``Refusal`` for an unknown output, or one that is requested twice."""
        specs = scheduler.model.interface.outputs
        positions = {spec.name: position for position, spec in enumerate(specs)}
        wanted: list[Wanted] = []
        for one in named:
            position = positions.pop(one.name, None)
            if position is None:
                have = ", ".join(map(str, specs))
                raise invalid(f"output {one.name[:80]!r}: request each output of {scheduler.model.name!r} once: {have}")
            wanted.append(Wanted(position, None if one.region is None else self.regions.place(one.region)))
        if any(one.place is not None for one in wanted):
            return tuple(wanted)
        if [one.position for one in wanted] == list(range(len(specs))):
            wanted = []  # the same as naming no outputs
        self._outputs[scheduler] = (named, tuple(wanted))
        return tuple(wanted)

    # Other operations.

    def perform(self, operation: Operation, arguments: Mapping[str, Any]) -> dict[str, Any]:
        """The answer to any operation but inference.  Raises ``Refusal``."""
        return _HANDLERS[operation.method](self, arguments)

    def _live(self, _: Mapping[str, Any]) -> dict[str, Any]:
        return {"live": True}

    def _ready(self, _: Mapping[str, Any]) -> dict[str, Any]:
        return {"ready": not self.draining}

    def _health(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        if arguments["service"] not in ("", SERVICE.strip("/")):
            raise Refusal(Status.NOT_FOUND, f"no service {arguments['service'][:80]!r}")
        return {"status": "NOT_SERVING" if self.draining else "SERVING"}

    def _server(self, _: Mapping[str, Any]) -> dict[str, Any]:
        return {"name": "drumfire", "version": VERSION, "extensions": list(EXTENSIONS)}

    def _model_ready(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        return {"ready": (arguments["name"], arguments["version"]) in self._by_name and not self.draining}

    def _metadata(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        scheduler = self._scheduler(arguments)
        return scheduler.model.metadata(list(self._models[scheduler.model.name]))

    def _configuration(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        scheduler = self._scheduler(arguments)
        return scheduler.model.configuration(list(self._models[scheduler.model.name]))

    def _statistics(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        name, version = arguments["name"], arguments["version"]
        if name or version:
            self._scheduler(arguments)
        return {
            "model_stats": [
                one.statistics.model_stats(one.model.name, one.model.version)
                for one in self.schedulers
                if name in ("", one.model.name) and version in ("", one.model.version)
            ]
        }

    def _index(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        state = "UNAVAILABLE" if self.draining else "READY"
        if arguments["ready"] and self.draining:
            return {"models": []}
        return {
            "models": [
                {"name": one.model.name, "version": one.model.version, "state": state, "reason": ""}
                for one in self.schedulers
            ]
        }

    def _register(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        self.regions.register(arguments["name"], arguments["key"], arguments["offset"], arguments["byte_size"])
        return {}

    def _unregister(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        self.regions.unregister(arguments["name"])
        return {}

    def _regions(self, arguments: Mapping[str, Any]) -> dict[str, Any]:
        return {"regions": {one["name"]: one for one in self.regions.status(arguments["name"])}}

    def _register_cuda(self, _: Mapping[str, Any]) -> dict[str, Any]:
        raise Refusal(Status.UNIMPLEMENTED, "CUDA shared memory is not supported: use system shared memory")

    def _unregister_cuda(self, _: Mapping[str, Any]) -> dict[str, Any]:
        return {}  # no region can be registered, so nothing is left to remove

    def _cuda_regions(self, _: Mapping[str, Any]) -> dict[str, Any]:
        return {"regions": {}}

    def _scheduler(self, arguments: Mapping[str, Any]) -> Scheduler:
        found = self._by_name.get((arguments["name"], arguments["version"]))
        if found is None:
            raise self._unknown(arguments["name"], arguments["version"])
        return found

    def _unknown(self, name: str, version: str) -> Refusal:
        if name in self._models:
            have = ", ".join(self._models[name])
            return Refusal(Status.NOT_FOUND, f"model {name!r} has no version {version[:80]!r}; it has {have}")
        return Refusal(Status.NOT_FOUND, f"unknown model {name[:80]!r}; the server has {', '.join(self._models)}")


_HANDLERS = {
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
    """A ``HandBack`` that enters the loop once for all requests of a batch."""

    def hand_back(requests: Sequence[Request]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed, and with it all connections
            loop.call_soon_threadsafe(hand_out, requests)

    return hand_back


def _priority(parameters: Mapping[str, Any]) -> int:
    priority = parameters.get("priority", 0)
    if type(priority) is not int or priority < 0:
        raise invalid("parameter priority must be an integer ≥ 0")
    return priority if 1 <= priority <= PRIORITIES else DEFAULT_PRIORITY


def _deadline_ns(parameters: Mapping[str, Any], received_ns: int) -> int:
    """The deadline by Triton's parameter ``timeout``, in microseconds; 0: no deadline."""
    timeout_us = parameters.get("timeout", 0)
    if type(timeout_us) is not int or timeout_us < 0:
        raise invalid("parameter timeout must be an integer number of microseconds ≥ 0")
    return received_ns + timeout_us * 1000 if timeout_us else 0


def now_ns() -> int:
    """The server's clock: monotonic, ns."""
    return time.monotonic_ns()
