"""Whether what the servers say they did agrees with what we saw, and where a request's time went.

Pure arithmetic; knows the reports of ``statistics`` and the columns of a run; must not know servers.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from drumfire.loadgen.record import Column, Status


@dataclass(frozen=True)
class ClientSide:
    """What we saw of the same window, all phases together."""

    requests: int
    """Answered with outputs."""
    failed_requests: int
    samples: int
    """Answered with outputs."""
    latency_ns: float
    """This and the next two: means over those samples.  From scheduled to completed."""
    waiting_ns: float
    """From scheduled to when the request was handed to the socket."""
    round_trip_ns: float
    """From then to completed."""
    duration_s: float
    """From the start of a phase to its last completion, summed over the phases."""
    in_flight: float
    """Samples between scheduled and completed, the mean over time: the integral of their number.  It has the failed
    samples and, until the phase's end, those never answered."""

    @classmethod
    def of(
        cls, columns: Mapping[str, Column], phases: Sequence[slice], *, requests: int, failed_requests: int
    ) -> ClientSide:
        """From a run's columns (scheduled, sent, completed: ns; status), and the rows issued in each phase."""
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
            # The integral over time of a number of samples is the sum of the times that each was there.
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
    """Whether the servers' reports and the client's figures agree; None unless all servers told theirs.  JSON-ready.

    * ``requests`` answered: as the client counts and as the servers do, and what the servers have more.  They may have
      more where rows were given up by the client, or where others use the model; fewer where a server was restarted or
      something in between answers.  Failures are told beside them and need not agree: a request that is wrong, or that
      never arrived, fails at the client only.
    * ``batch_sizes`` and ``mean_batch_size``: of all servers together.  ``cached_share``: of the requests answered,
      those that came from a cache.
    * ``mean_ns`` of a request: the client's ``latency`` is ``waiting`` (to be sent) and the ``round_trip``.  The
      server's part of that is ``queue``, ``compute`` (inputs, model, outputs) and ``cache_hit``.  What is left of the
      latency is ``network_and_client``: waiting, and the ``network``, which is both ways and whatever of the server is
      in front of its scheduler, such as reading the request.  Means of the servers are over requests and those of the
      client over samples, which is one where all requests hold equally many.  Cached replies are in the means with no
      time of computing, and with their time of hashing in ``queue``: so the sum holds for any share of them.
    * ``in_flight`` by Little's law: rate x mean latency of the samples answered (``by_rate``) beside the integral over
      time (``by_time``), in samples; where they differ, samples failed or stayed unanswered.  ``in_server``: rate x
      mean time of a request, as the servers count, in requests.
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
    """The mean latency and its parts."""
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
