"""The report of a run as rows, made from its result document: the verdict, its reasons, what to do, then the figures.

Computes nothing: all figures are in the document, so a saved run looks exactly as it did when it ended.  A document of
another version may lack some: a row that needs one of them is left out (``_rows``).  Does not know where rows are
shown.
"""

from __future__ import annotations

import enum
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from drumfire.bench.report import expectations, figures, servers
from drumfire.bench.report.figures import batch_sizes, digits, duration, elements, metric_value, rate, seconds, share
from drumfire.loadgen.directory import PAGE
from drumfire.loadgen.rounds import of_seeds
from drumfire.loadgen.settings import Scenario, percentile_name
from drumfire.loadgen.wording import counted

_MOST_CELLS = 4
"""The most cells of a row: more do not fit in 80 columns."""
_PERCENTILE = re.compile(r"p[0-9.]+")


class Style(enum.Enum):
    """What a row is; METRIC is the main figure."""

    VALID = enum.auto()
    INVALID = enum.auto()
    UNFINISHED = enum.auto()
    """These three are verdicts."""
    REASON = enum.auto()
    WARNING = enum.auto()
    METRIC = enum.auto()
    FIGURES = enum.auto()
    FOLDER = enum.auto()
    """A path, to be kept in one piece so that it can be copied."""


@dataclass(frozen=True)
class Row:
    label: str
    """Empty where a row continues the one above."""
    cells: Sequence[str]
    """A text, or several short ones that stand in columns, of ``widths`` or the usual ones."""
    style: Style = Style.FIGURES
    widths: Sequence[int] = ()


Section = Sequence[Row]
Document = Mapping[str, Any]
"""A result document (``drumfire.loadgen.directory.document`` with the sections of a run)."""
Rows = Iterator[tuple[str, ...]]
"""Labels with the cells that follow them."""
Part = Callable[[Document], Rows]
"""A labelled row and those that continue it; a figure that the document lacks raises ``LookupError``."""


def report(document: Document) -> Iterator[Section]:
    """The report, by rows that belong together.

    ``document`` has a ``validity``, and what else there is has the types of ``loadgen/result.schema.json``.
    """
    validity = document["validity"]
    yield [
        Row("Result is", [validity], Style[validity]),
        *_rows(_reasons, document, Style.REASON),
        *_rows(_warnings, document, Style.WARNING),
    ]
    yield from _sections(_SECTIONS, document)
    yield [row for part in _ORIGIN for row in _rows(part, document)] + places(document.get("directory"))


def unfinished(document: Document) -> Iterator[Section]:
    """The figures of a run that has no result, from a document with the keys of ``_UNFINISHED``'s parts alone."""
    yield from _sections(_UNFINISHED, document)


def _sections(sections: Sequence[Sequence[Part]], document: Document) -> Iterator[Section]:
    for section in sections:
        if rows := [row for part in section for row in _rows(part, document, _STYLES.get(part, Style.FIGURES))]:
            yield rows


def _rows(part: Part, document: Document, style: Style = Style.FIGURES) -> list[Row]:
    """The rows of a part, up to one with a figure that the document lacks: no other place knows of missing figures."""
    rows = []
    try:
        for label, *cells in part(document):
            rows.append(Row(label, cells, style))
    except LookupError:
        pass
    return rows


def _reasons(document: Document) -> Rows:
    for text in document["reasons"]:
        yield "", " ".join(text.split())


def _warnings(document: Document) -> Rows:
    for text in document["warnings"]:
        yield "", " ".join(f"warning: {text}".split())


def places(folder: str | None) -> list[Row]:
    """Where a run is saved, and its page if it has one."""
    page = f"{folder}/{PAGE}"
    found = {"saved in": folder, "page": page if folder and os.path.isfile(page) else None}
    return [Row(name, [place], Style.FOLDER) for name, place in found.items() if place]


def _system(document: Document) -> Rows:
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


def _remote(document: Document) -> Rows:
    remote = (document.get("system") or {}).get("remote")
    if remote:
        bound = (
            "" if remote["concurrency"] is None else f", at most {counted(remote['concurrency'], 'request')} under way"
        )
        yield "", f"{', '.join(remote['urls'])} by {remote['client']}, input data: {remote['input_data']}"
        yield "", f"connections {remote['connections']}{bound}"
        if remote["shared_memory"] != "none":
            yield "", f"tensors in {remote['shared_memory']} shared memory"


def _weights(document: Document) -> Rows:
    system = document.get("system") or {}
    if system.get("weights"):
        yield "weights", str(system["weights"])
    for text in system.get("reservations", ()):
        yield "NOTE", text


def _scenario(document: Document) -> Rows:
    yield "scenario", f"{document['scenario']}, {document['mode']}"


def _search(document: Document) -> Rows:
    """The outcome of a search for the peak."""
    search = document.get("search")
    if search is not None:
        unit = search["unit"]
        none = "none found" if search["fails_at"] is not None else "not found yet"
        yield "peak", none if search["peak"] is None else f"{digits(search['peak'])} {unit}"
        if search["fails_at"] is not None:
            yield "", f"fails at {digits(search['fails_at'])} {unit}"
        elif search["peak"] is not None:
            yield "", "no load that was tried failed: the system may be faster"
        yield "", f"{counted(len(search['probes']), 'probe')}, {seconds(search['query_time_s'])} of queries"


def _confidence(document: Document) -> Rows:
    """The outcome of a run until confident."""
    sure = document.get("confidence")
    if sure is not None:
        yield "confidence", f"{sure['verdict']}: {sure['over']:,} of {counted(sure['queries'], 'query')} over latency"


def _metric(document: Document) -> Rows:
    metric = document["metric"]
    if metric is not None:
        yield "metric", f"{metric_value(metric)}  {metric['name']}"


def _warm_up(document: Document) -> Rows:
    if (warm_up := document.get("warmup")) is not None:
        failed = f", {counted(warm_up['failed'], 'sample')} failed" if warm_up["failed"] else ""
        what = "sample" if document["scenario"] == Scenario.Offline.name else "query"
        yield "warm-up", f"{counted(warm_up['queries'], what)} in {seconds(warm_up['seconds'])}, unmeasured{failed}"


def _asked(document: Document) -> Rows:
    asked = document["asked"]
    source = (document.get("system") or {}).get("qps_source")
    least = f"at least {asked['min_duration_s']:g} s and {counted(asked['min_query_count'], 'query')}"
    if (loop := document.get("loop")) is not None:
        thought = f", {duration(loop['think_time_ns'])} think time" if loop["think_time_ns"] else ""
        least = f"{counted(loop['concurrency'], 'query')} under way{thought}, {least}"
    if asked["max_query_count"]:
        least += f", at most {counted(asked['max_query_count'], 'query')}"
    offline = document["scenario"] == Scenario.Offline.name
    if offline:
        least = f"one query of {counted(asked['samples_per_query'], 'sample')}, at least {asked['min_duration_s']:g} s"
    elif asked["samples_per_query"] > 1:
        least += f", of {asked['samples_per_query']:,} samples each"
    # In Offline, the rate is only how the query came to its size.
    qps = "" if asked["qps"] is None or offline else rate(asked["qps"]) + (f" ({source})" if source else "") + ", "
    yield "asked", qps + (least if document["mode"] != "AccuracyOnly" else counted(asked["generated_queries"], "query"))


def _delivered(document: Document) -> Rows:
    delivered = document["delivered"]
    samples, queries = counted(delivered["samples"], "sample"), counted(delivered["queries"], "query")
    of = f"{samples}, {queries} in {seconds(delivered['duration_s'])}"
    yield "delivered", f"{rate(delivered['samples_per_second'])}: {of}"


def _latency(key: str, name: str, document: Document) -> Rows:
    latency = document[key]
    # Where the samples of a query are answered together, the latencies are the same twice.
    others = document.get("latency_ns") or {}
    if latency is not None and (key == "latency_ns" or latency != others | {"count": latency["count"]}):
        shown = {p: ns for p, ns in latency.items() if _PERCENTILE.fullmatch(p)}
        shown.setdefault(percentile_name(document["asked"]["target_latency_percentile"]), latency["target_percentile"])
        yield from _in_columns(name, _durations(shown, shown))
        yield "", *_durations(latency, ("mean", "min", "max"))


def _target(document: Document) -> Rows:
    asked = document["asked"]
    if asked["target_latency_ns"] and document["latency_ns"] is not None:
        reached = document["latency_ns"]["target_percentile"]
        bound, target = duration(asked["target_latency_ns"]), percentile_name(asked["target_latency_percentile"])
        yield "target", f"{target} within {bound}: {duration(reached)}"


def _lateness(document: Document) -> Rows:
    late = document["lateness_ns"]
    if late is not None:
        yield "lateness", *_durations(late, ("p50", "p99", "max"))
        early = f", {late['early']:,} EARLY" if late["early"] else ""
        yield "", f"{share(late['share_over_1ms'])} over 1 ms{early} ({late['meaning']})"


def _sent(document: Document) -> Rows:
    """How late a remote system sent, which the lateness of the issue does not tell."""
    late = document.get("sent_lateness_ns")
    if late is not None:
        yield "sent late", *_durations(late, ("p50", "p99", "max"))
        unsent = f", {late['unsent']:,} never sent" if late["unsent"] else ""
        by_design = " (all is due at once)" if document["scenario"] == Scenario.Offline.name else ""
        yield "", f"{share(late['share_over_1ms'])} over 1 ms{by_design}{unsent} ({late['meaning']})"


def _accuracy(document: Document) -> Rows:
    accuracy = document.get("accuracy")
    if accuracy is not None:
        judged = "" if accuracy["good"] is not None else f", {counted(accuracy['total'], 'sample')}"
        target = "no target" if accuracy["target"] is None else f"target {accuracy['target'] * 100:.6g}%"
        yield "accuracy", f"{accuracy['lines'][-1]} ({target}{judged})"


def _errors(document: Document) -> Rows:
    yield "errors", figures.errors(document["errors"])
    for text, count in document["errors"]["messages"].items():
        yield "", f"{counted(count, 'time')}: {text}"


def _batches(document: Document) -> Rows:
    system = document.get("system") or {}
    if system.get("batch_sizes"):
        yield "batch sizes", batch_sizes(system["batch_sizes"])
    if system.get("sizes"):
        yield "sizes", elements(system["sizes"], document["delivered"]["elements_per_second"])


def _processes(document: Document) -> Rows:
    """The processes of their own that computed."""
    processes = (document.get("system") or {}).get("processes") or []
    lasted_s = document["delivered"]["duration_s"] if document.get("delivered") else 0.0
    for number, one in enumerate(processes):
        where = one["device"] or (f"cores {', '.join(map(str, one['cores']))}" if one["cores"] else "")
        parts = []
        if one["cpu_s"] is not None:
            parts += [f"{one['cpu_s']:.3g} s of CPU", f"{one['memory_bytes'] / 1e6:,.0f} MB"]
        if len(processes) > 1 and one.get("samples") is not None and lasted_s:
            parts.append(f"{counted(one['samples'], 'sample')}, {rate(one['samples'] / lasted_s)}")
        name = f"process {one['pid']}{where and f' on {where}'}"
        yield "" if number else "computed by", ": ".join(filter(None, (name, ", ".join(parts))))
        if len(processes) > 1 and one.get("batch_sizes"):
            yield "", f"  batches {batch_sizes(one['batch_sizes'])}"


def _batcher(key: str, name: str, document: Document) -> Rows:
    values = (document.get("system") or {}).get(key)
    if values:
        yield name, *_durations(values, ("p50", "p99"))


def _hosts(document: Document) -> Rows:
    """The generators, where several sent the traffic."""
    hosts = document.get("hosts")
    if hosts is None:
        return
    kind, generators = hosts["kind"], hosts["generators"]
    partial = "" if hosts["status"] == "complete" else ", PARTIAL"
    yield kind, f"{counted(len(generators), 'generator')}{partial}"
    if hosts["start_dispersion_ns"] is not None:
        bound = f", clocks within {duration(hosts['clock_bound_ns'])}" if kind == "hosts" else ""
        yield "", f"started within {duration(hosts['start_dispersion_ns'])}{bound}"
    for each in generators:
        parts = [f"{each['answered']:,} of {counted(each['samples'], 'sample')} answered"]
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
    mode = f" (--spin {mode})" if (mode := overhead.get("pacer_spin")) else ""
    yield "generator", f"{cpu} CPU per sample on the issuing thread, {spin} of spin{mode}"
    stolen, preempted = overhead["steal_s"], overhead["involuntary_switches"]
    throttled = overhead.get("throttled_s")
    parts = [
        f"process CPU {seconds(overhead['process_cpu_s'])}",
        f"longest stall {duration(overhead['longest_stall_us'] * 1e3)}",
        f"GC {seconds(overhead['gc_pause_s'])}",
        "" if stolen is None else f"steal {seconds(stolen)}",
        f"throttled {seconds(throttled)}" if throttled else "",
        "" if preempted is None else f"preempted {counted(preempted, 'time')}",
        f"real-time {seconds(overhead['realtime_s'])}" if overhead["realtime_s"] else "",
        "" if overhead["exact_timer"] else "no timerfd",
    ]
    yield "", ", ".join(filter(None, parts))


def _seeds(document: Document) -> Rows:
    seeds = document["seeds"]
    mlperf_round = of_seeds(seeds["qsl"], seeds["sample_index"], seeds["schedule"])
    yield "seeds", (f"{mlperf_round}: " if mlperf_round else "") + ", ".join(f"{name} {seeds[name]}" for name in seeds)


def _machine(document: Document) -> Rows:
    machine = document.get("environment")
    if machine:
        cores = counted(machine["cores"], "core") + (f", governor {machine['governor']}" if machine["governor"] else "")
        yield "machine", f"{machine['cpu'] or 'unknown CPU'}, {cores}"
        for gpu in machine["gpus"]:
            yield "GPU", gpu


def _software(document: Document) -> Rows:
    machine = document.get("environment")
    if machine:
        versions = [f"{name} {version}" for name, version in machine["versions"].items() if version]
        yield "software", ", ".join([f"Python {machine['python']}", *versions])
        if machine["git_revision"]:
            yield "revision", machine["git_revision"]


def _tool(document: Document) -> Rows:
    yield "", f"{document['tool']}: {document['note']}"


def _durations(values: Mapping[str, int], names: Iterable[str]) -> list[str]:
    """``values`` in ns."""
    return [f"{name} {duration(values[name])}" for name in names]


def _in_columns(label: str, cells: Sequence[str]) -> Rows:
    """As few rows as hold the cells, the first with the fewer where they do not divide evenly."""
    rows = -(-len(cells) // _MOST_CELLS)
    for row in range(rows):
        yield label if row == 0 else "", *cells[len(cells) * row // rows : len(cells) * (row + 1) // rows]


_TIMES: Sequence[Part] = (
    partial(_latency, "latency_ns", "latency"),
    partial(_latency, "query_latency_ns", "per query"),
    _target, _lateness, _sent,
)  # fmt: skip
_SECTIONS: Sequence[Sequence[Part]] = (
    (expectations.rows,),
    (_system, _remote, _weights, _scenario),
    (_search, _confidence),
    (_metric, _warm_up, _asked, _delivered),
    _TIMES,
    (_accuracy, _errors),
    (_processes, _batches, partial(_batcher, "queue_ns", "queueing"), partial(_batcher, "service_ns", "computing")),
    (servers.rows,), (_hosts,), (_overhead,),
)  # fmt: skip
_UNFINISHED: Sequence[Sequence[Part]] = ((_system, _remote, _weights, _scenario), (_delivered,), _TIMES)
_STYLES: Mapping[Part, Style] = {_metric: Style.METRIC}
_ORIGIN: Sequence[Part] = (_seeds, _machine, _software, _tool)
"""What is needed to repeat the run."""
