"""What KServe servers say while a run goes: a thread asks for their statistics and metrics once a second."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from drumfire.sut.kserve.errors import ServerError, one_line
from drumfire.sut.kserve.messages.operations import MODEL_STATISTICS
from drumfire.sut.remote.endpoint import Security, parse_url
from drumfire.sut.remote.figures import Gpus, ServerFigures
from drumfire.sut.remote.kserve import metrics
from drumfire.sut.remote.kserve.client import Client, Unsupported
from drumfire.sut.remote.kserve.statistics import Snapshot
from drumfire.sut.window import begin_of_window

_PERIOD_S = 1.0
_PATIENCE_S = 3.0


@dataclass(frozen=True)
class PolledServers:
    """Which servers to ask, and with which credentials.  Plain data, which goes to another process as JSON."""

    urls: Sequence[str]
    model: str
    version: str = ""
    security: Mapping[str, Any] = field(default_factory=dict)
    """``Security.plain``."""
    metrics_urls: Sequence[str] | None = None
    """A URL for each server; None: port 8002 of the servers' hosts, where that has the model's metrics."""


class ServerPoll:
    """Asks the servers of ``view`` once a second, from ``start`` until this process ends.

    Reading ``figures`` never waits.  A failing server only changes the figures.
    """

    def __init__(self, view: PolledServers) -> None:
        self.figures = ServerFigures()
        self._view = view
        self._history: deque[tuple[int, Snapshot]] = deque()
        self._metrics_urls: list[str | None] = []

    def start(self) -> None:
        threading.Thread(target=self._run, name="servers", daemon=True).start()

    def _run(self) -> None:
        try:
            asyncio.run(self._poll())
        except Exception as error:  # the view continues without these figures
            self.figures = ServerFigures(note=_reason(error))

    async def _poll(self) -> None:
        security, urls = Security.from_plain(self._view.security), self._view.urls
        self._metrics_urls = list(self._view.metrics_urls or ())
        clients = [Client(parse_url(url), security) for url in urls]
        if not self._metrics_urls:
            defaults = [metrics.default_url(client.endpoint.host) for client in clients]
            self._metrics_urls = list(await asyncio.gather(*map(self._if_served, dict.fromkeys(defaults))))
        while True:
            began = time.monotonic()
            snapshots, gpus = await asyncio.gather(
                asyncio.gather(*(self._ask(client) for client in clients), return_exceptions=True), self._gpus()
            )
            self._update(time.monotonic_ns(), snapshots, gpus)
            await asyncio.sleep(max(_PERIOD_S - (time.monotonic() - began), _PERIOD_S / 2))

    async def _ask(self, client: Client) -> Snapshot:
        names = {"name": self._view.model} | ({"version": self._view.version} if self._view.version else {})
        try:
            async with asyncio.timeout(_PATIENCE_S):
                answer = await client.ask(MODEL_STATISTICS, **names)
        except TimeoutError:
            await client.close()  # a late answer must not be read as the answer to the next question
            raise ServerError(f"no answer within {_PATIENCE_S:g} s") from None
        return Snapshot.of(answer, self._view.model, self._view.version)

    async def _if_served(self, url: str) -> str | None:
        """The URL itself where it serves the model's metrics."""
        try:
            return url if metrics.tells_of(await metrics.fetch(url), self._view.model) else None
        except ServerError:
            return None

    async def _gpus(self) -> Gpus | None:
        async def look(url: str) -> Mapping[str, Mapping[str, float]]:
            try:
                return metrics.read(await metrics.fetch(url), self._view.model).gpus
            except (ServerError, ImportError):
                return {}

        by_uuid: dict[str, Mapping[str, float]] = {}
        for gpus in await asyncio.gather(*(look(url) for url in self._metrics_urls if url is not None)):
            by_uuid |= gpus
        return together(list(by_uuid.values()))

    def _update(self, now_ns: int, snapshots: Sequence[Snapshot | BaseException], gpus: Gpus | None) -> None:
        total = Snapshot()
        for one in snapshots:
            if isinstance(one, BaseException):
                self._history.clear()
                self.figures = ServerFigures(gpus=gpus, note=_reason(one))
                return
            total = total.plus(one)
        if self._history and total.since(self._history[-1][1]).went_backwards:
            self._history.clear()
        then_ns, before = begin_of_window(self._history, now_ns, total)
        self.figures = figures_of(total.since(before), now_ns - then_ns, gpus)


def figures_of(done: Snapshot, took_ns: int, gpus: Gpus | None) -> ServerFigures:
    """Figures of the requests that were counted in ``took_ns``."""
    if took_ns <= 0:
        return ServerFigures(gpus=gpus)
    mean, count = done.mean_ns(), done.success.count
    if mean is None:
        return ServerFigures(rate=0.0, gpus=gpus)
    return ServerFigures(
        rate=count * 1e9 / took_ns,
        mean_batch_size=done.mean_batch_size,
        queue_ns=mean["queue"],
        compute_ns=mean["compute_input"] + mean["compute_infer"] + mean["compute_output"],
        cached_share=done.cache_hit.count / count,
        gpus=gpus,
    )


def together(gpus: Sequence[Mapping[str, float]]) -> Gpus | None:
    """All GPUs as one, from the values of ``metrics.Reading.gpus``; None for an empty sequence."""
    if not gpus:
        return None
    reported = {name: [gpu[name] for gpu in gpus if name in gpu] for name in Gpus.__dataclass_fields__}
    sums = {name: sum(values) if values else None for name, values in reported.items()}
    used = sums["utilization"]
    return Gpus(
        len(gpus),
        None if used is None else used / len(reported["utilization"]),
        sums["power_w"],
        sums["memory_used_bytes"],
        sums["memory_total_bytes"],
    )


def _reason(error: BaseException) -> str:
    if isinstance(error, Unsupported):
        return "the server reports none"
    return one_line(str(error) or type(error).__name__, 200)
