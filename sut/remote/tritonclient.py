"""A model on a server as a system under test, through NVIDIA's own ``tritonclient``, for comparison with our client.

Uses that library's asyncio clients for gRPC and HTTP.  Requests, their times, the sample library and the checks of
replies are the same as in ``remote.system``; only the client differs.  Imports ``tritonclient`` only when used.
"""

from __future__ import annotations

import asyncio
import importlib
import ssl
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from drumfire.loadgen import installation
from drumfire.loadgen.answers import Answers
from drumfire.loadgen.responses import Responses
from drumfire.sut.kserve.errors import ProtocolError, ServerError, one_line
from drumfire.sut.kserve.messages.exchange import (
    MAX_MESSAGE_BYTES,
    NOT_SENT,
    Found,
    Outputs,
    Part,
    Region,
    check_outputs,
)
from drumfire.sut.kserve.messages.tensors import ModelInterface, as_array
from drumfire.sut.local.coroutine import TaskSystem
from drumfire.sut.remote.endpoint import Endpoint, Security
from drumfire.sut.remote.samples import RemoteLibrary
from drumfire.sut.remote.system import Respond
from drumfire.sut.remote.wire import SETTLE_PATIENCE_S

_UNBOUNDED = 1 << 62


class TritonclientMessages:
    """Requests and replies of one model as tritonclient's objects; requests are made when samples are loaded.

    Construction raises ``ServerError`` if the package is not installed.
    """

    wanted = True
    """The library decodes every reply anyway, so all outputs are checked."""

    def __init__(self, interface: ModelInterface, protocol: str) -> None:
        self.interface = interface
        try:
            self.module = importlib.import_module(f"tritonclient.{protocol}.aio")
            self._dtype = importlib.import_module("tritonclient.utils").triton_to_np_dtype
        except (ImportError, RuntimeError):  # tritonclient raises RuntimeError if a part of it is missing
            raise ServerError(
                "--client tritonclient: that package, or a part of it, is not installed: "
                f"{installation.command('tritonclient')}"
            ) from None
        self._is_grpc = protocol == "grpc"

    def request(self, parts: Sequence[Part], regions: Sequence[Region] = ()) -> list[Any]:
        """The request's inputs as the library's ``InferInput`` objects."""
        inputs = []
        for spec, part in zip(self.interface.inputs, parts, strict=True):
            if part == NOT_SENT:
                continue
            assert not isinstance(part.data, Region), "this client does not use shared memory"
            tensor = self.module.InferInput(spec.name, list(part.shape), spec.datatype)
            array = as_array(spec.datatype, part.shape, part.data)
            # The library has its own dtype for BF16, of the same bits.
            tensor.set_data_from_numpy(array.view(self._dtype("BF16")) if spec.datatype == "BF16" else array)
            inputs.append(tensor)
        return inputs

    def outputs(self, result: Any) -> Outputs:
        """A reply's tensors in the model's order.  Raises ``ProtocolError`` if they differ from the declared ones."""
        described = check_outputs(self.interface, self._found(result.get_response()))
        return [self._contents(result, output) for output in described]

    def _found(self, response: Any) -> list[Found]:
        if self._is_grpc:
            return [Found(output.name, output.datatype, tuple(output.shape), -1, -1) for output in response.outputs]
        try:
            return [Found(each["name"], each["datatype"], tuple(each["shape"]), -1, -1) for each in response["outputs"]]
        except (KeyError, TypeError) as error:
            raise ProtocolError(f"a reply does not describe its outputs: {type(error).__name__}: {error}") from None

    def _contents(self, result: Any, output: Found) -> npt.NDArray[Any]:
        try:
            array: npt.NDArray[Any] = result.as_numpy(output.name)
        except Exception as error:  # the library raises various errors for contents that do not fit the shape
            raise ProtocolError(f"output {output.name}: {error}") from None
        if output.datatype == "BF16":
            return array.view("<u2")
        if output.datatype == "BYTES":  # elements from JSON are strings
            texts = [text.encode() if isinstance(text, str) else text for text in array.reshape(-1).tolist()]
            array = np.empty(len(texts), np.object_)
            array[:] = texts
            return array.reshape(output.shape)
        return array


class TritonclientSystem(TaskSystem):
    """Sends rows in their order, with one task for each request, at most ``concurrency`` at a time.

    ``connections`` applies to HTTP; gRPC has one.  A failed request fails its rows, even if the server is gone: the
    library reconnects by itself for the next request.  Over HTTP the library does not limit the size of replies.
    """

    columns: Mapping[str, npt.DTypeLike] = {"sent": np.int64}
    """When the row's request was passed to the library (ns from the start)."""

    def __init__(
        self,
        name: str,
        library: RemoteLibrary,
        messages: TritonclientMessages,
        endpoint: Endpoint,
        security: Security,
        *,
        respond: Respond,
        connections: int = 1,
        concurrency: int | None = None,
        batch_size: int = 1,
        deadline_s: float | None = None,
        expects: bool = False,
        max_message_bytes: int = MAX_MESSAGE_BYTES,
    ) -> None:
        super().__init__(name, max_batch_size=batch_size, max_in_flight=concurrency or _UNBOUNDED)
        self.happened: Counter[str] = Counter()
        """Always empty: the library does not report when it reconnects."""
        self.served = {endpoint: 0}
        """Number of requests that the server answered with outputs."""
        self._library, self._messages = library, messages
        self._endpoint, self._security = endpoint, security
        self._respond, self._expects = respond, expects
        self._connections, self._deadline_s = connections, deadline_s
        self._max_message_bytes = max_message_bytes
        self._headers = dict(security.headers)
        if len(self._headers) < len(security.headers):
            raise ServerError("--client tritonclient: a --header is named twice, and this client sends each name once")
        if not endpoint.is_grpc:
            self._headers["accept-encoding"] = "identity"  # by default aiohttp asks for gzip, which costs server time
        self._client: Any = None

    async def open(self, answers: Answers) -> None:
        """Connect to the server.  Raises ``ServerError``."""
        await super().open(answers)
        self._sent = answers.columns["sent"]
        self.served = {self._endpoint: 0}
        self._client = _client(
            self._messages.module, self._endpoint, self._security, self._connections, self._max_message_bytes
        )
        try:
            async with asyncio.timeout(SETTLE_PATIENCE_S):  # opens all connections before the clock runs
                await asyncio.gather(*(self._client.is_server_live(self._headers) for _ in range(self._connections)))
        except Exception as error:  # the library's errors, aiohttp's and the time-out
            reason = "sends nothing" if isinstance(error, TimeoutError) else one_line(str(error))
            raise ServerError(f"{self._endpoint}: {reason}; does this port speak the URL's protocol?") from None

    def last_of(self, first: int, last: int) -> int:
        return first + self._library.together(self.answers.record.view("sample_index")[first:last])

    async def respond(self, first: int, last: int) -> Responses | None:
        indices = self.answers.sample_index[first:last].tolist()
        single = self._max_batch_size == 1
        request = self._library.requests[indices[0]] if single else self._library.batched(indices)
        self._sent[first:last] = self.answers.now()
        interface = self._messages.interface
        try:
            async with asyncio.timeout(self._deadline_s) as patience:
                result = await self._client.infer(
                    interface.name,
                    request,
                    model_version=interface.version,
                    headers=self._headers.copy(),
                )
        except TimeoutError:
            if not patience.expired():
                raise
            raise ServerError(f"no reply within {self._deadline_s:g} s (--request-timeout)") from None
        outputs = self._messages.outputs(result)
        self.served[self._endpoint] += 1
        if self._expects:
            self._library.check_expected(indices, outputs)
        return self._respond(outputs) if self.answers.keeping else None

    async def close(self) -> None:
        await super().close()
        if self._client is not None:
            client, self._client = self._client, None
            await client.close()


def _client(module: Any, endpoint: Endpoint, security: Security, connections: int, max_message_bytes: int) -> Any:
    """Make one of the library's clients; it does not connect yet."""
    if not endpoint.is_grpc:
        return module.InferenceServerClient(
            endpoint.authority + endpoint.path,
            conn_limit=connections,
            conn_timeout=None,  # the default would fail requests after a minute
            ssl=endpoint.tls,
            ssl_context=security.context(endpoint),
        )
    # gRPC trusts a bundled list of certificates by default; we trust the system's unless the user names others.
    trusted = security.ca or ssl.get_default_verify_paths().cafile
    return module.InferenceServerClient(
        endpoint.authority,
        ssl=endpoint.tls,
        root_certificates=trusted and str(trusted),
        private_key=security.key and str(security.key),
        certificate_chain=security.certificate and str(security.certificate),
        channel_args=[
            ("grpc.max_send_message_length", -1),
            ("grpc.max_receive_message_length", max_message_bytes),
            ("grpc.enable_http_proxy", 0),
        ],
    )
