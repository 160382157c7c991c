"""A server's own statistics over exactly the measured window.

Uses Triton's statistics extension; does not depend on the run.  Sources for what each count includes: the extension's
documentation, Triton's source (infer_stats.cc, dynamic_batch_scheduler.cc), and experiments with Triton 2.51.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from drumfire.loadgen.record import Column, RowArray
from drumfire.loadgen.series import Series
from drumfire.sut.kserve.errors import ServerError, one_line
from drumfire.sut.kserve.messages.operations import MODEL_STATISTICS
from drumfire.sut.remote.endpoint import Endpoint, Security, names
from drumfire.sut.remote.figures import NO_STATISTICS
from drumfire.sut.remote.kserve import metrics
from drumfire.sut.remote.kserve.client import Client, Unsupported
from drumfire.sut.remote.kserve.reconciliation import ClientSide, reconcile

PATIENCE_S = 5.0
"""How long a server may take for its statistics, before the run and after it."""
_SETTLE_S = 1.0
"""How long we wait for the last successes: a server counts one shortly after it sends the reply."""
_LOOK_S = 0.01


@dataclass(frozen=True)
class Total:
    """Number of events and their total time."""

    count: int = 0
    ns: int = 0

    def add(self, other: Total, sign: int) -> Total:
        return Total(self.count + sign * other.count, self.ns + sign * other.ns)


_NONE = Total()


@dataclass(frozen=True)
class Snapshot:
    """The counts of one model, all its versions together, since its server started or between two snapshots."""

    success: Total = _NONE
    """Answered requests, with cache hits.  Counts the time of a cache miss twice (see ``request_ns``)."""
    fail: Total = _NONE
    """Requests that the backend failed, the client cancelled or the queue refused; without invalid requests."""
    queue: Total = _NONE
    """Of all answered requests.  With a cache it includes hashing the inputs and looking them up."""
    compute_input: Total = _NONE
    """This and the next two: of computed requests only, so without cache hits."""
    compute_infer: Total = _NONE
    compute_output: Total = _NONE
    """With a cache, includes storing the outputs in it."""
    cache_hit: Total = _NONE
    """Lookup, and copying the outputs."""
    cache_miss: Total = _NONE
    """Lookup, and storing the outputs; ``queue`` and ``compute_output`` include these times too."""
    inference_count: int = 0
    """Number of computed samples, without cache hits."""
    execution_count: int = 0
    """Number of computed batches."""
    batches: Mapping[int, int] = field(default_factory=dict)
    """Number of computed batches, by size in samples."""

    @classmethod
    def of(cls, answer: Mapping[str, Any], model: str, version: str = "") -> Snapshot:
        """Make one from the answer to ``MODEL_STATISTICS``.  Raises ``ServerError`` if the answer is not usable."""
        total = None
        try:
            for entry in answer["model_stats"]:
                if entry["name"] == model and version in ("", entry.get("version", version)):
                    snapshot = _read(entry)
                    total = snapshot if total is None else total.plus(snapshot)
        except (KeyError, TypeError, ValueError, OverflowError, AttributeError) as error:
            text = one_line(f"{type(error).__name__}: {error}", 200)
            raise ServerError(f"the statistics of {model!r} are not usable: {text}") from None
        if total is None:
            raise ServerError(f"the statistics do not include {model!r}")
        return total

    def since(self, before: Snapshot) -> Snapshot:
        """The counts between ``before`` and this snapshot."""
        return self._add(before, -1)

    def plus(self, other: Snapshot) -> Snapshot:
        """The sum of two versions or two servers."""
        return self._add(other, 1)

    @property
    def went_backwards(self) -> bool:
        """Whether a difference has negative counts, so that another server process answered."""
        counts = [getattr(self, name).count for name in _TOTALS]
        return any(count < 0 for count in (*counts, self.inference_count, self.execution_count, *self.batches.values()))

    @property
    def mean_batch_size(self) -> float | None:
        """Mean number of samples in a batch; None if nothing was computed."""
        executions = sum(self.batches.values())
        return sum(size * n for size, n in self.batches.items()) / executions if executions else None

    @property
    def request_ns(self) -> int:
        """Total time of the requests in the server (ns), from reading a request to passing on its reply.

        Triton's ``success`` counts the time of cache misses twice; this subtracts it once.
        """
        return self.success.ns - self.cache_miss.ns

    def mean_ns(self) -> dict[str, float] | None:
        """Mean time of an answered request in the server, and its parts, which add up (ns); None without requests.

        The means are over all requests; those from the cache count with a computing time of 0.
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


_TOTALS = tuple(each.name for each in dataclasses.fields(Snapshot) if isinstance(each.default, Total))
_PARTS = ("queue", "compute_input", "compute_infer", "compute_output", "cache_hit")


def _read(entry: Mapping[str, Any]) -> Snapshot:
    """The counts of one version."""
    totals = entry["inference_stats"]
    # Old servers lack the cache's counts.
    read = {
        name: Total(_whole(totals[name]["count"]), _whole(totals[name]["ns"])) for name in _TOTALS if totals.get(name)
    }
    sizes: Counter[int] = Counter()
    for batch in entry.get("batch_stats") or ():
        sizes[_whole(batch["batch_size"])] += _whole(batch["compute_infer"]["count"])
    return Snapshot(
        **read,
        inference_count=_whole(entry.get("inference_count") or 0),
        execution_count=_whole(entry.get("execution_count") or 0),
        batches={size: count for size, count in sizes.items() if count},
    )


def _whole(value: Any) -> int:
    """A count or a time, which JSON made from protobuf has as text.  ``ValueError`` if it is not of 64 bits."""
    number = int(value)
    if not 0 <= number < 1 << 64:
        raise ValueError("a number is not one of 64 bits without a sign")
    return number


async def ask(client: Client, model: str, version: str = "") -> Snapshot:
    """The model's counts now.  Raises ``ServerError``, or ``Unsupported`` where the server keeps none."""
    named = {"name": model} | ({"version": version} if version else {})
    return Snapshot.of(await client.ask(MODEL_STATISTICS, **named), model, version)


class ServerWatch:
    """Asks one server before and after a run: ``begin``, ``end``, ``report``.

    Does nothing during the run, and holds no connection.  Missing statistics are a note in the report, never an error.
    """

    def __init__(self, endpoint: Endpoint, security: Security, model: str, version: str = "") -> None:
        self._endpoint, self._security = endpoint, security
        self._model, self._version = model, version
        self._first: Snapshot | None = None
        self._window: Snapshot | None = None
        """The counts from ``begin`` to ``end``."""
        self._notes: list[str] = []

    async def begin(self) -> None:
        """Call before the run, when no request of ours is under way; takes some seconds at most."""
        settled = True
        try:
            self._first, settled = await self._settled(0)
        except Unsupported:
            self._notes.append("the server does not report statistics")
        except Exception as error:
            self._notes.append(_without_statistics(error))
        if not settled:
            self._notes.append("the model was in use before the run: its counts include other requests")

    async def end(self, expected: int) -> None:
        """Call after the run, of which this server answered ``expected`` requests.

        Never raises, and takes about 5 s at most, even if the server is dead or stopped.
        """
        if self._first is None:
            return
        try:
            last, _ = await self._settled(self._first.success.count + expected)
        except Exception as error:  # no fault here may cost the run's result
            self._notes.append(_without_statistics(error))
            return
        window = last.since(self._first)
        if window.went_backwards:
            self._notes.append("the server's counts fell: it restarted, or another server answers at its address")
        else:
            self._window = window

    def report(self) -> dict[str, Any]:
        """JSON-ready.  Counts and times are None if the server reported none; times are means of a request (ns)."""
        figures = dict.fromkeys(_FIGURES) if self._window is None else _figures(self._window)
        note = "; ".join(self._notes) or None
        return {"url": str(self._endpoint), "note": note, **figures}

    async def _settled(self, successes: int) -> tuple[Snapshot, bool]:
        """Wait until the server counts ``successes`` and its counts stand still: the snapshot, and whether they did."""
        before = None
        async with asyncio.timeout(PATIENCE_S):
            async with Client(self._endpoint, self._security) as client:
                until = asyncio.get_running_loop().time() + _SETTLE_S
                while True:
                    now = await ask(client, self._model, self._version)
                    settled = now == before and now.success.count >= successes
                    if settled or asyncio.get_running_loop().time() > until:
                        return now, settled
                    before = now
                    await asyncio.sleep(_LOOK_S)


def _without_statistics(error: Exception) -> str:
    reason = f"no answer within {PATIENCE_S:g} s" if isinstance(error, TimeoutError) else one_line(str(error))
    return f"{NO_STATISTICS}{reason or type(error).__name__}"


_FIGURES = (
    "success", "fail", "inference_count", "execution_count", "batch_sizes", "mean_batch_size", "cache_hits",
    "cache_misses", "mean_ns",
)  # fmt: skip


def _figures(window: Snapshot) -> dict[str, Any]:
    figures = (
        window.success.count,
        window.fail.count,
        window.inference_count,
        window.execution_count,
        {str(size): count for size, count in sorted(window.batches.items())},
        window.mean_batch_size,
        window.cache_hit.count,
        window.cache_miss.count,
        window.mean_ns(),
    )
    return dict(zip(_FIGURES, figures, strict=True))


class ServerWatches:
    """A ``ServerWatch`` on each server of a run."""

    def __init__(self, watches: Mapping[Endpoint, ServerWatch]) -> None:
        self._watches = watches

    async def begin(self) -> None:
        await asyncio.gather(*(watch.begin() for watch in self._watches.values()))

    async def end(self, served: Mapping[Endpoint, int]) -> None:
        await asyncio.gather(*(watch.end(served[endpoint]) for endpoint, watch in self._watches.items()))

    def report(
        self,
        columns: Mapping[str, Column],
        phases: Sequence[slice | RowArray],
        series: Sequence[Series],
        notes: Sequence[str],
        *,
        requests: int,
        failed_requests: int,
    ) -> dict[str, Any]:
        reports = [watch.report() for watch in self._watches.values()]
        for report, name in zip(reports, names(list(self._watches)), strict=True):
            report["metrics"] = metrics.section(name, series)
            start = f"{name}: {metrics.MISSING}"
            missing = [note.removeprefix(start) for note in notes if note.startswith(start)]
            report["note"] = "; ".join([report["note"], *missing] if report["note"] else missing) or None
        client = ClientSide.of(columns, phases, requests=requests, failed_requests=failed_requests)
        return {"servers": reports, "reconciliation": reconcile(reports, client)}
