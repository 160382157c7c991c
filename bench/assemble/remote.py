"""Assembles a run against remote servers: from options to a system, a library and settings.

``local`` does the same for models in this process.  All queries to the servers here (the model's interface, its speed)
happen before the run.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NoReturn

import numpy as np

from drumfire.bench.assemble.local import Assembly, read_settings
from drumfire.bench.assemble.options import RunOptions
from drumfire.bench.assemble.sizing import size_traffic
from drumfire.bench.fleet.options import FleetOptions
from drumfire.bench.view.servers import ServerView
from drumfire.loadgen.answers import Responses
from drumfire.loadgen.errors import UserError
from drumfire.loadgen.interpreter import run_on_fast_loop
from drumfire.loadgen.options import choice
from drumfire.loadgen.run import Test
from drumfire.loadgen.settings import Mode, Scenario, TestSettings
from drumfire.loadgen.system import IndexArray, SystemUnderTest
from drumfire.sut import models, remote
from drumfire.sut.data import inputs as samples
from drumfire.sut.data.array_folder import ArrayFolder
from drumfire.sut.data.data_set import DataSet
from drumfire.sut.data.json_file import JsonFile
from drumfire.sut.data.random_values import generated
from drumfire.sut.kserve.messages.exchange import MAX_MESSAGE_BYTES, Channel, Outputs, Part
from drumfire.sut.kserve.messages.grpc_client import GrpcChannel, GrpcMessages
from drumfire.sut.kserve.messages.http_client import HttpChannel, HttpMessages, model_path
from drumfire.sut.kserve.messages.tensors import ModelInterface, pack_bytes
from drumfire.sut.models.model import Model
from drumfire.sut.remote.endpoint import Endpoint, Security, parse_header, parse_url
from drumfire.sut.remote.kserve import memory as shared_memory
from drumfire.sut.remote.kserve.client import Client
from drumfire.sut.remote.kserve.discovery import Description, describe
from drumfire.sut.remote.kserve.memory import SharedMemory
from drumfire.sut.remote.kserve.memory_system import SharedLibrary, SharedMemorySystem, infer_once
from drumfire.sut.remote.kserve.samples import RemoteLibrary
from drumfire.sut.remote.kserve.statistics import ServerWatch
from drumfire.sut.remote.kserve.system import RemoteSystem
from drumfire.sut.remote.kserve.target import TritonOptions
from drumfire.sut.remote.kserve.watch import WatchedSystem
from drumfire.sut.remote.tritonclient import TritonclientMessages, TritonclientSystem

_PERFORMANCE_COUNT = 500
"""Samples in memory, if there are that many and the user does not say otherwise."""
_IN_FLIGHT = 64
"""Most requests under way where neither the scenario nor the user sets a bound: in Offline, in Server through
tritonclient, whose requests are tasks, and in Server over HTTP, where each request needs a connection."""
_PROBE_S = 0.3
_PATIENCE_S = 20.0
"""How long a measurement before the run waits for an answer."""


@dataclass(frozen=True)
class RemoteOptions:
    """The options of a model on servers."""

    target: Any = choice("backend", remote.kinds)
    fleet: FleetOptions = field(default_factory=FleetOptions)


def assemble(options: RunOptions, drawn: TestSettings | None = None) -> Assembly:
    """Connect what the options name.  Raises ``UserError``.

    ``drawn`` are the settings of a run of which this process sends a part: then nothing is measured to size the
    traffic, and the process in charge of the whole run reads the servers' statistics.
    """
    traffic, target = options.traffic, options.system.target
    if "device" in options.given:
        raise UserError(f"{options.backend} has no DEVICE, as the server chooses it: leave {options.device} out")
    endpoints = _endpoints(target)
    official = target.client == "tritonclient"
    if official:
        _check_official(target, endpoints)
    shares = target.shared_memory != "none"
    if shares:
        if target.max_batchsize > 1:
            raise UserError("--max-batchsize: a request in shared memory holds one sample: leave one of the two out")
        shared_memory.check(target.shared_memory)
    security = Security(target.tls_ca, target.tls_cert, target.tls_key, tuple(map(parse_header, target.header)))
    served = run_on_fast_loop(_describe(endpoints, security, options.model, target.model_version))
    interface = samples.resolve(served.interface, samples.parse_shapes(target.input))
    batch_size = target.max_batchsize
    if batch_size > max(interface.max_batch_size, 1):
        most = f"at most {interface.max_batch_size}" if interface.max_batch_size else "no batches"
        raise UserError(f"--max-batchsize {batch_size}: the server's {options.model} takes {most} in a request")

    model = _model(options)
    data = _inputs(options, model, interface)
    settings, errors = read_settings(traffic, model.name if model is not None else options.model)
    settings = drawn or settings
    if model is None and settings.mode in (Mode.AccuracyOnly, Mode.SubmissionRun):
        option = "--accuracy" if settings.mode == Mode.AccuracyOnly else "--submission"
        raise UserError(
            f"{option} needs labels: name a data set with --input-data "
            f"({', '.join(models.MODELS)}); expected outputs in .npy or JSON data are compared in every run"
        )
    total = min(traffic.count or data.total_count, data.total_count)
    messages: GrpcMessages | HttpMessages | TritonclientMessages
    if official:
        messages = TritonclientMessages(interface, "grpc" if endpoints[0].is_grpc else "http")
    else:
        messages = _messages(interface, endpoints[0], batch_size, shared=shares)
    performance = min(traffic.performance_sample_count or _PERFORMANCE_COUNT, total)
    unbounded = (Scenario.Server, Scenario.Offline) if official else (Scenario.Offline,)
    concurrency = target.concurrency or (_IN_FLIGHT if settings.scenario in unbounded else None)
    connections = target.connections or _connections(endpoints, settings, batch_size, concurrency)
    memory: SharedMemory | None = None
    library: RemoteLibrary
    if shares and not isinstance(messages, TritonclientMessages):
        loaded = min(settings.performance_sample_count_override or performance, total)
        memory = SharedMemory(
            target.shared_memory,
            endpoints,
            security,
            input_bytes=shared_memory.input_bytes(data, interface, total, loaded),
            output_bytes=_output_bytes(data, interface, endpoints[0], security, options),
            slots=_at_a_time(settings, batch_size, concurrency),
        )
        library = SharedLibrary(data, interface, messages, memory, total_count=total, performance_count=performance)
    else:
        library = RemoteLibrary(
            data, interface, messages, total_count=total, performance_count=performance, batch_size=batch_size
        )
    system: RemoteSystem | TritonclientSystem
    if isinstance(messages, TritonclientMessages):
        system = TritonclientSystem(
            f"triton {options.model} through tritonclient",
            library,
            messages,
            endpoints[0],
            security,
            respond=_respond(model, interface),
            connections=connections,
            concurrency=concurrency,
            batch_size=batch_size,
            deadline_s=target.request_timeout,
            expects=data.expected(0) is not None,
            max_message_bytes=target.max_message_size << 20,
        )
    else:
        connecting = (_channels(messages, interface, security, target), endpoints, security)
        details: dict[str, Any] = {
            "respond": _respond(model, interface),
            "connections": connections,
            "concurrency": concurrency,
            "deadline_s": target.request_timeout,
            "least_in_flight": target.balance == "least-in-flight",
            "expects": data.expected(0) is not None,
        }
        name = f"triton {options.model}"
        if memory is not None:
            assert isinstance(library, SharedLibrary)
            system = SharedMemorySystem(name, library, messages, *connecting, memory=memory, **details)
        else:
            system = RemoteSystem(name, library, messages, *connecting, batch_size=batch_size, **details)
    if target.metrics_url and len(target.metrics_url) != len(endpoints):
        raise UserError(f"--metrics-url: give one for each of the {len(endpoints)} servers, or none")
    watches = {}
    if drawn is None:
        watches = {
            endpoint: ServerWatch(endpoint, security, options.model, target.model_version, metrics_url)
            for endpoint, metrics_url in zip(endpoints, target.metrics_url or [None] * len(endpoints), strict=True)
        }
    watched = WatchedSystem(system, watches)
    assembly = Assembly(
        watched,
        library,
        settings,
        model.accuracy if model is not None else _no_accuracy,
        logged=model.logged if model is not None else lambda indices, responses: responses,
        title=f"triton {options.model} {', '.join(map(str, endpoints))}",
        description={
            "backend": "triton",
            "model": options.model,
            "device": None,
            "description": f"{served.server}, {served.interface.platform or 'unknown platform'}",
            "threads": None,
            "instances": None,
            "max_batch_size": batch_size,
            "max_queue_delay_ms": None,
            "weights": None,
            "reservations": list(model.reservations) if model is not None else [],
            "remote": {
                "urls": list(map(str, endpoints)),
                "client": target.client,
                "connections": connections * len(endpoints),
                "concurrency": concurrency,
                "input_data": data.description,
                "shared_memory": target.shared_memory,
                "dynamic_batching": served.dynamic_batching,
                "response_cache": served.response_cache,
            },
        },
        config_errors=errors,
        servers=ServerView.of(endpoints, security, options.model, target.model_version, target.metrics_url),
        server_report=watched.report,
        watches=watches,
        counted=lambda: (system.served, system.happened),
        digests=lambda: _digests(interface, data, total, performance),
    )
    if served.configuration is None:
        assembly.notes.append("the server gives no model configuration: whether it batches is inferred from the shapes")
    service = _Service(system, library)
    name = model.name if model is not None else options.model
    if drawn is not None:
        service.check()
        return assembly
    assembly.description["qps_source"] = size_traffic(settings, name, traffic, service, assembly.notes)
    return assembly


def _digests(interface: ModelInterface, data: samples.Inputs, total: int, performance: int) -> dict[str, str]:
    """Hashes of the model's inputs and outputs, and of the performance samples."""
    digest = hashlib.sha256(f"{data.name} {total} {performance}".encode())
    for index in range(performance):
        for tensor in data.sample(index):
            digest.update(f"{tensor.shape}".encode())
            digest.update(tensor.data)
    return {"model": hashlib.sha256(repr(interface).encode()).hexdigest(), "data": digest.hexdigest()}


def _endpoints(target: TritonOptions) -> list[Endpoint]:
    urls = [url for option in target.url for url in option.split(",")]
    if not urls:
        raise UserError(
            "triton needs --url grpc://HOST:8001 or http://HOST:8000 (a server to try: drumfire triton-local)"
        )
    endpoints = [parse_url(url) for url in urls]
    if len({endpoint.scheme for endpoint in endpoints}) > 1:
        raise UserError("--url: all servers of a run must use the same protocol")
    if len(set(endpoints)) < len(endpoints):
        raise UserError("--url: a server is named twice; use --connections for more connections to it")
    return endpoints


def _check_official(target: TritonOptions, endpoints: Sequence[Endpoint]) -> None:
    """Raise ``UserError`` for options that tritonclient does not support."""
    cannot = {
        "more than one --url": len(endpoints) > 1,
        "--balance least-in-flight": target.balance != "round-robin",
        f"--shared-memory {target.shared_memory}": target.shared_memory != "none",
        "--connections over gRPC": endpoints[0].is_grpc and (target.connections or 1) > 1,
        "--max-message-size over HTTP": not endpoints[0].is_grpc and target.max_message_size << 20 != MAX_MESSAGE_BYTES,
    }
    for what, wanted in cannot.items():
        if wanted:
            raise UserError(f"{what} is not possible with --client tritonclient: leave it out, or leave out --client")


async def _describe(endpoints: Sequence[Endpoint], security: Security, model: str, version: str) -> Description:
    """The model as the servers describe it.  Raises ``UserError`` if they differ."""
    descriptions: list[Description] = []
    for endpoint in endpoints:
        async with Client(endpoint, security) as client:
            descriptions.append(await describe(client, model, version))
    for endpoint, description in zip(endpoints, descriptions, strict=True):
        if description.interface != descriptions[0].interface:
            raise UserError(f"{endpoint} and {endpoints[0]} serve different models as {model!r}")
    return descriptions[0]


def _model(options: RunOptions) -> Model | None:
    """The named model whose data set is sent and whose rules judge the answers; None for other data."""
    target = options.system.target
    if target.input_data in models.MODELS:
        return models.get(target.input_data)
    return models.get(options.model) if target.input_data is None and options.model in models.MODELS else None


def _inputs(options: RunOptions, model: Model | None, interface: ModelInterface) -> samples.Inputs:
    traffic, target = options.traffic, options.system.target
    if model is not None:
        library = model.library(traffic.dataset_path, traffic.count, traffic.performance_sample_count)
        return DataSet(library, interface)
    if traffic.dataset_path is not None:
        raise UserError("--dataset-path has no effect without a named data set: give --input-data, or leave it out")
    source = target.input_data or "random"
    if source in ("random", "zero"):
        kind: Literal["random", "zero"] = "random" if source == "random" else "zero"
        return generated(interface, kind=kind)
    path = Path(source)
    if path.is_dir():
        return ArrayFolder(path, interface)
    if path.is_file():
        return JsonFile(path, interface)
    raise UserError(
        f"--input-data {source}: no such file or folder; give random, zero, {', '.join(models.MODELS)}, "
        "a folder of .npy files or a JSON file"
    )


def _connections(
    endpoints: Sequence[Endpoint], settings: TestSettings, batch_size: int, concurrency: int | None
) -> int:
    """Connections to each server: gRPC carries any number of requests on one, HTTP one request at a time on each."""
    if endpoints[0].is_grpc:
        return 1
    return math.ceil(_at_a_time(settings, batch_size, concurrency) / len(endpoints))


def _at_a_time(settings: TestSettings, batch_size: int, concurrency: int | None) -> int:
    """Most requests under way, where each occupies an HTTP connection or a slot of shared memory."""
    at_a_time = concurrency or _IN_FLIGHT
    if settings.scenario == Scenario.SingleStream:
        return 1
    if settings.scenario == Scenario.MultiStream:
        return min(at_a_time, math.ceil(settings.multi_stream_samples_per_query / batch_size))
    return at_a_time


def _messages(
    interface: ModelInterface, endpoint: Endpoint, batch_size: int, *, shared: bool
) -> GrpcMessages | HttpMessages:
    return (GrpcMessages if endpoint.is_grpc else HttpMessages)(interface, batch_size=batch_size, shared=shared)


def _output_bytes(
    data: samples.Inputs, interface: ModelInterface, endpoint: Endpoint, security: Security, options: RunOptions
) -> list[int]:
    """Bytes of each output of a sample; a model that leaves sizes open is sent one sample to find out."""
    known = shared_memory.output_bytes(interface)
    if known is not None:
        return known
    messages = _messages(interface, endpoint, 1, shared=False)
    messages.wanted = True
    # Where samples differ in size, the largest gives the bound.
    count = 1 if shared_memory.is_fixed(interface) else min(options.traffic.count or data.total_count, data.total_count)
    largest = max(map(data.sample, range(count)), key=lambda sample: sum(len(tensor.data) for tensor in sample))
    batch = (1,) if interface.max_batch_size else ()
    request = messages.request([Part((*batch, *tensor.shape), tensor.data) for tensor in largest])
    channel = _channels(messages, interface, security, options.system.target)(endpoint)
    return [output.nbytes for output in run_on_fast_loop(infer_once(endpoint, security, channel, request))]


def _channels(
    messages: GrpcMessages | HttpMessages, interface: ModelInterface, security: Security, target: TritonOptions
) -> Any:
    """A function that makes the protocol logic of a connection to an endpoint."""
    most = target.max_message_size << 20

    def grpc(endpoint: Endpoint) -> Channel:
        assert isinstance(messages, GrpcMessages)
        return GrpcChannel(
            messages,
            endpoint.authority,
            tls=endpoint.tls,
            metadata=security.headers,
            max_message_bytes=most,
            deadline_s=target.request_timeout,
        )

    def http(endpoint: Endpoint) -> Channel:
        assert isinstance(messages, HttpMessages)
        target = model_path(interface.name, interface.version) + "/infer"
        return HttpChannel(messages, target, endpoint.authority, security.headers, most)

    return grpc if isinstance(messages, GrpcMessages) else http


def _respond(model: Model | None, interface: ModelInterface) -> Any:
    """A function from a reply's outputs to the response of each sample."""

    def respond(outputs: Outputs) -> Responses:
        if not interface.max_batch_size:
            outputs = [output[None] for output in outputs]
        if model is not None:
            return model.respond(outputs)
        return [
            b"".join(
                pack_bytes(output[row].reshape(-1).tolist()) if output.dtype == np.object_ else output[row].tobytes()
                for output in outputs
            )
            for row in range(len(outputs[0]))
        ]

    return respond


def _no_accuracy(indices: IndexArray, responses: Responses) -> NoReturn:
    raise ValueError("this data has no labels to judge by")


class _Service:
    """How fast the servers answer, from short runs of the same system over the same library."""

    def __init__(self, system: SystemUnderTest, library: RemoteLibrary) -> None:
        self._system, self._library = system, library

    def check(self) -> None:
        self.query_seconds(1)

    def query_seconds(self, samples: int) -> float:
        settings = TestSettings(
            scenario=Scenario.MultiStream,
            multi_stream_samples_per_query=samples,
            multi_stream_expected_latency_ns=50_000,
        )
        test = self._run(settings)
        results = test.results()
        assert results is not None
        return (results.query_latency or results.latency).percentiles[0.5] * 1e-9

    def samples_per_second(self, *, together: bool) -> float:
        if not together:
            return 1.0 / self.query_seconds(1)
        rate = 1.0 / self.query_seconds(1)
        for _ in range(2):  # the first run only sizes the second
            settings = TestSettings(scenario=Scenario.Offline, offline_expected_qps=max(rate, 4 / _PROBE_S))
            results = self._run(settings).results()
            assert results is not None
            rate = results.rates["samples_per_second"]
        return rate

    def _run(self, settings: TestSettings) -> Test:
        settings.mode = Mode.PerformanceOnly
        settings.min_duration_ms = round(_PROBE_S * 1000)
        settings.min_query_count = 1
        test = Test(self._system, self._library, settings, patience_s=_PATIENCE_S)
        run_on_fast_loop(test.run())
        faults = test.answers.faults
        if faults.failed:
            raise UserError(f"the server does not answer: {faults.failed.most_common(1)[0][0]}")
        if faults.unanswered:
            raise UserError(f"the server did not answer within {_PATIENCE_S:g} s")
        return test
