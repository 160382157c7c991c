"""Every test that is marked ``gpu``, one figure a test.  Runs as a program: see ``child``.

Only the files with such tests are collected: others may need packages that a GPU's machine does not have.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from xml.etree import ElementTree

from drumfire.bench.peers.gpu.cells import Kinds
from drumfire.bench.peers.gpu.child import Case, Found, carry_out
from drumfire.bench.peers.gpu.plan import Missing
from drumfire.bench.peers.process import MeasurementError, run
from drumfire.loadgen import installation
from drumfire.loadgen.installation import ROOT

_MARK = "pytest.mark.gpu"
_NEEDS = {name: name for name in ("pytest", "hypothesis", "jsonschema")}
_FINE = (0, 1, 2, 5)
"""pytest's statuses when its report is whole: passed, failed, files that cannot be imported, no test."""


def measure(case: Case) -> Iterator[Found]:
    """Figures of kind ``test`` (``name``, ``outcome``).  Raises ``MeasurementError`` in the end where one failed."""
    if lacking := installation.lacking(_NEEDS):
        yield Missing("the tests marked gpu", f"{', '.join(lacking)} not installed")
        return
    files = [str(file) for file in marked(ROOT / "tests")]
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        words = ["-m", "gpu", "-q", "-p", "no:cacheprovider", "--continue-on-collection-errors", f"--junitxml={report}"]
        run([sys.executable, "-m", "pytest", *words, *files], fine=_FINE, patience_s=case.left_s)
        found = list(outcomes(report.read_text(encoding="utf-8"), expected=case["device"] != "gpu"))
    yield from found
    failed = [one["name"] for one in found if not isinstance(one, Missing) and one["outcome"] == "failed"]
    if failed:
        raise MeasurementError(f"{len(failed)} of the tests marked gpu failed: {', '.join(failed)}")


def marked(folder: Path) -> Sequence[Path]:
    """The files below ``folder`` that have tests marked ``gpu``."""
    return sorted(file for file in folder.rglob("test_*.py") if f"@{_MARK}" in file.read_text(encoding="utf-8"))


def outcomes(report: str, *, expected: bool) -> Iterator[Found]:
    """From pytest's report in JUnit's form.  A skipped test is not proven; ``expected``: as was known before."""
    for one in ElementTree.fromstring(report).iter("testcase"):
        name = "::".join(filter(None, (one.get("classname"), one.get("name"))))
        for fault in ("failure", "error"):
            if (element := one.find(fault)) is not None:
                why = " ".join((element.get("message") or element.text or "").split())[:200]
                yield {"of": "test", "name": name, "outcome": "failed", "why": why}
                break
        else:
            if (skipped := one.find("skipped")) is not None:
                yield Missing(f"the test {name}", skipped.get("message") or "skipped", expected)
            else:
                yield {"of": "test", "name": name, "outcome": "passed", "took_s": float(one.get("time") or 0)}


def tables(of: Kinds) -> Sequence[str]:
    """What ``measure`` found, in Markdown."""
    failed = [one for one in of["test"] if one["outcome"] == "failed"]
    if not of["test"]:
        return []
    lines = [f"* tests marked gpu: {len(of['test']) - len(failed)} passed, {len(failed)} failed"]
    return ["\n".join([*lines, *(f"  * failed: {one['name']}: {one['why']}" for one in failed)])]


if __name__ == "__main__":
    sys.exit(carry_out(measure))
