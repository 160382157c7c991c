"""The loop that the options ask for: the scenario's own, or a closed loop of several queries under way."""

from __future__ import annotations

from drumfire.bench.assemble.options import RunOptions, TrafficOptions
from drumfire.loadgen.errors import UserError
from drumfire.loadgen.options import flag
from drumfire.loadgen.settings import CLOSED_LOOP, Loop, Scenario


def check(traffic: TrafficOptions) -> None:
    """Raise ``UserError`` for a loop that the other options cannot have."""
    scenario = Scenario[traffic.scenario]
    if traffic.loop == Loop.OPEN.value and scenario.loop is Loop.CLOSED:
        raise UserError(
            f"{scenario.name} is a closed loop: choose --scenario Server or Offline, or leave --loop open out"
        )
    if not traffic.is_closed:
        return
    if scenario != Scenario.SingleStream:
        raise UserError(f"--loop closed is no scenario of MLPerf: leave --scenario {scenario.name} out")
    for name in ("submission", "find_peak_performance", "audit_conf"):
        if getattr(traffic, name):
            raise UserError(f"{flag(name)} is for MLPerf's scenarios: leave it out, or --loop closed")


def name(traffic: TrafficOptions) -> str:
    """As a result has it: the scenario, or ``CLOSED_LOOP``."""
    return CLOSED_LOOP if traffic.is_closed else traffic.scenario


def kind(options: RunOptions) -> str:
    """What is sent, in the name of a run's folder."""
    if not options.traffic.is_closed:
        return options.traffic.scenario
    return f"{CLOSED_LOOP}{options.system.concurrency or 1}"
