"""The end of a run: the verdict is shown, then the run is saved.

Whatever fails on the way, what was measured is saved as far as it can be.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Container, Mapping
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from drumfire.bench import gates, statuses
from drumfire.bench.assemble.local import Assembly
from drumfire.bench.report import rows, terminal
from drumfire.loadgen import directory
from drumfire.loadgen.claim import Claim
from drumfire.loadgen.directory import REPORT, SCORE, Write
from drumfire.loadgen.errors import UnsavedError
from drumfire.loadgen.logs import logged_responses
from drumfire.loadgen.run import Test
from drumfire.loadgen.settings import Mode

SHOW_S = 5.0
"""How long the saving of a run waits until its verdict is shown, in seconds."""
Document = dict[str, Any]


@dataclass(frozen=True)
class Outcome:
    """A run that has ended."""

    test: Test
    result: Document
    unsaved: str | None = None
    """What could not be saved, and why; None where all is saved."""

    @property
    def status(self) -> int:
        """The exit status."""
        held = [statuses.VALID if self.result["validity"] == "VALID" else statuses.INVALID]
        held.append(gates.status(self.result.get("expectations", ())))
        if self.test.interrupted is not None:
            held.append(statuses.INTERRUPTED)
        if self.unsaved is not None:
            held.append(statuses.UNSAVED)
        return statuses.worst(*held)


@dataclass(frozen=True)
class Printer:
    """Prints the end of a run: on standard output, and what is not saved on standard error."""

    json: bool = False

    def verdict(self, result: Document) -> None:
        """Before the run is saved, which may last, or fail."""
        if self.json:
            print(json.dumps(result, allow_nan=False), flush=True)
        else:
            terminal.put(rows.report(result | {"directory": None}))
            sys.stdout.flush()

    def saved(self, folder: Path) -> None:
        if not self.json:
            terminal.put([rows.places(str(folder))])

    def unsaved(self, why: str) -> None:
        print(f"drumfire: {why}", file=sys.stderr)


def finish(
    test: Test,
    make: Callable[[list[BaseException]], Document],
    claim: Claim,
    printer: Printer | None,
    further: Mapping[str, Write],
    faults: list[BaseException],
    there: Container[str] = (),
) -> Outcome:
    """Make the result of a test that has ended, print its verdict, then save it with the ``further`` parts.

    ``printer``: None where the caller shows the result.  ``faults``: errors of the run so far; ``make`` adds those that
    left the result without a part, and the caller raises the first.  ``there``: parts that ``make`` has saved.  If the
    result cannot be made or printed, the run is saved all the same, and then why is raised.
    """
    result, unsaved, fault = None, None, None
    with ThreadPoolExecutor(1, "verdict") as printing:  # a reader that does not read must not keep it from being saved
        try:
            result = make(faults)
            shown = printing.submit(printer.verdict, result) if printer else None
            wait([shown] if shown else [], SHOW_S)
        finally:
            claim.make_room()
            try:
                save(test, result, claim.folder, further, there)
            except UnsavedError as error:
                unsaved, fault = str(error), error.__cause__
                if printer:
                    printer.unsaved(unsaved)
        if shown:
            shown.result()
    if fault is not None:
        raise fault
    if printer and unsaved is None:
        printer.saved(claim.folder)
    return Outcome(test, result, unsaved)


def save(
    test: Test,
    result: Document | None,
    folder: Path,
    further: Mapping[str, Write] | None = None,
    there: Container[str] = (),
) -> None:
    """As ``directory.save``, with what people read of the result.  ``further``: large parts, by file."""
    texts: dict[str, Write] = {}
    if result is not None:
        texts[REPORT] = lambda path: terminal.keep(result, path)
        if result["accuracy"] is not None:
            lines = "\n".join(result["accuracy"]["lines"]) + "\n"
            texts[SCORE] = lambda path: path.write_text(lines, encoding="utf-8")
    directory.save(test, result, folder, texts, further, there)


def accuracy_of(test: Test, assembly: Assembly, judging: Callable[[], AbstractContextManager[None]]) -> Document | None:
    """What the result says of the accuracy; None where no answer is judged.  Raises whatever a scorer may raise.

    The scorer is called within ``judging``.
    """
    if not test.effective.mode.has_accuracy:
        return None
    rows = sum(phase.rows for phase in test.phases if phase.accuracy)  # they come first
    answers = [(row, data) for row, data in logged_responses(test.answers.kept, test.phases) if row < rows]
    if not answers:
        return None
    logged = np.array([row for row, _ in answers])
    with judging():
        accuracy = assembly.accuracy(test.record.sample_index[logged], [data for _, data in answers])
    return {
        "metric": accuracy.metric,
        "value": accuracy.value,
        "good": accuracy.good,
        "total": accuracy.total,
        "expected": assembly.library.total_count,
        "target": accuracy.target,
        "met": accuracy.reached,
        "lines": accuracy.lines,
    }


def judge_accuracy(result: dict[str, Any], unjudged: str = "") -> dict[str, Any]:
    """Make an accuracy run INVALID if it misses the model's target or a sample was not answered.

    ``unjudged``: why the accuracy of the answers is not known.
    """
    if not Mode[result["mode"]].has_accuracy:
        return result
    accuracy = result["accuracy"]
    if accuracy is None:
        result["reasons"].append(unjudged or "No sample was answered.")
        result["validity"] = "INVALID"
        return result
    if accuracy["total"] < accuracy["expected"]:
        result["reasons"].append(
            f"Only {accuracy['total']} of {accuracy['expected']} samples were answered: the accuracy covers only these."
        )
    if accuracy["met"] is False:
        result["reasons"].append(
            f"Accuracy {accuracy['value']:.3%} is below the target of {accuracy['target']:.3%}: "
            "check --weights, and that the backend computes what the model was trained for."
        )
    if result["reasons"]:
        result["validity"] = "INVALID"
    return result
