"""A remote target of another package: a service that takes a word a line and answers each with a line.

All that a new protocol needs is here: its options, its logic without I/O, and the target.  An entry point of the group
``drumfire.targets`` makes it known.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from drumfire.loadgen.options import option
from drumfire.loadgen.settings import TestSettings
from drumfire.sut.data.inputs import Inputs, Sample
from drumfire.sut.kserve.messages.exchange import Buffer, Failure, Part, Region, Reply
from drumfire.sut.kserve.messages.tensors import ModelInterface, Tensor, TensorSpec
from drumfire.sut.remote.endpoint import Endpoint
from drumfire.sut.remote.samples import RemoteLibrary
from drumfire.sut.remote.system import RemoteSystem
from drumfire.sut.remote.target import Target, TargetOptions

LINE = ModelInterface("line", "", "", (TensorSpec("line", "UINT8", (-1,)),), (TensorSpec("reply", "UINT8", (-1,)),), 0)


@dataclass(frozen=True)
class LineOptions(TargetOptions):
    """The options of this target."""

    TITLE: ClassVar = "services of lines"

    word: tuple[str, ...] = option(("ping",), help="a word to send; repeat it for several samples")


class Words(Inputs):
    def __init__(self, words: Sequence[str]) -> None:
        self.name, self.total_count, self.description = "words", len(words), f"{len(words)} words"
        self._words = words

    def sample(self, index: int) -> Sample:
        line = f"{self._words[index]}\n".encode()
        return (Tensor((len(line),), line),)


class LineMessages:
    wanted = False

    def request(self, parts: Sequence[Part], regions: Sequence[Region] = ()) -> Any:
        return parts[0].data


class LineChannel:
    """Any number of lines on a connection, answered in their order."""

    draining, free = False, 1 << 30

    def __init__(self) -> None:
        self.out: list[Buffer] = []
        self._tickets: deque[int] = deque()
        self._rest = b""

    @property
    def under_way(self) -> int:
        return len(self._tickets)

    @property
    def oldest(self) -> int | None:
        return self._tickets[0] if self._tickets else None

    def send(self, ticket: int, request: Any) -> None:
        self._tickets.append(ticket)
        self.out.append(request)

    def cancel(self, ticket: int) -> bool:
        return False

    def close(self) -> None:
        pass

    def receive(self, data: bytes) -> list[tuple[int, Reply]]:
        *lines, self._rest = (self._rest + data).split(b"\n")
        return [
            (self._tickets.popleft(), None if line.startswith(b"OK") else Failure(line.decode("utf-8", "replace")))
            for line in lines
        ]

    def eof(self) -> list[tuple[int, Reply]]:
        return []

    def lost(self, reason: str) -> list[tuple[int, Reply]]:
        failed: list[tuple[int, Reply]] = [(ticket, Failure(reason)) for ticket in self._tickets]
        self._tickets.clear()
        return failed


class LineTarget(Target[LineOptions]):
    OPTIONS = LineOptions
    URL_HELP = "line://HOST:PORT"

    def endpoint(self, url: str) -> Endpoint:
        return Endpoint.of(url)

    def describe(self) -> str:
        return "a service of lines"

    def library(self, settings: TestSettings) -> RemoteLibrary:
        data, messages = Words(self.options.word), LineMessages()
        total, performance = self.sizes(data)
        self._messages = messages
        return RemoteLibrary(data, LINE, messages, total_count=total, performance_count=performance)

    def system(self, settings: TestSettings, library: RemoteLibrary) -> RemoteSystem:
        return RemoteSystem(
            self.name, library, self._messages, lambda _: LineChannel(), self.endpoints, self.security,
            respond=lambda outputs: [], connections=self.connections(settings), concurrency=self.concurrency(settings),
        )  # fmt: skip

    def digests(self) -> dict[str, str]:
        return {"data": self.digest(Words(self.options.word))}
