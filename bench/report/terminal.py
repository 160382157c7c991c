"""Shows a run's result document on the terminal: the verdict, its reasons, what to do, then the figures.

Computes nothing: all figures are in the document, so a saved run looks exactly as it did when it ended.
"""

from __future__ import annotations

import textwrap
from collections.abc import Iterator, Mapping
from typing import Any

from rich.console import Console
from rich.text import Text

from drumfire.bench.report import figures
from drumfire.loadgen.directory import percentile_name

_PERCENTILES = ("p50", "p90", "p95", "p97", "p99", "p99.9")
_LABEL = 13
"""Width of the column of names."""
_LEAST_WIDTH = 40

Row = tuple[str, str]
Document = Mapping[str, Any]


def show(document: Document, console: Console) -> None:
    """Print a result document (``drumfire.loadgen.directory.document`` with the sections of a run)."""
    valid = document["validity"] == "VALID"
    console.print(Text(f"Result is : {document['validity']}", "bold green" if valid else "bold red"))
    _list(console, document["reasons"], "red")
    _list(console, [f"warning: {text}" for text in document["warnings"]], "yellow")
    for rows in (_subject, _search, _rates, _latencies, _quality, _batches, _server, _hosts, _overhead, _origin):
        shown = list(rows(document))
        if shown:
            console.print()
        for name, value in shown:
            _print(console, Text(name.ljust(_LABEL), "dim"), value)
    if document.get("directory"):
        # Not wrapped, so that it can be copied.
        console.print(Text.assemble(("saved in".ljust(_LABEL), "dim"), document["directory"]), soft_wrap=True)


def _list(console: Console, lines: list[str], style: str) -> None:
    for line in lines:
        _print(console, Text("  - "), " ".join(line.split()), style)


def _print(console: Console, head: Text, value: str, style: str = "") -> None:
    """Print ``value`` after ``head``, with a hanging indent; no line ends in spaces."""
    width = max(console.width - len(head), _LEAST_WIDTH)
    lines = textwrap.wrap(value, width, break_on_hyphens=False)
    console.print(head + Text(("\n" + " " * len(head)).join(lines), style), soft_wrap=True)


def _subject(document: Document) -> Iterator[Row]:
    system = document.get("system") or {}
    what = " ".join(str(system[part]) for part in ("backend", "model", "device") if system.get(part))
    yield "system", what or document["sut_name"]
    if system.get("description"):
        yield "", system["description"]
    names = {"threads": "threads", "instances": "instances", "max_batch_size": "max batch size"}
    settings = [f"{name} {system[key]}" for key, name in names.items() if system.get(key) is not None]
    if system.get("max_queue_delay_ms") is not None:
        settings.append(f"max queue delay {system['max_queue_delay_ms']:g} ms")
    if settings:
        yield "", ", ".join(settings)
    remote = system.get("remote")
    if remote:
        bound = "" if remote["concurrency"] is None else f", at most {remote['concurrency']:,} requests under way"
        yield "", f"{', '.join(remote['urls'])} by {remote['client']}, input data: {remote['input_data']}"
        yield "", f"connections {remote['connections']}{bound}"
        if remote["shared_memory"] != "none":
            yield "", f"tensors in {remote['shared_memory']} shared memory"
    if system.get("weights"):
        yield "weights", str(system["weights"])
    for text in system.get("reservations", ()):
        yield "NOTE", text
    yield "scenario", f"{document['scenario']}, {document['mode']}"


def _search(document: Document) -> Iterator[Row]:
    """The outcome of a search for the peak, and of a run until confident."""
    search = document.get("search")
    if search is not None:
        unit = search["unit"]
        none = "none found" if search["fails_at"] is not None else "not found yet"
        yield "peak", none if search["peak"] is None else f"{figures.digits(search['peak'])} {unit}"
        if search["fails_at"] is not None:
            yield "", f"fails at {figures.digits(search['fails_at'])} {unit}"
        elif search["peak"] is not None:
            yield "", "no load that was tried failed: the system may be faster"
        yield "", f"{len(search['probes'])} probes, {figures.duration(search['query_time_s'] * 1e9)} of queries"
    sure = document.get("confidence")
    if sure is not None:
        yield "confidence", f"{sure['verdict']}: {sure['over']:,} of {sure['queries']:,} queries over latency"


def _rates(document: Document) -> Iterator[Row]:
    metric, asked, delivered = document["metric"], document["asked"], document["delivered"]
    if metric is not None:
        value = figures.duration(metric["value"]) if metric["unit"] == "ns" else figures.rate(metric["value"])
        yield "metric", f"{value}  {metric['name']}"
    source = (document.get("system") or {}).get("qps_source")
    least = f"at least {asked['min_duration_s']:g} s and {asked['min_query_count']:,} queries"
    if asked["max_query_count"]:
        least += f", at most {asked['max_query_count']:,} queries"
    if asked["samples_per_query"] > 1:
        least += f", of {asked['samples_per_query']:,} samples each"
    rate = "" if asked["qps"] is None else figures.rate(asked["qps"]) + (f" ({source})" if source else "") + ", "
    yield "asked", rate + (least if document["mode"] != "AccuracyOnly" else f"{asked['generated_queries']:,} queries")
    yield (
        "delivered",
        f"{figures.rate(delivered['samples_per_second'])}: {delivered['samples']:,} samples, "
        f"{delivered['queries']:,} queries in {figures.duration(delivered['duration_s'] * 1e9)}",
    )


def _latencies(document: Document) -> Iterator[Row]:
    asked = document["asked"]
    target = percentile_name(asked["target_latency_percentile"])
    for key, name in (("latency_ns", "latency"), ("query_latency_ns", "per query")):
        latency = document[key]
        if latency is None:
            continue
        shown = [f"{p} {figures.duration(latency[p])}" for p in _PERCENTILES if p in latency]
        if target not in latency:
            shown.append(f"{target} {figures.duration(latency['target_percentile'])}")
        yield name, _aligned(shown[:3])
        yield "", _aligned(shown[3:])
        yield "", _aligned([f"{name} {figures.duration(latency[name])}" for name in ("mean", "min", "max")])
    if asked["target_latency_ns"] and document["latency_ns"] is not None:
        reached = document["latency_ns"]["target_percentile"]
        bound = figures.duration(asked["target_latency_ns"])
        yield "target", f"{target} within {bound}: {figures.duration(reached)}"
    late = document["lateness_ns"]
    if late is not None:
        yield "lateness", _aligned([f"{p} {figures.duration(late[p])}" for p in ("p50", "p99", "max")])
        early = f", {late['early']:,} EARLY" if late["early"] else ""
        yield "", f"{figures.share(late['share_over_1ms'])} over 1 ms{early} ({late['meaning']})"


def _quality(document: Document) -> Iterator[Row]:
    accuracy = document.get("accuracy")
    if accuracy is not None:
        judged = "" if accuracy["good"] is not None else f", {accuracy['total']:,} samples"
        yield "accuracy", f"{accuracy['lines'][-1]} (target {accuracy['target'] * 100:.6g}%{judged})"
    errors = document["errors"]
    counts = [f"{errors[name]:,} {name}" for name in ("failed", "unanswered", "refused")]
    yield "errors", ", ".join(counts) if any(errors[n] for n in ("failed", "unanswered", "refused")) else "none"
    for text, count in errors["messages"].items():
        yield "", f"{count:,} times: {text}"


def _batches(document: Document) -> Iterator[Row]:
    system = document.get("system") or {}
    sizes = system.get("batch_sizes")
    if sizes:
        yield "batch sizes", _sizes(sizes)
    for key, name in (("queue_ns", "queueing"), ("service_ns", "computing")):
        if system.get(key):
            yield name, _aligned([f"{p} {figures.duration(ns)}" for p, ns in system[key].items()])


def _sizes(sizes: Mapping[str, int]) -> str:
    """The most frequent batch sizes with their counts."""
    most = sorted(sizes.items(), key=lambda size: size[1], reverse=True)[:8]
    shown = [f"{size}: {count:,}" for size, count in sorted(most, key=lambda size: int(size[0]))]
    return "  ".join(shown) + (f"  and {len(sizes) - 8} more sizes" if len(sizes) > 8 else "")


def _server(document: Document) -> Iterator[Row]:
    """What the servers report of the run, and whether it agrees with the measurement."""
    server = (document.get("system") or {}).get("server")
    if server is None:
        return
    agreed = server["reconciliation"]
    if agreed is not None:
        yield "server", _counts(agreed["requests"])
    for report in server["servers"]:
        parts = []
        if report["success"] is not None and len(server["servers"]) > 1:
            parts.append(f"{report['success']:,} requests")
        if report["note"]:
            parts.append(report["note"])
        if parts:
            yield "" if agreed is not None else "server", f"{report['url']}: {', '.join(parts)}"
    if agreed is not None:
        yield from _agreed(agreed)
    for text, count in server["events"].items():
        yield "", f"{text} ({count:,} times)"
    for report in server["servers"]:
        for gpu in (report["metrics"] or {}).get("gpus", ()):
            yield "server GPU", _gpu(gpu)


def _counts(requests: Mapping[str, Any]) -> str:
    difference = requests["difference"]
    agrees = "as many as were answered"
    if not requests["equal"]:
        agrees = f"{abs(difference):,} {'more' if difference > 0 else 'fewer'} than were answered here"
    failed = f", {requests['server_failed']:,} failed" if requests["server_failed"] else ""
    return f"{requests['server']:,} requests counted, {agrees}{failed}"


def _agreed(agreed: Mapping[str, Any]) -> Iterator[Row]:
    if agreed["batch_sizes"]:
        yield "", f"batches of {agreed['mean_batch_size']:.2f} samples on average: {_sizes(agreed['batch_sizes'])}"
    mean = agreed["mean_ns"]
    if mean is not None:
        cached = f", cache {figures.duration(mean['cache_hit'])}" if agreed["cached_share"] else ""
        share = f" ({figures.share(agreed['cached_share'])} from the cache)" if agreed["cached_share"] else ""
        yield (
            "",
            f"a request, on average: queue {figures.duration(mean['queue'])}, "
            f"compute {figures.duration(mean['compute'])}{cached}{share}",
        )
        yield (
            "",
            f"network and server's reading {figures.duration(mean['network'])}, "
            f"{figures.duration(mean['waiting'])} before it was sent: latency {figures.duration(mean['latency'])}",
        )
    held = agreed["in_flight"]
    yield (
        "",
        f"in flight {figures.digits(held['by_time'])} samples (rate x latency {figures.digits(held['by_rate'])}), "
        f"{figures.digits(held['in_server'])} requests in the server",
    )


def _gpu(gpu: Mapping[str, Any]) -> str:
    def spread(gauge: Mapping[str, float], text: Any) -> str:
        return f"{text(gauge['mean'])} (max {text(gauge['max'])})"

    parts = []
    if gpu["utilization"]:
        parts.append(f"use {spread(gpu['utilization'], figures.share)}")
    if gpu["power_w"]:
        parts.append(f"power {spread(gpu['power_w'], lambda watts: f'{watts:,.0f} W')}")
    if gpu["memory_used_bytes"]:
        total = f" of {gpu['memory_total_bytes'] / 1e9:,.0f}" if gpu["memory_total_bytes"] else ""
        parts.append(f"memory {figures.digits(gpu['memory_used_bytes']['max'] / 1e9)}{total} GB")
    if gpu["energy_j"]:
        parts.append(f"{gpu['energy_j']:,.0f} J")
    return f"{gpu['uuid']}: {', '.join(parts) or 'no figures'}"


def _hosts(document: Document) -> Iterator[Row]:
    """The generators, where several sent the traffic."""
    hosts = document.get("hosts")
    if hosts is None:
        return
    kind, generators = hosts["kind"], hosts["generators"]
    partial = "" if hosts["status"] == "complete" else ", PARTIAL"
    yield kind, f"{len(generators)} generators{partial}"
    if hosts["start_dispersion_ns"] is not None:
        bound = f", clocks within {figures.duration(hosts['clock_bound_ns'])}" if kind == "hosts" else ""
        yield "", f"started within {figures.duration(hosts['start_dispersion_ns'])}{bound}"
    for each in generators:
        parts = [f"{each['answered']:,} of {each['samples']:,} samples answered"]
        for key, name in (("lateness_ns", "late"), ("latency_ns", "latency")):
            if (ns := each[key]) is not None:
                parts.append(f"{name} p50 {figures.duration(ns['p50'])}, p99 {figures.duration(ns['p99'])}")
        where = f" ({each['machine']['host']})" if kind == "hosts" and each["machine"].get("host") else ""
        slowest = ", the slowest" if each["name"] == hosts["slowest"] and len(generators) > 1 else ""
        lost = f", LOST: {each['lost']['reason']}" if each["lost"] is not None else ""
        yield "", f"{each['name']}{where}: {'; '.join(parts)}{slowest}{lost}"


def _overhead(document: Document) -> Iterator[Row]:
    overhead = document["overhead"]
    if overhead is None:
        return
    yield (
        "generator",
        f"{figures.duration(overhead['issuing_cpu_us_per_sample'] * 1e3)} CPU per sample on the issuing thread, "
        f"{figures.duration(overhead['pacer_spin_s'] * 1e9)} of spin",
    )
    parts = [
        f"process CPU {figures.duration(overhead['process_cpu_s'] * 1e9)}",
        f"longest stall {figures.duration(overhead['longest_stall_us'] * 1e3)}",
        f"GC {figures.duration(overhead['gc_pause_s'] * 1e9)}",
    ]
    if overhead["steal_s"] is not None:
        parts.append(f"steal {figures.duration(overhead['steal_s'] * 1e9)}")
    if overhead["involuntary_switches"] is not None:
        parts.append(f"preempted {overhead['involuntary_switches']:,} times")
    if overhead["realtime_s"]:
        parts.append(f"real-time {figures.duration(overhead['realtime_s'] * 1e9)}")
    if not overhead["exact_timer"]:
        parts.append("no timerfd")
    yield "", ", ".join(parts)


def _origin(document: Document) -> Iterator[Row]:
    """Seeds and environment, which are needed to repeat the run."""
    yield "seeds", ", ".join(f"{name} {seed}" for name, seed in document["seeds"].items())
    machine = document.get("environment")
    if machine:
        cores = f"{machine['cores']} cores" + (f", governor {machine['governor']}" if machine["governor"] else "")
        yield "machine", f"{machine['cpu'] or 'unknown CPU'}, {cores}"
        for gpu in machine["gpus"]:
            yield "GPU", gpu
        versions = [f"{name} {version}" for name, version in machine["versions"].items() if version]
        yield "software", ", ".join([f"Python {machine['python']}", *versions])
        if machine["git_revision"]:
            yield "revision", machine["git_revision"]
    yield "", f"{document['tool']}: {document['note']}"


def _aligned(parts: list[str]) -> str:
    return "".join(part.ljust(16) for part in parts).rstrip()
