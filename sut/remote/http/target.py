"""Any HTTP service as a target: samples go out as bodies, and a reply is good by its status, or by its JSON.

All that is asked of the service here comes before the run.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from drumfire.loadgen.errors import UserError
from drumfire.loadgen.files import read_bytes
from drumfire.loadgen.limits import available_memory_bytes
from drumfire.loadgen.options import option
from drumfire.loadgen.responses import Responses
from drumfire.loadgen.settings import TestSettings
from drumfire.sut.kserve.errors import ServerError
from drumfire.sut.kserve.http1.head import VALUE
from drumfire.sut.kserve.messages.exchange import Failure, Outputs, Part
from drumfire.sut.remote.call import call
from drumfire.sut.remote.endpoint import Endpoint, parse_http_url
from drumfire.sut.remote.http.bodies import INTERFACE, Bodies, open_source
from drumfire.sut.remote.http.post import Expected, JsonValue, PostChannel, PostMessages
from drumfire.sut.remote.samples import RemoteLibrary
from drumfire.sut.remote.system import RemoteSystem
from drumfire.sut.remote.target import Amounts, Target, TargetOptions
from drumfire.sut.remote.watch import RemoteClient

_HINTS = {404: "; is the path right?", 405: "; is --method right?", 415: "; is --content-type right?"}


@dataclass(frozen=True)
class HttpOptions(TargetOptions):
    """The options of this target."""

    TITLE: ClassVar = "HTTP services"

    body: str | None = option(
        None,
        metavar="TEXT",
        help="what to send, with $input where the sample goes, as JSON: '{\"x\": $input}' (default: the sample itself)",
    )
    body_file: Path | None = option(None, help="a file with this text")
    method: str = option("POST", choices=("POST", "PUT", "PATCH"), help="POST, PUT or PATCH")
    content_type: str | None = option(
        None, metavar="TYPE", help="type of the body (default: application/json, or that of the files or bytes sent)"
    )
    expect_status: int = option(200, least=200, most=599, help="a reply of another status fails")
    expect_json: tuple[str, ...] = option(
        (),
        metavar="PATH[=VALUE]",
        help="a reply without this value in its JSON fails, such as 'outputs[0].label' or 'ok=true'; may be repeated",
    )
    input: tuple[str, ...] = option(
        (),
        metavar="SHAPE/KIND",
        help="what random samples are: a shape such as 3,224,224, and float (default), int, bool, text or bytes; "
        "KIND alone is a single value",
    )
    input_data: str | None = option(
        None,
        metavar="WHAT",
        help="random (default with --body or --input), a JSON file (each element of a list is a sample), a file of "
        "JSON lines (.jsonl), a .npy file (each row is a sample) or a folder of files, whose bytes are sent",
    )


class HttpTarget(Target[HttpOptions]):
    """The service behind the URLs."""

    OPTIONS = HttpOptions
    URL_HELP = "http://HOST:PORT/PATH"
    never_judges = True
    unjudged = "an HTTP service has none; check its replies with --expect-json, and leave this option out"

    def __init__(self, backend: str, model: str, options: HttpOptions, amounts: Amounts) -> None:
        super().__init__(backend, model, options, amounts)
        if amounts.dataset_path is not None:
            raise UserError("--dataset-path is for named models: give samples with --input-data")
        template = _template(options)
        source = open_source(options.input_data, options.input, template)
        self._data = Bodies(source, template)
        self.content_type = options.content_type or source.content_type
        if not VALUE.fullmatch(self.content_type):
            raise UserError(f"--content-type {self.content_type!r}: use printable characters")
        if any(name == "content-type" for name, _ in self.security.headers):
            raise UserError("--header content-type: give it as --content-type")
        self._expected = Expected(options.expect_status, [JsonValue.parse(text) for text in options.expect_json])
        self._targets = {
            endpoint.authority: (self.security.authority(endpoint), parse_http_url(url)[1])
            for endpoint, url in zip(self.endpoints, self.urls, strict=True)
        }
        fields = [("Content-Type", self.content_type), *self.security.headers]
        self._messages = PostMessages(options.method, self._targets, fields, self._expected)
        try:
            self._first = self._messages.request([Part(*self._data.sample(0)[0])])
        except UserError:
            raise
        except ValueError as error:  # a character that a head cannot hold
            raise UserError(f"the request cannot be written: {error}") from None

    def urls_of(self, option: str) -> Sequence[str]:
        return (option,)  # a comma may be part of a path

    def endpoint(self, url: str) -> Endpoint:
        return parse_http_url(url)[0]

    def describe(self) -> str:
        self.ask(self._check())
        return f"{self.options.method} of {self.content_type}"

    def library(self, settings: TestSettings) -> RemoteLibrary:
        total, performance = self.sizes(self._data)
        size, available = len(self._data.sample(0)[0].data), available_memory_bytes()
        if available is not None and size * performance > available:
            raise UserError(
                f"{performance} bodies of about {size / 1e6:.1f} MB do not fit in the {available / 1e9:.1f} GB of "
                "available memory: lower --performance-sample-count"
            )
        return RemoteLibrary(self._data, INTERFACE, self._messages, total_count=total, performance_count=performance)

    def system(self, settings: TestSettings, library: RemoteLibrary) -> RemoteClient:
        return RemoteSystem(
            self.name,
            library,
            self._messages,
            self._channel,
            self.endpoints,
            self.security,
            respond=_respond,
            connections=self.connections(settings),
            concurrency=self.concurrency(settings),
            deadline_s=self.options.request_timeout,
            least_in_flight=self.options.balance == "least-in-flight",
        )

    def digests(self) -> dict[str, str]:
        request = (self.options.method, list(self._targets.values()), self.content_type, self._expected)
        return {"model": hashlib.sha256(repr(request).encode()).hexdigest(), "data": self.digest(self._data)}

    def _channel(self, endpoint: Endpoint) -> PostChannel:
        return PostChannel(self._messages, endpoint.authority, self.options.max_message_size << 20)

    async def _check(self) -> None:
        """Send each server the first sample.  Raises ``ServerError``, which says what was sent and what came."""
        for endpoint, url in zip(self.endpoints, self.urls, strict=True):
            reply = await call(endpoint, self.security, self._channel(endpoint), self._first)
            if isinstance(reply, Failure):
                sent = f"{self.options.method} {url} with the first sample"
                hints = (hint for status, hint in _HINTS.items() if reply.reason.startswith(f"HTTP {status} "))
                raise ServerError(f"{sent}: {reply.reason}{next(hints, '')}")


def _template(options: HttpOptions) -> bytes | None:
    if options.body is not None and options.body_file is not None:
        raise UserError("--body and --body-file are the same thing: give one")
    if options.body_file is None:
        return None if options.body is None else options.body.encode()
    return read_bytes(options.body_file, "--body-file")


def _respond(outputs: Outputs) -> Responses:
    return [outputs[0].tobytes()]
