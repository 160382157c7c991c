"""A remote system whose requests carry no tensors: inputs and outputs lie in memory shared with the servers.

Assigns slots to requests and frees them.  Does not depend on how the memory is shared.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np

from drumfire.loadgen.answers import Answers
from drumfire.loadgen.responses import Responses
from drumfire.loadgen.system import IndexArray
from drumfire.sut.data.inputs import Inputs
from drumfire.sut.kserve.messages.exchange import Channel, Failure, Outputs, Reply, SharedMessages
from drumfire.sut.kserve.messages.tensors import ModelInterface
from drumfire.sut.remote.kserve.memory import SharedMemory
from drumfire.sut.remote.samples import RemoteLibrary
from drumfire.sut.remote.system import Link, RemoteSystem, Respond

_BURST = 2048
"""Number of requests, of some 300 bytes each, to send before checking that the socket has room."""
_DEADLINE_SLACK_NS = 1_000_000
"""Requests state their deadlines in whole milliseconds."""


class SharedLibrary(RemoteLibrary):
    """A ``RemoteLibrary`` whose loaded samples lie in ``memory``; ``requests`` holds the input sides of requests."""

    def __init__(
        self,
        inputs: Inputs,
        interface: ModelInterface,
        messages: SharedMessages,
        memory: SharedMemory,
        *,
        total_count: int,
        performance_count: int,
    ) -> None:
        super().__init__(
            inputs, interface, messages, total_count=total_count, performance_count=performance_count, batch_size=1
        )
        self._input_side, self._memory = messages.input_side, memory
        self.burst = _BURST

    def load(self, indices: IndexArray) -> None:
        self._memory.forget()
        for index in np.unique(indices).tolist():
            parts = self._memory.put(self._parts([self.inputs.sample(index)]))
            self.requests[index] = self._input_side(parts)


class SharedMemorySystem(RemoteSystem):
    """Gives each request a slot for its outputs, from when it is sent until its reply has been read.

    The slots bound the requests under way.  After an abandoned request (its deadline passed, or its connection was
    lost) the server may still write to its slot at any time: a spare slot, while there is one, replaces it for good.
    """

    def __init__(
        self,
        name: str,
        library: SharedLibrary,
        messages: SharedMessages,
        *arguments: Any,
        memory: SharedMemory,
        respond: Respond,
        concurrency: int | None = None,
        **options: Any,
    ) -> None:
        self._most = min(concurrency or memory.slots, memory.slots)
        super().__init__(
            name, library, messages, *arguments, respond=_lasting(respond), concurrency=self._most, **options
        )
        self._memory, self._joined, self._output_side = memory, messages.joined, messages.output_side

    async def open(self, answers: Answers) -> None:
        """Connect to every server and share the memory with it.  Raises ``ServerError``."""
        await super().open(answers)
        await self._memory.open()
        self._limit, self._slots = self._most, self._memory.slots
        self._sides = [self._output_side(self._memory.regions(slot)) for slot in range(self._slots)]
        self._free = deque(range(self._slots - 1, -1, -1))  # takes the last first: it is warmest in the CPU's cache
        self._slot_of: dict[int, int] = {}
        """Row -> slot, of the requests under way."""

    async def close(self) -> None:
        try:
            await super().close()
        finally:
            await self._memory.close()

    def _send_rows(self, channel: Channel, count: int) -> None:
        first = self._next_row
        self._next_row = last = min(first + count, first + self._library.burst, self._end_row)
        send, requests, index, joined = channel.send, self._library.requests, self._index, self._joined
        take, sides, slot_of = self._free.pop, self._sides, self._slot_of
        for row in range(first, last):
            slot_of[row] = slot = take()
            send(row, joined(requests[index[row]], sides[slot]))
        self._in_flight += last - first
        self._sent[first:last] = time.monotonic_ns() - self._answers.origin_ns

    def _send(self, channel: Channel, first: int, last: int) -> None:
        self._slot_of[first] = slot = self._free.pop()
        channel.send(first, self._joined(self._library.requests[self._index[first]], self._sides[slot]))
        self._in_flight += 1
        self._sent_view[first] = time.monotonic_ns() - self._answers.origin_ns

    def _deliver(self, link: Link, replies: Sequence[tuple[int, Reply]]) -> None:
        # A slot is free at once: nothing uses its contents after this call.
        is_plain = True
        for row, reply in replies:
            if reply is None:
                self._free.append(self._slot_of.pop(row))
            else:
                is_plain = False
        if not is_plain:
            replies = [(row, None if reply is None else self._with_outputs(link, row, reply)) for row, reply in replies]
        super()._deliver(link, replies)
        if replies and not self._limit and self._answers.aborted is None:
            self._give_up("servers may still write to all of the shared memory: too many requests were abandoned")

    def _with_outputs(self, link: Link, row: int, reply: Outputs | Failure) -> Outputs | Failure:
        """The reply with its outputs read; frees the slot, or replaces it if the request was abandoned."""
        slot = self._slot_of.pop(row)
        if isinstance(reply, Failure):
            if reply.unseen or not self._is_abandoned(link, row):
                self._free.appendleft(slot)
            else:
                self._replace()
            return reply
        self._free.append(slot)
        try:
            return self._memory.outputs(slot, reply)
        except ValueError as error:
            return Failure(str(error))

    def _is_abandoned(self, link: Link, row: int) -> bool:
        """Whether the server may still work on a request that failed."""
        if link.wire is None or link.wire.closed:
            return True
        if self._deadline_s is None:
            return False
        return self._answers.now() - self._sent_view[row] >= round(self._deadline_s * 1e9) - _DEADLINE_SLACK_NS

    def _replace(self) -> None:
        self.happened["slots of shared memory given up"] += 1
        if self._memory.add_slot(self._slots):
            self._sides.append(self._output_side(self._memory.regions(self._slots)))
            self._free.appendleft(self._slots)
            self._slots += 1
        else:
            self._limit = min(self._limit, len(self._free) + len(self._slot_of))


def _lasting(respond: Respond) -> Respond:
    """Copy responses, as they must not change with the shared memory that they were read from."""

    def copied(outputs: Outputs) -> Responses:
        responses = respond(outputs)
        return responses.copy() if isinstance(responses, np.ndarray) else responses

    return copied
