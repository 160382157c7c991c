"""``drumfire audit TEST01|TEST04|TEST05``: does a usual run and the same run under audit, and checks that they agree.

Our own implementation of the rules that MLCommons publishes for its compliance tests.  Judges the results of runs;
``run`` does the runs.
"""

from __future__ import annotations

import contextlib
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from drumfire.bench import interrupts, statuses
from drumfire.bench.assemble.local import Assembly
from drumfire.bench.assemble.options import RunOptions
from drumfire.bench.commands import run
from drumfire.bench.gates import ExpectOptions
from drumfire.bench.options.parser import Command
from drumfire.bench.report import audits, figures, terminal
from drumfire.bench.report.audits import AUDIT, TESTS
from drumfire.loadgen.audit_config import AUDIT_CONFIG, audited
from drumfire.loadgen.claim import Claim
from drumfire.loadgen.directory import SCORE
from drumfire.loadgen.errors import UnsavedError, UserError
from drumfire.loadgen.files import in_one_step
from drumfire.loadgen.logs import ACCURACY, logged_responses
from drumfire.loadgen.options import flag, option
from drumfire.loadgen.rounds import ROUNDS
from drumfire.loadgen.run import Test
from drumfire.loadgen.settings import Mode, Scenario, TestSettings
from drumfire.sut.models.model import Accuracy

Document = Mapping[str, Any]
Answered = Sequence[tuple[int, bytes]]
"""Data set index and response of each logged sample."""

_CONFIGS = {
    "TEST01": "*.*.mode = 2\n*.*.accuracy_log_rng_seed = 720381539243781796\n*.*.accuracy_log_sampling_target = {}\n",
    "TEST04": "*.*.mode = 2\n*.*.performance_issue_same = 1\n*.*.performance_issue_same_index = 3\n"
    "*.*.performance_issue_unique = 0\n",
    "TEST05": "*.*.mode = 2\n",  # its seeds come from the round; an audit file cannot set seeds
}
_SAMPLES = {"retinanet": 256, "ssd-mobilenet": 256, "ssd-resnet34": 256, "yolo11l": 64}
_MOST_SAMPLES = 4096
"""Responses that TEST01 logs, for models without an entry in ``_SAMPLES``."""
_ACCURACY_MARGIN = 0.01
_MARGINS = {"TEST01": 0.10, "TEST04": 0.10, "TEST05": 0.05}
_ROOM = 1.5
"""How much faster a run may be than the measurement before it says, and still last for its least duration: a machine is
not equally fast at all times, and a run that is too short fails the test."""
_SHORT_MARGIN = 0.20
_SHORT_NS = {"SingleStream": 200_000, "MultiStream": 1_600_000}
"""Latencies up to these vary more from run to run, and get the wider margin."""


@dataclass(frozen=True)
class Check:
    """One rule of a test."""

    name: str
    passed: bool
    text: str


Perform = Callable[[TestSettings, Path, tuple[str, ...]], tuple[Test, dict[str, Any]]]
"""Does one run with these settings, into a folder, with these warnings in its log; returns it and its document."""


@dataclass(frozen=True)
class Options:
    """The options of ``drumfire audit``."""

    test: str = option(metavar="TEST", position=True, choices=TESTS, help=", ".join(TESTS))
    run: RunOptions = field(kw_only=True)


def audit(asked: Options) -> int:
    """Do the runs, judge them, write the verification files, and return the exit status."""
    options, test = asked.run, asked.test
    for name in ("accuracy", "submission", "find_peak_performance", "audit_conf", "until_confident"):
        if getattr(options.traffic, name):
            raise UserError(f"{flag(name)} cannot be used in an audit, which sets the mode of its runs: leave it out")
    if options.expectations != ExpectOptions():
        raise UserError("--expect cannot be used in an audit, whose runs are judged by its test: leave it out")
    having = [name for name, one in ROUNDS.items() if one.test05]
    if test == "TEST05" and options.traffic.round not in having:
        raise UserError(
            f"TEST05 was retired in November 2024, and {options.traffic.round} has none: leave it out, or choose "
            f"--round {' or '.join(having)}"
        )
    messages = Console(stderr=options.result.json, highlight=False, soft_wrap=True)
    with run.claimed(options, f"-{test}") as claimed, run.assembled(options, claimed) as assembly:
        folder = claimed.folder
        if test == "TEST01":
            assembly.check_judge(test)

        def perform(settings: TestSettings, where: Path, warnings: tuple[str, ...]) -> tuple[Test, dict[str, Any]]:
            messages.print(f"{test}: {settings.mode.name} run in {where}", markup=False)
            part = replace(assembly, settings=settings, config_warnings=warnings, notes=[])
            with Claim.take(where) as own:
                own.log_bytes_per_row = claimed.log_bytes_per_row
                ended = run.perform(part, options, own, messages, None)
            if ended.unsaved is not None:
                raise UnsavedError(ended.unsaved)
            return ended.test, ended.result

        outcome = run_audit(test, assembly, perform, folder)
    if options.result.json:
        print(json.dumps(outcome, allow_nan=False))
    else:
        terminal.put(audits.report(outcome, folder))
    if outcome["interrupted"]:
        return statuses.INTERRUPTED
    return statuses.VALID if outcome["passed"] else statuses.INVALID


COMMAND = Command(
    Options,
    audit,
    "Audit a system: TEST01 compares the answers of a performance run with those of an accuracy run, TEST04 sends one "
    "sample over and over, which must not be faster, TEST05 uses other seeds (in rounds before v5.0).",
    "drumfire audit TEST04 onnxruntime digits cpu --scenario Offline --time 60",
    kept=True,
)


def run_audit(test_name: str, assembly: Assembly, perform: Perform, folder: Path) -> dict[str, Any]:
    """Do a test's runs in order, then its checks; the outcome is written into ``folder`` and returned.

    Interrupted after a run, the outcome says so; before any, ``KeyboardInterrupt`` is raised, and the folder left as
    it was.  Raises ``UserError`` where the folder holds an audit.
    """
    if (folder / AUDIT).exists():
        raise UserError(f"{folder} already holds an audit: choose another --output, or remove it first")
    inner = folder / test_name
    inner.mkdir(parents=True, exist_ok=True)
    outcome: dict[str, Any] = {
        "test": test_name,
        "passed": False,
        "interrupted": True,
        "checks": [],
        "runs": {},
        "directory": str(folder),
    }
    try:
        _save(outcome, folder)  # so that a killed one is known as an audit
        checks = _checks(test_name, assembly, perform, folder, outcome["runs"])
        if checks is not None:
            passed = all(check.passed for check in checks)
            outcome |= {"interrupted": False, "passed": passed, "checks": [asdict(check) for check in checks]}
    except BaseException as error:
        if not any((folder / place).exists() for place in audits.places(test_name).values()):
            for path in (inner / AUDIT_CONFIG, folder / AUDIT):
                path.unlink(missing_ok=True)
            with contextlib.suppress(OSError):  # something else is in it
                inner.rmdir()
            raise
        if not isinstance(error, KeyboardInterrupt):
            raise
        interrupts.ignore()
    _save(outcome, folder)
    return outcome


def _checks(
    test_name: str, assembly: Assembly, perform: Perform, folder: Path, runs: dict[str, Any]
) -> list[Check] | None:
    """Do the runs, each of which is entered in ``runs``, and judge them; None where one is interrupted."""
    places, inner = audits.places(test_name), folder / test_name
    settings = replace(assembly.settings, mode=Mode.PerformanceOnly)
    if assembly.description.get("qps_source") == "measured":
        settings = _with_room(settings)
    config = inner / AUDIT_CONFIG
    config.write_text(_CONFIGS[test_name].format(_SAMPLES.get(assembly.description["model"], _MOST_SAMPLES)))
    under_audit, warnings, _ = audited(replace(settings, test05=test_name == "TEST05"), config)

    def done(name: str, settings: TestSettings, warnings: tuple[str, ...] = ()) -> tuple[Test, dict[str, Any]]:
        test, result = perform(settings, folder / places[name], warnings)
        runs[name] = {key: result[key] for key in ("validity", "metric", "directory")}
        return test, result

    usual, usual_result = done("usual", settings)
    if usual.interrupted is not None:
        return None
    known: Answered = ()
    if test_name == "TEST01":
        accuracy, _ = done("accuracy", replace(settings, mode=Mode.AccuracyOnly))
        if accuracy.interrupted is not None:
            return None
        known = answers(accuracy)
    tested, tested_result = done("audited", under_audit, warnings)
    if tested.interrupted is not None:
        return None
    checks = judge_performance(test_name, usual_result, tested_result)
    _write(inner / audits.PERFORMANCE, test_name, "performance", checks)
    if test_name == "TEST01":
        with interrupts.breaking():
            by_answers = judge_answers(known, answers(tested), assembly.accuracy)
            _write_answers(inner, known, answers(tested), assembly.accuracy)
        _write(inner / audits.ANSWERS, test_name, "accuracy", by_answers)
        checks += by_answers
    return checks


def _with_room(settings: TestSettings) -> TestSettings:
    """The settings for a system that is ``_ROOM`` times as fast as was measured; a Server run's rate stays."""
    if settings.scenario == Scenario.Offline:
        return replace(settings, offline_expected_qps=settings.offline_expected_qps * _ROOM)
    single, several = settings.single_stream_expected_latency_ns, settings.multi_stream_expected_latency_ns
    return replace(
        settings,
        single_stream_expected_latency_ns=single / _ROOM,
        multi_stream_expected_latency_ns=several / _ROOM,
    )


def _save(outcome: Document, folder: Path) -> None:
    with in_one_step(folder / AUDIT) as file:
        file.write(json.dumps(outcome, indent=2, allow_nan=False).encode() + b"\n")


def _write_answers(inner: Path, known: Answered, logged: Answered, accuracy: Callable[..., Accuracy]) -> None:
    """The folder ``accuracy`` of TEST01: what the audited run logged, and how accurate that is.

    Where answers differ, the official checker compares ``baseline_accuracy.txt``, of the accuracy run's answers to the
    same samples, with ``compliance_accuracy.txt``.
    """
    folder, expected = inner / "accuracy", dict(known)
    folder.mkdir(exist_ok=True)
    shutil.copy(inner / "performance" / "run_1" / ACCURACY, folder / ACCURACY)
    if not logged or any(index not in expected for index, _ in logged):
        return
    indices = np.array([index for index, _ in logged])
    audited_lines = accuracy(indices, [data for _, data in logged]).lines
    texts = {SCORE: audited_lines}
    if any(expected[index] != data for index, data in logged):
        usual_lines = accuracy(indices, [expected[index] for index, _ in logged]).lines
        texts |= dict(zip(audits.BOTH_SCORES, (usual_lines, audited_lines), strict=True))
    for name, lines in texts.items():
        (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")


def answers(test: Test) -> list[tuple[int, bytes]]:
    """The contents of a run's accuracy log."""
    logged = logged_responses(test.answers.kept, test.phases)
    return [(int(test.record.sample_index[row]), data) for row, data in logged]


def judge_performance(test_name: str, usual: Document, tested: Document) -> list[Check]:
    """Check that both runs are VALID, have the same target latency, and performed alike."""
    checks = [
        Check(f"{name} run", run["validity"] == "VALID", run["validity"] + _why(run))
        for name, run in (("usual", usual), ("audited", tested))
    ]
    bounds = [run["asked"]["target_latency_ns"] for run in (usual, tested)]
    if any(bounds):  # only a Server run has one
        before, after = ("none" if bound is None else figures.duration(bound) for bound in bounds)
        text = f"{before} in both" if bounds[0] == bounds[1] else f"{before} usually, {after} under audit"
        checks.append(Check("target latency", bounds[0] == bounds[1], text))
    if usual["metric"] is None or tested["metric"] is None or not usual["metric"]["value"]:
        return [*checks, Check("performance", False, "there is no performance figure to compare")]
    margin = _MARGINS[test_name]
    if usual["metric"]["unit"] == "ns" and usual["metric"]["value"] <= _SHORT_NS.get(usual["scenario"], 0):
        margin = _SHORT_MARGIN
    ratio = _score(tested) / _score(usual) if _score(usual) else 0.0
    before, after = figures.metric_value(usual["metric"]), figures.metric_value(tested["metric"])
    text = f"{before} usually, {after} under audit: {ratio:.1%} of the usual score"
    if test_name == "TEST04":
        same = ratio < 1.0 + margin
        text += f" with one sample over and over; must be below {1.0 + margin:.0%}"
    else:
        same = abs(ratio - 1.0) <= margin
        text += f"; must be within {margin:.0%}"
    return [*checks, Check("performance", same, text)]


def judge_answers(known: Answered, logged: Answered, accuracy: Callable[..., Accuracy]) -> list[Check]:
    """Check that each response logged in the performance run equals the accuracy run's.

    Floating-point sums may differ with the batch, so it is enough if the logged responses are as accurate as the
    accuracy run's responses to the same samples.
    """
    if not logged:
        return [Check("answers", False, "the audited run logged no response: check that its log samples accuracy")]
    expected = dict(known)
    unknown = sum(index not in expected for index, _ in logged)
    differ = sum(expected.get(index, data) != data for index, data in logged)
    text = f"{len(logged):,} responses logged, {differ:,} of them differ from the accuracy run's"
    if unknown:
        return [Check("answers", False, f"{text}, and {unknown:,} are for samples that it does not have")]
    if not differ:
        return [Check("answers", True, text)]
    indices = np.array([index for index, _ in logged])
    performed = accuracy(indices, [data for _, data in logged]).value
    accurate = accuracy(indices, [expected[index] for index, _ in logged]).value
    close = bool(abs(performed - accurate) <= _ACCURACY_MARGIN * accurate)
    text += f"; on these samples {performed:.3%} accurate, and {accurate:.3%} in the accuracy run (within 1% passes)"
    return [Check("answers", close, text)]


def _score(run: Document) -> float:
    """The metric as a rate, so that more is better: latencies become queries a second."""
    metric = run["metric"]
    value = float(metric["value"])
    return (1e9 / value if value else 0.0) if metric["unit"] == "ns" else value


def _why(run: Document) -> str:
    return f": {' '.join(run['reasons'][0].split())}" if run["reasons"] else ""


def _write(path: Path, test_name: str, what: str, checks: Sequence[Check]) -> None:
    """Write a verification file; the official checker looks for ``TEST PASS``."""
    passed = all(check.passed for check in checks)
    lines = [f"TEST {'PASS' if passed else 'FAIL'}", f"{test_name} {what} verification by Drumfire"]
    lines += [f"{'PASS' if check.passed else 'FAIL'} {check.name}: {check.text}" for check in checks]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
