"""The counters of a served model, as Triton defines them.

Does not depend on requests.  Times are sums in ns; a batch's times count once per request in the totals, and once per
batch by batch size.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Mapping
from typing import Any, NamedTuple


class BatchTimes(NamedTuple):
    """Times of one batch, ns of the monotonic clock."""

    taken: int
    """Taken from the queue."""
    gathered: int
    computed: int
    ended: int
    """The outputs are split among the requests."""


class Statistics:
    """The counters of one version of a model.  Any thread may write and read them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._success = self._fail = 0
        self._success_ns = self._fail_ns = 0
        self._queue_ns = 0
        self._input_ns = self._infer_ns = self._output_ns = 0
        self._samples = self._executions = 0
        self._last_ms = 0
        self._batches: dict[int, list[int]] = {}
        """By batch size: the number of batches, and their input, infer and output ns."""
        self.failures: Counter[str] = Counter()
        """By Triton's reason: REJECTED, CANCELED, BACKEND or OTHER."""
        self.lost_workers = 0
        self.own_sizes = self.computed_sizes = 0
        """Sums over the samples of a model that pads: of their own sizes, and of those that they were padded to."""

    def batch(self, requests: int, samples: int, arrived_ns: int, times: BatchTimes, batch_size: int) -> None:
        """Count a batch of ``batch_size``, in which ``requests`` with ``samples`` succeeded.

        ``arrived_ns``: the sum of the arrival times of these requests.
        """
        taken, gathered, computed, ended = times
        spent = (gathered - taken, computed - gathered, ended - computed)
        with self._lock:
            self._executions += 1
            self._samples += samples
            self._success += requests
            self._success_ns += requests * ended - arrived_ns
            self._queue_ns += requests * taken - arrived_ns
            self._input_ns += requests * spent[0]
            self._infer_ns += requests * spent[1]
            self._output_ns += requests * spent[2]
            self._last_ms = time.time_ns() // 1_000_000
            size = self._batches.get(batch_size)
            if size is None:
                size = self._batches[batch_size] = [0, 0, 0, 0]
            size[0] += 1
            size[1] += spent[0]
            size[2] += spent[1]
            size[3] += spent[2]

    def sizes(self, own: int, computed: int) -> None:
        """Count the sizes of a batch's samples: their own, and with padding."""
        with self._lock:
            self.own_sizes += own
            self.computed_sizes += computed

    @property
    def padding(self) -> float | None:
        """The share of padding in what was computed; None where nothing is padded."""
        return 1 - self.own_sizes / self.computed_sizes if self.computed_sizes else None

    def failed(self, reason: str, requests: int, ns: int) -> None:
        """Count failed requests; ``ns``: the sum of their times in the server."""
        with self._lock:
            self.failures[reason] += requests
            self._fail += requests
            self._fail_ns += ns

    def model_stats(self, model: str, version: str) -> dict[str, Any]:
        """One entry of ``model_stats`` in Triton's statistics extension."""
        with self._lock:
            success = self._success
            sums: Mapping[str, tuple[int, int]] = {
                "success": (success, self._success_ns),
                "fail": (self._fail, self._fail_ns),
                "queue": (success, self._queue_ns),
                "compute_input": (success, self._input_ns),
                "compute_infer": (success, self._infer_ns),
                "compute_output": (success, self._output_ns),
                "cache_hit": (0, 0),
                "cache_miss": (0, 0),
            }
            return {
                "name": model,
                "version": version,
                "last_inference": self._last_ms,
                "inference_count": self._samples,
                "execution_count": self._executions,
                "inference_stats": {name: {"count": count, "ns": ns} for name, (count, ns) in sums.items()},
                "batch_stats": [
                    {
                        "batch_size": size,
                        "compute_input": {"count": count, "ns": input_ns},
                        "compute_infer": {"count": count, "ns": infer_ns},
                        "compute_output": {"count": count, "ns": output_ns},
                    }
                    for size, (count, input_ns, infer_ns, output_ns) in sorted(self._batches.items())
                ],
            }
