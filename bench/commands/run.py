"""``drumfire run``: assemble, drive, judge, save and show a run, in this order."""

from __future__ import annotations

import asyncio
import contextlib
import shlex
import sys
import urllib.parse
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from rich.console import Console

from drumfire.bench import gates, interrupts
from drumfire.bench.assemble import local, loop, remote
from drumfire.bench.assemble.local import Assembly
from drumfire.bench.assemble.options import RemoteOptions, RunOptions
from drumfire.bench.assemble.sizing import check_room
from drumfire.bench.fleet import refusals
from drumfire.bench.fleet.fleet import Fleet
from drumfire.bench.fleet.issuer import FleetIssuer
from drumfire.bench.keeper import Keeper
from drumfire.bench.options.parser import Command
from drumfire.bench.options.values import ineffective
from drumfire.bench.outcome import Outcome, Printer, accuracy_of, finish, judge_accuracy
from drumfire.bench.peak import probing
from drumfire.bench.peak.journal import JOURNAL
from drumfire.bench.report import junit, page
from drumfire.bench.report.terminal import say
from drumfire.bench.view import port
from drumfire.bench.view.dashboard import Display
from drumfire.bench.view.generators import watched
from drumfire.loadgen import loggers, schedules, series, trace
from drumfire.loadgen.audit_config import audited
from drumfire.loadgen.claim import Claim
from drumfire.loadgen.confidence import StopRule, UntilConfident
from drumfire.loadgen.directory import Write, document, save_measured
from drumfire.loadgen.environment import describe
from drumfire.loadgen.errors import UserError, described
from drumfire.loadgen.files import check_file
from drumfire.loadgen.interpreter import run_on_fast_loop
from drumfire.loadgen.pacer import Spin
from drumfire.loadgen.rounds import of_seeds
from drumfire.loadgen.run import Test
from drumfire.loadgen.series import Series
from drumfire.loadgen.settings import Scenario, effective
from drumfire.loadgen.version import VERSION
from drumfire.loadgen.warm_up import WarmUp
from drumfire.sut.local.batching import batching
from drumfire.sut.remote.kserve.metrics import MISSING
from drumfire.sut.sampler import Sampler

_CONFIDENT_SHARE = 4
"""By default, --until-confident may take this many times the run's least duration."""


def run(options: RunOptions) -> int:
    """Do one run, show it, and return the exit status."""
    messages = Console(stderr=options.result.json, highlight=False, soft_wrap=True)
    return measure(options, messages, Printer(options.result.json)).status


def measure(options: RunOptions, messages: Console, printer: Printer | None) -> Outcome:
    """Do one run, or a search for the peak, and save its result.  Raises ``UserError``."""
    check(options)
    with junit.crash_reported(options.expectations.junit, loop.name(options.traffic), options.model):
        ended = _measured(options, messages, printer)
    if options.expectations.junit is not None:
        junit.write_run(options.expectations.junit, ended.result)
    return ended


def _measured(options: RunOptions, messages: Console, printer: Printer | None) -> Outcome:
    with claimed(options) as claim, assembled(options, claim) as assembly:
        assembly.notes += filter(None, [claim.note])
        _audit(assembly, options)
        assembly.notes += local.unjudged(options, assembly.settings.mode)
        if options.traffic.find_peak_performance:
            return _search(assembly, options, claim, messages, printer)
        return perform(assembly, options, claim, messages, printer, _rule(assembly, options))


COMMAND = Command(
    RunOptions,
    run,
    "Drive a system under test through one MLPerf scenario and judge the result.",
    "drumfire run onnxruntime digits cpu --scenario Server --qps 500 --time 10",
    kept=True,
)


@contextlib.contextmanager
def assembled(options: RunOptions, claim: Claim) -> Iterator[Assembly]:
    """The assembled run that the options name; it is closed at the end.  ``claim``: of the folder to save it in."""
    loggers.show(options.result.log_level)
    refusals.check(options)
    settings, _ = local.read_settings(options.traffic, options.model, options.system.concurrency)
    claim.log_bytes_per_row += trace.BYTES_PER_ROW if options.result.trace else 0
    check_room(claim, settings, options.traffic)  # now, as loading may take minutes
    room = remote if isinstance(options.system, RemoteOptions) else local
    with port.listening(options.result.expose) as listening:
        assembly = room.assemble(options)
        assembly.listening = listening
        assembly.notes += ineffective(options)
        assembly.notes += [] if listening is None else [f"metrics at {port.url(listening)}"]
        assembly.warnings += local.foreseen(options, assembly)
        try:
            yield assembly
        finally:
            assembly.close()


def perform(
    assembly: Assembly,
    options: RunOptions,
    claim: Claim,
    messages: Console,
    printer: Printer | None,
    rule: StopRule | None = None,
) -> Outcome:
    """Do one run, show its verdict and save it in the folder of ``claim``.

    When the run has ended, ``interrupts`` are ignored, so that the result is saved and shown.  What was measured is
    saved also where the run raises, and then the error is raised.
    """
    interrupts.abandon()
    timestamps = sys.stderr if options.result.json else None
    generators = FleetIssuer(assembly, options) if refusals.several(options) else None
    test = Test(
        assembly.system,
        assembly.library,
        assembly.settings,
        config_warnings=assembly.config_warnings,
        config_errors=assembly.config_errors,
        patience_s=options.result.patience,
        rule=rule,
        schedule=schedules.get(options.traffic.schedule),
        warm_up=WarmUp.of(options.traffic.warmup),
        issuer=generators,
        timestamps=timestamps,
        knobs=assembly.knobs,
        spin=Spin(options.traffic.spin),
    )
    environment = describe(assembly.distributions)
    room = claim.begin(test, environment, _subject(assembly, options))
    faults: list[BaseException] = []
    warnings = assembly.warnings + test.foreseen()
    _announce(messages, warnings, [*assembly.notes, *filter(None, [room])])

    there: set[str] = set()

    @contextlib.contextmanager
    def judging() -> Iterator[None]:
        there.update(save_measured(test, claim.folder))
        with keeper.ending(), interrupts.breaking():
            yield

    def make(faults: list[BaseException]) -> dict[str, Any]:
        return _document(test, assembly, options, claim.folder, environment, warnings, faults, judging)

    with Keeper(test.record, claim.fd, getattr(assembly.system, "pids", ())) as keeper:
        if generators is not None:
            generators.fleet.on_launch = keeper.take
        try:
            _drive(test, assembly, options, fleet=None if generators is None else generators.fleet)
        except BaseException as error:
            if not test.record.issued_rows:
                raise
            faults.append(error)
        outcome = finish(test, make, claim, printer, _further(test, assembly, options, claim.folder), faults, there)
    return _unless(faults, outcome)  # only now: what is saved, the keeper need not save


def _unless(faults: Sequence[BaseException], outcome: Outcome) -> Outcome:
    """The outcome.  Raises the first of the faults."""
    if faults:
        raise faults[0]
    return outcome


def _announce(messages: Console, warnings: Sequence[str], notes: Sequence[str]) -> None:
    for text in warnings:
        say(messages, f"warning: {text}", "yellow")
    for text in notes:
        say(messages, f"note: {text}", "dim")


def _document(
    test: Test,
    assembly: Assembly,
    options: RunOptions,
    folder: Path,
    environment: dict[str, Any],
    warnings: list[str],
    faults: list[BaseException],
    judging: Callable[[], AbstractContextManager[None]] = contextlib.nullcontext,
) -> dict[str, Any]:
    """The result.  Where the answers cannot be judged, it says so, and ``faults`` gets the error.

    They are judged within ``judging``, by what may be a user's and may never end.
    """
    accuracy, unjudged, drawn = None, "", test.effective
    try:
        for kept in test.answers.kept:
            kept.responses = assembly.logged(test.record.sample_index[kept.rows], kept.responses)
        accuracy = accuracy_of(test, assembly, judging)
    except KeyboardInterrupt as error:  # a scorer may raise it too
        unjudged = f"The accuracy was not computed: {str(error) or 'interrupted'}"
        faults.append(KeyboardInterrupt(f"{unjudged}; the run is saved"))
    except BaseException as error:  # whatever a scorer may raise; the run itself is not at fault
        unjudged = f"The accuracy could not be computed: {described(error)}"
        faults.append(error if isinstance(error, Exception) else UserError(unjudged))
    measured = _series(test, assembly)
    notes = [] if assembly.sampler is None else assembly.sampler.notes
    subject = _subject(assembly, options)
    sections = subject | {
        "system": subject["system"] | batching(test.columns) | _computed(test, assembly, measured, notes),
        "accuracy": accuracy,
        "environment": environment,
        "directory": str(folder),
        "round": of_seeds(drawn.qsl_rng_seed, drawn.sample_index_rng_seed, drawn.schedule_rng_seed),
    }
    if assembly.meters:
        sections["series"] = {"kept": [one.summary() for one in measured], "notes": notes}
    if isinstance(test.plan.rule, UntilConfident):
        sections["confidence"] = _confidence(test.plan.rule)
    result = judge_accuracy(document(test, sections, warnings + missed(options, notes)), unjudged)
    return gates.expected(result, test, options.expectations)


def _subject(assembly: Assembly, options: RunOptions) -> dict[str, Any]:
    """What of the result is known before the run: which system, and by which command."""
    return {"command": shlex.join(["drumfire", *options.words]), "system": assembly.description}


def missed(options: RunOptions, notes: Sequence[str]) -> list[str]:
    """The notes on metrics whose address the user gave; others are read where they are found."""
    return [note for note in notes if MISSING in note] if "metrics_url" in options.given else []


def _further(test: Test, assembly: Assembly, options: RunOptions, folder: Path) -> dict[str, Write]:
    """The large parts of a run's folder that are not every test's."""
    parts: dict[str, Write] = {series.FOLDER: lambda path: series.save(_series(test, assembly), folder)}
    parts |= {trace.TRACE: lambda path: trace.write(test, path)} if options.result.trace else {}
    return parts | (page.of_run(folder) if options.result.report else {})


def check(options: RunOptions) -> None:
    """Refuse options that contradict each other, before anything is loaded."""
    traffic = options.traffic
    if traffic.accuracy and traffic.submission:
        raise UserError("--submission includes an accuracy run: leave --accuracy out")
    if traffic.audit_conf is not None:
        check_file(traffic.audit_conf, "--audit-conf")
    if traffic.find_peak_performance:
        probing.check(options)
    known = None if traffic.submission or traffic.audit_conf is not None else traffic.accuracy
    scenario, folder = loop.name(traffic), options.result.output
    gates.check(options.expectations, scenario=scenario, accuracy=known, folder=folder, runs=1)
    other = traffic.scenario != Scenario.Server.name or traffic.accuracy or traffic.find_peak_performance
    if traffic.until_confident is not None and other:
        raise UserError("--until-confident is for a performance run of the Server scenario: leave it out")


def _audit(assembly: Assembly, options: RunOptions) -> None:
    """Apply the audit file to the settings."""
    if options.traffic.audit_conf is not None:
        assembly.settings, warnings, _ = audited(assembly.settings, options.traffic.audit_conf, strict=True)
        assembly.config_warnings += warnings


def _rule(assembly: Assembly, options: RunOptions) -> UntilConfident | None:
    if options.traffic.until_confident is None:
        return None
    library = assembly.library
    settings = effective(assembly.settings, library.total_count, library.performance_count)
    limit_ms = round(options.traffic.until_confident * 1000) or _CONFIDENT_SHARE * settings.min_duration_ms
    if limit_ms < settings.min_duration_ms:
        wanted, least = options.traffic.until_confident, settings.min_duration_ms / 1000
        raise UserError(f"--until-confident {wanted:g} is less than the run's {least:g} s (--time)")
    return UntilConfident(settings, limit_ms, assembly.knobs)


def _confidence(rule: UntilConfident) -> dict[str, Any]:
    return {
        "verdict": rule.verdict.value,
        "queries": rule.count.queries,
        "over": rule.count.over,
        "limit_s": (rule.limit_ms or 0) / 1000,
    }


def _search(
    assembly: Assembly, options: RunOptions, claim: Claim, messages: Console, printer: Printer | None
) -> Outcome:
    """Search for the peak; the full run at the peak is saved, with the search in its result."""
    folder = claim.folder
    _announce(messages, assembly.warnings, assembly.notes)
    assembly.description["qps_source"] = "search"
    environment = describe(assembly.distributions)

    def drive(test: Test, title: str, probes: list[tuple[float, bool]]) -> None:
        interrupts.abandon()
        claim.begin(test, environment, _subject(assembly, options))
        _drive(test, assembly, options, title, probes)

    try:
        search = probing.find(assembly, options, folder, drive, lambda line: messages.print(line, markup=False))
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"interrupted; to resume this search: {probing.again(options, folder)}") from None

    def make(faults: list[BaseException]) -> dict[str, Any]:
        result = _document(search.test, assembly, options, folder, environment, assembly.warnings, faults)
        result["search"] = search.section
        if search.reasons:
            result |= {"validity": "INVALID", "reasons": search.reasons + result["reasons"]}
        return result

    if search.interrupted:
        result = make([])
        if printer:
            printer.verdict(result)
        messages.print(f"to resume this search: {probing.again(options, folder)}", markup=False)
        return Outcome(search.test, result)
    faults: list[BaseException] = []
    return _unless(
        faults, finish(search.test, make, claim, printer, _further(search.test, assembly, options, folder), faults)
    )


def claimed(options: RunOptions, kind: str = "") -> Claim:
    """Claim the folder of a run; without --output, it is a new one whose name says what is run."""
    if options.result.output is not None:
        return Claim.take(options.result.output, JOURNAL if options.traffic.find_peak_performance else None)
    model = Path(options.model).stem
    urls = options.system.target.url if isinstance(options.system, RemoteOptions) else ()
    where = urllib.parse.urlsplit(urls[0]).scheme if urls else options.device.replace(":", "").replace(",", "-")
    name = f"{options.backend}-{model}-{where}-{loop.kind(options)}"
    kinds = {
        "-accuracy": options.traffic.accuracy,
        "-submission": options.traffic.submission,
        "-peak": options.traffic.find_peak_performance,
    }
    return Claim.new(name + kind + "".join(suffix for suffix, wanted in kinds.items() if wanted))


def _drive(
    test: Test,
    assembly: Assembly,
    options: RunOptions,
    title: str | None = None,
    probes: Sequence[tuple[float, bool]] = (),
    fleet: Fleet | None = None,
) -> None:
    """Run the test on the fast loop with the live view; Ctrl-C and SIGTERM end it early, and nothing measured is lost.

    When the test has ended, ``interrupts`` are ignored.  In a search, ``title`` and ``probes`` (load, and whether it
    passed) are shown.
    """

    async def main() -> None:
        loop = asyncio.get_running_loop()
        interrupts.notify(lambda reason: loop.call_soon_threadsafe(test.interrupt, reason))
        try:
            with contextlib.nullcontext() if view is None else view.attended(test.interrupt):
                await test.run()
        finally:
            interrupts.ignore()
            await asyncio.sleep(0)  # deliver a signal that came just before

    labels = {"model": options.model, "backend": options.backend, "version": VERSION}
    display = Display.of(assembly.listening, labels, json=options.result.json, hidden=options.result.no_dashboard)
    with Sampler(assembly.meters, test.effective.expected_s) as assembly.sampler:
        readings = assembly.sampler.fd if assembly.meters else None
        with watched(test, title or assembly.title, display, fleet, readings, probes) as view:
            run_on_fast_loop(main())


def _series(test: Test, assembly: Assembly) -> list[Series]:
    """What was read while the test ran, by the time since the start of its first phase."""
    if assembly.sampler is None or not test.reports:
        return []
    earlier_ns = round((test.reports[-1].began - test.reports[0].began).total_seconds() * 1e9)
    return assembly.sampler.series(test.answers.origin_ns - earlier_ns)


def _computed(test: Test, assembly: Assembly, measured: Sequence[Series], notes: Sequence[str]) -> dict[str, Any]:
    """What remote servers report of the run, and the processes in which a model here ran."""
    server = assembly.window.report([report.rows for report in test.reports], measured, notes)
    return {"server": server, "processes": assembly.processes(test.columns)}
