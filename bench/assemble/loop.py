"""The loop of a run, from its options: the scenario's own, or a closed loop of several queries under way."""

from __future__ import annotations

from drumfire.bench.assemble.options import RunOptions, TrafficOptions
from drumfire.loadgen.errors import UserError
from drumfire.loadgen.options import flag
from drumfire.loadgen.settings import CLOSED_LOOP, Loop, Scenario


def check(traffic: TrafficOptions) -> None:
    """Raise ``UserError`` for a loop that does not go with the other options."""
    scenario = Scenario[traffic.scenario]
    if traffic.loop == Loop.OPEN.value and scenario.loop is Loop.CLOSED:
        raise UserError(
            f"{scenario.name} is a closed loop: choose --scenario Server or Offline, or leave --loop open out"
        )
    if not traffic.is_closed:
        return
    if scenario != Scenario.SingleStream:
        raise UserError(f"--loop closed is not an MLPerf scenario: leave --scenario {scenario.name} out")
    for name in ("submission", "find_peak_performance", "audit_conf"):
        if getattr(traffic, name):
            raise UserError(f"{flag(name)} is for MLPerf's scenarios: leave it out, or --loop closed")


def name(traffic: TrafficOptions) -> str:
    """The name of the scenario as in a result; ``CLOSED_LOOP`` for a closed loop."""
    return CLOSED_LOOP if traffic.is_closed else traffic.scenario


def kind(options: RunOptions) -> str:
    """The part of a folder's name that says what is sent: ``name``, and how many queries are under way."""
    under_way = str(options.system.concurrency or 1) if options.traffic.is_closed else ""
    return f"{name(options.traffic)}{under_way}"
