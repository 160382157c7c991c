"""``drumfire audit TEST01|TEST04|TEST05``: does a usual run and the same run under audit, and checks that they agree.

Our own implementation of the rules that MLCommons publishes for its compliance tests.  Judges the results of runs;
``run`` does the runs.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from drumfire.bench import statuses
from drumfire.bench.assemble.local import Assembly
from drumfire.bench.assemble.options import RunOptions
from drumfire.bench.commands import run
from drumfire.bench.options.parser import Command
from drumfire.bench.outcome import SCORE, Silent
from drumfire.bench.report import figures
from drumfire.loadgen.audit_config import AUDIT_CONFIG, audited
from drumfire.loadgen.claim import Claim
from drumfire.loadgen.errors import UnsavedError, UserError
from drumfire.loadgen.logs import ACCURACY, logged_responses
from drumfire.loadgen.options import flag, option
from drumfire.loadgen.rounds import ROUNDS
from drumfire.loadgen.run import Test
from drumfire.loadgen.settings import Mode, TestSettings
from drumfire.sut.models.model import Accuracy

TESTS = ("TEST01", "TEST04", "TEST05")
Document = Mapping[str, Any]
Answered = Sequence[tuple[int, bytes]]
"""Data set index and response of each logged sample."""

_CONFIGS = {
    "TEST01": "*.*.mode = 2\n*.*.accuracy_log_rng_seed = 720381539243781796\n*.*.accuracy_log_sampling_target = {}\n",
    "TEST04": "*.*.mode = 2\n*.*.performance_issue_same = 1\n*.*.performance_issue_same_index = 3\n"
    "*.*.performance_issue_unique = 0\n",
    "TEST05": "*.*.mode = 2\n",  # its seeds come from the round; an audit file cannot set seeds
}
_SAMPLES = {"retinanet": 256, "ssd-mobilenet": 256, "ssd-resnet34": 256}
_MOST_SAMPLES = 4096
"""Responses that TEST01 logs, for models without an entry in ``_SAMPLES``."""
_ACCURACY_MARGIN = 0.01
_MARGINS = {"TEST01": 0.10, "TEST04": 0.10, "TEST05": 0.05}
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
    having = [name for name, one in ROUNDS.items() if one.test05]
    if test == "TEST05" and options.traffic.round not in having:
        raise UserError(
            f"TEST05 was retired in November 2024, and {options.traffic.round} has none: leave it out, or choose "
            f"--round {' or '.join(having)}"
        )
    messages = Console(stderr=options.result.json, highlight=False, soft_wrap=True)
    with run.claimed(options, f"-{test}") as claimed, run.assembled(options) as assembly:
        folder = claimed.folder
        if test == "TEST01":
            assembly.check_judge(test)

        def perform(settings: TestSettings, where: Path, warnings: tuple[str, ...]) -> tuple[Test, dict[str, Any]]:
            messages.print(f"{test}: {settings.mode.name} run in {where}", markup=False)
            part = replace(assembly, settings=settings, config_warnings=warnings, notes=[])
            with Claim.take(where) as own:
                ended = run.perform(part, options, own, messages, Silent())
            if ended.unsaved is not None:
                raise UnsavedError(ended.unsaved)
            return ended.test, ended.result

        outcome = run_audit(test, assembly, perform, folder)
    if options.result.json:
        print(json.dumps(outcome, allow_nan=False))
    elif not outcome["interrupted"]:
        show(outcome, Console(highlight=False))
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
    """Do a test's runs in order, then its checks; the outcome is written into ``folder`` and returned."""
    settings = replace(assembly.settings, mode=Mode.PerformanceOnly)
    inner = folder / test_name
    inner.mkdir(parents=True, exist_ok=True)
    config = inner / AUDIT_CONFIG
    config.write_text(_CONFIGS[test_name].format(_SAMPLES.get(assembly.description["model"], _MOST_SAMPLES)))
    under_audit, warnings, _ = audited(replace(settings, test05=test_name == "TEST05"), config)

    usual, usual_result = perform(settings, folder / "performance" / "run_1", ())
    runs, interrupted = {"usual": usual_result}, usual.interrupted is not None
    known: Answered = ()
    if test_name == "TEST01" and not interrupted:
        accuracy, runs["accuracy"] = perform(replace(settings, mode=Mode.AccuracyOnly), folder / "accuracy", ())
        known, interrupted = answers(accuracy), accuracy.interrupted is not None
    checks: list[Check] = []
    if not interrupted:
        tested, runs["audited"] = perform(under_audit, inner / "performance" / "run_1", warnings)
        interrupted = tested.interrupted is not None
        checks = judge_performance(test_name, usual_result, runs["audited"])
        _write(inner / "verify_performance.txt", test_name, "performance", checks)
        if test_name == "TEST01":
            by_answers = judge_answers(known, answers(tested), assembly.accuracy)
            _write_answers(inner, known, answers(tested), assembly.accuracy)
            _write(inner / "verify_accuracy.txt", test_name, "accuracy", by_answers)
            checks += by_answers
    outcome = {
        "test": test_name,
        "passed": bool(checks) and all(check.passed for check in checks) and not interrupted,
        "interrupted": interrupted,
        "checks": [asdict(check) for check in checks],
        "runs": {name: {key: run[key] for key in ("validity", "metric", "directory")} for name, run in runs.items()},
        "directory": str(folder),
    }
    (folder / "audit.json").write_text(json.dumps(outcome, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    return outcome


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
        texts |= {"baseline_accuracy.txt": usual_lines, "compliance_accuracy.txt": audited_lines}
    for name, lines in texts.items():
        (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")


def answers(test: Test) -> list[tuple[int, bytes]]:
    """The contents of a run's accuracy log."""
    logged = logged_responses(test.answers.kept, test.phases)
    return [(int(test.record.sample_index[row]), data) for row, data in logged]


def judge_performance(test_name: str, usual: Document, tested: Document) -> list[Check]:
    """Check that both runs are VALID, have the same target latency, and performed alike."""
    checks = [
        Check(f"{name} run", run["validity"] == "VALID", f"the {name} run is {run['validity']}" + _why(run))
        for name, run in (("usual", usual), ("audited", tested))
    ]
    bounds = [run["asked"]["target_latency_ns"] for run in (usual, tested)]
    checks.append(Check("target latency", bounds[0] == bounds[1], f"target latency {bounds[0]} and {bounds[1]} ns"))
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


def show(outcome: Document, console: Console) -> None:
    """Print the verdict, then every check."""
    verdict, style = ("PASS", "bold green") if outcome["passed"] else ("FAIL", "bold red")
    console.print(f"{outcome['test']} is : {verdict}", style=style, markup=False)
    for check in outcome["checks"]:
        mark = "✓" if check["passed"] else "✗"
        console.print(
            f"  {mark} {check['name']}: {check['text']}", style="" if check["passed"] else "red", markup=False
        )
    console.print(f"saved in     {outcome['directory']}", markup=False, soft_wrap=True)


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
