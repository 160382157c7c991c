"""A verdict and expectations as JUnit XML, which CI systems show."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape, quoteattr

from drumfire.bench import statuses
from drumfire.bench.report.expectations import line
from drumfire.loadgen.errors import UnsavedError, UserError, described, one_line

_NO_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
"""A character that XML 1.0 cannot hold."""


@dataclass(frozen=True)
class JUnitCase:
    """The result of one check."""

    name: str
    """Different from the names of all others."""
    text: str
    """The figures, and what makes them doubtful."""
    failure: str = ""
    """Why the check failed; empty where it did not."""
    skipped: str = ""
    """Why the check is undecided; empty where it is not."""
    error: str = ""
    """How the program failed before the check."""


def write_run(path: Path, result: Mapping[str, Any]) -> None:
    """Write whether a result document's run is VALID, and its expectations.  Raises ``UnsavedError``."""
    write_runs(path, {"": (result, result.get("expectations") or ())})


def write_runs(path: Path, runs: Mapping[str, tuple[Mapping[str, Any], Sequence[Mapping[str, Any]]]]) -> None:
    """Write runs by their names: the result document and the expectations of each.  Raises ``UnsavedError``."""
    cases = []
    for name, (result, judged) in runs.items():
        invalid = "" if result["validity"] == "VALID" else "; ".join(result.get("reasons") or ["no reason is given"])
        valid = JUnitCase("is VALID", "\n".join([result["validity"], *result.get("reasons", ())]), invalid)
        of_run = [valid, *_expected(judged)]
        cases += [replace(case, name=f"{name}: {case.name}") for case in of_run] if len(runs) > 1 else of_run
    results = [result for result, _ in runs.values()]
    seconds = sum((result.get("delivered") or {}).get("duration_s", 0.0) for result in results)
    write(path, cases, results[0], seconds)


def write_comparisons(path: Path, comparisons: Sequence[Mapping[str, Any]], result: Mapping[str, Any]) -> None:
    """Write comparisons, whose documents have ``expectations``; ``result``: that of one of the runs.

    Raises ``UnsavedError``.
    """
    cases = []
    for one in comparisons:
        first, second = one["sides"]
        name, verdict = f"{second} beside {first}", one["verdict"]
        text = "\n".join([verdict["words"], *one["doubts"]])
        failure = verdict["words"] if verdict["status"] in (statuses.UNMET, statuses.INVALID) else ""
        skipped = verdict["words"] if verdict["status"] == statuses.UNDECIDED else ""
        cases.append(JUnitCase(f"{name}: {one['judged']}", text, failure, skipped))
        cases += [replace(case, name=f"{second}: {case.name}") for case in _expected(one["expectations"])]
    write(path, cases, result, 0.0)


@contextlib.contextmanager
def crash_reported(path: Path | None, scenario: str, model: str) -> Iterator[None]:
    """Where a fault of the program ends the block, write it into ``path``, if any."""
    try:
        yield
    except (UserError, UnsavedError):
        raise
    except Exception as error:
        if path is not None:
            text = described(error)
            write(path, [JUnitCase("is VALID", text, error=text)], {"scenario": scenario, "sut_name": model}, 0.0)
        raise


def _expected(judged: Sequence[Mapping[str, Any]]) -> list[JUnitCase]:
    """A case for each expectation; of equal ones, for the last."""
    cases: dict[str, JUnitCase] = {}
    for one in judged:
        text = line(one)
        reasons = {"not met": {"failure": text}, "cannot tell": {"skipped": text}}
        whole = "\n".join([text, *one.get("doubts", ())])
        cases[one["text"]] = JUnitCase(one["text"], whole, **reasons.get(one["verdict"], {}))
    return list(cases.values())


def write(path: Path, cases: Sequence[JUnitCase], result: Mapping[str, Any], seconds: float) -> None:
    """Write the cases of a run of ``result``, which took ``seconds``.  Raises ``UnsavedError``."""
    system = result.get("system") or {}
    what = system.get("model") or result.get("sut_name") or "unknown"
    suite = f"drumfire.{result.get('scenario')}.{what}"
    started = str(result.get("started") or "")
    try:
        path.write_text(document(suite, cases, seconds, started), encoding="utf-8", errors="backslashreplace")
    except OSError as error:
        raise UnsavedError(f"--junit: {path} cannot be written: {one_line(error)}") from None


def document(suite: str, cases: Sequence[JUnitCase], seconds: float, started: str) -> str:
    """The XML of cases.  ``suite``: the name by which CI systems group them.  ``started``: ISO 8601."""
    counts = {"tests": len(cases)}
    counts |= {f"{kind}s": sum(bool(getattr(one, kind)) for one in cases) for kind in ("failure", "error")}
    counts["skipped"] = sum(bool(one.skipped) for one in cases)
    about = _attributes(name=suite, **counts, time=f"{seconds:.3f}", timestamp=started.partition("+")[0])
    lines = ['<?xml version="1.0" encoding="UTF-8"?>', "<testsuites>", f"<testsuite{about}>"]
    for number, one in enumerate(cases):
        # The time is the run's: GitLab and Jenkins add those of all cases.
        took = f"{seconds:.3f}" if number == 0 else "0"
        lines.append(f"<testcase{_attributes(classname=suite, name=one.name, time=took)}>")
        if one.error:
            lines.append(f"<error{_attributes(message=one.error)}/>")
        elif one.failure:
            attributes = _attributes(message=one.failure, type="expectation")
            lines.append(f"<failure{attributes}>{_text(one.text)}</failure>")
        elif one.skipped:
            lines.append(f"<skipped{_attributes(message=one.skipped)}/>")
        lines += [f"<system-out>{_text(one.text)}</system-out>", "</testcase>"]
    return "\n".join([*lines, "</testsuite>", "</testsuites>", ""])


def _attributes(**values: object) -> str:
    return "".join(f" {name}={quoteattr(_NO_XML.sub('?', str(value)))}" for name, value in values.items())


def _text(text: str) -> str:
    return escape(_NO_XML.sub("?", text))
