"""A model on servers that speak KServe v2, such as Triton's: from options to a library and a system.

All that is asked of the servers here comes before the run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, ClassVar

import numpy as np

from drumfire.loadgen.advice import Bound
from drumfire.loadgen.errors import UserError
from drumfire.loadgen.options import option
from drumfire.loadgen.responses import Responses
from drumfire.loadgen.settings import Scenario, TestSettings
from drumfire.sut import models
from drumfire.sut.data.inputs import Inputs
from drumfire.sut.data.options import InputOptions
from drumfire.sut.data.random_values import range_advice
from drumfire.sut.data.sizes import choose
from drumfire.sut.data.sources import open_inputs
from drumfire.sut.kserve.errors import ServerError, one_line
from drumfire.sut.kserve.messages.exchange import (
    MAX_MESSAGE_BYTES,
    Channel,
    Failure,
    Outputs,
    Reply,
)
from drumfire.sut.kserve.messages.grpc_client import GrpcChannel, GrpcMessages
from drumfire.sut.kserve.messages.http_client import HttpChannel, HttpMessages, model_path
from drumfire.sut.kserve.messages.tensors import pack_bytes
from drumfire.sut.models.metrics import LabelOptions
from drumfire.sut.models.model import Model
from drumfire.sut.remote.call import call
from drumfire.sut.remote.endpoint import Endpoint
from drumfire.sut.remote.kserve import memory as shared_memory
from drumfire.sut.remote.kserve import meter
from drumfire.sut.remote.kserve.client import Client
from drumfire.sut.remote.kserve.discovery import Description, describe
from drumfire.sut.remote.kserve.forms import FirstRequests, KServeMessages
from drumfire.sut.remote.kserve.memory import SharedMemory
from drumfire.sut.remote.kserve.memory_system import SharedLibrary, SharedMemorySystem
from drumfire.sut.remote.kserve.statistics import ServerWatch, ServerWatches
from drumfire.sut.remote.samples import Int64Array, RemoteLibrary, differing, sizes
from drumfire.sut.remote.system import NewChannel, RemoteSystem
from drumfire.sut.remote.target import Amounts, Target, TargetOptions, by_concurrency
from drumfire.sut.remote.tritonclient import TritonclientMessages, TritonclientSystem
from drumfire.sut.remote.watch import RemoteClient
from drumfire.sut.sampler import MeterPlan


@dataclass(frozen=True)
class TritonOptions(InputOptions, LabelOptions, TargetOptions):
    """The options of this target."""

    TITLE: ClassVar = "KServe v2 servers"

    client: str = option(
        "drumfire",
        choices=("drumfire", "tritonclient"),
        help="client to use: drumfire (default), or for comparison Triton's own client library, tritonclient",
    )
    max_batchsize: int = option(1, help="samples in a request; with 1, the server batches")
    model_version: str = option("", metavar="V", help="version of the model (default: the server chooses)")
    tensors: str = option(
        "auto",
        metavar="HOW",
        choices=("auto", "binary", "values"),
        help="how inputs travel, and outputs where the server lets the client choose: binary, values (lists of numbers "
        "in JSON, or typed contents over gRPC) or auto (default: binary, and values where the server refuses that)",
    )
    shared_memory: str = option(
        "none",
        metavar="KIND",
        choices=("none", "system", "cuda"),
        help="hand tensors over in shared memory, one sample a request, to a server on this host: none (default), "
        "system or cuda; at most 64 requests are under way, unless --concurrency says otherwise",
    )
    metrics_url: tuple[str, ...] = option(
        (),
        metavar="URL",
        help="the server's Prometheus metrics, one for each --url (default: port 8002 of its host, if it answers)",
    )

    @property
    def needs_same_host(self) -> str:
        return "" if self.shared_memory == "none" else "--shared-memory"


class TritonTarget(Target[TritonOptions]):
    """The model that the servers describe, with the data of the options."""

    OPTIONS = TritonOptions
    URL_HELP = "grpc://HOST:8001 or http://HOST:8000 (a server to try: drumfire triton-local)"
    unjudged = (
        f"give them with --labels, or name a data set with --input-data ({', '.join(models.MODELS)}); "
        "expected outputs in .npy or JSON data are compared in every run"
    )

    def __init__(self, backend: str, model: str, options: TritonOptions, amounts: Amounts) -> None:
        super().__init__(backend, model, options, amounts)
        self.batch_size = options.max_batchsize
        self._is_grpc = self.endpoints[0].is_grpc
        self._official = options.client == "tritonclient"
        self.distributions = ("tritonclient", "grpcio") if self._official else ("hpack",)
        if self._official:
            self._check_official()
            # Its requests are tasks, whose number nothing else bounds.
            self.unbounded = (Scenario.Server, Scenario.Offline)
        self._shares = options.shared_memory != "none"
        if self._shares:
            if options.tensors == "values":
                raise UserError("--tensors values: a tensor in shared memory is binary: leave one of the two out")
            if self.batch_size > 1:
                raise UserError(
                    "--max-batchsize: a request in shared memory holds one sample: leave one of the two out"
                )
            shared_memory.check(options.shared_memory)
        if options.metrics_url and len(options.metrics_url) != len(self.endpoints):
            raise UserError(f"--metrics-url: give one for each of the {len(self.endpoints)} servers, or none")
        self.named = _named(model, options.input_data)
        self._metric = options.judge
        self.judge = self._metric or self.named
        if self.named is None and amounts.dataset_path is not None:
            raise UserError("--dataset-path has no effect without a named data set: give --input-data, or leave it out")

    def describe(self) -> str:
        served = self._served = self.ask(self._describe())
        self._chosen = choose(served.interface, self.options)
        interface = self._chosen.interface
        if self.batch_size > max(interface.max_batch_size, 1):
            most = f"at most {interface.max_batch_size}" if interface.max_batch_size else "no batches"
            raise UserError(f"--max-batchsize {self.batch_size}: the server's {self.model} takes {most} in a request")
        self._interface = interface
        if self._metric is not None:
            bfloat16 = frozenset(spec.name for spec in interface.outputs if spec.datatype == "BF16")
            shapes = [tuple(None if size < 0 else size for size in spec.shape) for spec in interface.outputs]
            self._metric.of_outputs([spec.name for spec in interface.outputs], bfloat16, shapes)
        self._data = self._inputs()
        if self.batch_size > 1 and not self._are_alike():
            self.alike = False
            self.notes.append(
                f"--max-batchsize {self.batch_size}: samples differ in shape, and a request holds samples of one "
                "shape, which happen to follow each other"
            )
        self._first = FirstRequests(interface, self._send, self.advice)
        self._values = self._finds_values()
        if self.batch_size > 1:
            indices = differing(self._data, self.sizes(self._data)[1], self.batch_size)
            for endpoint in self.endpoints:
                self._first.check_together(endpoint, partial(self._native, values=self._values), self._data, indices)
        if served.configuration is None:
            self.notes.append("the server gives no model configuration: whether it batches is inferred from the shapes")
        return f"{served.server}, {served.interface.platform or 'unknown platform'}"

    def library(self, settings: TestSettings) -> RemoteLibrary:
        data, interface = self._data, self._interface
        total, performance = self.sizes(data)
        counts: dict[str, Any] = {"total_count": total, "performance_count": performance}
        self._messages: KServeMessages | TritonclientMessages
        if self._official:
            self._messages = TritonclientMessages(interface, "grpc" if self._is_grpc else "http")
        else:
            self._messages = messages = self._native(self.batch_size, shared=self._shares, values=self._values)
            if self._shares:
                loaded = min(settings.performance_sample_count_override or performance, total)
                self._memory = SharedMemory(
                    self.options.shared_memory,
                    self.endpoints,
                    self.security,
                    input_bytes=shared_memory.input_bytes(data, interface, total, loaded),
                    output_bytes=self._output_bytes(),
                    slots=self.at_a_time(settings),
                )
                return SharedLibrary(data, interface, messages, self._memory, **counts)
        return RemoteLibrary(data, interface, self._messages, batch_size=self.batch_size, values=self._values, **counts)

    def system(self, settings: TestSettings, library: RemoteLibrary) -> RemoteClient:
        messages, options = self._messages, self.options
        details: dict[str, Any] = {
            "respond": self._respond,
            "connections": self.connections(settings),
            "concurrency": self.concurrency(settings),
            "deadline_s": options.request_timeout,
            "expects": self._data.expected(0) is not None,
        }
        if isinstance(messages, TritonclientMessages):
            return TritonclientSystem(
                f"{self.name} through tritonclient",
                library,
                messages,
                self.endpoints[0],
                self.security,
                batch_size=self.batch_size,
                max_message_bytes=options.max_message_size << 20,
                **details,
            )
        connecting = (self._channels(messages), self.endpoints, self.security)
        details["least_in_flight"] = options.balance == "least-in-flight"
        if isinstance(library, SharedLibrary):
            return SharedMemorySystem(self.name, library, messages, *connecting, memory=self._memory, **details)
        return RemoteSystem(self.name, library, messages, *connecting, batch_size=self.batch_size, **details)

    def advice(self, error: str) -> str:
        return range_advice(error, self._interface.inputs) if self.options.input_data in (None, "random") else ""

    def facts(self) -> dict[str, Any]:
        return {
            "client": self.options.client,
            "tensors": "values" if self._values else "binary",
            "shared_memory": self.options.shared_memory,
            "dynamic_batching": self._served.dynamic_batching,
            "response_cache": self._served.response_cache,
        }

    def elements(self, library: RemoteLibrary) -> Int64Array | None:
        if all(-1 not in spec.shape for spec in self._interface.inputs):
            return None
        return sizes(self._data, library.total_count)

    def digests(self) -> dict[str, str]:
        return {
            "model": hashlib.sha256(repr((self._interface, self._values)).encode()).hexdigest(),
            "data": self.digest(self._data),
        }

    def watch(self) -> ServerWatches:
        version = self.options.model_version
        return ServerWatches(
            {endpoint: ServerWatch(endpoint, self.security, self.model, version) for endpoint in self.endpoints}
        )

    def meters(self) -> Sequence[MeterPlan]:
        options = self.options
        return meter.plans(self.endpoints, self.security, self.model, options.model_version, options.metrics_url)

    def bound(self, settings: TestSettings) -> Bound:
        if self._shares:  # each request under way has a place in the memory
            return by_concurrency(self.at_a_time(settings), batched=False)
        return super().bound(settings)

    def connections(self, settings: TestSettings) -> int:
        """gRPC carries any number of requests on one, HTTP one request at a time on each."""
        return self.options.connections or (1 if self._is_grpc else super().connections(settings))

    def _check_official(self) -> None:
        """Raise ``UserError`` for options that tritonclient does not support."""
        options = self.options
        cannot = {
            "more than one --url": len(self.endpoints) > 1,
            "--header host": self.security.host is not None,
            f"--tensors {options.tensors}": options.tensors != "auto",
            "--balance least-in-flight": options.balance != "round-robin",
            f"--shared-memory {options.shared_memory}": options.shared_memory != "none",
            "--connections over gRPC": self._is_grpc and (options.connections or 1) > 1,
            "--max-message-size over HTTP": not self._is_grpc and options.max_message_size << 20 != MAX_MESSAGE_BYTES,
        }
        for what, wanted in cannot.items():
            if wanted:
                raise UserError(
                    f"{what} is not possible with --client tritonclient: leave it out, or leave out --client"
                )

    async def _describe(self) -> Description:
        """The model as the servers describe it.  Raises ``UserError`` if they differ."""
        descriptions: list[Description] = []
        for endpoint in self.endpoints:
            async with Client(endpoint, self.security) as client:
                descriptions.append(await describe(client, self.model, self.options.model_version))
        for endpoint, description in zip(self.endpoints, descriptions, strict=True):
            if description.interface != descriptions[0].interface:
                raise UserError(f"{endpoint} and {self.endpoints[0]} serve different models as {self.model!r}")
        return replace(descriptions[0], takes_binary=all(description.takes_binary for description in descriptions))

    def _inputs(self) -> Inputs:
        source, chosen, amounts = self.options.input_data, self._chosen.named, self.amounts
        library = None
        if self.named is not None:
            library = self.named.library(amounts.dataset_path, amounts.count, amounts.performance_sample_count)
        left_out = [spec.name for spec in self._interface.inputs if spec.optional and spec.name not in chosen]
        if library is None and source in (None, "random", "zero") and left_out:
            self.notes.append(
                f"left out, as the model calls it optional: {one_line(', '.join(left_out), 200)}; "
                "--shape NAME=SHAPE sends it"
            )
        return open_inputs(source if self.named is None else self.named.name, self._chosen, data_set=library)

    def _are_alike(self) -> bool:
        if all(-1 not in spec.shape and not spec.optional for spec in self._interface.inputs):
            return True
        first = self._data.shapes(0)
        return all(self._data.shapes(index) == first for index in range(1, self.sizes(self._data)[0]))

    def _native(self, batch_size: int, *, shared: bool = False, values: bool = False) -> KServeMessages:
        form: dict[str, Any] = {"batch_size": batch_size, "shared": shared, "values": values}
        if self._is_grpc:
            return GrpcMessages(self._interface, **form)
        return HttpMessages(self._interface, **form, identified=not self._served.takes_binary)

    def _finds_values(self) -> bool:
        """Whether tensors travel as values.  A server that does not say how it takes them is sent a sample."""
        wanted = self.options.tensors
        if wanted != "auto" or self._shares or self._official or self._served.takes_binary:
            return wanted == "values"
        sample = self._data.sample(0)
        for endpoint in self.endpoints:
            refuses, said = self._first.refuses(endpoint, self._native(1), self._native(1, values=True), sample)
            self.notes += [said] if said else []
            if refuses:
                return True
        return False

    def _send(self, endpoint: Endpoint, messages: KServeMessages, request: Any) -> Reply:
        return self.ask(call(endpoint, self.security, self._channels(messages)(endpoint), request))

    def _output_bytes(self) -> list[int]:
        """Bytes of each output of a sample; a model that leaves sizes open is sent one sample to find out."""
        data, interface = self._data, self._interface
        known = shared_memory.output_bytes(interface)
        if known is not None:
            return known
        messages = self._native(1)
        messages.wanted = True
        # Where samples differ in size, the largest gives the bound.
        count = 1 if shared_memory.is_fixed(interface) else self.sizes(data)[0]
        largest = max(map(data.sample, range(count)), key=lambda sample: sum(len(tensor.data) for tensor in sample))
        endpoint = self.endpoints[0]
        reply = self._first.reply(endpoint, messages, largest)
        if isinstance(reply, Failure):
            raise ServerError(f"{endpoint} failed the request: {reply.reason}{self.advice(reply.reason)}")
        assert reply is not None
        return [output.nbytes for output in reply]

    def _channels(self, messages: KServeMessages) -> NewChannel:
        """A function that makes the protocol logic of a connection to an endpoint."""
        most, headers = self.options.max_message_size << 20, self.security.headers

        def grpc(endpoint: Endpoint) -> Channel:
            assert isinstance(messages, GrpcMessages)
            return GrpcChannel(
                messages,
                self.security.authority(endpoint),
                tls=endpoint.tls,
                metadata=headers,
                max_message_bytes=most,
                deadline_s=self.options.request_timeout,
            )

        def http(endpoint: Endpoint) -> Channel:
            assert isinstance(messages, HttpMessages)
            path = model_path(self._interface.name, self._interface.version)
            return HttpChannel(
                messages, f"{endpoint.path}{path}/infer", self.security.authority(endpoint), headers, most
            )

        return grpc if self._is_grpc else http

    def _respond(self, outputs: Outputs) -> Responses:
        """The response of each sample, from a reply's outputs."""
        if not self._interface.max_batch_size:
            outputs = [output[None] for output in outputs]
        if self.judge is not None:
            return self.judge.respond(outputs)
        return [
            b"".join(
                pack_bytes(output[row].reshape(-1).tolist()) if output.dtype == np.object_ else output[row].tobytes()
                for output in outputs
            )
            for row in range(len(outputs[0]))
        ]


def _named(model: str, input_data: str | None) -> Model | None:
    """The named model whose data set is sent; None for other data."""
    name = model if input_data is None else input_data
    return models.get(name) if name in models.MODELS else None
