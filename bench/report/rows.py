"""The report of a run as rows, made from its result document: the verdict, its reasons, what to do, then the figures.

Computes nothing: all figures are in the document, so a saved run looks exactly as it did when it ended.  Does not know
where rows are shown.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from drumfire.bench.report.figures import digits, duration, metric_value, rate, seconds, share
from drumfire.loadgen.results import percentile_name

_MOST_CELLS = 4
"""The most cells of a row: more do not fit in 80 columns."""


class Style(enum.Enum):
    """What a row is."""

    VALID = enum.auto()
    INVALID = enum.auto()
    UNFINISHED = enum.auto()
    """These three are verdicts."""
    REASON = enum.auto()
    WARNING = enum.auto()
    FIGURES = enum.auto()
    FOLDER = enum.auto()
    """A path, to be kept in one piece so that it can be copied."""


@dataclass(frozen=True)
class Row:
    label: str
    """Empty where a row continues the one above."""
    cells: Sequence[str]
    """A text, or several short ones that stand in columns."""
    style: Style = Style.FIGURES


Section = Sequence[Row]
Document = Mapping[str, Any]
"""A result document (``drumfire.loadgen.directory.document`` with the sections of a run)."""
Rows = Iterator[tuple[str, ...]]
"""Labels with the cells that follow them."""


def report(document: Document) -> Iterator[Section]:
    """The report, by rows that belong together."""
    validity = document["validity"]
    yield [
        Row("Result is", [validity], Style[validity]),
        *_list(document["reasons"], Style.REASON),
        *_list([f"warning: {text}" for text in document["warnings"]], Style.WARNING),
    ]
    for part in (_subject, _search, _rates, _latencies, _quality, _batches, _server, _hosts, _overhead):
        if rows := [Row(label, cells) for label, *cells in part(document)]:
            yield rows
    folder = [Row("saved in", [document["directory"]], Style.FOLDER)] if document.get("directory") else []
    yield [Row(label, cells) for label, *cells in _origin(document)] + folder


def _list(lines: Iterable[str], style: Style) -> list[Row]:
    return [Row("", [" ".join(line.split())], style) for line in lines]


def _subject(document: Document) -> Rows:
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


def _search(document: Document) -> Rows:
    """The outcome of a search for the peak, and of a run until confident."""
    search = document.get("search")
    if search is not None:
        unit = search["unit"]
        none = "none found" if search["fails_at"] is not None else "not found yet"
        yield "peak", none if search["peak"] is None else f"{digits(search['peak'])} {unit}"
        if search["fails_at"] is not None:
            yield "", f"fails at {digits(search['fails_at'])} {unit}"
        elif search["peak"] is not None:
            yield "", "no load that was tried failed: the system may be faster"
        yield "", f"{len(search['probes'])} probes, {seconds(search['query_time_s'])} of queries"
    sure = document.get("confidence")
    if sure is not None:
        yield "confidence", f"{sure['verdict']}: {sure['over']:,} of {sure['queries']:,} queries over latency"


def _rates(document: Document) -> Rows:
    metric, asked, delivered = document["metric"], document["asked"], document["delivered"]
    if metric is not None:
        yield "metric", f"{metric_value(metric)}  {metric['name']}"
    source = (document.get("system") or {}).get("qps_source")
    least = f"at least {asked['min_duration_s']:g} s and {asked['min_query_count']:,} queries"
    if asked["max_query_count"]:
        least += f", at most {asked['max_query_count']:,} queries"
    if asked["samples_per_query"] > 1:
        least += f", of {asked['samples_per_query']:,} samples each"
    qps = "" if asked["qps"] is None else rate(asked["qps"]) + (f" ({source})" if source else "") + ", "
    if (warm_up := document.get("warmup")) is not None:
        failed = f", {warm_up['failed']:,} samples failed" if warm_up["failed"] else ""
        yield "warm-up", f"{warm_up['queries']:,} queries in {seconds(warm_up['seconds'])}, unmeasured{failed}"
    yield "asked", qps + (least if document["mode"] != "AccuracyOnly" else f"{asked['generated_queries']:,} queries")
    samples, queries = f"{delivered['samples']:,} samples", f"{delivered['queries']:,} queries"
    yield (
        "delivered",
        f"{rate(delivered['samples_per_second'])}: {samples}, {queries} in {seconds(delivered['duration_s'])}",
    )


def _latencies(document: Document) -> Rows:
    asked = document["asked"]
    target = percentile_name(asked["target_latency_percentile"])
    for key, name in (("latency_ns", "latency"), ("query_latency_ns", "per query")):
        latency = document[key]
        if latency is None:
            continue
        shown = {p: ns for p, ns in latency.items() if p.startswith("p")}
        shown.setdefault(target, latency["target_percentile"])
        yield from _in_columns(name, _durations(shown, shown))
        yield "", *_durations(latency, ("mean", "min", "max"))
    if asked["target_latency_ns"] and document["latency_ns"] is not None:
        reached = document["latency_ns"]["target_percentile"]
        bound = duration(asked["target_latency_ns"])
        yield "target", f"{target} within {bound}: {duration(reached)}"
    late = document["lateness_ns"]
    if late is not None:
        yield "lateness", *_durations(late, ("p50", "p99", "max"))
        early = f", {late['early']:,} EARLY" if late["early"] else ""
        yield "", f"{share(late['share_over_1ms'])} over 1 ms{early} ({late['meaning']})"


def _quality(document: Document) -> Rows:
    accuracy = document.get("accuracy")
    if accuracy is not None:
        judged = "" if accuracy["good"] is not None else f", {accuracy['total']:,} samples"
        yield "accuracy", f"{accuracy['lines'][-1]} (target {accuracy['target'] * 100:.6g}%{judged})"
    errors = document["errors"]
    counts = {name: errors[name] for name in ("failed", "unanswered", "refused")}
    yield "errors", ", ".join(f"{n:,} {name}" for name, n in counts.items()) if any(counts.values()) else "none"
    for text, count in errors["messages"].items():
        yield "", f"{count:,} times: {text}"


def _batches(document: Document) -> Rows:
    system = document.get("system") or {}
    sizes = system.get("batch_sizes")
    if sizes:
        yield "batch sizes", _sizes(sizes)
    for key, name in (("queue_ns", "queueing"), ("service_ns", "computing")):
        if system.get(key):
            yield name, *_durations(system[key], system[key])


def _sizes(sizes: Mapping[str, int]) -> str:
    """The most frequent batch sizes with their counts."""
    most = sorted(sizes.items(), key=lambda size: size[1], reverse=True)[:8]
    shown = [f"{size}: {count:,}" for size, count in sorted(most, key=lambda size: int(size[0]))]
    return "  ".join(shown) + (f"  and {len(sizes) - 8} more sizes" if len(sizes) > 8 else "")


def _server(document: Document) -> Rows:
    """What the servers report of the run, and whether it agrees with the measurement."""
    server = (document.get("system") or {}).get("server")
    if server is None:
        return
    agreed = server["reconciliation"]
    if agreed is not None:
        yield "server", _counts(agreed["requests"])
    for one in server["servers"]:
        counted = one["success"] is not None and len(server["servers"]) > 1
        parts = [f"{one['success']:,} requests" if counted else "", one["note"]]
        if any(parts):
            yield "" if agreed is not None else "server", f"{one['url']}: {', '.join(filter(None, parts))}"
    if agreed is not None:
        yield from _agreed(agreed)
    for text, count in server["events"].items():
        yield "", f"{text} ({count:,} times)"
    for one in server["servers"]:
        for gpu in (one["metrics"] or {}).get("gpus", ()):
            yield "server GPU", _gpu(gpu)


def _counts(requests: Mapping[str, Any]) -> str:
    difference = requests["difference"]
    agrees = "as many as were answered"
    if not requests["equal"]:
        agrees = f"{abs(difference):,} {'more' if difference > 0 else 'fewer'} than were answered here"
    failed = f", {requests['server_failed']:,} failed" if requests["server_failed"] else ""
    return f"{requests['server']:,} requests counted, {agrees}{failed}"


def _agreed(agreed: Mapping[str, Any]) -> Rows:
    if agreed["batch_sizes"]:
        yield "", f"batches of {agreed['mean_batch_size']:.2f} samples on average: {_sizes(agreed['batch_sizes'])}"
    mean = agreed["mean_ns"]
    if mean is not None:
        cached = ""
        if agreed["cached_share"]:
            cached = f", cache {duration(mean['cache_hit'])} ({share(agreed['cached_share'])} from the cache)"
        queue, compute = duration(mean["queue"]), duration(mean["compute"])
        yield "", f"a request, on average: queue {queue}, compute {compute}{cached}"
        network, waiting, latency = (duration(mean[name]) for name in ("network", "waiting", "latency"))
        yield "", f"network and server's reading {network}, {waiting} before it was sent: latency {latency}"
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


def _hosts(document: Document) -> Rows:
    """The generators, where several sent the traffic."""
    hosts = document.get("hosts")
    if hosts is None:
        return
    kind, generators = hosts["kind"], hosts["generators"]
    partial = "" if hosts["status"] == "complete" else ", PARTIAL"
    yield kind, f"{len(generators)} generators{partial}"
    if hosts["start_dispersion_ns"] is not None:
        bound = f", clocks within {duration(hosts['clock_bound_ns'])}" if kind == "hosts" else ""
        yield "", f"started within {duration(hosts['start_dispersion_ns'])}{bound}"
    for each in generators:
        parts = [f"{each['answered']:,} of {each['samples']:,} samples answered"]
        for key, name in (("lateness_ns", "late"), ("latency_ns", "latency")):
            if (ns := each[key]) is not None:
                parts.append(f"{name} p50 {duration(ns['p50'])}, p99 {duration(ns['p99'])}")
        where = f" ({each['machine']['host']})" if kind == "hosts" and each["machine"].get("host") else ""
        slowest = ", the slowest" if each["name"] == hosts["slowest"] and len(generators) > 1 else ""
        lost = f", LOST: {each['lost']['reason']}" if each["lost"] is not None else ""
        yield "", f"{each['name']}{where}: {'; '.join(parts)}{slowest}{lost}"


def _overhead(document: Document) -> Rows:
    overhead = document["overhead"]
    if overhead is None:
        return
    cpu, spin = duration(overhead["issuing_cpu_us_per_sample"] * 1e3), seconds(overhead["pacer_spin_s"])
    yield "generator", f"{cpu} CPU per sample on the issuing thread, {spin} of spin"
    stolen, preempted = overhead["steal_s"], overhead["involuntary_switches"]
    parts = [
        f"process CPU {seconds(overhead['process_cpu_s'])}",
        f"longest stall {duration(overhead['longest_stall_us'] * 1e3)}",
        f"GC {seconds(overhead['gc_pause_s'])}",
        "" if stolen is None else f"steal {seconds(stolen)}",
        "" if preempted is None else f"preempted {preempted:,} times",
        f"real-time {seconds(overhead['realtime_s'])}" if overhead["realtime_s"] else "",
        "" if overhead["exact_timer"] else "no timerfd",
    ]
    yield "", ", ".join(filter(None, parts))


def _origin(document: Document) -> Rows:
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


def _durations(values: Mapping[str, int], names: Iterable[str]) -> list[str]:
    """``values`` in ns."""
    return [f"{name} {duration(values[name])}" for name in names]


def _in_columns(label: str, cells: Sequence[str]) -> Rows:
    """As few rows as hold the cells, the first with the fewer where they do not divide evenly."""
    rows = -(-len(cells) // _MOST_CELLS)
    for row in range(rows):
        yield label if row == 0 else "", *cells[len(cells) * row // rows : len(cells) * (row + 1) // rows]
