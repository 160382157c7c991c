"""``python -m drumfire.bench.peers.serving.soak``: many requests in slices, and whether the server grows.

After each slice, when its connections are closed, the server's memory, file descriptors and threads are read from
/proc.  Slices go over gRPC and HTTP in turns.  Exit status: 0 nothing grew, 1 something grew, 2 it cannot be measured.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from drumfire.bench.peers.goal import number
from drumfire.bench.peers.process import PROGRAM, MeasurementError, run, say
from drumfire.bench.peers.program import JUDGED, one_input, without_errors
from drumfire.bench.peers.results import table
from drumfire.bench.peers.server import Running
from drumfire.bench.peers.serving import servers
from drumfire.bench.peers.serving.servers import IDENTITY
from drumfire.bench.peers.triton.case import PROTOCOLS

_IN_FLIGHT = 16
_PROTOCOLS = tuple(PROTOCOLS)
_SETTLE_S = 0.5
"""The server's loop needs some turns to see that connections are closed."""
_PATIENCE_S = 3600.0
_MEMORY_SLACK = 1 << 20
"""Bytes that the allocator may add between the halves; a leak of a byte a request is ten times that in 20 million."""
_STATUS = {"VmRSS:": "memory", "Threads:": "threads"}  # proc_pid_status(5)


@dataclass(frozen=True)
class Held:
    """The resources of the server's process."""

    memory: int
    """Resident, bytes."""
    files: int
    threads: int


def held(pid: int) -> Held:
    process = Path("/proc", str(pid))
    values = {"memory": 0, "threads": 0}
    for line in (process / "status").read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition("\t")
        if name in _STATUS:
            values[_STATUS[name]] = int(value.split()[0])
    return Held(values["memory"] << 10, len(list((process / "fd").iterdir())), values["threads"])


def grew(after_slices: Sequence[Held]) -> list[str]:
    """A line for each resource that grew; empty for fewer than 4 slices.

    A resource that keeps growing is highest in the second half.  The first slice is left out: it warms the server up.
    """
    settled = after_slices[1:]
    first, second = settled[: len(settled) // 2], settled[len(settled) // 2 :]
    if len(settled) < 3:
        return []
    looks: Sequence[tuple[str, Callable[[Held], int], int]] = (
        ("memory", lambda one: one.memory, _MEMORY_SLACK),
        ("file descriptors", lambda one: one.files, 0),
        ("threads", lambda one: one.threads, 0),
    )
    lines = []
    for name, look, slack in looks:
        before, after = max(map(look, first)), max(map(look, second))
        if after > before + slack:
            lines.append(f"{name} grew: at most {before:,} in the first half, {after:,} in the second")
    return lines


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="drumfire.bench.peers.serving.soak", description="Send identity requests in slices and see what grows."
    )
    parser.add_argument("--requests", type=int, default=20_000_000, metavar="N", help="(default: 20,000,000)")
    parser.add_argument("--slices", type=int, default=20, metavar="N", help="(default: 20)")
    options = parser.parse_args(sys.argv[1:] if arguments is None else arguments)
    if not 1 <= options.slices <= options.requests:
        parser.error("--slices must be at least 1 and at most --requests")
    rows, after = [], []
    try:
        with servers.drumfire("null", IDENTITY) as server:
            say(f"before: {_shown(held(server.pid))}")
            for at in range(options.slices):
                count = options.requests * (at + 1) // options.slices - options.requests * at // options.slices
                protocol = _PROTOCOLS[at % len(_PROTOCOLS)]
                answered, began = server.counts(IDENTITY)[0], time.monotonic()
                _slice(server, protocol, count)
                lasted_s, answered = time.monotonic() - began, server.counts(IDENTITY)[0] - answered
                if answered < count:
                    raise MeasurementError(f"the server counts {answered} requests of a slice of {count}")
                time.sleep(_SETTLE_S)
                after.append(held(server.pid))
                rows.append((str(at + 1), protocol, f"{answered:,}", f"{answered / lasted_s:,.0f}", *_cells(after[-1])))
                say(f"slice {at + 1}/{options.slices} {protocol}: {_shown(after[-1])}")
    except MeasurementError as error:
        say(f"{parser.prog}: {error}")
        return 2
    print(table(("slice", "protocol", "requests", "1/s", "memory MB", "file descriptors", "threads"), rows))
    growth = grew(after)
    few = len(after) < 4
    print("\n".join(growth) or ("too few slices to judge: give 4 or more" if few else "nothing grew"))
    return 1 if growth else 0


def _slice(server: Running, protocol: str, count: int) -> None:
    """Send ``count`` requests, besides those that size the traffic.  Raises ``MeasurementError`` where one failed."""
    with tempfile.TemporaryDirectory() as made:
        configuration = Path(made) / "user.conf"
        configuration.write_text(f"*.Offline.min_query_count = {count}\n", encoding="utf-8")
        command = [
            *(*PROGRAM, "run", "triton", IDENTITY, "--url", server.url(protocol)),
            *("--scenario", "Offline", "--qps", "1", "--time", "0.001", "--user-conf", str(configuration)),
            *("--concurrency", str(_IN_FLIGHT), *one_input(), "--json", "--no-dashboard"),
            *("--output", str(Path(made) / "run")),
        ]
        result = without_errors(run(command, fine=JUDGED, patience_s=_PATIENCE_S).document)
    if result["delivered"]["samples"] != count:
        raise MeasurementError(f"{result['delivered']['samples']} requests were sent instead of {count}")


def _shown(one: Held) -> str:
    return f"{number(one.memory / 1e6)} MB, {one.files} file descriptors, {one.threads} threads"


def _cells(one: Held) -> tuple[str, str, str]:
    return f"{one.memory / 1e6:.1f}", str(one.files), str(one.threads)


if __name__ == "__main__":
    sys.exit(main())
