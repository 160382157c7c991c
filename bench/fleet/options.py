"""The options of a run by several generators."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from drumfire.loadgen.options import option
from drumfire.loadgen.settings import Loop, Scenario


@dataclass(frozen=True)
class FleetOptions:
    """How many generators there are, and where."""

    TITLE: ClassVar = "many generators, one schedule"

    workers: int | None = option(
        None,
        most=1024,
        help="send from N processes, each sending every N-th query; with --hosts: N on each host; each process has its "
        "own connections and a share of --concurrency",
    )
    hosts: int | None = option(None, most=1024, help="send from N hosts of a Ray cluster (see drumfire cluster)")
    ray_address: str | None = option(
        None, metavar="HOST:PORT", help="the cluster's head (default: that of this host's cluster)"
    )
    on_host_loss: str = option(
        "continue",
        metavar="HOW",
        choices=("continue", "abort"),
        needs=("workers", "hosts"),
        help="if a generator is lost, which makes the run INVALID: continue with the others, or abort",
    )
    independent_streams: bool = option(
        False,
        scenarios=tuple(scenario.name for scenario in Scenario if scenario.loop is Loop.CLOSED),
        help="SingleStream and MultiStream: each generator is a stream by itself; the result says so",
    )

    @property
    def several(self) -> bool:
        """Whether there are several generators, or one in a process of its own."""
        return self.workers is not None or self.hosts is not None

    @property
    def parts(self) -> int:
        """How many generators there are."""
        return (self.hosts or 1) * (self.workers or 1)
