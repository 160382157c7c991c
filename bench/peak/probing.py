"""``drumfire run --find-peak-performance``: makes the probes that ``search`` asks for, with a real system.

Turns an ``Ask`` into a test and keeps the journal.  ``search`` chooses the probes; the caller drives and shows runs.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from drumfire.bench.assemble.local import Assembly
from drumfire.bench.assemble.options import RunOptions
from drumfire.bench.journal import resuming
from drumfire.bench.peak.journal import JOURNAL, Journal
from drumfire.bench.peak.search import Ask, Goal, Outcome, Peak, Probe, bracket, evidence, next_step
from drumfire.bench.report import figures
from drumfire.loadgen import schedules
from drumfire.loadgen.confidence import CutShort, Tally
from drumfire.loadgen.early_stopping import allowed_over, estimate, least_queries
from drumfire.loadgen.errors import UserError
from drumfire.loadgen.limits import available_memory_bytes
from drumfire.loadgen.pacer import Spin
from drumfire.loadgen.record import bytes_per_row
from drumfire.loadgen.results import Results
from drumfire.loadgen.run import Test
from drumfire.loadgen.settings import Mode, Scenario, TestSettings
from drumfire.loadgen.traffic import DRAWN_BYTES
from drumfire.loadgen.warm_up import WarmUp
from drumfire.loadgen.wording import counted, each_is

_REPLICA_STEP = 0x9E3779B97F4A7C15
"""Difference between the seeds of two replicas; only its low 32 bits matter, and they are odd."""
_MEMORY_SHARE = 0.4
"""The most of the free memory that the table of a full run may take."""


@dataclass
class SearchResult:
    """The end of a search."""

    test: Test
    """The full run at the peak, or the last run where there is none."""
    section: dict[str, Any]
    """The result's ``search`` section."""
    reasons: list[str]
    interrupted: bool


def check(options: RunOptions) -> None:
    """Raise ``UserError`` for options that have no peak to search for."""
    if options.traffic.scenario not in (Scenario.Server.name, Scenario.MultiStream.name):
        raise UserError(
            f"--find-peak-performance: {options.traffic.scenario} has no load to vary; use Server or MultiStream"
        )
    if options.traffic.scenario == Scenario.MultiStream.name and options.traffic.max_latency is None:
        raise UserError("--find-peak-performance in MultiStream needs --max-latency S, the bound of a query's latency")
    for name, is_set in {"--accuracy": options.traffic.accuracy, "--submission": options.traffic.submission}.items():
        if is_set:
            raise UserError(f"--find-peak-performance and {name} are two runs: leave one out")


def goal_of(settings: TestSettings, options: RunOptions, assembly: Assembly) -> Goal:
    """What to search for: from the settings, and the free memory, which bounds the load."""
    streams = settings.scenario == Scenario.MultiStream
    if streams:
        percentile = settings.multi_stream_target_latency_percentile
        bound_ns = round((options.traffic.max_latency or 0) * 1e9)
    else:
        percentile, bound_ns = settings.server_target_latency_percentile, settings.server_target_latency_ns
        if settings.use_token_latencies:
            bound_ns = settings.ttft_latency
    full_s = settings.min_duration_ms / 1000
    least = estimate(0, percentile).queries_needed if streams else least_queries(percentile)
    rows = (available_memory_bytes() or 1 << 33) * _MEMORY_SHARE
    rows /= bytes_per_row(assembly.system.columns) + DRAWN_BYTES
    return Goal(
        percentile=percentile,
        bound_s=bound_ns * 1e-9,
        full_s=full_s,
        full_queries=max(settings.min_query_count, least),
        start=settings.multi_stream_samples_per_query if streams else settings.server_target_qps,
        # Rounded, so that a resumed search has the same goal.
        most=4096 if streams else float(f"{rows / max(full_s, 1.0):.1g}"),
        whole=streams,
    )


def find(
    assembly: Assembly,
    options: RunOptions,
    folder: Path,
    drive: Callable[[Test, str, list[tuple[float, bool]]], None],
    say: Callable[[str], None],
) -> SearchResult:
    """Search for the peak; probes in the folder's journal are not repeated.  Raises ``UserError``.

    ``drive`` does a run and shows a title and the probes (load, and whether it passed); ``say`` prints a line.
    """
    settings = replace(assembly.settings, mode=Mode.PerformanceOnly, max_query_count=0)
    goal = goal_of(settings, options, assembly)
    subject = {
        "system": assembly.title,
        "goal": asdict(replace(goal, start=0.0, most=0.0)),
        "settings": _fixed(settings),
    }
    if options.traffic.schedule != schedules.DEFAULT.name:
        subject["schedule"] = options.traffic.schedule
    journal = Journal(folder / JOURNAL, subject, again(options, folder))
    history = journal.probes
    if history:
        say(f"resuming the search in {folder}: {counted(len(history), 'probe')} {each_is(len(history))} done")
    if history and history[-1].ask.purpose == "confirm" and history[-1].outcome.valid:
        history.pop()  # repeat it: its columns were lost with its process
    test: Test | None = None
    while isinstance(step := next_step(goal, history), Ask):
        test = _test(step, goal, settings, assembly, options, history)
        low, high = bracket(evidence(goal, history))
        where = "" if low is None and high is None else f", between {_bounds(goal, low, high)}"
        title = f"{assembly.title}: probe {len(history) + 1}{where}"
        marks = [(known.load, known.passes) for known in evidence(goal, history)]
        drive(test, title, marks)
        if test.interrupted is not None:
            break
        journal.add(Probe(step, _outcome(step, goal, test)))
        say(f"probe {len(history):3}  {describe(goal, history[-1])}")
    if test is None:
        raise UserError(f"the search in {folder} has ended without a peak: {getattr(step, 'reason', '')}")
    peak = step if isinstance(step, Peak) else Peak(None, None)
    interrupted = test.interrupted is not None
    reasons = [] if interrupted or peak.load is not None else [f"No peak was found: {peak.reason}."]
    return SearchResult(test, _section(goal, peak, history), reasons, interrupted)


def again(options: RunOptions, folder: Path) -> str:
    """The command that resumes the search in ``folder``."""
    return resuming(options.words, options.result.output, folder)


def describe(goal: Goal, probe: Probe) -> str:
    """A line about a finished probe."""
    ask, outcome = probe.ask, probe.outcome
    share = outcome.over / outcome.queries if outcome.queries else 1.0
    verdict = "VALID" if outcome.valid else "INVALID" if ask.purpose == "confirm" else figures.share(share) + " over"
    text = (
        f"{_load(goal, ask.load):>14}  {ask.purpose:9}  {verdict:>12}  {outcome.over:,} of "
        f"{counted(outcome.queries, 'query')} in {outcome.seconds:.1f} s"
    )
    return text + (f" ({outcome.note})" if outcome.note else "")


def _fixed(settings: TestSettings) -> dict[str, Any]:
    """The settings that all probes share."""
    varied = ("server_target_qps", "multi_stream_samples_per_query", "multi_stream_expected_latency_ns")
    return {name: value for name, value in asdict(settings).items() if name not in varied}


def _test(
    ask: Ask, goal: Goal, settings: TestSettings, assembly: Assembly, options: RunOptions, history: list[Probe]
) -> Test:
    confirming = ask.purpose == "confirm"
    settings = replace(settings, min_query_count=goal.full_queries if confirming else ask.queries)
    for name in ("qsl", "sample_index", "schedule"):
        seed = getattr(settings, f"{name}_rng_seed") + ask.replica * _REPLICA_STEP
        setattr(settings, f"{name}_rng_seed", seed % (1 << 64))
    if goal.whole:
        settings.multi_stream_samples_per_query = round(ask.load)
        if not confirming:
            settings.min_duration_ms = 0
        seen = [p.outcome.query_s for p in history if p.ask.load <= ask.load and p.outcome.query_s > 0]
        settings.multi_stream_expected_latency_ns = 0.7e9 * min(seen, default=goal.bound_s)
    else:
        settings.server_target_qps = ask.load
        if not confirming:
            settings.min_duration_ms = round(ask.seconds * 1000)
    test = Test(
        assembly.system,
        assembly.library,
        settings,
        config_warnings=assembly.config_warnings,
        config_errors=assembly.config_errors,
        patience_s=options.result.patience,
        schedule=schedules.get(options.traffic.schedule),
        warm_up=WarmUp.of(options.traffic.warmup),
        knobs=assembly.knobs,
        spin=Spin(options.traffic.spin),
    )
    planned = test.phases[-1].query_count
    allowed = ask.allowed
    if confirming:
        allowed = planned if goal.whole else allowed_over(planned, goal.percentile)
    test.plan.rule = CutShort(round(goal.bound_s * 1e9), planned, allowed)
    return test


def _outcome(ask: Ask, goal: Goal, test: Test) -> Outcome:
    rule, results = test.plan.rule, test.results()
    assert isinstance(rule, CutShort)
    lasted_s = sum(report.lasted_ns for report in test.reports) * 1e-9
    count = rule.count
    if rule.objection is None:
        count = Tally(test.record, test.phases[-1], test.effective, rule.bound_ns).look(test.record.issued_rows, 0)
    notes = [rule.objection] if rule.objection is not None else []
    faults = test.answers.faults
    if faults.failed:
        notes.append(f"{counted(faults.failed.total(), 'sample')} failed: {faults.failed.most_common(1)[0][0]}")
    mean_ns = 0 if results is None else (results.query_latency or results.latency).mean
    return Outcome(
        queries=count.queries,
        over=count.over,
        seconds=lasted_s,
        valid=ask.purpose == "confirm" and results is not None and _valid(goal, results),
        query_s=mean_ns * 1e-9,
        note="; ".join(notes),
    )


def _valid(goal: Goal, results: Results) -> bool:
    return results.valid and (not goal.whole or results.stopping.estimate_ns <= goal.bound_s * 1e9)


def _section(goal: Goal, peak: Peak, history: list[Probe]) -> dict[str, Any]:
    known = evidence(goal, history)
    low, high = bracket(known)
    return {
        "goal": asdict(goal),
        "peak": peak.load,
        "unit": "samples per query" if goal.whole else "queries/s",
        "passes_at": low,
        "fails_at": high,
        "probes": [{**asdict(probe.ask), **asdict(probe.outcome)} for probe in history],
        "query_time_s": sum(probe.outcome.seconds for probe in history),
    }


def _load(goal: Goal, load: float) -> str:
    return counted(round(load), "sample") if goal.whole else figures.rate(load)


def _bounds(goal: Goal, low: float | None, high: float | None) -> str:
    return " and ".join("?" if load is None else _load(goal, load) for load in (low, high))
