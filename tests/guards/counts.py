"""What a row costs, in counts that know no clock: calls, allocations and system calls on each way of a row.

``python -m tests.guards.counts`` measures this revision and prints a table; ``--write`` makes its figures the bounds
that ``test_counts`` keeps, ``--why N`` names the N functions, callers or system calls that add most to each figure.

Each measured program is a process of its own (``metered``), which does the same work in two lengths after a shorter
one that warms it up.  A figure is the difference between the two by the difference in rows, so that what is done once
a run is not in it.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import json
import os
import re
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import tomllib
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from drumfire.loadgen.installation import ROOT
from tests.guards import metered

BOUNDS = Path(__file__).with_name("counts.toml")
METERS = ("calls", "allocations", "system_calls")
SLACK = {"calls": 0.5, "c_calls": 0.5, "allocations": 0.5, "system_calls": 0.5, "waits": 1.5}
"""What is counted, and by how much a figure may be above what was measured.

Calls come out to a few tenths, as some work is by time; a call more for each row is beyond their slack.  Waits are the
system calls that only wait, for sockets or locks: a reply that comes early saves one, so they vary by one.
"""
_SHARE = 0.05
"""The least slack as a share of the figure, for allocations, which libraries make by their own rules, and for rows that
go together, as the work for each depends on how many do.
"""
FIGURES = tuple(SLACK)
_WAITS = {"epoll_wait", "epoll_pwait", "epoll_pwait2", "futex", "poll", "ppoll", "restart_syscall", "select"}
_ALONE = ["--scenario", "SingleStream", "--time", "0.001"]
"""One row at a time, each waiting for the answer to the one before: the most that a row can cost."""
_TOGETHER = ["--scenario", "Server", "--qps", "1e9", "--time", "1e-3"]
"""All rows due at the start, so that as many travel together as the system allows."""


@dataclass(frozen=True)
class Way:
    """A way that a row goes."""

    name: str
    who: str
    """Whose work is counted: a role of ``metered``."""
    words: Sequence[str]
    """Of the command line; after ``--url``, ``grpc``, ``http`` and ``infer`` stand for the server's URLs."""
    lengths: tuple[int, int, int]
    """Rows of a run that warms up, and of the two that are compared."""
    needs: str = ""
    """A package."""

    @property
    def is_alone(self) -> bool:
        """Whether each row waits for the answer to the one before."""
        return "SingleStream" in self.words


_SHORT, _LONG = (50, 100, 400), (128, 256, 1024)
_REMOTE = ["run", "triton", "identity", "--input", "INPUT0:16", "--url"]
_TENSOR = {"name": "INPUT0", "shape": [1, 16], "datatype": "FP32", "data": [0.5] * 16}
_BODY = ["--body", json.dumps({"inputs": [_TENSOR]}), "--expect-json", "outputs[0].data[15]=0.5"]
_HTTP = ["run", "http", "identity", *_BODY, "--url", "infer"]
_WORKERS = ["--workers", "2", "--independent-streams"]
"""One at a time alone: how many rows of two workers travel together changes with who comes first to the server."""
_IN_FLIGHT = ["--concurrency", "64"]
WAYS = [
    Way("in process, null, one at a time", "runs_here", ["run", "null", "digits", *_ALONE], _SHORT),
    Way("in process, null, together", "runs_here", ["run", "null", "digits", *_TOGETHER], _SHORT),
    Way(
        "in process, digits, one at a time", "runs_here",
        ["run", "onnxruntime", "digits", "--threads", "1", *_ALONE], _SHORT, "onnxruntime",
    ),
    Way(
        "in process, digits, together", "runs_here",
        ["run", "onnxruntime", "digits", "--threads", "1", *_TOGETHER], (32, 128, 448), "onnxruntime",
    ),
    Way("remote gRPC, one at a time", "runs", [*_REMOTE, "grpc", *_ALONE], _SHORT),
    Way("remote gRPC, together", "runs", [*_REMOTE, "grpc", *_TOGETHER, *_IN_FLIGHT], _LONG),
    Way("remote HTTP, one at a time", "runs", [*_REMOTE, "http", *_ALONE], _SHORT),
    Way("remote HTTP, together", "runs", [*_REMOTE, "http", *_TOGETHER, *_IN_FLIGHT], _LONG),
    Way("any HTTP service, one at a time", "runs", [*_HTTP, *_ALONE], _SHORT),
    Way("any HTTP service, together", "runs", [*_HTTP, *_TOGETHER, *_IN_FLIGHT], _LONG),
    Way("served gRPC, one at a time", "served", [*_REMOTE, "grpc", *_ALONE], _SHORT),
    Way("served gRPC, together", "served", [*_REMOTE, "grpc", *_TOGETHER, *_IN_FLIGHT], _LONG),
    Way("served HTTP, one at a time", "served", [*_REMOTE, "http", *_ALONE], _SHORT),
    Way("served HTTP, together", "served", [*_REMOTE, "http", *_TOGETHER, *_IN_FLIGHT], _LONG),
    Way(
        "two workers, one at a time", "runs_of_workers",
        [*_REMOTE, "grpc", *_ALONE, *_WORKERS], _SHORT,
    ),
]  # fmt: skip
_SERVER = ["serve", "null", "identity", "--http-port", "0", "--grpc-port", "0", "--metrics-port", "0", "--json"]

_MARK = re.compile(r'"(?P<what>begin|end) (?P<number>\d+)-\d+(?: (?P<rows>\d+))?"')
_CALL = re.compile(r"\d+ +(?P<name>\w+)\(")

Found = dict[str, Counter[str]]
"""By figure: counts by what was called."""


def missing(meter: str) -> str | None:
    """Why a meter cannot be used here, in a sentence; None if it can."""
    if meter == "calls":
        return None
    if sys.platform != "linux":
        return f"{meter.replace('_', ' ')} are counted on Linux alone"
    if meter == "system_calls":
        if shutil.which("strace") is None:
            return "system calls are counted by strace: install the package strace"
        seen = subprocess.run(["strace", "-o", os.devnull, "true"], capture_output=True, text=True)
        return f"strace may not trace here: {seen.stderr.strip()}" if seen.returncode else None
    try:
        ctypes.CDLL(metered.ALLOCATION_ENVIRONMENT["LD_PRELOAD"])
    except OSError:
        return "allocations are counted by glibc's libc_malloc_debug.so.0 (Debian's package libc6), which is not here"
    return None


def measure(way: Way, meter: str) -> tuple[Found, int]:
    """What the longer run called more often, by figure of the meter, and how many more rows it had."""
    with tempfile.TemporaryDirectory(prefix="drumfire-counts-") as name:
        folder = Path(name)
        if way.who == "served":
            with _server(meter, folder) as (addresses, server):
                metered.runs(server, folder, _commands(way, folder, addresses))
        elif _is_remote(way):
            with _server("nothing", folder) as (addresses, _):
                _run_metered(way, meter, folder, addresses)
        else:
            _run_metered(way, meter, folder, {})
        return _difference(_windows(meter, folder))


def per_row(counters: Found, rows: int) -> dict[str, float]:
    return {figure: counter.total() / rows for figure, counter in counters.items()}


def _is_remote(way: Way) -> bool:
    return "--url" in way.words


def _commands(way: Way, folder: Path, addresses: Mapping[str, str]) -> list[list[str]]:
    named = {**addresses, "infer": f"{addresses.get('http')}/v2/models/identity/infer"}
    words = [named[word] if before == "--url" else word for before, word in pairwise(["", *way.words])]
    return [
        [*words, "--count", str(rows), "--no-dashboard", "--output", str(folder / f"run-{number}")]
        for number, rows in enumerate(way.lengths)
    ]


def _run_metered(way: Way, meter: str, folder: Path, addresses: Mapping[str, str]) -> None:
    commands = _commands(way, folder, addresses)
    if way.who == "runs_of_workers":
        command = metered.command("nothing", folder, way.who, json.dumps([meter, commands]))
    else:
        command = metered.command(meter, folder, way.who, json.dumps(commands))
    done = subprocess.run(command, env=_environment(), capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"{way.name}: {done.stdout}{done.stderr}")


def _environment() -> dict[str, str]:
    # A fixed hash seed: sets of strings have the same order in every process.
    return os.environ | {"PYTHONPATH": str(ROOT), "PYTHONHASHSEED": "0"}


class _Server:
    """A server in its own process, as a meter of what happens there."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def begin(self, window: Path) -> None:
        self._say(f"begin {window.name.partition('-')[0]}")

    def end(self, window: Path, rows: int) -> None:
        self._say(f"end {window.name.partition('-')[0]} {rows}")

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(line, file=self._process.stdin, flush=True)
        if self._process.stdout.readline() != "done\n":
            raise RuntimeError("the server has ended")


@contextlib.contextmanager
def _server(meter: str, folder: Path) -> Iterator[tuple[dict[str, str], _Server]]:
    """Start a server; gives its URLs by protocol, and the server."""
    with (folder / "server").open("w+") as errors:
        process = subprocess.Popen(
            metered.command(meter, folder, "served", json.dumps(_SERVER)),
            env=_environment(), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors, text=True,
        )  # fmt: skip
        assert process.stdin is not None
        assert process.stdout is not None
        ready = None
        try:
            if not (line := process.stdout.readline()):
                errors.seek(0)
                raise RuntimeError(f"the server did not start: {errors.read()}")
            ready = json.loads(line)
            yield ready, _Server(process)
        finally:
            # To the server itself: the process that we started may be strace.
            os.kill(ready["pid"] if ready else process.pid, signal.SIGTERM)
            process.stdin.close()
            process.stdout.read()
            process.stdout.close()
            process.wait()


def _windows(meter: str, folder: Path) -> dict[int, tuple[Found, int]]:
    """By number of the run: counts and rows of all measured processes together."""
    found: dict[int, tuple[Found, int]] = {}
    parts = _marked(folder) if meter == "system_calls" else _saved(folder)
    for number, counters, rows in parts:
        have, before = found.get(number, ({}, 0))
        found[number] = ({name: have.get(name, Counter()) + counters[name] for name in counters}, before + rows)
    return found


def _saved(folder: Path) -> Iterator[tuple[int, Found, int]]:
    for file in folder.glob("*-*.json"):
        said = json.loads(file.read_text())
        rows = said.pop("rows")
        yield int(file.name.partition("-")[0]), {name: Counter(counts) for name, counts in said.items()}, rows


def _marked(folder: Path) -> Iterator[tuple[int, Found, int]]:
    for file in folder.glob("*.strace"):
        windows: dict[int, tuple[Counter[str], int]] = {}
        names: Counter[str] = Counter()
        for line in file.read_text(errors="replace").splitlines():
            if mark := _MARK.search(line):
                if mark["what"] == "begin":
                    names = Counter()
                else:
                    windows[int(mark["number"])] = names.copy(), int(mark["rows"])
            # A call that another thread's interrupts in the log has a second line, which begins differently.
            elif call := _CALL.match(line):
                names[call["name"]] += 1
        for number, (names, rows) in windows.items():
            waits = Counter({name: names.pop(name) for name in _WAITS & names.keys()})
            yield number, {"system_calls": names, "waits": waits}, rows


def _difference(windows: Mapping[int, tuple[Found, int]]) -> tuple[Found, int]:
    (_, (shorter, few), (longer, many)) = (windows[number] for number in sorted(windows))
    for figure, counter in longer.items():
        counter.subtract(shorter[figure])
    return longer, many - few


# The bounds.


def bound(way: Way, figure: str, measured: float) -> float:
    """The highest value of a figure that passes, from the measured one."""
    share = _SHARE if figure == "allocations" or not way.is_alone else 0.0
    return measured + max(share * measured, SLACK[figure])


def bounds() -> tuple[str, dict[str, dict[str, float]]]:
    """The version of Python they were measured with, and the measured figures, by way and name."""
    said = tomllib.loads(BOUNDS.read_text())
    return said["python"], said["measured"]


def write_bounds(measured: Mapping[str, Mapping[str, float]]) -> None:
    """Make these figures the bounds; keep those of the same Python that were not measured."""
    version, before = bounds() if BOUNDS.exists() else ("", {})
    lines = [
        "# What a row costs on each way: written by python -m tests.guards.counts --write, kept by test_counts.",
        "# A figure may be higher by the slack that counts.SLACK gives it, and no more.",
        f'python = "{python_version()}"',
        "",
        "[measured]",
    ]
    for way in WAYS:
        known = before.get(way.name, {}) if version == python_version() else {}
        figures = known | dict(measured.get(way.name, {}))
        listed = ", ".join(f"{name} = {figures[name]:.2f}" for name in FIGURES if name in figures)
        lines.append(f'"{way.name}" = {{ {listed} }}')
    BOUNDS.write_text("\n".join(lines) + "\n")


def python_version() -> str:
    return f"{sys.version_info.major}.{sys.version_info.minor}"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.guards.counts", description=__doc__.partition("\n\n")[0])
    parser.add_argument("--way", default="", metavar="TEXT", help="only ways whose names hold this")
    parser.add_argument("--meter", choices=METERS, action="append", help="only what this counts (default: all)")
    parser.add_argument("--why", type=int, metavar="N", help="print the N largest parts of each figure")
    parser.add_argument("--rounds", type=int, default=1, metavar="N", help="measure N times and take the medians")
    parser.add_argument("--write", action="store_true", help="make the figures the bounds")
    options = parser.parse_args()
    meters = []
    for meter in options.meter or METERS:
        if reason := missing(meter):
            print(f"left out: {reason}")
        else:
            meters.append(meter)
    print(f"{'per row':<34}" + "".join(f"{name.replace('_', ' '):>15}" for name in FIGURES), flush=True)
    table: dict[str, dict[str, float]] = {}
    for way in WAYS:
        if options.way not in way.name:
            continue
        parts: Found = {}
        all_figures: dict[str, list[float]] = {}
        for meter in [*meters] * options.rounds:
            counters, rows = measure(way, meter)
            parts |= counters
            for name, value in per_row(counters, rows).items():
                all_figures.setdefault(name, []).append(value)
        table[way.name] = {name: statistics.median(values) for name, values in all_figures.items()}
        _print_line(way.name, table[way.name])
        if options.rounds > 1:
            _print_line("    lowest", {name: min(values) for name, values in all_figures.items()})
            _print_line("    highest", {name: max(values) for name, values in all_figures.items()})
        for figure, counter in parts.items() if options.why else ():
            for what, count in counter.most_common(options.why):
                print(f"    {count / rows:>10.2f} {figure.replace('_', ' ')}: {what}")
    if options.write:
        write_bounds(table)
    return 0


def _print_line(name: str, figures: Mapping[str, float]) -> None:
    cells = (f"{figures[figure]:>15.2f}" if figure in figures else f"{'':>15}" for figure in FIGURES)
    print(f"{name:<34}" + "".join(cells), flush=True)


if __name__ == "__main__":
    sys.exit(main())
