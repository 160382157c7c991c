"""What a server says of itself while a run goes: its statistics and its metrics, as a meter.

Made in the sampler's process (see ``drumfire.sut.sampler``); ``plans`` describes it in ours.
"""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Mapping, Sequence
from typing import Any

from drumfire.sut.kserve.errors import ServerError, one_line
from drumfire.sut.remote.endpoint import Endpoint, Security, names, parse_url
from drumfire.sut.remote.figures import NO_STATISTICS
from drumfire.sut.remote.kserve import metrics
from drumfire.sut.remote.kserve.client import Client, Unsupported
from drumfire.sut.remote.kserve.statistics import Snapshot, ask
from drumfire.sut.sampler import MeterPlan

KIND = f"{__name__}:ServerMeter"
_PATIENCE_S = 3.0


def plans(
    endpoints: Sequence[Endpoint],
    security: Security,
    model: str,
    version: str = "",
    metrics_urls: Sequence[str] | None = None,
) -> list[MeterPlan]:
    """A meter for each server of a run.  The names of several carry their hosts.

    ``metrics_urls``: by default port 8002 of each server's host, where that has the model's metrics.
    """
    shared = {"model": model, "version": version, "security": security.plain()}
    return [
        MeterPlan(name, KIND, {"url": str(endpoint), "metrics_url": url, **shared})
        for name, endpoint, url in itertools.zip_longest(names(endpoints), endpoints, metrics_urls or ())
    ]


class ServerMeter:
    """The figures of one server since the reading before, and what its metrics say now."""

    units: Mapping[str, str] = {
        "requests_per_s": "1/s",
        "batches_per_s": "1/s",
        "batch_size": "samples",
        "queue_ns": "ns",
        "compute_ns": "ns",
        "cached_share": "share",
        **metrics.UNITS,
    }

    def __init__(
        self,
        url: str,
        model: str,
        version: str = "",
        security: Mapping[str, Any] | None = None,
        metrics_url: str | None = None,
    ) -> None:
        """``security``: ``Security.plain``."""
        self.source, self.notes = url, list[str]()
        self._model, self._version = model, version
        endpoint = parse_url(url)
        given = Security.from_plain(security or {})
        self._client = Client(endpoint, given)
        self._runner = asyncio.Runner()
        self._before: tuple[int, Snapshot] | None = None
        self._metrics_are_named = metrics_url is not None
        self._metrics_url: str | None = metrics_url or metrics.default_url(endpoint.host)
        # A token goes only where the user says: another server may listen at the default port.
        self._metrics_security = given if self._metrics_are_named else Security()
        self._is_checked = self._metrics_are_named

    def read(self) -> Mapping[str, float]:
        self.notes = []
        return self._runner.run(self._read())

    async def _read(self) -> Mapping[str, float]:
        statistics, others = await asyncio.gather(self._statistics(), self._metrics())
        return {**statistics, **others}

    async def _statistics(self) -> Mapping[str, float]:
        try:
            snapshot = await self._ask()
        except Exception as error:
            self._before = None
            reason = "the server reports none" if isinstance(error, Unsupported) else str(error)
            self.notes.append(NO_STATISTICS + one_line(reason or type(error).__name__, 150))
            return {}
        now_ns, before = time.monotonic_ns(), self._before
        self._before = now_ns, snapshot
        return {} if before is None else figures_of(snapshot.since(before[1]), now_ns - before[0])

    async def _ask(self) -> Snapshot:
        try:
            async with asyncio.timeout(_PATIENCE_S):
                return await ask(self._client, self._model, self._version)
        except TimeoutError:
            await self._client.close()  # a late answer must not be read as the answer to the next question
            raise ServerError(f"no answer within {_PATIENCE_S:g} s") from None

    async def _metrics(self) -> Mapping[str, float]:
        if self._metrics_url is None:
            return {}
        try:
            text = await metrics.fetch(self._metrics_url, security=self._metrics_security)
            if not self._is_checked and not metrics.tells_of(text, self._model):  # another server may listen there
                self._metrics_url = None
                return {}
            self._is_checked = True
            reading = metrics.read(text, self._model, self._version)
        except (ServerError, ImportError) as error:
            if self._metrics_are_named:
                self.notes.append(metrics.MISSING + one_line(str(error), 150))
            elif not self._is_checked:
                self._metrics_url = None
            return {}
        gpus = {f"{_gpu(uuid)}.{name}": value for uuid, of in reading.gpus.items() for name, value in of.items()}
        return {**gpus, **reading.server}


def figures_of(done: Snapshot, took_ns: int) -> Mapping[str, float]:
    """Figures of the requests that were counted in ``took_ns``; none where the server's counts fell."""
    if took_ns <= 0 or done.went_backwards:
        return {}
    batches = sum(done.batches.values())
    figures = {"requests_per_s": done.success.count * 1e9 / took_ns, "batches_per_s": batches * 1e9 / took_ns}
    if done.mean_batch_size is not None:
        figures["batch_size"] = done.mean_batch_size
    if (mean := done.mean_ns()) is not None:
        figures["queue_ns"] = mean["queue"]
        figures["compute_ns"] = mean["compute_input"] + mean["compute_infer"] + mean["compute_output"]
        figures["cached_share"] = done.cache_hit.count / done.success.count
    return figures


def _gpu(uuid: str) -> str:
    """A GPU's UUID as a part of a series' name."""
    return uuid.replace(".", "_")
