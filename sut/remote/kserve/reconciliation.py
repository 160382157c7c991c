"""Compares the servers' reports with our own counts, and divides a request's time among its stages.

Pure arithmetic on the reports of ``statistics`` and the columns of a run.  Does not talk to servers.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from drumfire.loadgen.record import Column, RowArray, Status


@dataclass(frozen=True)
class ClientSide:
    """The client's figures for the same window, over all phases."""

    requests: int
    """Number answered with outputs."""
    failed_requests: int
    samples: int
    """Number answered with outputs."""
    latency_ns: float
    """Mean over those samples, as the next two: from scheduled to completed."""
    waiting_ns: float
    """From scheduled to sent, when the socket took the request."""
    round_trip_ns: float
    """From sent to completed."""
    duration_s: float
    """From the start of a phase to its last completion, summed over the phases."""
    in_flight: float
    """Mean number over time of samples between scheduled and completed.  It includes failed samples and, until the end
    of the phase, unanswered ones."""

    @classmethod
    def of(
        cls, columns: Mapping[str, Column], phases: Sequence[slice | RowArray], *, requests: int, failed_requests: int
    ) -> ClientSide:
        """Compute the figures from a run's columns (scheduled, sent, completed in ns; status) and each phase's rows."""
        samples, latency, waiting, stay, duration = 0, 0.0, 0.0, 0.0, 0
        for rows in phases:
            status, scheduled, sent = columns["status"][rows], columns["scheduled"][rows], columns["sent"][rows]
            completed = columns["completed"][rows]
            if not status.size:
                continue
            last = int(completed.max())
            good = status == Status.OK
            samples += int(np.count_nonzero(good))
            latency += _sum(completed[good] - scheduled[good])
            waiting += _sum(sent[good] - scheduled[good])
            # The integral over time of the number of samples is the sum of the time that each spent.
            ended = np.where((status == Status.OK) | (status == Status.FAILED), completed, last)
            stay += _sum(np.maximum(ended - scheduled, 0))
            duration += last
        each = max(samples, 1)
        return cls(
            requests,
            failed_requests,
            samples,
            latency / each,
            waiting / each,
            (latency - waiting) / each,
            duration * 1e-9,
            stay / duration if duration else 0.0,
        )


def _sum(values: npt.NDArray[np.int64]) -> float:
    return float(values.sum(dtype=np.float64))


def reconcile(reports: Sequence[Mapping[str, Any]], client: ClientSide) -> dict[str, Any] | None:
    """Compare the servers' reports with the client's figures; None unless all servers report counts.  JSON-ready.

    * ``requests``: the client's and the servers' numbers of answered requests, and their difference.  The servers count
      more if the client abandoned requests or others use the model, and fewer if a server restarted or a proxy answers.
      The numbers of failures need not agree: an invalid or lost request fails only at the client.
    * ``batch_sizes`` and ``mean_batch_size``: of all servers together.  ``cached_share``: the share of answered
      requests that came from a cache.
    * ``mean_ns`` of a request: the client's ``latency`` is ``waiting`` (until sent) plus ``round_trip``.  The server
      spends ``queue``, ``compute`` (inputs, model, outputs) and ``cache_hit`` of the round trip; the rest of it is
      ``network``, which includes the server's work before its scheduler, such as reading the request.
      ``network_and_client`` is ``network`` plus ``waiting``.  The servers' means are over requests and the client's
      over samples, which is the same if all requests have equally many samples.  Cached replies count with a computing
      time of 0 and with their hashing in ``queue``, so the sum holds for any share of them.
    * ``in_flight``: by Little's law, rate x mean latency of the answered samples (``by_rate``), beside the integral
      over time (``by_time``), both in samples; they differ if samples failed or stayed unanswered.  ``in_server``: rate
      x the servers' mean time of a request, in requests.
    """
    if not reports or any(report["success"] is None for report in reports):
        return None
    success, fail = (sum(report[name] for report in reports) for name in ("success", "fail"))
    sizes: Counter[str] = Counter()
    for report in reports:
        sizes.update(report["batch_sizes"])
    executions = sum(sizes.values())
    sums: dict[str, float] = {}
    for report in reports:
        for name, mean in (report["mean_ns"] or {}).items():
            sums[name] = sums.get(name, 0.0) + mean * report["success"]
    rate = client.samples / client.duration_s if client.duration_s else 0.0
    return {
        "requests": {
            "client": client.requests,
            "server": success,
            "difference": success - client.requests,
            "equal": success == client.requests,
            "client_failed": client.failed_requests,
            "server_failed": fail,
        },
        "batch_sizes": {size: sizes[size] for size in sorted(sizes, key=int)},
        "mean_batch_size": sum(int(size) * n for size, n in sizes.items()) / executions if executions else None,
        "cached_share": sum(report["cache_hits"] for report in reports) / success if success else None,
        "mean_ns": _divide(sums, success, client) if success and client.samples else None,
        "in_flight": {
            "by_rate": rate * client.latency_ns * 1e-9,
            "by_time": client.in_flight,
            "in_server": sums.get("request", 0.0) * 1e-9 / client.duration_s if client.duration_s else 0.0,
        },
    }


def _divide(sums: Mapping[str, float], success: int, client: ClientSide) -> dict[str, float]:
    """The mean latency and its parts (ns)."""
    compute = math.fsum(sums[name] for name in ("compute_input", "compute_infer", "compute_output")) / success
    queue, cache_hit = sums["queue"] / success, sums["cache_hit"] / success
    return {
        "latency": client.latency_ns,
        "waiting": client.waiting_ns,
        "round_trip": client.round_trip_ns,
        "queue": queue,
        "compute": compute,
        "cache_hit": cache_hit,
        "network": client.round_trip_ns - queue - compute - cache_hit,
        "network_and_client": client.latency_ns - queue - compute - cache_hit,
    }
