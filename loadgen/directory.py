"""The run directory: everything that a run leaves behind, and every report's source.

result.json (the figures and the verdict) · report.txt · accuracy.txt · settings.json · environment.json ·
columns/*.npy (the table; flat columns with *.offsets.npy), layout.json (how it lay in memory) ·
series/ (figures with a clock of their own) · histograms/*.hgrm, *.hlog (HdrHistogram) ·
mlperf_log_summary.txt, mlperf_log_detail.txt, mlperf_log_accuracy.json, mlperf_log_trace.json
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from drumfire.loadgen import histogram, lateness, logs, summary
from drumfire.loadgen.errors import UnsavedError, UserError, described, one_line
from drumfire.loadgen.files import in_one_step
from drumfire.loadgen.issue import End
from drumfire.loadgen.overhead import issuing_cpu_us
from drumfire.loadgen.record import SIZE, Column, Record, RowArray, Status
from drumfire.loadgen.results import SHOWN_PERCENTILES, Distribution, Measured, Results, latencies
from drumfire.loadgen.run import Test
from drumfire.loadgen.settings import OF_CLOSED_LOOPS, EffectiveSettings, Loop, Mode, Scenario, percentile_name
from drumfire.loadgen.version import VERSION

_NAMED_SAMPLES = 5
"""Of those that failed."""

RESULT, SETTINGS, ENVIRONMENT, COLUMNS = "result.json", "settings.json", "environment.json", "columns"
HISTOGRAMS = "histograms"
LAYOUT = "layout.json"
"""Among the columns: ``Record.layout``, which says how the table lay in memory."""
UNFINISHED = "unfinished.json"
"""How much is there of a run whose process was killed: written by what keeps its table, read by ``saved``."""
REPORT, PAGE = "report.txt", "report.html"
"""Written by what shows a run to people; the page only where it is asked for."""
SCORE = "accuracy.txt"
"""The accuracy: the file and the line that submissions need."""
Write = Callable[[Path], object]
"""Writes one part of a run's folder, to this path: a file, or a folder where the name has no suffix.

Raises ``OSError`` where it cannot.
"""


class OutputError(UserError, OSError):
    """The run cannot be saved in the output folder.  The text is one line and says what to do."""


def document(test: Test, sections: Mapping[str, Any], warnings: list[str]) -> dict[str, Any]:
    """The result as a JSON-ready dictionary.  ``sections`` are the caller's: the system, the environment, ..."""
    results = test.results()
    report = test.reports[-1] if test.reports else None
    faults, departures = test.answers.faults, test.departures()
    reasons = results.reasons if results is not None else test.spoiled()
    if results is None and test.effective.mode != Mode.AccuracyOnly:
        reasons = reasons or ["No query was issued."]
    result: dict[str, Any] = {
        "tool": f"Drumfire {VERSION}",
        "note": "MLPerf rules: not applicable"
        if test.effective.is_closed
        else "not MLPerf's traffic"
        if departures
        else "MLPerf-style, not an MLPerf result",
        "validity": "INVALID" if reasons or (results is not None and not results.valid) else "VALID",
        "reasons": reasons,
        "warnings": warnings
        + departures
        + test.issuer.warnings()
        + [text for report in test.reports if (text := report.overhead.on_throttling) is not None]
        + [r.end.value for r in test.reports if r.end.is_error and r.end != End.INTERRUPTED],
        "scenario": test.effective.kind,
        "mode": test.effective.mode.name,
        "started": test.started.isoformat() if test.started else None,
        "sut_name": test.system.name,
        "qsl_name": test.library.name,
        "metric": None,
        "asked": _requested(test),
        "delivered": _delivered(test, results),
        "checks": None if results is None else _checks(test, results),
        "latency_ns": None,
        "query_latency_ns": None,
        "lateness_ns": None,
        "errors": {
            "failed": faults.failed.total(),
            "unanswered": faults.unanswered,
            "refused": faults.refused.total(),
            "messages": dict(faults.failed.most_common(20)) | dict(faults.refused),
        }
        | _failed_samples(test.record),
        "overhead": None if report is None else _overhead(test),
        "seeds": {
            name: getattr(test.effective, f"{name}_rng_seed")
            for name in ("qsl", "sample_index", "schedule", "accuracy_log")
        },
        "results": {} if results is None else logs.result_values(test.effective, results),
    }
    for name, flat in test.record.flat_columns.items():
        if flat.overflow:
            result["warnings"].append(
                f"{flat.overflow} values of {name} had no room in their row of {flat.width}: each replaced the last one"
            )
    if results is not None and report is not None:
        measured = test.measured(report)
        result |= figures(test.effective, results, measured, test.record.columns, test.streams(report))
        result["warnings"][:0] = lateness.warnings(test.effective, result, test.knobs, measured)
    if test.effective.is_closed:
        result["loop"] = {
            "concurrency": test.effective.concurrency, "think_time_ns": test.effective.think_time_ns, "mlperf": False
        }  # fmt: skip
    elif departures:
        result["schedule"] = {"name": test.schedule.name, "mlperf": False}
    return result | dict(sections) | test.issuer.sections()


def figures(
    settings: EffectiveSettings,
    results: Results,
    measured: Measured,
    columns: Mapping[str, Column],
    streams: Sequence[slice | RowArray],
) -> dict[str, Any]:
    """The figures of a document that follow from the columns alone, of a run that measures or of a saved one.

    ``streams``: the rows of each closed loop; in Server and Offline they are not used.
    """
    target, whole = settings.target_latency_percentile, results.query_latency
    found = {
        "metric": _metric(settings, results),
        "latency_ns": _figures(results.latency, target),
        "query_latency_ns": None if whole is None else _figures(whole, target),
        "lateness_ns": lateness.issued(settings, measured, columns, streams),
    }
    if measured.sent is not None:
        found["sent_lateness_ns"] = lateness.sent(measured, measured.sent)
    return found


def save(
    test: Test,
    result: Mapping[str, Any] | None,
    folder: Path,
    small: Mapping[str, Write] | None = None,
    large: Mapping[str, Write] | None = None,
    there: Container[str] = (),
) -> None:
    """Write the whole folder: what is small first, then the table, then what can be derived from it.

    ``result`` is None where it could not be made.  The caller's further parts, by file, come after ours that are
    ``small`` or ``large``.  Those ``there`` are saved already.  Each other is tried, also after one has failed, which
    leaves nothing half written.
    Raises ``UnsavedError`` that names what could not be saved; its cause is the first error that is no ``OSError``.
    """
    parts: dict[str, Write] = {SETTINGS: lambda path: write_settings(test, folder)}
    if result is not None:
        parts[ENVIRONMENT] = lambda path: write_json(path, result.get("environment"))
    # What is there from before the run stays, as a full disk could take it.
    parts = {name: write for name, write in parts.items() if not (folder / name).exists()}
    if result is not None:
        parts[RESULT] = lambda path: write_json(path, result)
    parts |= {
        summary.SUMMARY: lambda path: _write_summary(test, path),
        **(small or {}),
        COLUMNS: test.record.save,
        logs.DETAIL: lambda path: _write_detail(test, path),
        logs.ACCURACY: lambda path: _write_accuracy(test, path),
        **(large or {}),
        HISTOGRAMS: lambda path: _save_histograms(test, path),
    }
    unsaved: dict[str, list[str]] = {}
    faults: list[Exception] = []
    with contextlib.suppress(OSError):  # which each part will name
        folder.mkdir(parents=True, exist_ok=True)
    for name, write in parts.items():
        if name in there:
            continue
        try:
            write(folder / name)
        except Exception as error:
            why = described(error)
            if isinstance(error, OSError):  # numpy's have no errno and count elements
                why = error.strerror or f"{one_line(error)}: is the disk full?"
            else:
                faults.append(error)
            unsaved.setdefault(why, []).append(name)
            _discard(folder / name)
    if unsaved:
        what = "; ".join(f"{', '.join(names)} ({why})" for why, names in unsaved.items())
        text = f"the run could not be saved in {folder} as a whole, it lacks {what}"
        raise UnsavedError(text) from (faults[0] if faults else None)


def save_measured(test: Test, folder: Path) -> set[str]:
    """Save the table and the accuracy log, before what may never end.  Returns which are saved; ``save`` does the rest.

    Errors are left to ``save``, which tries again.
    """
    saved = set()
    parts: dict[str, Write] = {COLUMNS: test.record.save, logs.ACCURACY: lambda path: _write_accuracy(test, path)}
    for name, write in parts.items():
        try:
            write(folder / name)
            saved.add(name)
        except Exception:
            _discard(folder / name)
    return saved


def _discard(path: Path) -> None:
    """Remove what is half written, so that nobody reads it, and what comes next has its room."""
    for each in [path] if path.suffix else [each for each in path.glob("*.*") if each.name != LAYOUT]:
        with contextlib.suppress(OSError):
            each.unlink()


def write_logs(test: Test, summary_path: Path, detail_path: Path, accuracy_path: Path) -> str:
    """Write the reference's log files, once per test, as this completes the detail log.  Returns the summary."""
    _write_detail(test, detail_path)
    text = _write_summary(test, summary_path)
    _write_accuracy(test, accuracy_path)
    return text


def _write_detail(test: Test, path: Path) -> None:
    results = test.results()
    if results is not None:
        logs.put_results(test.log, test.effective, results)
    test.log.write(path)


def _write_summary(test: Test, path: Path) -> str:
    warnings, errors = test.log.warnings, test.log.errors
    text = summary.summary(test.system.name, test.effective, test.results(), warnings=warnings, errors=errors)
    path.write_text(text, encoding="utf-8", errors="backslashreplace")
    return text


def _write_accuracy(test: Test, path: Path) -> None:
    token_counts = test.record.columns.get("n_tokens") if test.effective.use_token_latencies else None
    first_tokens = None if test.effective.scenario == Scenario.Offline else test.answers.first_tokens
    logs.write_accuracy(path, test.answers.kept, test.record.sample_index, test.phases, token_counts, first_tokens)


def write_settings(test: Test, folder: Path, subject: Mapping[str, Any] | None = None) -> None:
    """Write the settings as requested and in effect, and the ``subject``: the result's ``command`` and ``system``."""
    settings = {"requested": _plain(test.requested), "effective": _plain(test.effective)}
    write_json(folder / SETTINGS, settings | dict(subject or {}))


def _save_histograms(test: Test, folder: Path) -> None:
    if test.results() is None:
        return
    folder.mkdir(exist_ok=True)
    report = next(r for r in test.reports if not r.phase.accuracy)
    measured = test.measured(report)
    begin = report.began.timestamp()
    end = begin + report.lasted_ns * 1e-9
    histogram.save(histogram.of(latencies(measured)), folder / "latency", begin, end)
    histogram.save(histogram.of(measured.issued - measured.scheduled), folder / "lateness", begin, end)


def write_json(path: Path, value: Any) -> None:
    """Write the file in one step, so that a reader never sees half of it."""
    text = json.dumps(value, indent=2, allow_nan=False) + "\n"
    with in_one_step(path) as file:
        file.write(text.encode())


def _plain(settings: Any) -> dict[str, Any]:
    found = {name: getattr(value, "name", value) for name, value in asdict(settings).items()}
    return found if settings.is_closed else {name: found[name] for name in found if name not in OF_CLOSED_LOOPS}


def _figures(latency: Distribution, target: float) -> dict[str, int]:
    figures = {"count": latency.count, "min": latency.minimum, "mean": latency.mean, "max": latency.maximum}
    figures |= {percentile_name(p): latency.percentiles[p] for p in SHOWN_PERCENTILES}
    return figures | {"target_percentile": latency.percentiles[target]}


def _metric(settings: EffectiveSettings, results: Results) -> dict[str, Any]:
    """The scenario's main figure: name, value, unit."""
    if "completed_samples_per_sec" in results.rates:
        return {
            "name": "completed samples per second",
            "value": results.rates["completed_samples_per_sec"],
            "unit": "1/s",
        }
    if settings.scenario == Scenario.Offline:
        return {"name": "samples per second", "value": results.rates["samples_per_second"], "unit": "1/s"}
    percentile = f"{settings.target_latency_percentile * 100:g}"
    return {
        "name": f"early-stopping estimate of the {percentile}th percentile latency",
        "value": results.stopping.estimate_ns,
        "unit": "ns",
    }


def _requested(test: Test) -> dict[str, Any]:
    s = test.effective
    return {
        "qps": s.target_qps if s.loop is Loop.OPEN else None,
        "min_duration_s": s.min_duration_ms / 1000,
        "min_query_count": s.min_query_count,
        "max_query_count": s.max_query_count,
        "samples_per_query": test.phases[-1].samples_per_query,
        "target_latency_ns": s.target_latency_ns or None,
        "target_latency_percentile": s.target_latency_percentile,
        "performance_sample_count": s.performance_sample_count,
        "generated_queries": sum(phase.query_count for phase in test.phases),
    }


def _delivered(test: Test, results: Results | None) -> dict[str, Any]:
    columns = test.columns
    answered = columns["status"] == Status.OK
    good = int(answered.sum())
    duration_s = sum(report.lasted_ns for report in test.judged) * 1e-9
    rates = results.rates if results is not None else {}
    named = ("completed_samples_per_sec", "samples_per_second", "qps_with_loadgen_overhead")
    rate = next((rates[name] for name in named if name in rates), good / duration_s if duration_s > 0 else 0.0)
    found = {
        "queries": sum(report.issued_rows // report.phase.samples_per_query for report in test.judged),
        "samples": good,
        "samples_per_second": rate,
        "duration_s": duration_s,
    }
    if SIZE in columns and good:
        found["elements_per_second"] = rate * float(columns[SIZE][answered].mean())
    return found


def _failed_samples(record: Record) -> dict[str, Any]:
    """Which samples failed, each once: how many, and the first of them."""
    rows = slice(0, record.issued_rows)
    failed = np.unique(record.sample_index[rows][record.status[rows] == Status.FAILED])
    return {"samples": {"count": failed.size, "first": failed[:_NAMED_SAMPLES].tolist()}} if failed.size else {}


def _checks(test: Test, results: Results) -> dict[str, bool | None]:
    server = test.effective.scenario == Scenario.Server
    return {
        "performance_constraints": results.performance_met if server else None,
        "min_duration": results.duration_met,
        "min_queries": results.queries_met,
        "early_stopping": results.stopping.met,
        "no_errors": not results.spoiled,
    }


def _overhead(test: Test) -> dict[str, Any]:
    """What the generator cost, over all phases."""
    reports = test.reports
    parts = [report.overhead for report in reports]

    def total(name: str) -> Any:
        values = [getattr(part, name) for part in parts]
        return None if None in values else sum(values)

    issued = sum(report.issued_rows for report in reports)
    spun_s = sum(report.pacing.spun_ns for report in reports) * 1e-9
    return {
        "wall_s": total("wall_s"),
        "process_cpu_s": total("process_cpu_s"),
        "issuing_thread_cpu_s": total("issuing_thread_cpu_s"),
        "pacer_spin": test.answers.spin if test.effective.scenario == Scenario.Server else None,
        "pacer_spin_s": spun_s,
        "issuing_cpu_us_per_sample": issuing_cpu_us(total("issuing_thread_cpu_s"), spun_s, issued),
        "pacer_window_us": max(report.pacing.window_ns for report in reports) / 1e3,
        "exact_timer": all(report.pacing.exact_timer for report in reports),
        "longest_stall_us": max(report.pacing.longest_stall_ns for report in reports) / 1e3,
        "realtime_s": sum(report.pacing.realtime_ns for report in reports) * 1e-9,
        "gc_collections": total("gc_collections"),
        "gc_pause_s": total("gc_pause_s"),
        "involuntary_switches": total("involuntary_switches"),
        "steal_s": total("steal_s"),
        "throttled_s": total("throttled_s"),
    }
