"""An audit's outcome: where it is in the audit's folder, and its report as rows."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from drumfire.bench.report import figures
from drumfire.bench.report.rows import Row, Section, Style
from drumfire.loadgen.audit_config import AUDIT_CONFIG
from drumfire.loadgen.directory import SCORE
from drumfire.loadgen.errors import UserError
from drumfire.loadgen.files import read_json
from drumfire.loadgen.logs import ACCURACY

AUDIT = "audit.json"
PERFORMANCE, ANSWERS = "verify_performance.txt", "verify_accuracy.txt"
BOTH_SCORES = ("baseline_accuracy.txt", "compliance_accuracy.txt")
USUAL = Path("performance/run_1")
TESTS = ("TEST01", "TEST04", "TEST05")
Outcome = Mapping[str, Any]
"""``test``, ``passed``, ``interrupted`` (not all runs are done), ``checks``, and of each of the ``runs`` that are done
``validity`` and ``metric``."""
_FLAG, _WORD = {"type": "boolean"}, {"type": "string"}
_SCHEMA: Mapping[str, Any] = {
    "type": "object",
    "properties": {
        "test": _WORD,
        "passed": _FLAG,
        "interrupted": _FLAG,
        "checks": {
            "type": "array",
            "items": {"type": "object", "properties": {"name": _WORD, "passed": _FLAG, "text": _WORD}},
        },
        "runs": {
            "type": "object",
            "additionalProperties": {
                "type": "object",
                "properties": {
                    "validity": _WORD,
                    "metric": {
                        "type": ["object", "null"],
                        "properties": {"name": _WORD, "value": {"type": "number"}, "unit": _WORD},
                    },
                },
            },
        },
    },
}


def places(test: str) -> dict[str, Path]:
    """Where a test's runs are in the audit's folder, in their order; TEST01 alone has an accuracy run."""
    accuracy = {"accuracy": Path("accuracy")} if test == "TEST01" else {}
    return {"usual": USUAL, **accuracy, "audited": Path(test, "performance/run_1")}


def files(test: str) -> set[Path]:
    """What else an audit of the test may write, by its place in the audit's folder."""
    inner = {AUDIT_CONFIG, PERFORMANCE, ANSWERS, *(f"accuracy/{name}" for name in (ACCURACY, SCORE, *BOTH_SCORES))}
    return {Path(AUDIT), Path(f"{AUDIT}.partial"), *(Path(test, name) for name in inner)}


def read(folder: Path) -> Outcome | None:
    """The outcome of the audit in ``folder``; None where there is none.  Raises ``UserError``."""
    if not (folder / AUDIT).is_file():
        return None
    found: Outcome = read_json(folder / AUDIT, _SCHEMA)
    lacking = [name for name in _SCHEMA["properties"] if name not in found]
    parts: list[tuple[str, Any, Sequence[str]]] = [
        ("checks", check, ("name", "passed", "text")) for check in found.get("checks", ())
    ]
    parts += [("runs", run, ("validity", "metric")) for run in found.get("runs", {}).values()]
    lacking += [f"{kind}.{name}" for kind, part, names in parts for name in names if name not in part]
    if lacking or found["test"] not in TESTS:
        raise UserError(f"{folder / AUDIT} does not hold an audit's outcome: {(lacking or ['test'])[0]} is missing")
    return found


def report(outcome: Outcome, folder: Path, *, under_way: bool = False) -> Iterator[Section]:
    """The verdict with what failed, what passed, and the runs."""
    verdict = Row(f"{outcome['test']} is", ["PASS"], Style.VALID)
    reasons = [f"{check['name']}: {check['text']}" for check in outcome["checks"] if not check["passed"]]
    if outcome["interrupted"]:
        verdict = Row(verdict.label, ["unfinished"], Style.UNFINISHED)
        why = "It ended before all of its runs were done: do it again."
        if under_way:
            why = "It is under way: look again when it has ended."
        reasons = [why, *reasons]
    elif not outcome["passed"]:
        verdict = Row(verdict.label, ["FAIL"], Style.INVALID)
    yield [verdict, *(Row("", [text], Style.REASON) for text in reasons)]
    passed = [f"{check['name']}: {check['text']}" for check in outcome["checks"] if check["passed"]]
    if passed:
        yield [Row("" if number else "passed", [text]) for number, text in enumerate(passed)]
    runs = []
    for name, place in places(outcome["test"]).items():
        if (run := outcome["runs"].get(name)) is not None:
            figure = ""
            with contextlib.suppress(LookupError):
                figure = "" if run["metric"] is None else f", {figures.metric_value(run['metric'])}"
            runs.append(Row(f"{name} run", [f"{run['validity']}{figure}, in {place}"]))
        elif (folder / place).is_dir():
            runs.append(Row(f"{name} run", [f"unfinished, in {place}"]))
    yield [*runs, Row("saved in", [str(folder)], Style.FOLDER)]
