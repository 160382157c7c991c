"""``drumfire compare A B``: is B slower or faster than A, by how much, and how sure is that."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from typing import Any

from drumfire.bench import gates, statuses
from drumfire.bench.compare.comparison import DEFAULT_MARGIN, compare
from drumfire.bench.compare.sides import FORMS, ResultFile, opened
from drumfire.bench.compare.subject import distinct, figure_named
from drumfire.bench.gates import ExpectOptions
from drumfire.bench.options.parser import Command
from drumfire.bench.report import comparisons, content, junit, outputs, page, terminal
from drumfire.loadgen.errors import UserError
from drumfire.loadgen.options import option
from drumfire.loadgen.saved import SavedRun

_MARGIN = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(%?)")
_SECONDS = re.compile(r"([0-9]+(?:\.[0-9]+)?)\s*(ms|s)")
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"


def margin_of(text: str) -> float:
    """A share from text, such as ``5%`` or ``0.05``.  Raises ``UserError``."""
    found = _MARGIN.fullmatch(text)
    margin = -1.0 if found is None else float(found[1]) / (100 if found[2] else 1)
    if not 0 <= margin < 1:
        raise UserError(f"--margin: {text[:60]!r} is not a share below 100 %: write it as 5%")
    return margin


def seconds_of(text: str) -> float:
    """Seconds from text, such as ``5s``, ``500ms`` or ``0``.  Raises ``UserError``."""
    found = _SECONDS.fullmatch(text)
    if found is None and text != "0":
        raise UserError(f"--skip: {text[:60]!r} is not a time: write it with its unit, as 5s or 500ms")
    return 0.0 if found is None else float(found[1]) / (1000 if found[2] == "ms" else 1)


@dataclass(frozen=True)
class JudgingOptions:
    """How a comparison is judged, here and in ``drumfire ab``."""

    margin: str = option(
        f"{DEFAULT_MARGIN:.0%}", metavar="M%", check=margin_of, help="how large a difference does not matter"
    )
    figure: str | None = option(
        None,
        check=figure_named,
        help="judge this figure: rate, mean or any percentile, as p95 (default: the scenario's: SingleStream p90, "
        "MultiStream and Server p99, Offline and closed loops rate)",
    )
    skip: str = option(
        "0", metavar="Ss", check=seconds_of, help="leave out the first seconds of all runs, as 5s (default: 0)"
    )

    @property
    def arguments(self) -> dict[str, Any]:
        """Arguments of ``compare.comparison.compare``."""
        return {"margin": margin_of(self.margin), "figure": self.figure, "skip_s": seconds_of(self.skip)}


@dataclass(frozen=True)
class Options:
    """The options of ``drumfire compare``."""

    runs: tuple[str, ...] = option(
        metavar="RUN",
        position=True,
        help=f"A, B and further sides, each compared with A: {FORMS}; or a result.json",
    )
    judging: JudgingOptions = field(default_factory=JudgingOptions)
    html: Path | None = option(None, help="write a page of the runs and the comparison")
    json: bool = option(False, help="print one JSON object instead")
    expectations: ExpectOptions = field(default_factory=ExpectOptions)


def show(options: Options) -> int:
    """Print the comparisons with A, and return the status."""
    if len(options.runs) < 2:
        raise UserError(f"{options.runs[0]} needs another run to be compared with: name two or more")
    if len(options.runs) > len(_LETTERS):
        raise UserError(f"{len(options.runs)} sides are too many: compare {len(_LETTERS)} at most")
    wanted = options.expectations
    gates.check(wanted, has_base=True)
    base, *others = map(_opened, _LETTERS, options.runs)
    every = [run for side in (base, *others) for run in side]
    if options.html is not None and any(isinstance(run, ResultFile) for run in every):
        raise UserError("--html needs the folders of runs, and not their results alone: name these, or leave it out")
    outputs.check({"--html": options.html, "--junit": wanted.junit}, [run.folder for run in every])
    of_base = base if wanted.base is None else opened(str(wanted.base))
    found = [
        compare((base, other), single=wanted.single, letters=("A", letter), **options.judging.arguments)
        for letter, other in zip(_LETTERS[1:], others, strict=False)
    ]
    documents = []
    for one, other in zip(found, others, strict=True):
        letters = one.letters if wanted.base is None else gates.BESIDE_BASE
        documents.append(one.document() | {"expectations": gates.judge_all(wanted, other, of_base, letters)})
    if options.json:
        print(json.dumps({"comparisons": documents}, allow_nan=False))
    else:
        sections = [comparisons.sections(one, document) for one, document in zip(found, documents, strict=True)]
        terminal.put(list(chain.from_iterable(sections)))
    if options.html is not None:
        judged = {one.letters[1]: each["expectations"] for one, each in zip(found, documents, strict=True)}
        runs = [run for side in (base, *others) for run in distinct(side)]
        page.write(content.report(runs, found, judged), options.html)
    if wanted.junit is not None:
        junit.write_comparisons(wanted.junit, documents, base[0].result)
    return statuses.worst(
        *(one.verdict.status for one in found), *(gates.status(each["expectations"]) for each in documents)
    )


COMMAND = Command(
    Options,
    show,
    "Compare saved runs: is B slower than A, by how much, and how sure is that.",
    "drumfire compare runs/before runs/after",
)


def _opened(letter: str, word: str) -> list[SavedRun]:
    try:
        return opened(word)
    except UserError as error:
        raise UserError(f"{letter}: {error}") from None
