"""``drumfire audit TEST01|TEST04|TEST05``: a run as usual, the same run under audit, and whether the two agree.

The rules of passing are those that MLCommons publishes for its compliance tests, in an implementation of our own.  The
judging is arithmetic on what the runs left behind; driving a run is ``run``'s.
"""

from __future__ import annotations

import argparse
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from drumfire.bench.assemble.local import Assembly, UsageError
from drumfire.bench.report import figures
from drumfire.loadgen import Mode, Test, TestSettings
from drumfire.loadgen.audit_config import AUDIT_CONFIG, audited
from drumfire.loadgen.logs import ACCURACY, logged_responses
from drumfire.sut.models.model import Accuracy

TESTS = ("TEST01", "TEST04", "TEST05")
Document = Mapping[str, Any]
Answered = Sequence[tuple[int, bytes]]
"""Dataset index and response of each sample that was logged."""

_CONFIGS = {
    "TEST01": "*.*.mode = 2\n*.*.accuracy_log_rng_seed = 720381539243781796\n*.*.accuracy_log_sampling_target = {}\n",
    "TEST04": "*.*.mode = 2\n*.*.performance_issue_same = 1\n*.*.performance_issue_same_index = 3\n"
    "*.*.performance_issue_unique = 0\n",
    "TEST05": "*.*.mode = 2\n",  # its seeds are the round's own; no audit file may set seeds
}
_SAMPLES = {"retinanet": 256, "ssd-mobilenet": 256, "ssd-resnet34": 256}
_MOST_SAMPLES = 4096
"""How many responses TEST01 has logged, where a model has no number of its own."""
_ACCURACY_MARGIN = 0.01
_MARGINS = {"TEST01": 0.10, "TEST04": 0.10, "TEST05": 0.05}
_SHORT_MARGIN = 0.20
_SHORT_NS = {"SingleStream": 200_000, "MultiStream": 1_600_000}
"""Latencies up to these vary more from run to run, and are judged by the wider margin."""


@dataclass(frozen=True)
class Check:
    """One rule of a test."""

    name: str
    passed: bool
    text: str


Perform = Callable[[TestSettings, Path, tuple[str, ...]], tuple[Test, dict[str, Any]]]
"""Does one run with these settings into a folder, with these warnings in its log; returns it with its document."""


def audit(options: argparse.Namespace) -> int:
    """Do the runs, judge them, write the verification files; returns the exit status."""
    from drumfire.bench.commands.run import INTERRUPTED, INVALID, VALID, assembled, new_folder, perform

    for name in ("accuracy", "submission", "find_peak_performance", "audit_conf", "until_confident"):
        if getattr(options, name):
            raise UsageError(
                f"--{name.replace('_', '-')} has no place in an audit, which makes its own runs: leave it out"
            )
    messages = Console(stderr=options.json, highlight=False, soft_wrap=True)
    with assembled(options) as assembly:
        folder = options.output or new_folder(options, f"-{options.test}")

        def one(settings: TestSettings, where: Path, warnings: tuple[str, ...]) -> tuple[Test, dict[str, Any]]:
            messages.print(f"{options.test}: {settings.mode.name} run in {where}", markup=False)
            part = replace(assembly, settings=settings, config_warnings=warnings, notes=[])
            return perform(part, options, where, messages)

        found = run_audit(options.test, assembly, one, folder)
    if options.json:
        print(json.dumps(found, allow_nan=False))
    elif not found["interrupted"]:
        show(found, Console(highlight=False))
    if found["interrupted"]:
        return INTERRUPTED
    return VALID if found["passed"] else INVALID


def run_audit(test_name: str, assembly: Assembly, perform: Perform, folder: Path) -> dict[str, Any]:
    """The runs of a test in order, then its checks; what was found is written into ``folder`` and returned."""
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
            (inner / "accuracy").mkdir(exist_ok=True)
            shutil.copy(inner / "performance" / "run_1" / ACCURACY, inner / "accuracy" / ACCURACY)
            by_answers = judge_answers(known, answers(tested), assembly.accuracy)
            _write(inner / "verify_accuracy.txt", test_name, "accuracy", by_answers)
            checks += by_answers
    found = {
        "test": test_name,
        "passed": bool(checks) and all(check.passed for check in checks) and not interrupted,
        "interrupted": interrupted,
        "checks": [asdict(check) for check in checks],
        "runs": {name: {key: run[key] for key in ("validity", "metric", "directory")} for name, run in runs.items()},
        "directory": str(folder),
    }
    (folder / "audit.json").write_text(json.dumps(found, indent=2, allow_nan=False) + "\n", encoding="utf-8")
    return found


def answers(test: Test) -> list[tuple[int, bytes]]:
    """What a run's accuracy log holds."""
    logged = logged_responses(test.answers.kept, test.phases)
    return [(int(test.record.sample_index[row]), data) for row, data in logged]


def judge_performance(test_name: str, usual: Document, tested: Document) -> list[Check]:
    """Both runs are VALID, were asked for the same, and performed alike."""
    checks = [
        Check(f"{name} run", run["validity"] == "VALID", f"the {name} run is {run['validity']}" + _why(run))
        for name, run in (("usual", usual), ("audited", tested))
    ]
    bounds = [run["asked"]["target_latency_ns"] for run in (usual, tested)]
    checks.append(Check("target latency", bounds[0] == bounds[1], f"target latency {bounds[0]} and {bounds[1]} ns"))
    if usual["metric"] is None or tested["metric"] is None or not usual["metric"]["value"]:
        return [*checks, Check("performance", False, "there is no figure to compare")]
    margin = _MARGINS[test_name]
    if usual["metric"]["unit"] == "ns" and usual["metric"]["value"] <= _SHORT_NS.get(usual["scenario"], 0):
        margin = _SHORT_MARGIN
    ratio = _score(tested) / _score(usual) if _score(usual) else 0.0
    text = f"{_shown(usual)} as usual, {_shown(tested)} under audit: a score of {ratio:.1%} of the usual"
    if test_name == "TEST04":
        same = ratio < 1.0 + margin
        text += f" on one sample over and over, which must be below {1.0 + margin:.0%}"
    else:
        same = abs(ratio - 1.0) <= margin
        text += f", which must be within {margin:.0%}"
    return [*checks, Check("performance", same, text)]


def judge_answers(known: Answered, logged: Answered, accuracy: Callable[..., Accuracy]) -> list[Check]:
    """Each response logged in the performance run is the accuracy run's, byte for byte; or, as floating-point sums may
    differ with the batch, the logged ones are as accurate as the accuracy run's to the same samples.
    """
    if not logged:
        return [Check("answers", False, "the audited run logged no response: was its accuracy log sampled at all?")]
    expected = dict(known)
    unknown = sum(index not in expected for index, _ in logged)
    differ = sum(expected.get(index, data) != data for index, data in logged)
    text = f"{len(logged):,} responses logged, {differ:,} of them not those of the accuracy run"
    if unknown:
        return [Check("answers", False, f"{text}, and {unknown:,} to samples that it never had")]
    if not differ:
        return [Check("answers", True, text)]
    indices = np.array([index for index, _ in logged])
    performed = accuracy(indices, [data for _, data in logged]).value
    accurate = accuracy(indices, [expected[index] for index, _ in logged]).value
    close = bool(abs(performed - accurate) <= _ACCURACY_MARGIN * accurate)
    text += f"; on these samples {performed:.3%} accurate, and {accurate:.3%} in the accuracy run (within 1% passes)"
    return [Check("answers", close, text)]


def show(found: Document, console: Console) -> None:
    """The verdict, then every rule."""
    verdict = "PASS" if found["passed"] else "FAIL"
    console.print(
        f"{found['test']} is : {verdict}", style="bold green" if found["passed"] else "bold red", markup=False
    )
    for check in found["checks"]:
        mark = "✓" if check["passed"] else "✗"
        console.print(
            f"  {mark} {check['name']}: {check['text']}", style="" if check["passed"] else "red", markup=False
        )
    console.print(f"saved in     {found['directory']}", markup=False, soft_wrap=True)


def _score(run: Document) -> float:
    """Rates as they are, latencies as queries a second: more is better."""
    metric = run["metric"]
    value = float(metric["value"])
    return (1e9 / value if value else 0.0) if metric["unit"] == "ns" else value


def _shown(run: Document) -> str:
    metric = run["metric"]
    return figures.duration(metric["value"]) if metric["unit"] == "ns" else figures.rate(metric["value"])


def _why(run: Document) -> str:
    return f": {' '.join(run['reasons'][0].split())}" if run["reasons"] else ""


def _write(path: Path, test_name: str, what: str, checks: Sequence[Check]) -> None:
    """A verification file; readers look for ``TEST PASS``."""
    passed = all(check.passed for check in checks)
    lines = [f"TEST {'PASS' if passed else 'FAIL'}", f"{test_name} {what} verification by Drumfire"]
    lines += [f"{'PASS' if check.passed else 'FAIL'} {check.name}: {check.text}" for check in checks]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
