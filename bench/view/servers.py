"""What a run's servers say while it goes, for the live view: asked once a second, in a thread of the view's process.

Knows servers' addresses, statistics and metrics; must not know the run's table, nor a screen.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from drumfire.sut.kserve.errors import ServerError, one_line
from drumfire.sut.kserve.messages.operations import MODEL_STATISTICS
from drumfire.sut.remote.endpoint import Endpoint, Security, parse_url
from drumfire.sut.remote.kserve import metrics
from drumfire.sut.remote.kserve.client import Client, Unsupported
from drumfire.sut.remote.kserve.statistics import Snapshot

_PERIOD_S = 1.0
_PATIENCE_S = 3.0
_WINDOW_NS = 2_000_000_000
"""Figures are of the last seconds, or since the first look where that is less."""


@dataclass(frozen=True)
class ServerView:
    """Which servers to ask, and as whom.  Plain data, so that it travels to another process as JSON."""

    urls: Sequence[str]
    model: str
    version: str = ""
    ca: str | None = None
    certificate: str | None = None
    key: str | None = None
    headers: Sequence[Sequence[str]] = ()
    metrics_urls: Sequence[str] | None = None
    """One a server, or None: port 8002 of the servers' hosts, where the model's metrics are there."""

    @classmethod
    def of(
        cls,
        endpoints: Sequence[Endpoint],
        security: Security,
        model: str,
        version: str = "",
        metrics_urls: Sequence[str] | None = None,
    ) -> ServerView:
        return cls(
            [str(endpoint) for endpoint in endpoints],
            model,
            version,
            _text(security.ca),
            _text(security.certificate),
            _text(security.key),
            [list(header) for header in security.headers],
            metrics_urls,
        )

    @property
    def security(self) -> Security:
        ca, certificate, key = (None if name is None else Path(name) for name in (self.ca, self.certificate, self.key))
        return Security(ca, certificate, key, [(name, value) for name, value in self.headers])


@dataclass(frozen=True)
class Gpus:
    """All GPUs that the servers tell of."""

    count: int
    utilization: float | None
    """Their mean, 0 to 1; the other figures are sums."""
    power_w: float | None
    memory_used_bytes: float | None
    memory_total_bytes: float | None


@dataclass(frozen=True)
class ServerFigures:
    """What the servers did in the last seconds, all together."""

    rate: float | None = None
    """Requests answered per second."""
    mean_batch_size: float | None = None
    queue_ns: float | None = None
    """This and the next: means of the requests answered."""
    compute_ns: float | None = None
    cached_share: float | None = None
    gpus: Gpus | None = None
    note: str | None = None
    """Why there are no figures."""


class ServerPoll:
    """Asks the servers of ``view`` once a second, from ``start`` until this process ends.  Reading ``figures`` never
    waits, and nothing that goes wrong with a server does more than change them."""

    def __init__(self, view: ServerView) -> None:
        self.figures = ServerFigures()
        self._view = view
        self._history: deque[tuple[int, Snapshot]] = deque()
        self._metrics_urls: list[str | None] = []

    def start(self) -> None:
        threading.Thread(target=self._run, name="servers", daemon=True).start()

    def _run(self) -> None:
        try:
            asyncio.run(self._poll())
        except Exception as error:  # whatever it is: the view goes on without these figures
            self.figures = ServerFigures(note=_reason(error))

    async def _poll(self) -> None:
        security, urls = self._view.security, self._view.urls
        self._metrics_urls = list(self._view.metrics_urls or ())
        clients = [Client(parse_url(url), security) for url in urls]
        if not self._metrics_urls:
            defaults = [metrics.default_url(client.endpoint.host) for client in clients]
            self._metrics_urls = list(await asyncio.gather(*map(self._found, dict.fromkeys(defaults))))
        while True:
            began = time.monotonic()
            snapshots, gpus = await asyncio.gather(
                asyncio.gather(*(self._ask(client) for client in clients), return_exceptions=True),
                self._gpus(),
            )
            self._tell(time.monotonic_ns(), snapshots, gpus)
            await asyncio.sleep(max(_PERIOD_S - (time.monotonic() - began), _PERIOD_S / 2))

    async def _ask(self, client: Client) -> Snapshot:
        names = {"name": self._view.model} | ({"version": self._view.version} if self._view.version else {})
        try:
            async with asyncio.timeout(_PATIENCE_S):
                answer = await client.ask(MODEL_STATISTICS, **names)
        except TimeoutError:
            await client.close()  # what is still to come is not the next question's answer
            raise ServerError(f"no answer within {_PATIENCE_S:g} s") from None
        return Snapshot.of(answer, self._view.model, self._view.version)

    async def _found(self, url: str) -> str | None:
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

        found: dict[str, Mapping[str, float]] = {}
        for gpus in await asyncio.gather(*(look(url) for url in self._metrics_urls if url is not None)):
            found |= gpus
        return together(list(found.values()))

    def _tell(self, now_ns: int, snapshots: Sequence[Snapshot | BaseException], gpus: Gpus | None) -> None:
        total = Snapshot()
        for one in snapshots:
            if isinstance(one, BaseException):
                self._history.clear()
                self.figures = ServerFigures(gpus=gpus, note=_reason(one))
                return
            total = total.plus(one)
        if self._history and total.since(self._history[-1][1]).went_backwards:
            self._history.clear()
        self._history.append((now_ns, total))
        while len(self._history) > 2 and self._history[1][0] <= now_ns - _WINDOW_NS:
            self._history.popleft()
        then_ns, before = self._history[0]
        self.figures = figures_of(total.since(before), now_ns - then_ns, gpus)


def figures_of(done: Snapshot, took_ns: int, gpus: Gpus | None) -> ServerFigures:
    """From what was counted in ``took_ns``."""
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
    """From ``metrics.Reading.gpus``' values; None without any."""
    if not gpus:
        return None
    told = {name: [gpu[name] for gpu in gpus if name in gpu] for name in Gpus.__dataclass_fields__}
    sums = {name: sum(values) if values else None for name, values in told.items()}
    used = sums["utilization"]
    return Gpus(
        len(gpus),
        None if used is None else used / len(told["utilization"]),
        sums["power_w"],
        sums["memory_used_bytes"],
        sums["memory_total_bytes"],
    )


def _text(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _reason(error: BaseException) -> str:
    if isinstance(error, Unsupported):
        return "the server tells none"
    return one_line(str(error) or type(error).__name__, 200)
