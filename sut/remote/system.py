"""A model on remote servers as a system under test: it sends rows as requests and records replies as answers.

Handles rows, connections and their loss.  Does not depend on the form of requests and replies.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np
import numpy.typing as npt

from drumfire.loadgen.answers import Answers
from drumfire.loadgen.limits import check_files
from drumfire.loadgen.loggers import REMOTE
from drumfire.loadgen.responses import Responses
from drumfire.loadgen.system import Answer
from drumfire.sut.kserve.errors import ProtocolError, ServerError
from drumfire.sut.kserve.messages.exchange import Channel, Failure, Messages, Outputs, Reply
from drumfire.sut.remote.endpoint import Endpoint, Security
from drumfire.sut.remote.samples import RemoteLibrary
from drumfire.sut.remote.wire import SETTLE_PATIENCE_S, PartialReplies, Wire, connect

RECONNECT_S = 5.0
"""We abandon a server after failing to reconnect for this time."""
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.05, 0.5
_LOOK_S = 0.02  # between checks of the requests' deadlines
_RECONNECTING = "reconnecting"

Respond = Callable[[Outputs], Responses]
"""Maps a reply's outputs, with the batch as first dimension, to a response for each sample."""
NewChannel = Callable[[Endpoint], Channel]


class Link:
    """A connection with its protocol logic and its counts."""

    def __init__(self, endpoint: Endpoint, channel: Channel) -> None:
        self.endpoint, self.channel = endpoint, channel
        self.wire: Wire | None = None
        self.served = 0
        """Number of requests answered with outputs."""
        self.refused = self.lost = 0
        """Number of requests that the server failed or did not answer in time, and that the connection's end failed."""
        self.born_s = time.monotonic()
        self.useless_until_s: float | None = None
        """When we abandon the server unless this connection is useful; None if the connection before it was useful."""
        self.listed = False
        """Whether it is in the list of connections that take requests."""
        self.replaced = False
        """Whether another connection replaces it."""

    @property
    def is_useless(self) -> bool:
        """Whether it ended at once or at its first request: the program that listens there is not the server."""
        if self.served or self.refused:
            return False
        return self.lost > 0 or time.monotonic() - self.born_s < _LONGEST_PAUSE_S

    @property
    def takes_requests(self) -> bool:
        return self.wire is not None and not self.wire.closed and not self.wire.full and self.channel.free > 0


class RemoteSystem:
    """Sends rows in their order, at most ``concurrency`` requests at a time, over ``connections`` to each server.

    Rows wait in one queue, as two integers, while no connection takes them.  A request fails if its connection is lost;
    it is sent again if the server certainly did not begin it (GOAWAY, REFUSED_STREAM).  The run ends when no server is
    reachable any more.
    """

    columns: Mapping[str, npt.DTypeLike] = {"sent": np.int64}
    """When the row's request was passed to the socket (ns from the start)."""
    answer: Answer | None = None

    def __init__(
        self,
        name: str,
        library: RemoteLibrary,
        messages: Messages,
        new_channel: NewChannel,
        endpoints: Sequence[Endpoint],
        security: Security,
        *,
        respond: Respond,
        connections: int = 1,
        concurrency: int | None = None,
        batch_size: int = 1,
        deadline_s: float | None = None,
        least_in_flight: bool = False,
        expects: bool = False,
    ) -> None:
        self.name = name
        self.happened: Counter[str] = Counter()
        """Events such as replaced connections, with their counts, for the result."""
        self._library, self._messages, self._new_channel = library, messages, new_channel
        self._endpoints, self._security = endpoints, security
        self._respond, self._expects = respond, expects
        self._connections, self._batch_size = connections, batch_size
        self._limit = concurrency or 1 << 62
        self._deadline_s, self._least_in_flight = deadline_s, least_in_flight

    async def open(self, answers: Answers) -> None:
        """Connect to every server.  Raises ``ServerError``, and ``UserError`` for more connections than are allowed."""
        self._answers = answers
        self._index = answers.record.view("sample_index")
        self._sent, self._sent_view = answers.columns["sent"], answers.record.view("sent")
        self._next_row = self._end_row = self._in_flight = 0
        self._again: deque[int] = deque()
        self._last_rows: dict[int, int] = {}
        self._links: list[Link] = []
        self._served: Counter[Endpoint] = Counter()
        self._ready: deque[Link] = deque()
        self._partial_replies = PartialReplies()
        self._tasks: set[asyncio.Task[None]] = set()
        self._closing = False
        self._settled = asyncio.Event()
        self.happened.clear()
        check_files(self._connections * len(self._endpoints))
        for _ in range(self._connections):
            for endpoint in self._endpoints:
                await self._connect(endpoint)
        try:
            async with asyncio.timeout(SETTLE_PATIENCE_S):
                while len(self._ready) < len(self._links):
                    self._settled.clear()
                    await self._settled.wait()
        except TimeoutError:
            silent = next(link.endpoint for link in self._links if not link.listed)
            raise ServerError(f"{silent} sends nothing: does this port speak the URL's protocol?") from None
        if self._deadline_s is not None:
            self._start(self._watch_deadlines(self._deadline_s))

    @property
    def served(self) -> Mapping[Endpoint, int]:
        """Number of requests that each server answered with outputs."""
        served = Counter(self._served)
        for link in self._links:
            served[link.endpoint] += link.served
        return served

    def issue(self, first: int, last: int) -> None:
        if self._next_row == self._end_row:
            self._next_row = first
        self._end_row = last
        self._messages.wanted = self._expects or self._answers.keeping
        self._pump()

    def flush(self) -> None:
        pass  # never holds rows back for a fuller batch

    async def close(self) -> None:
        self._closing = True
        for link in self._links:  # before any await: replies that arrive from here on do not count
            if link.wire is not None:
                link.channel.close()
                await link.wire.close()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # Sending.

    def _pump(self) -> None:
        """Send waiting rows as far as the limits allow."""
        ready, single, share = self._ready, self._batch_size == 1, self._limit
        if len(ready) > 1:  # divide the requests evenly among the connections
            waiting = -(-(self._end_row - self._next_row) // self._batch_size)
            share = max(1, -(-min(waiting, self._limit - self._in_flight) // len(ready)))
        while (self._next_row < self._end_row or self._again) and ready and self._in_flight < self._limit:
            link = self._pick()
            channel, wire = link.channel, link.wire
            assert wire is not None
            count = min(channel.free, self._limit - self._in_flight, share)
            if self._again:
                row = self._again.popleft()
                self._send(channel, row, self._last_rows.pop(row, row + 1))
            elif single:
                self._send_rows(channel, count)
            else:
                for _ in range(min(count, self._library.burst)):
                    if (first := self._next_row) == self._end_row:
                        break
                    indices = self._index[first : min(first + self._batch_size, self._end_row)]
                    self._next_row = last = first + self._library.together(indices)
                    self._send(channel, first, last)
            wire.flush()
            self._list(link)

    def _send_rows(self, channel: Channel, count: int) -> None:
        """Send the next rows, one request each: at most ``count``, and at most a burst."""
        first = self._next_row
        self._next_row = last = min(first + count, first + self._library.burst, self._end_row)
        send, requests, index = channel.send, self._library.requests, self._index
        if last - first == 1:
            send(first, requests[index[first]])
            self._in_flight += 1
            self._sent_view[first] = time.monotonic_ns() - self._answers.origin_ns
            return
        for row in range(first, last):
            send(row, requests[index[row]])
        self._in_flight += last - first
        self._sent[first:last] = time.monotonic_ns() - self._answers.origin_ns

    def _send(self, channel: Channel, first: int, last: int) -> None:
        """Send one request for rows [first, last)."""
        if self._batch_size == 1:
            request = self._library.requests[self._index[first]]
        else:
            try:
                request = self._library.batched(self._index[first:last].tolist())
            except Exception as error:  # a fault of these samples fails only these rows
                self._answers.fail(first, last, error)
                return
            self._last_rows[first] = last
        channel.send(first, request)
        self._in_flight += 1
        self._sent[first:last] = time.monotonic_ns() - self._answers.origin_ns

    def _pick(self) -> Link:
        """Take from the list the next connection in turn, or the one with the fewest requests under way."""
        ready = self._ready
        if self._least_in_flight and len(ready) > 1:
            link = min(ready, key=lambda link: link.channel.under_way)
            ready.remove(link)
        else:
            link = ready.popleft()
        link.listed = False
        return link

    def _list(self, link: Link) -> None:
        """Put the connection in the list if it takes requests."""
        if not link.listed and link.takes_requests:
            link.listed = True
            self._ready.append(link)

    # Replies.

    def _deliver(self, link: Link, replies: Sequence[tuple[int, Reply]]) -> None:
        """Handle a connection's replies, or its news: more can be written, or it is lost."""
        if replies:
            self._in_flight -= len(replies)
            rows = [ticket for ticket, reply in replies if reply is None]
            link.served += len(rows)
            if rows and self._batch_size == 1:
                self._answers.complete_each(rows)
            else:
                for row in rows:
                    self._answers.complete(row, self._last_rows.pop(row))
            if len(rows) < len(replies):
                for ticket, reply in replies:
                    if reply is not None:
                        self._settle(link, ticket, reply)
        wire = link.wire
        if wire is None:
            return
        if (
            replies
            and self._next_row < self._end_row
            and len(self._ready) <= link.listed  # no other connection waits
            and self._batch_size == 1
            and not self._again
        ):
            # The usual case: the connection of a reply takes the next request.
            count = min(link.channel.free, self._limit - self._in_flight)
            if count > 0 and not wire.full and not wire.closed:
                self._send_rows(link.channel, count)
                wire.flush()
                return
        if wire.closed or link.channel.draining:
            self._retire(link)
        else:
            self._list(link)
            self._settled.set()
        self._pump()

    def _settle(self, link: Link, first: int, reply: Reply) -> None:
        """Record a failure, or a success with outputs."""
        if isinstance(reply, Failure):
            if reply.unseen and not self._closing:
                self.happened["requests sent again"] += 1
                self._again.append(first)
            else:
                if link.wire is not None and link.wire.closed:
                    link.lost += 1
                else:
                    link.refused += 1
                self._answers.fail(first, self._last_rows.pop(first, first + 1), reply.reason)
            return
        assert reply is not None
        link.served += 1
        last = self._last_rows.pop(first, first + 1)
        try:
            if self._batch_size > 1 and len(reply[0]) != last - first:
                raise ProtocolError(f"outputs for {len(reply[0])} samples to a request of {last - first}")
            if self._expects:
                self._library.check_expected(self._index[first:last].tolist(), reply)
            responses = self._respond(reply) if self._answers.keeping else None
        except Exception as error:  # the model's reading of an answer may raise anything: these rows fail
            self._answers.fail(first, last, error)
        else:
            self._answers.complete(first, last, responses)

    async def _watch_deadlines(self, deadline_s: float) -> None:
        reason = f"no reply within {deadline_s:g} s (--request-timeout)"
        while True:
            await asyncio.sleep(_LOOK_S)
            oldest_ns = self._answers.now() - round(deadline_s * 1e9)
            for link in list(self._links):
                while (row := link.channel.oldest) is not None and self._sent_view[row] < oldest_ns:
                    assert link.wire is not None
                    if not link.channel.cancel(row):
                        link.refused += 1  # we end the connection, so it must not look useless
                        link.wire.abort(reason)
                        break
                    link.wire.flush()
                    self._deliver(link, [(row, Failure(reason))])

    # Connections.

    async def _connect(self, endpoint: Endpoint, until_s: float | None = None) -> None:
        link = Link(endpoint, self._new_channel(endpoint))
        link.useless_until_s = until_s
        deliver = partial(self._deliver, link)
        link.wire = await connect(endpoint, self._security, link.channel, deliver, self._partial_replies)
        if link.wire.closed:
            raise ServerError(f"{endpoint} closes connections as soon as they are made")
        self._links.append(link)
        self._list(link)
        self._pump()

    def _retire(self, link: Link) -> None:
        """Replace a connection that takes no more requests, and close it when all its requests are answered."""
        assert link.wire is not None
        if link.listed:
            self._ready.remove(link)
            link.listed = False
        if link in self._links and (link.wire.closed or link.channel.oldest is None):
            self._links.remove(link)
            self._served[link.endpoint] += link.served
            if not link.wire.closed:
                link.channel.close()
                self._start(link.wire.close())
        if not link.replaced and not self._closing:
            link.replaced = True
            self.happened["connections replaced"] += 1
            if link.wire.closed:
                REMOTE.warning("%s: connection lost after %d answers: %s", link.endpoint, link.served, link.wire.why)
            else:
                REMOTE.info("%s: takes no more requests on a connection; opening another", link.endpoint)
            self._start(self._reconnect(link), _RECONNECTING)

    async def _reconnect(self, lost: Link) -> None:
        endpoint, reason = lost.endpoint, f"no connection to {lost.endpoint} lasts"
        if lost.wire is not None and lost.wire.why is not None:
            reason += f": {lost.wire.why}"
        until_s, pause_s = time.monotonic() + RECONNECT_S, _FIRST_PAUSE_S
        if lost.is_useless:
            until_s = until_s if lost.useless_until_s is None else lost.useless_until_s
            pause_s = min(_LONGEST_PAUSE_S, RECONNECT_S / 4)
            await asyncio.sleep(pause_s)
        while time.monotonic() < until_s:
            try:
                async with asyncio.timeout(max(until_s - time.monotonic(), 0.1)):
                    await self._connect(endpoint, until_s)
                REMOTE.info("%s: connected again", endpoint)
                return
            except (ServerError, TimeoutError) as error:
                reason = str(error) or f"cannot reach {endpoint}"
                REMOTE.info("%s", reason)
            if time.monotonic() + pause_s > until_s:
                break
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _LONGEST_PAUSE_S)
        self.happened[f"given up after {RECONNECT_S:g} s: {reason}"] += 1
        REMOTE.error("given up after %g s: %s", RECONNECT_S, reason)
        reconnecting = sum(not task.done() for task in self._tasks if task.get_name() == _RECONNECTING)
        if not self._links and reconnecting <= 1:
            self._give_up(reason)

    def _give_up(self, reason: str) -> None:
        """Fail all waiting rows and end the run, as no server is left."""
        for row in self._again:
            self._answers.fail(row, self._last_rows.pop(row, row + 1), reason)
        self._again.clear()
        if self._next_row < self._end_row:
            first, self._next_row = self._next_row, self._end_row
            self._answers.fail(first, self._end_row, reason)
        self._answers.abort(reason)

    def _start(self, work: Coroutine[Any, Any, None], name: str | None = None) -> None:
        task = asyncio.create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
