"""Runs for programs: ``drumfire.run`` does what the command does, ``drumfire.save`` keeps a test of their own.

Both return the run as ``drumfire.load`` opens it.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console

from drumfire.bench import interrupts, outcome
from drumfire.bench.assemble.options import RunOptions
from drumfire.bench.commands.run import measure
from drumfire.bench.options.values import build, words
from drumfire.bench.outcome import Printer
from drumfire.loadgen import directory
from drumfire.loadgen.claim import Claim
from drumfire.loadgen.environment import describe
from drumfire.loadgen.errors import UnsavedError, UserError
from drumfire.loadgen.run import Test
from drumfire.loadgen.saved import SavedRun, load
from drumfire.loadgen.system import processes_of
from drumfire.sut.local.batching import batching

_UNKNOWN = (
    *("backend", "model", "device", "description", "threads", "instances", "max_batch_size", "max_queue_delay_ms"),
    *("weights", "qps_source"),
)
"""What a result says of the system of ``drumfire run``, and not of a program's own."""
T = TypeVar("T")


def run(backend: str, model: str, device: str = "cpu", *, quiet: bool = True, **options: Any) -> SavedRun:
    """Do one run, as ``drumfire run BACKEND MODEL DEVICE`` does, save it and return it.

    ``options`` are the command's, with ``_`` for ``-``, and checked alike: ``scenario="Server", qps=500, time=10``.
    ``quiet=False`` shows what the command shows.  It blocks until the run has ended, and can be called while an event
    loop runs, as in a notebook: the run then has its own, in a thread.

    Raises ``UserError`` for wrong usage, ``UnsavedError`` where the run could not be saved.  Ctrl-C ends the run early;
    what was measured is saved first.
    """
    if "json" in options:
        raise UserError("json is for the command line: take .result of the run that is returned")
    given = {"backend": backend, "model": model, **options}
    if device != "cpu":  # a server has none
        given["device"] = device
    if quiet:
        given.setdefault("no_dashboard", True)
    built = build(RunOptions, given)
    built = replace(built, words=("run", *words(built)))
    with interrupts.installed():
        messages, printer = Console(quiet=quiet, highlight=False, soft_wrap=True), None if quiet else Printer()
        ended = _beside_loops(lambda: measure(built, messages, printer))
    if ended.unsaved is not None:
        raise UnsavedError(ended.unsaved)
    return load(ended.result["directory"])


def save(test: Test, output: str | os.PathLike[str] | None = None) -> SavedRun:
    """Save a test of your own that has run, by default in a new folder in ./runs, and return it.

    Raises ``OutputError``, a ``UserError``, where the folder ``output`` cannot take it, and ``UnsavedError`` that names
    what could not be saved.
    """
    if test.started is None:
        raise UserError("the test has not run yet: await its run() before it is saved")
    if test.running:
        raise UserError("the test is still running: save it when its run() has ended")
    environment = describe()
    kind = f"own-{test.effective.kind}"
    with Claim.take(Path(output)) if output is not None else Claim.new(kind) as claimed:
        claimed.begin(test, environment)
        processes = processes_of(test.system, test.columns)
        sections = {
            "command": shlex.join(sys.argv),
            "system": dict.fromkeys(_UNKNOWN) | {"reservations": [], "processes": processes} | batching(test.columns),
            "accuracy": None,
            "environment": environment,
            "directory": str(claimed.folder),
        }
        claimed.make_room()
        outcome.save(test, directory.document(test, sections, test.foreseen()), claimed.folder)
    return load(claimed.folder)


def _beside_loops(do: Callable[[], T]) -> T:
    """Call ``do``, in a thread of its own where a loop runs in this one: only one can."""
    try:
        asyncio.get_running_loop()
    except RuntimeError:
        return do()
    interrupts.ignore()  # until the thread takes them: in this one, they would only end the waiting
    with ThreadPoolExecutor(1, "drumfire") as threads:
        return threads.submit(do).result()
