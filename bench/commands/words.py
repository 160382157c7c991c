"""Checks the words of ``drumfire run`` of which ``ab`` and ``sweep`` make runs, before anything is measured."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from drumfire.bench.assemble import local, loop, remote
from drumfire.bench.assemble.model import chosen
from drumfire.bench.assemble.options import RemoteOptions, RunOptions
from drumfire.bench.commands import run
from drumfire.bench.fleet import refusals
from drumfire.bench.options import files, parser, values
from drumfire.loadgen.errors import UserError
from drumfire.loadgen.options import flag
from drumfire.loadgen.settings import Scenario
from drumfire.loadgen.warm_up import WarmUp

OWN = ("output", "json", "no_dashboard", "report", "expect", "base", "single", "junit")
"""Options of a run that a session has once for all of its runs."""
_OTHER_RUNS = ("accuracy", "submission", "find_peak_performance")
_DEFAULT_S = 600.0
"""The length of a run without --time, as the MLPerf rules ask."""
_START_S = 3.0
"""The start and the end of a run's process take about this long."""


def parsed(words: Sequence[str]) -> RunOptions:
    """The options of a run.  Raises ``UserError`` for words that ``drumfire run`` would refuse."""
    found = parser.parse(run.COMMAND, words)
    if found.help or found.print_config:
        raise UserError("--help and --print-config are for drumfire run: leave them out")
    given = (files.read(Path(found.config)) if found.config is not None else {}) | found.values
    options = values.build(RunOptions, given, ("run", *words))
    loop.check(options.traffic)
    run.check(options)
    refusals.check(options)
    return options


def checked(words: Sequence[str], own: Iterable[str] = ()) -> RunOptions:
    """The options of a run that can be one of several.  ``own``: options that are the session's.

    Raises ``UserError`` for any other run.
    """
    options = parsed(words)
    for name in own:
        if name in options.given:
            raise UserError(f"{flag(name)} is of all runs together: write it before the first --")
    for name in _OTHER_RUNS:
        if getattr(options.traffic, name):
            raise UserError(f"{flag(name)} has no figures that are compared here: leave it out")
    traffic = options.traffic
    if traffic.scenario == Scenario.Server.name and traffic.qps is None and traffic.user_conf is None:
        raise UserError("--qps must be given: else each run would choose its own, and no two have one schedule")
    return options


def check_system(options: RunOptions) -> None:
    """Refuse a system that no run could load, as far as that can be seen without loading it.  Raises ``UserError``."""
    if isinstance(options.system, RemoteOptions):
        remote.check(options)
        name = options.model
    else:
        model = chosen(options)
        local.check(options, model)
        name = model.name
    local.read_settings(options.traffic, name, options.system.concurrency)


def sends_s(options: RunOptions) -> float:
    """The time for which the run sends, about; 0 where that is not known before a run has been done."""
    traffic = options.traffic
    seconds = traffic.time or (0.0 if traffic.count else _DEFAULT_S)
    if traffic.count and traffic.qps:
        seconds = max(seconds, traffic.count / traffic.qps)
    return seconds


def expected_s(options: RunOptions) -> float:
    """The time that the run takes as a whole, about; 0 where that is not known before a run has been done."""
    warm_up, seconds = WarmUp.of(options.traffic.warmup), sends_s(options)
    return seconds and seconds + _START_S + (warm_up.seconds if warm_up else 0.0)
