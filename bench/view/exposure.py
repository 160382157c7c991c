"""A run's figures while it goes, for Prometheus: OpenMetrics 1.0 at /metrics, served by the view's process.

Histograms come from a snapshot's spreads, which count whole arrays; nothing is observed sample by sample.
"""

from __future__ import annotations

import http.server
import socket
import threading
from collections.abc import Iterable, Iterator, Mapping
from http import HTTPStatus
from typing import Any

import numpy as np

from drumfire.bench.view.port import PATH
from drumfire.bench.watch import IntArray, Snapshot, Spread, ViewPlan

PERIOD_S = 0.25
"""New rows are counted this often."""
CONTENT_TYPE = "application/openmetrics-text; version=1.0.0; charset=utf-8"
_TIMEOUT_S = 5.0
_POLL_S = 0.1
_BOUNDS_NS = 10_000 * 2 ** np.arange(22, dtype=np.int64)
"""Upper bounds of a time's buckets: 10 us to 21 s."""
_BOUNDS_BATCH = 2 ** np.arange(12, dtype=np.int64)


class Server:
    """Answers requests on the socket ``fd`` in threads of its own, with the newest of the snapshots it is shown."""

    def __init__(self, fd: int, plan: ViewPlan, labels: Mapping[str, str]) -> None:
        self._plan = plan
        # A file's name may hold bytes that are no text.
        self._labels = {name: value.encode(errors="replace").decode() for name, value in labels.items()}
        self._newest: Snapshot | None = None
        self.text()  # imports what the first answer would wait for
        listening = socket.socket(fileno=fd)
        self._http = http.server.ThreadingHTTPServer(listening.getsockname()[:2], self._handler(), False)
        self._http.socket.close()
        self._http.socket = listening
        threading.Thread(target=self._http.serve_forever, args=(_POLL_S,), daemon=True).start()

    def show(self, snapshot: Snapshot) -> None:
        self._newest = snapshot

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()

    def text(self) -> bytes:
        return exposition(self._plan, self._newest, self._labels)

    def _handler(self) -> type[http.server.BaseHTTPRequestHandler]:
        text = self.text

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = _TIMEOUT_S

            def do_GET(self) -> None:
                found = self.path.partition("?")[0] == PATH
                body = text() if found else f"The metrics are at {PATH}\n".encode()
                self.send_response(HTTPStatus.OK if found else HTTPStatus.NOT_FOUND)
                self.send_header("Content-Type", CONTENT_TYPE if found else "text/plain")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body)

            do_HEAD = do_GET

            def log_message(self, *_: object) -> None:
                pass

        return Handler


def exposition(plan: ViewPlan, snapshot: Snapshot | None, labels: Mapping[str, str]) -> bytes:
    """The run as OpenMetrics text; None: nothing is known yet.  Times are in seconds, rates in samples a second."""
    from prometheus_client.openmetrics.exposition import generate_latest

    class Families:
        def collect(self) -> Iterable[Any]:
            return families(plan, snapshot, labels)

    text: bytes = generate_latest(Families())  # type: ignore[no-untyped-call]
    return text


def families(plan: ViewPlan, snapshot: Snapshot | None, labels: Mapping[str, str]) -> Iterator[Any]:
    from prometheus_client import core

    yield core.InfoMetricFamily("drumfire_run", "What is run", value=dict(labels))
    if plan.asked_qps is not None:
        rate = plan.asked_qps * plan.samples_per_query
        yield core.GaugeMetricFamily("drumfire_scheduled_rate", "Samples a second that the schedule has", rate)
    if snapshot is None:
        return
    s = snapshot
    issued = s.answered + s.in_flight
    yield core.CounterMetricFamily("drumfire_samples_issued", "Samples issued", issued)
    completed = core.CounterMetricFamily("drumfire_samples_completed", "Samples answered", labels=["status"])
    completed.add_metric(["ok"], max(s.answered - s.failed, 0))
    completed.add_metric(["failed"], s.failed)
    yield completed
    yield core.GaugeMetricFamily("drumfire_in_flight", "Samples issued and not answered yet", s.in_flight)
    yield _times("drumfire_latency_seconds", "From when a sample is due to its answer", s.latency)
    if plan.scenario == "Server":
        yield _times("drumfire_lateness_seconds", "From when a query is due until it is issued", s.lateness)
    if s.batch_count:
        sizes = np.array(list(s.batches), np.int64)
        counts = np.rint(np.array(list(s.batches.values())) * s.batch_count).astype(np.int64)
        yield _histogram("drumfire_batch_size", "Samples in a batch", sizes, counts, _BOUNDS_BATCH, 1.0)


def _times(name: str, documentation: str, spread: Spread | None) -> Any:
    empty = np.empty(0, np.int64)
    values, counts = (empty, empty) if spread is None else (spread.values, spread.counts)
    return _histogram(name, documentation, values, counts, _BOUNDS_NS, 1e-9, "seconds")


def _histogram(
    name: str, documentation: str, values: IntArray, counts: IntArray, bounds: IntArray, size: float, unit: str = ""
) -> Any:
    """``values``, shape (k,), rising, each with its count, in ``size`` of ``unit`` as ``bounds`` are."""
    from prometheus_client import core

    upto = np.concatenate([[0], np.cumsum(counts)])[np.searchsorted(values, bounds, "right")]
    buckets = [(repr(round(bound * size, 9)), int(count)) for bound, count in zip(bounds.tolist(), upto, strict=True)]
    buckets.append(("+Inf", int(counts.sum())))
    total = float(values @ counts) * size
    return core.HistogramMetricFamily(name, documentation, buckets=buckets, sum_value=total, unit=unit)
