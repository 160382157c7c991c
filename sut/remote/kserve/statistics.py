"""What a server says it did over exactly the window that was measured.

Knows Triton's statistics extension; must not know the run.  What each count includes was read in the extension's
documentation and in Triton's source (infer_stats.cc, dynamic_batch_scheduler.cc), and seen on Triton 2.51.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from drumfire.sut.kserve.errors import ServerError, one_line
from drumfire.sut.kserve.messages.operations import MODEL_STATISTICS
from drumfire.sut.remote.endpoint import Endpoint, Security
from drumfire.sut.remote.kserve import metrics
from drumfire.sut.remote.kserve.client import Client, Unsupported

PATIENCE_S = 5.0
"""How long a server may take for its statistics, before the run and after it."""
_SETTLE_S = 1.0
"""A success is counted shortly after its reply has left: how long the last ones are waited for."""
_LOOK_S = 0.01
_DEFAULT_METRICS_PATIENCE_S = 1.0


@dataclass(frozen=True)
class Total:
    """How often something happened, and how long it took together."""

    count: int = 0
    ns: int = 0

    def add(self, other: Total, sign: int) -> Total:
        return Total(self.count + sign * other.count, self.ns + sign * other.ns)


_NONE = Total()


@dataclass(frozen=True)
class Snapshot:
    """The counts of one model, all its versions together: since its server started, or between two such moments."""

    success: Total = _NONE
    """Requests answered, from the cache or not.  The time of a cache miss is in here twice (see ``request_ns``)."""
    fail: Total = _NONE
    """Requests that the backend failed, that were cancelled, or that the queue refused; not those that were wrong."""
    queue: Total = _NONE
    """Of all requests answered.  For a model with a cache it includes hashing the inputs and looking them up."""
    compute_input: Total = _NONE
    """This and the next two: of requests that were computed, so without cache hits."""
    compute_infer: Total = _NONE
    compute_output: Total = _NONE
    """With a cache: includes putting the outputs there."""
    cache_hit: Total = _NONE
    """Looking up, and copying the outputs."""
    cache_miss: Total = _NONE
    """Looking up in vain and putting the outputs in: times that ``queue`` and ``compute_output`` include as well."""
    inference_count: int = 0
    """Samples computed, without cache hits."""
    execution_count: int = 0
    """Batches computed."""
    batches: Mapping[int, int] = field(default_factory=dict)
    """Batches computed, by their size in samples."""

    @classmethod
    def of(cls, answer: Mapping[str, Any], model: str, version: str = "") -> Snapshot:
        """From the answer to ``MODEL_STATISTICS``.  Raises ``ServerError`` for one that can not be used."""
        found = None
        try:
            for one in answer["model_stats"]:
                if one["name"] == model and version in ("", one.get("version", version)):
                    read = _read(one)
                    found = read if found is None else found.plus(read)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            text = one_line(f"{type(error).__name__}: {error}", 200)
            raise ServerError(f"the statistics of {model!r} can not be used: {text}") from None
        if found is None:
            raise ServerError(f"the statistics do not tell of {model!r}")
        return found

    def since(self, before: Snapshot) -> Snapshot:
        """What happened between two snapshots."""
        return self._add(before, -1)

    def plus(self, other: Snapshot) -> Snapshot:
        """Of two versions, or of two servers."""
        return self._add(other, 1)

    @property
    def went_backwards(self) -> bool:
        """Of a difference: the server is not the one that it was."""
        counts = [getattr(self, name).count for name in _TOTALS]
        return any(count < 0 for count in (*counts, self.inference_count, self.execution_count, *self.batches.values()))

    @property
    def mean_batch_size(self) -> float | None:
        """Samples to a batch; None where nothing was computed."""
        executions = sum(self.batches.values())
        return sum(size * n for size, n in self.batches.items()) / executions if executions else None

    @property
    def request_ns(self) -> int:
        """Time of all requests in the server, from when they were read to when their replies were handed over.

        Triton adds the time of cache misses on top of a time that has it already; here it is taken off again.
        """
        return self.success.ns - self.cache_miss.ns

    def mean_ns(self) -> dict[str, float] | None:
        """Of a request answered, its time in the server and the parts of it, which add up; None without any.

        Means over all requests: where some came from the cache, those count with no time of computing.
        """
        count = self.success.count
        if count <= 0:
            return None
        parts = {name: getattr(self, name).ns / count for name in _PARTS}
        return {"request": self.request_ns / count, **parts}

    def _add(self, other: Snapshot, sign: int) -> Snapshot:
        totals = {name: getattr(self, name).add(getattr(other, name), sign) for name in _TOTALS}
        sizes = self.batches.keys() | other.batches.keys()
        batches = {size: self.batches.get(size, 0) + sign * other.batches.get(size, 0) for size in sizes}
        return Snapshot(
            inference_count=self.inference_count + sign * other.inference_count,
            execution_count=self.execution_count + sign * other.execution_count,
            batches={size: count for size, count in batches.items() if count},
            **totals,
        )


_TOTALS = tuple(one.name for one in dataclasses.fields(Snapshot) if isinstance(one.default, Total))
_PARTS = ("queue", "compute_input", "compute_infer", "compute_output", "cache_hit")


def _read(one: Mapping[str, Any]) -> Snapshot:
    """One version's."""
    totals = one["inference_stats"]
    # Servers older than the cache do not tell of it; int(): JSON that was made from protobuf has numbers as text.
    read = {name: Total(int(totals[name]["count"]), int(totals[name]["ns"])) for name in _TOTALS if totals.get(name)}
    sizes: Counter[int] = Counter()
    for batch in one.get("batch_stats") or ():
        sizes[int(batch["batch_size"])] += int(batch["compute_infer"]["count"])
    return Snapshot(
        **read,
        inference_count=int(one.get("inference_count") or 0),
        execution_count=int(one.get("execution_count") or 0),
        batches=dict(sizes),
    )


class ServerWatch:
    """Asks one server before and after a run, and samples its metrics meanwhile: ``begin``, ``end``, ``report``.

    Nothing of it happens on the loop while the run goes, and no connection is held.  What can not be had is told in
    the report's note; none of it is an error.
    """

    def __init__(
        self, endpoint: Endpoint, security: Security, model: str, version: str = "", metrics_url: str | None = None
    ) -> None:
        """``metrics_url``: None is port 8002 of the server's host, if the model's metrics are there."""
        self._endpoint, self._security = endpoint, security
        self._model, self._version = model, version
        self._metrics_url = metrics_url
        self._first: Snapshot | None = None
        self._seen: Snapshot | None = None
        """From begin to end."""
        self._notes: list[str] = []
        self._sampler: metrics.Sampler | None = None
        self._metrics: dict[str, Any] | None = None

    async def begin(self) -> None:
        """To be called when nothing of ours is under way any more and the run has not begun; takes some seconds at
        most."""
        await asyncio.gather(self._take_first(), self._start_sampling())

    async def end(self, expected: int) -> None:
        """To be called when the run is over: ``expected`` requests of it were answered by this server.

        Never raises, and takes some 5 s at most, also when the server is dead or stopped.
        """
        if self._sampler is not None:
            self._sampler.end()
        await asyncio.gather(self._take_last(expected), self._stop_sampling())

    def report(self) -> dict[str, Any]:
        """JSON-ready.  Counts and times are None where the server told none; times are means of a request, ns."""
        seen = self._seen
        told: dict[str, Any] = {"url": str(self._endpoint), "note": "; ".join(self._notes) or None}
        if seen is None:
            told |= dict.fromkeys(_FIGURES)
        else:
            told |= _figures(seen)
        return told | {"metrics": self._metrics}

    async def _take_first(self) -> None:
        settled = True
        try:
            self._first, settled = await self._settled(0)
        except Unsupported:
            self._notes.append("the server tells no statistics")
        except Exception as error:
            self._notes.append(_without_statistics(error))
        if not settled:
            self._notes.append("the model was in use before the run: its counts are not of this run alone")

    async def _take_last(self, expected: int) -> None:
        if self._first is None:
            return
        try:
            last, _ = await self._settled(self._first.success.count + expected)
        except Exception as error:  # whatever it is: it must not cost the run's result
            self._notes.append(_without_statistics(error))
            return
        seen = last.since(self._first)
        if seen.went_backwards:
            self._notes.append("the server's counts fell: it was restarted, or another answers at its address")
        else:
            self._seen = seen

    async def _settled(self, successes: int) -> tuple[Snapshot, bool]:
        """A snapshot when at least so many successes are counted and no count moves any more, and whether that came."""
        names = {"name": self._model} | ({"version": self._version} if self._version else {})
        before = None
        async with asyncio.timeout(PATIENCE_S):
            async with Client(self._endpoint, self._security) as client:
                until = asyncio.get_running_loop().time() + _SETTLE_S
                while True:
                    answer = await client.ask(MODEL_STATISTICS, **names)
                    now = Snapshot.of(answer, self._model, self._version)
                    settled = now == before and now.success.count >= successes
                    if settled or asyncio.get_running_loop().time() > until:
                        return now, settled
                    before = now
                    await asyncio.sleep(_LOOK_S)

    async def _start_sampling(self) -> None:
        named = self._metrics_url is not None
        url = self._metrics_url or metrics.default_url(self._endpoint.host)
        try:
            text = await metrics.fetch(url, metrics.PATIENCE_S if named else _DEFAULT_METRICS_PATIENCE_S)
            # Behind a port that nobody named there may be another server.
            if named or metrics.tells_of(text, self._model):
                sampler = metrics.Sampler(url, self._model, self._version)
                await asyncio.to_thread(sampler.start)
                self._sampler = sampler
        except ServerError as error:
            if named:
                self._notes.append(str(error))

    async def _stop_sampling(self) -> None:
        if self._sampler is None:
            return
        sampler, self._sampler = self._sampler, None
        try:
            self._metrics = await asyncio.to_thread(sampler.collect)
        except Exception as error:  # as above
            self._notes.append(one_line(str(error) or type(error).__name__))


def _without_statistics(error: Exception) -> str:
    reason = f"no answer within {PATIENCE_S:g} s" if isinstance(error, TimeoutError) else one_line(str(error))
    return f"no statistics: {reason or type(error).__name__}"


_FIGURES = (
    "success", "fail", "inference_count", "execution_count", "batch_sizes", "mean_batch_size", "cache_hits",
    "cache_misses", "mean_ns",
)  # fmt: skip


def _figures(seen: Snapshot) -> dict[str, Any]:
    figures = (
        seen.success.count,
        seen.fail.count,
        seen.inference_count,
        seen.execution_count,
        {str(size): count for size, count in sorted(seen.batches.items())},
        seen.mean_batch_size,
        seen.cache_hit.count,
        seen.cache_miss.count,
        seen.mean_ns(),
    )
    return dict(zip(_FIGURES, figures, strict=True))
