"""``drumfire run``: assemble, drive, judge, save, show.  Reads top to bottom as a run goes."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import shlex
import signal
import sys
import urllib.parse
from collections.abc import Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

import numpy as np
from rich.console import Console

from bench import assembly as local
from bench import remote, report
from bench.assembly import Assembly, UsageError
from bench.dashboard import Dashboard
from loadgen import Mode, Test, run_on_fast_loop
from loadgen.directory import document, percentile_name, prepare, save
from loadgen.environment import describe
from loadgen.logs import logged_responses
from loadgen.record import Status
from loadgen.results import distribution
from sut import backends
from sut.batcher import batch_sizes

VALID, INVALID, INTERRUPTED = 0, 1, 130


def run(options: argparse.Namespace) -> int:
    """Do one run and return the exit status."""
    messages = Console(stderr=options.json, highlight=False, soft_wrap=True)
    with _terminating():
        assembly = _assemble(options)
        try:
            test = Test(
                assembly.system,
                assembly.library,
                assembly.settings,
                config_errors=assembly.config_errors,
                patience_s=options.patience,
            )
            folder = options.output or _new_folder(options)
            prepare(folder, test.record.rows, assembly.system.columns)
            warnings = test.foreseen()
            for text in warnings:
                messages.print(f"warning: {text}", style="yellow", markup=False)
            for text in assembly.notes:
                messages.print(f"note: {text}", style="dim", markup=False)
            environment = describe(_distributions(options))
            _drive(test, assembly, options)
        finally:
            assembly.close()
    with _undisturbed():
        sections = {
            "command": shlex.join(["drumfire", *sys.argv[1:]]),
            "system": assembly.description | _batching(test) | {"server": _told(test, assembly)},
            "accuracy": _accuracy(test, assembly),
            "environment": environment,
            "directory": str(folder),
        }
        result = document(test, sections, warnings)
        _judge_accuracy(result)
        save(test, result, folder)
        if options.json:
            print(json.dumps(result, allow_nan=False))
        else:
            report.show(result, Console(highlight=False))
    if test.interrupted is not None:
        return INTERRUPTED
    return VALID if result["validity"] == "VALID" else INVALID


def _assemble(options: argparse.Namespace) -> Assembly:
    if options.backend == "triton":
        return remote.assemble(options)
    if options.url:
        raise UsageError(f"--url is for servers: drumfire run triton {options.model} --url {options.url[0]}")
    return local.assemble(options)


def _distributions(options: argparse.Namespace) -> Sequence[str]:
    """The packages whose versions belong in the result."""
    if options.backend == "triton":
        return ("hpack",) if options.client == "drumfire" else ("tritonclient", "grpcio")
    return () if options.backend == "null" else backends.distributions(options.backend)


def _new_folder(options: argparse.Namespace) -> Path:
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    model = Path(options.model).stem
    where = urllib.parse.urlsplit(options.url[0]).scheme if options.url else options.device
    name = f"{stamp}-{options.backend}-{model}-{where}-{options.scenario}"
    folder = Path("runs") / (name + ("-accuracy" if options.accuracy else ""))
    number = 1
    while folder.exists():
        number += 1
        folder = folder.with_name(f"{name}-{number}")
    return folder


def _drive(test: Test, assembly: Assembly, options: argparse.Namespace) -> None:
    """Run the test on the fast loop under the live view; Ctrl-C and SIGTERM end it early, all kept."""

    async def main() -> None:
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, test.interrupt, f"interrupted by {signal.Signals(number).name}")
        await test.run()

    plain = options.json or not sys.stdout.isatty()
    stream: Literal["stdout", "stderr"] = "stderr" if options.json else "stdout"
    live = Dashboard(test, assembly.title, plain=plain, stream=stream, server=assembly.servers)
    with contextlib.nullcontext() if options.no_dashboard else live:
        run_on_fast_loop(main())


@contextlib.contextmanager
def _terminating() -> Iterator[None]:
    """SIGTERM ends the preparation as Ctrl-C does."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """What was measured is saved whole, however often Ctrl-C is pressed."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _batching(test: Test) -> dict[str, Any]:
    """How the batcher worked, from the columns it wrote: batches by size, waiting and computing times in ns."""
    columns = test.record.columns
    if "batch_size" not in columns:
        return {"batch_sizes": None, "queue_ns": None, "service_ns": None}
    issued = slice(0, test.record.issued_rows)
    good = columns["status"][issued] == Status.OK
    begun = columns["begun"][issued][good]
    percentiles = (0.5, 0.99)

    def figures(values: Any) -> dict[str, int]:
        found = distribution(values, percentiles)
        return {percentile_name(p): found.percentiles[p] for p in percentiles}

    return {
        "batch_sizes": {str(size): n for size, n in batch_sizes(columns["batch_size"][issued][good]).items()},
        "queue_ns": figures(begun - columns["issued"][issued][good]),
        "service_ns": figures(columns["completed"][issued][good] - begun),
    }


def _told(test: Test, assembly: Assembly) -> dict[str, Any] | None:
    """What remote servers say of the run."""
    firsts = [report.phase.first_row for report in test.reports]
    counts = [report.issued_rows for report in test.reports]
    return assembly.told([slice(first, first + count) for first, count in zip(firsts, counts, strict=True)])


def _accuracy(test: Test, assembly: Assembly) -> dict[str, Any] | None:
    if test.effective.mode != Mode.AccuracyOnly:
        return None
    answers = list(logged_responses(test.answers.kept, test.phases))
    if not answers:
        return None
    rows = np.array([row for row, _ in answers])
    found = assembly.accuracy(test.record.sample_index[rows], [data for _, data in answers])
    return {
        "metric": found.metric,
        "value": found.value,
        "good": found.good,
        "total": found.total,
        "target": found.target,
        "met": found.reached,
    }


def _judge_accuracy(result: dict[str, Any]) -> None:
    """An accuracy run that misses the model's target, or answered nothing, is INVALID."""
    if result["mode"] != Mode.AccuracyOnly.name:
        return
    accuracy = result["accuracy"]
    if accuracy is None:
        result["reasons"].append("No sample was answered.")
    elif not accuracy["met"]:
        result["reasons"].append(
            f"Accuracy {accuracy['value']:.3%} is below the target of {accuracy['target']:.3%}: "
            "check --weights, and that the backend computes what the model was trained for."
        )
    if result["reasons"]:
        result["validity"] = "INVALID"
