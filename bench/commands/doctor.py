"""``drumfire doctor``: checks that this machine can measure well, and says how to fix what is wrong.

Looks at packages, processor, clocks, timers and limits (``drumfire.bench.doctor``).  Changes nothing and runs no model.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from drumfire.bench import statuses
from drumfire.bench.doctor import limits, machine, software
from drumfire.bench.doctor.finding import INFO, NOTE, OK, PROBLEM, Finding
from drumfire.bench.options.parser import Command
from drumfire.loadgen.environment import describe
from drumfire.loadgen.options import option
from drumfire.loadgen.wording import counted
from drumfire.sut.local.backends.onnxruntime import DISTRIBUTIONS

_STYLES = {OK: "green", INFO: "dim", NOTE: "yellow", PROBLEM: "bold red"}


@dataclass(frozen=True)
class Options:
    """The options of ``drumfire doctor``."""

    ports: tuple[int, ...] = option(
        (), metavar="N,N", separator=",", least=1, most=65535, help="ports that must be free (default: serve's, noted)"
    )
    json: bool = option(False, help="print one JSON object")


def doctor(options: Options) -> int:
    """Print the findings as text or a JSON object, and return FAILED if there is a problem, else DONE."""
    diagnosis = diagnose(options.ports)
    if options.json:
        print(json.dumps(diagnosis))
    else:
        show(diagnosis, Console())
    return exit_status(diagnosis)


COMMAND = Command(Options, doctor, "Check that this machine can measure well, and say how to fix what is wrong.")


def diagnose(ports: tuple[int, ...] = ()) -> dict[str, Any]:
    """All findings as a JSON-ready dictionary.  Takes about half a second, most of it for the timers.

    ``status`` is the worst of the findings'; ``measured`` are the timers' figures, ns; ``environment`` is as in a run's
    result.  ``ports`` must be free.
    """
    allowed = list(limits.findings(ports))  # first, as measuring raises the limit of open files
    environment = describe(DISTRIBUTIONS)
    measured = machine.measure()
    findings = [
        *software.findings(environment),
        *machine.findings(environment, measured),
        *allowed,
    ]
    levels = {finding["status"] for finding in findings}
    worst = next((level for level in (PROBLEM, NOTE) if level in levels), OK)
    return {"status": worst, "findings": findings, "measured": measured, "environment": environment}


def exit_status(diagnosis: dict[str, Any]) -> int:
    """FAILED if there is a problem, else DONE."""
    return statuses.FAILED if diagnosis["status"] == PROBLEM else statuses.DONE


def show(diagnosis: dict[str, Any], console: Console) -> None:
    """Print the findings, and at the end the notes and the problems again, each with its fix."""
    findings: list[Finding] = diagnosis["findings"]
    notes, problems = ([one for one in findings if one["status"] == level] for level in (NOTE, PROBLEM))
    console.print(_table(findings, fixes=False))
    counts = f"{_count(problems, 'problem')}, {_count(notes, 'note')}{':' if notes or problems else ''}"
    console.print(Text(f"\n{counts}", _STYLES[diagnosis["status"]]))
    if notes or problems:
        console.print(_table([*notes, *problems], fixes=True))


def _table(findings: list[Finding], *, fixes: bool) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True, style="dim")
    table.add_column(overflow="fold")
    for finding in findings:
        style, value = _STYLES[finding["status"]], Text(finding["value"])
        if fixes:
            value.append(f"\n{finding['mend']}", style)
        table.add_row(Text(finding["status"], style), Text(finding["name"]), value)
    return table


def _count(found: list[Finding], noun: str) -> str:
    return counted(len(found), noun) if found else f"no {noun}s"
