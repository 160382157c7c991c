"""Which options ask for several generators, and which of them several cannot follow.

Only looks at options; does not depend on processes or hosts.
"""

from __future__ import annotations

from drumfire.bench.assemble.options import RemoteOptions, RunOptions
from drumfire.loadgen.errors import UserError
from drumfire.loadgen.settings import Loop, Scenario


def several(options: RunOptions) -> bool:
    """Whether the options ask for generators in processes of their own."""
    return isinstance(options.system, RemoteOptions) and options.system.fleet.several


def check(options: RunOptions) -> None:
    """Raise ``UserError`` for options that several generators cannot follow, or that only several can."""
    if not isinstance(options.system, RemoteOptions):
        return
    fleet, traffic, target = options.system.fleet, options.traffic, options.system.target
    if not fleet.several:
        name = "--ray-address" if fleet.ray_address else "--independent-streams"
        if fleet.ray_address or fleet.independent_streams:
            raise UserError(f"{name} is for several generators: give --workers or --hosts, or leave it out")
        return
    if fleet.ray_address and fleet.hosts is None:
        raise UserError("--ray-address is the cluster of --hosts: give --hosts N, or leave it out")
    which = "--hosts" if fleet.hosts is not None else "--workers"
    refused = {
        "--find-peak-performance": traffic.find_peak_performance,
        "--until-confident": traffic.until_confident is not None,
    }
    for other, is_set in refused.items():
        if is_set:
            raise UserError(f"{other} works with a single generator only: leave {which} out")
    if fleet.hosts is not None and target.needs_same_host:
        option = target.needs_same_host
        raise UserError(f"{option} is for a server on the same host: leave out --hosts or {option}")
    parts, scenario = fleet.parts, Scenario[traffic.scenario]
    if traffic.is_closed:
        if (target.concurrency or 1) < parts:
            raise UserError(
                f"a closed loop of {target.concurrency or 1} leaves nothing for some of {parts} generators: give "
                f"--concurrency {parts} or more"
            )
    elif scenario.loop is Loop.CLOSED and not fleet.independent_streams:
        raise UserError(
            f"{scenario.name} is a single stream, whose next query waits for the last answer, so {parts} generators "
            f"would be {parts} streams: leave {which} out, or give --independent-streams to run them"
        )
    if target.concurrency is not None and target.concurrency < parts:
        raise UserError(
            f"--concurrency {target.concurrency} leaves nothing for some of {parts} generators: give {parts} or more"
        )
