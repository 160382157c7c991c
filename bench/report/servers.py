"""What remote servers report of a run, as rows of its report, and whether it agrees with the measurement."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from drumfire.bench.report.figures import batch_sizes, digits, duration, share
from drumfire.loadgen.wording import counted

if TYPE_CHECKING:
    from drumfire.bench.report.rows import Document, Rows


def rows(document: Document) -> Rows:
    """The part of a report."""
    server = (document.get("system") or {}).get("server")
    if server is None:
        return
    agreed = server["reconciliation"]
    if agreed is not None:
        yield "server", _counts(agreed["requests"])
    for one in server["servers"]:
        several = one["success"] is not None and len(server["servers"]) > 1
        parts = [counted(one["success"], "request") if several else "", one["note"]]
        if any(parts):
            yield "" if agreed is not None else "server", f"{one['url']}: {', '.join(filter(None, parts))}"
    if agreed is not None:
        yield from _agreed(agreed)
    for text, count in server["events"].items():
        yield "", f"{text} ({counted(count, 'time')})"
    for one in server["servers"]:
        for gpu in (one["metrics"] or {}).get("gpus", ()):
            yield "server GPU", _gpu(gpu)


def _counts(requests: Mapping[str, Any]) -> str:
    difference = requests["difference"]
    agrees = "as many as were answered"
    if not requests["equal"]:
        agrees = f"{abs(difference):,} {'more' if difference > 0 else 'fewer'} than were answered here"
    failed = f", {requests['server_failed']:,} failed" if requests["server_failed"] else ""
    return f"{counted(requests['server'], 'request')} counted, {agrees}{failed}"


def _agreed(agreed: Mapping[str, Any]) -> Rows:
    if agreed["batch_sizes"] and agreed["mean_batch_size"] is not None:
        yield "", f"batches of {agreed['mean_batch_size']:.2f} samples on average: {batch_sizes(agreed['batch_sizes'])}"
    mean = agreed["mean_ns"]
    if mean is not None:
        cached = ""
        if agreed["cached_share"]:
            cached = f", {duration(mean['cache_hit'])} cache ({share(agreed['cached_share'])} from the cache)"
        latency, waiting, network, queue, compute = (
            duration(mean[name]) for name in ("latency", "waiting", "network", "queue", "compute")
        )
        yield "", f"latency {latency} on average: {waiting} until the request was sent,"
        yield "", f"{network} network and server's reading, {queue} queue, {compute} compute{cached}"
    by_time, by_rate, served = (digits(agreed["in_flight"][name]) for name in ("by_time", "by_rate", "in_server"))
    yield "", f"in flight {by_time} samples (rate x latency {by_rate}), {served} requests in the server"


def _gpu(gpu: Mapping[str, Any]) -> str:
    def spread(gauge: Mapping[str, float], text: Any) -> str:
        return f"{text(gauge['mean'])} (max {text(gauge['max'])})"

    parts = []
    if gpu["utilization"]:
        parts.append(f"use {spread(gpu['utilization'], share)}")
    if gpu["power_w"]:
        parts.append(f"power {spread(gpu['power_w'], lambda watts: f'{watts:,.0f} W')}")
    if gpu["memory_used_bytes"]:
        total = f" of {gpu['memory_total_bytes'] / 1e9:,.0f}" if gpu["memory_total_bytes"] else ""
        parts.append(f"memory {digits(gpu['memory_used_bytes']['max'] / 1e9)}{total} GB")
    if gpu["energy_j"]:
        parts.append(f"{gpu['energy_j']:,.0f} J")
    return f"{gpu['uuid']}: {', '.join(parts) or 'no figures'}"
