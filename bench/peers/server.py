"""A server that is measured, and its own view of a measurement: its count of requests and its CPU time.

Both are read over plain HTTP and from /proc, without the clients that are compared.
"""

from __future__ import annotations

import http.client
import json
import os
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from pathlib import Path

from drumfire.bench.peers.process import MeasurementError

_TICK_S = 1 / os.sysconf("SC_CLK_TCK")
ANSWER_S = 10.0


@dataclass(frozen=True)
class Running:
    """A server that is ready: addresses as host:port, and its process."""

    grpc: str
    http: str
    pid: int
    counts: Callable[[str], tuple[int, int]]
    """Requests of a model that succeeded and that failed since the start, by the server itself.

    Raises ``MeasurementError``.
    """
    metrics: str = ""
    """The address of its metrics where it has a port for them."""

    def address(self, protocol: str) -> str:
        """``protocol``: grpc or http."""
        return self.grpc if protocol == "grpc" else self.http

    def url(self, protocol: str) -> str:
        return f"{protocol}://{self.address(protocol)}"


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
def watched(server: Running, model: str) -> Iterator[Served]:
    """What the server did within the block, filled in at its end.

    Raises ``MeasurementError`` where the server failed requests or answered none.
    """
    served = Served()
    (good, bad), cpu_s = server.counts(model), cpu_seconds(server.pid)
    yield served
    served.cpu_s = cpu_seconds(server.pid) - cpu_s
    good_after, bad_after = server.counts(model)
    served.requests = good_after - good
    if bad_after > bad:
        raise MeasurementError(f"the server failed {bad_after - bad} requests")
    if served.requests <= 0:
        raise MeasurementError("the server counted no request")


def statistics_counts(address: str, model: str) -> tuple[int, int]:
    """As ``Running.counts``, from KServe v2 statistics.  A cache hit is a success like any other."""
    try:
        statistics = json.loads(get(address, f"/v2/models/{model}/stats")[1])["model_stats"][0]["inference_stats"]
        return statistics["success"]["count"], statistics["fail"]["count"]
    except (OSError, http.client.HTTPException, LookupError, ValueError) as error:
        raise MeasurementError(f"the server's statistics cannot be read: {error!r}") from None


def get(address: str, path: str) -> tuple[int, str]:
    """Status and body of an HTTP answer."""
    # Close the connection: an open connection would delay the server's end.
    with closing(http.client.HTTPConnection(address, timeout=ANSWER_S)) as connection:
        connection.request("GET", path, headers={"Connection": "close"})
        response = connection.getresponse()
        return response.status, response.read().decode()


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
