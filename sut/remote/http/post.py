"""Requests with a body to any HTTP endpoint, and what a reply must be.  Does not depend on sockets or on the data."""

from __future__ import annotations

import json
import re
import reprlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from drumfire.loadgen.errors import UserError
from drumfire.sut.kserve.errors import one_line
from drumfire.sut.kserve.http1.connection import Response, build_request
from drumfire.sut.kserve.messages.exchange import Buffer, Failure, Outputs, Part, Region, Reply
from drumfire.sut.kserve.messages.http_client import SMALL, ReplyChannel

_SHOWN = 200
"""Characters of a reply in the reason of a failure."""
_STEP = re.compile(r"\.?([^.\[\]]+)|\[(\d+)\]")
_ABSENT = object()


@dataclass(frozen=True)
class JsonValue:
    """A value that every reply must hold."""

    written: str
    steps: Sequence[str]
    """Names of members and numbers of elements, from the outermost value inwards."""
    value: Any
    """``_ABSENT``: any value will do."""

    @classmethod
    def parse(cls, text: str) -> JsonValue:
        """Parse ``PATH`` or ``PATH=VALUE``, such as ``outputs[0].label=cat``.  Raises ``UserError``."""
        path, equals, value = text.partition("=")
        path = path.strip().removeprefix("$")
        steps, at = [], 0
        while at < len(path) and (found := _STEP.match(path, at)):
            steps.append(found[1] or found[2])
            at = found.end()
        if at < len(path) or not (steps or equals):
            raise UserError(f"--expect-json {text!r}: use PATH or PATH=VALUE, such as 'outputs[0].label=\"cat\"'")
        wanted: Any = _ABSENT
        if equals:
            try:
                wanted = json.loads(value)
            except RecursionError:
                raise UserError(f"--expect-json {text[:60]!r}…: the value is nested too deep") from None
            except ValueError:
                wanted = value  # text may be written without quotes
        return cls(text, steps, wanted)

    def fault(self, document: Any) -> str | None:
        """What is wrong with a reply; None if it holds the value."""
        found = document
        for step in self.steps:
            try:
                found = found[int(step)] if isinstance(found, list) else found[step]
            except (LookupError, TypeError, ValueError):
                return f"the reply has no {self.written.partition('=')[0]} (--expect-json)"
        if self.value is _ABSENT or (found == self.value and isinstance(found, bool) == isinstance(self.value, bool)):
            return None
        # As JSON writes it, which is how it has to be expected.
        short = found[:_SHOWN] if isinstance(found, str) else found
        text = reprlib.repr(found) if isinstance(found, list | dict) else json.dumps(short, ensure_ascii=False)
        return f"the reply has {one_line(text, _SHOWN)}, expected {self.written} (--expect-json)"


@dataclass(frozen=True)
class Expected:
    """What a good reply is."""

    status: int = 200
    values: Sequence[JsonValue] = ()


class PostMessages:
    """``exchange.Messages`` whose only input is a body, and whose only output is the reply's body.

    A request is, by the authority that it goes to, the pieces that are written to the socket.
    """

    def __init__(
        self,
        method: str,
        targets: Mapping[str, tuple[str, str]],
        fields: Sequence[tuple[str, str]],
        expected: Expected,
    ) -> None:
        """``targets``: by the endpoint's authority, the Host field and the request's target: path and query."""
        self.wanted = False
        self._method, self._targets, self._fields, self._expected = method, targets, fields, expected
        self._heads: dict[int, Mapping[str, bytes]] = {}
        self._good: bytes | None = None
        """The last body that was as expected."""

    def request(self, parts: Sequence[Part], regions: Sequence[Region] = ()) -> Mapping[str, Sequence[Buffer]]:
        body = parts[0].data
        assert not isinstance(body, Region)
        heads = self._heads.get(len(body))
        if heads is None:
            heads = self._heads[len(body)] = {
                authority: build_request(self._method, target, host, self._fields, len(body))
                for authority, (host, target) in self._targets.items()
            }
        if len(body) <= SMALL:
            return {authority: (head + body,) for authority, head in heads.items()}
        return {authority: (head, body) for authority, head in heads.items()}

    def reply(self, response: Response) -> Reply:
        if response.status != self._expected.status:
            return Failure(self._other_status(response))
        if self._expected.values and response.body != self._good:
            fault = self._fault(bytes(response.body))
            if fault is not None:
                return Failure(fault)
            self._good = bytes(response.body)
        return _outputs(response.body) if self.wanted else None

    def start(self, response: Response) -> bytes | None:
        """How later replies with the same head must begin to be good; None if this one was not."""
        if response.status != self._expected.status:
            return None
        if not self._expected.values:
            return b""
        return self._good if response.body == self._good else None

    def again(self, data: bytes, body_size: int) -> Reply:
        """The reply of a good message that ends with a body of ``body_size`` bytes."""
        return _outputs(memoryview(data)[len(data) - body_size :]) if self.wanted else None

    def _fault(self, body: bytes) -> str | None:
        try:
            document = json.loads(body)
        except (ValueError, RecursionError):
            return f"the reply is not JSON (--expect-json): {_text(body)}"
        return next((fault for value in self._expected.values if (fault := value.fault(document))), None)

    def _other_status(self, response: Response) -> str:
        text = _text(response.body) or response.head.reason
        where = response.head.fields.get("location")
        if where is not None:
            text = f"it points to {one_line(where, _SHOWN)}"
        return f"HTTP {response.status} instead of {self._expected.status}: {text}"


class PostChannel(ReplyChannel):
    """A ``Channel`` of such requests to one endpoint."""

    def __init__(self, messages: PostMessages, authority: str, max_message_bytes: int) -> None:
        super().__init__(messages, max_message_bytes)
        self._authority = authority

    def send(self, ticket: int, request: Mapping[str, Sequence[Buffer]]) -> None:
        self._connection.request()
        self._ticket = ticket
        self.out += request[self._authority]


def _outputs(body: Buffer) -> Outputs:
    return [np.frombuffer(body, np.uint8)]


def _text(body: Buffer) -> str:
    return one_line(bytes(body[: 4 * _SHOWN]).decode("utf-8", "replace"), _SHOWN)
