"""Divides a run over generators: each one's part of the rows, of --concurrency and of the options, and the crews.

Does not start anything; only a cluster of other hosts is joined here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict

from drumfire.bench import watch
from drumfire.bench.assemble.local import Assembly
from drumfire.bench.assemble.options import RunOptions
from drumfire.bench.fleet.assignment import Assignment, options_to_plain, settings_to_plain
from drumfire.bench.fleet.crew import Crew, LocalCrew
from drumfire.bench.fleet.facts import facts
from drumfire.bench.fleet.fleet import Fleet
from drumfire.bench.fleet.options import FleetOptions
from drumfire.loadgen import issuer
from drumfire.loadgen.settings import Scenario
from drumfire.loadgen.share import Slice

_LEAD_NS = 300_000_000
_LEAD_TO_HOSTS_NS = 2_000_000_000
"""How long before a phase its start is announced, to processes here and to other hosts."""
_LIMIT_TIMES = 10
_LIMIT_S = 60.0
"""A generator ends after ``_LIMIT_TIMES`` the time that its traffic should take, plus ``_LIMIT_S`` and --patience."""


def slices(plan: issuer.Plan, parts: int) -> dict[int, Slice]:
    """The rows of each part, by its number."""
    return {part: Slice(part, parts, plan.settings.query_width) for part in range(parts)}


def fleet(plan: issuer.Plan, shares: Sequence[Slice], assembly: Assembly, options: RunOptions) -> Fleet:
    """The generators of these shares, not started yet.  Raises ``UserError`` where other hosts cannot be reached."""
    wanted: FleetOptions = options.system.fleet
    assignments = _assignments(plan, shares, assembly, options)
    most_queries = plan.settings.max_query_count
    crews: list[Crew]
    if wanted.hosts is None:
        # A generator expression: each part is taken from the whole when its process starts.
        parts = (share.of(plan.phases, most_queries) for share in shares)
        crews, lead_ns = [LocalCrew("here", assignments, parts)], _LEAD_NS
    else:
        from drumfire.bench.fleet import hosts

        a_host = wanted.workers or 1
        groups = [assignments[at : at + a_host] for at in range(0, len(assignments), a_host)]
        crews = list(hosts.reach(groups, lambda one: one.slice.of(plan.phases, most_queries), wanted.ray_address))
        lead_ns = _LEAD_TO_HOSTS_NS
    return Fleet(
        crews,
        facts(assembly.digests()),
        on_loss=wanted.on_host_loss,
        lead_ns=lead_ns,
        warm_up_s=0.0 if plan.warm_up is None else plan.warm_up.longest_s(plan.settings.target_qps),
    )


def _assignments(
    plan: issuer.Plan, shares: Sequence[Slice], assembly: Assembly, options: RunOptions
) -> list[Assignment]:
    plain, settings = options_to_plain(options), settings_to_plain(assembly.settings)
    view = asdict(watch.ViewPlan.of(plan, assembly.title))
    concurrency = assembly.description["remote"]["concurrency"]
    return [
        Assignment(
            name=_name(options.system.fleet, share.part),
            options=plain | {"concurrency": _concurrency(concurrency, share)},
            settings=settings,
            slice=share,
            rows=share.count(plan.record.rows),
            columns=plan.record.described,
            view=view,
            limit_s=_limit_s(plan, options.result.patience),
            spare=0 if plan.warm_up is None else plan.warm_up.part(share.parts).rows(share.width),
        )
        for share in shares
    ]


def _name(wanted: FleetOptions, part: int) -> str:
    a_host = wanted.workers or 1
    if wanted.hosts is None:
        return f"worker {part}"
    return f"host {part // a_host}" + (f" worker {part % a_host}" if a_host > 1 else "")


def _concurrency(whole: int | None, share: Slice) -> int | None:
    """A generator's part of --concurrency."""
    return None if whole is None else max(whole // share.parts + (share.part < whole % share.parts), 1)


def _limit_s(plan: issuer.Plan, patience_s: float) -> float:
    s, rows = plan.settings, plan.record.rows
    expected_s = max(s.expected_s, rows / s.samples_per_query / s.target_qps)
    if s.scenario == Scenario.Offline:
        expected_s = max(expected_s, rows / s.target_qps)
    return _LIMIT_TIMES * expected_s + patience_s + _LIMIT_S
