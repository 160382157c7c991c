"""The server's own view of a measurement: its count of requests and its CPU time.

Read over plain HTTP and from /proc, without the clients that are compared.
"""

from __future__ import annotations

import http.client
import json
import os
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from drumfire.bench.peers.process import MeasurementError
from drumfire.bench.peers.triton.case import Server

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")


@dataclass
class Served:
    """What the server did between two moments."""

    requests: int = 0
    """Requests answered with success, from the cache or by the model."""
    cpu_s: float = 0.0
    """CPU time of the server and the processes that run its models, to 10 ms."""

    @property
    def cpu_ns_per_request(self) -> float:
        return self.cpu_s / self.requests * 1e9


@contextmanager
def watched(server: Server, model: str) -> Iterator[Served]:
    """What the server did within the block, filled in at its end.

    Raises ``MeasurementError`` where the server failed requests or answered none.
    """
    served = Served()
    good, bad = counts(server.http, model)
    cpu_s = cpu_seconds(server.pid)
    yield served
    served.cpu_s = cpu_seconds(server.pid) - cpu_s
    good_after, bad_after = counts(server.http, model)
    served.requests = good_after - good
    if bad_after > bad:
        raise MeasurementError(f"the server failed {bad_after - bad} requests")
    if not served.requests:
        raise MeasurementError("the server answered no request")


def counts(address: str, model: str) -> tuple[int, int]:
    """Requests that succeeded and that failed since the server's start.  A cache hit is a success like any other."""
    # Close the connection: an open connection would delay the server's end.
    with closing(http.client.HTTPConnection(address, timeout=10)) as connection:
        connection.request("GET", f"/v2/models/{model}/stats", headers={"Connection": "close"})
        answer = json.loads(connection.getresponse().read())
    statistics = answer["model_stats"][0]["inference_stats"]
    return statistics["success"]["count"], statistics["fail"]["count"]


def cpu_seconds(pid: int) -> float:
    """User and system time of a process and its living descendants since their start, s."""
    parents: dict[int, int] = {}
    ticks: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                text = (entry / "stat").read_text(encoding="utf-8", errors="replace")
            except (FileNotFoundError, ProcessLookupError):  # it has just ended
                continue
            parents[int(entry.name)], ticks[int(entry.name)] = parent_and_ticks(text)
    family, seen = {pid}, 0
    while len(family) > seen:
        seen = len(family)
        family |= {child for child, parent in parents.items() if parent in family}
    return sum(ticks.get(one, 0) for one in family) * _TICK_S


def parent_and_ticks(stat: str) -> tuple[int, int]:
    """ppid, and utime + stime in clock ticks, from the text of /proc/PID/stat (proc_pid_stat(5))."""
    # The name, in brackets, may itself contain blanks and brackets; the third field is the first after it.
    fields = stat.rpartition(")")[2].split()
    return int(fields[1]), int(fields[11]) + int(fields[12])
