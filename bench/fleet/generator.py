"""A load generator as a child process: the single-machine run over its part of the rows.  ``python -m`` runs it.

It is told its plan on standard input and speaks to its supervisor by the lines of ``line``.  It knows no other
generator and nothing of how many hosts there are; its table lies in memory that the supervisor watches.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from drumfire.bench import errors
from drumfire.bench.assemble import remote
from drumfire.bench.assemble.local import Assembly
from drumfire.bench.fleet import responses
from drumfire.bench.fleet.facts import facts, machine
from drumfire.bench.fleet.line import Line
from drumfire.bench.fleet.plan import Plan, options_from_plain, settings_from_plain
from drumfire.loadgen import Test, run_on_fast_loop
from drumfire.loadgen.record import Record
from drumfire.loadgen.share import Share

_BEAT_S = 0.25


class Generator:
    """The run, and what is told of it."""

    def __init__(self, line: Line, assembly: Assembly, plan: Plan, record: Record, folder: Path) -> None:
        self._line, self._assembly, self._folder = line, assembly, folder
        self._told_responses = 0
        share = Share(plan.slice, record, self._start)
        # What a rate's settings would print of the run's beginning and end is the driver's to print.
        silence = open(os.devnull, "w", encoding="ascii")  # noqa: SIM115
        self.test = Test(
            assembly.system,
            assembly.library,
            assembly.settings,
            patience_s=plan.options["patience"],
            share=share,
            timestamps=silence,
        )

    async def run(self) -> None:
        """The whole run.  What ends it early is told by ``line``."""
        self._line.attend(self.test.interrupt)
        beats = asyncio.ensure_future(self._beat())
        try:
            await self.test.run()
            await asyncio.to_thread(self._tell_end, max(len(self.test.reports) - 1, 0))
        finally:
            beats.cancel()
            await asyncio.sleep(0)

    async def _start(self, number: int) -> int:
        if number:
            await asyncio.to_thread(self._tell_end, number - 1)
        return await self._line.start(number)

    async def _beat(self) -> None:
        """Said on the run's own loop, as a sign that it turns."""
        while True:
            self._line.beat()
            await asyncio.sleep(_BEAT_S)

    def _tell_end(self, number: int) -> None:
        """What a phase came to.  Faults and counts are those of the run so far."""
        test, faults = self.test, self.test.answers.faults
        report = test.reports[number] if number < len(test.reports) else None
        kept = test.answers.kept[self._told_responses :]
        self._told_responses += len(kept)
        for one in kept:
            one.responses = self._assembly.logged(test.record.sample_index[one.rows], one.responses)
        file = self._folder / f"responses-{number}.npz"
        if kept:
            responses.save(file, kept)
        served, happened = self._assembly.counted()
        self._line.say(
            {
                "ended": number,
                "report": None if report is None else _plain(report),
                "failed": dict(faults.failed),
                "refused": dict(faults.refused),
                "unanswered": faults.unanswered,
                "aborted": test.answers.aborted,
                "interrupted": test.interrupted,
                "served": {str(endpoint): count for endpoint, count in served.items()},
                "happened": dict(happened),
                "responses": str(file) if kept else None,
            }
        )


def _plain(report: Any) -> dict[str, Any]:
    """A ``PhaseReport`` without what the supervisor knows."""
    return {
        "end": report.end.name,
        "issued_rows": report.issued_rows,
        "lasted_ns": report.lasted_ns,
        "overhead": asdict(report.overhead),
        "pacer_window_ns": report.pacer_window_ns,
        "pacer_spun_ns": report.pacer_spun_ns,
        "longest_stall_ns": report.longest_stall_ns,
        "realtime_ns": report.realtime_ns,
        "exact_timer": report.exact_timer,
        "start_late_ns": report.start_late_ns,
    }


def main() -> int:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the driver's, who tells us
    line = Line()
    told = line.plan
    plan = Plan.from_json(told)
    try:
        assembly = remote.assemble(options_from_plain(plan.options), settings_from_plain(plan.settings))
        try:
            line.say({"facts": facts(assembly.digests()), "machine": machine()})
            line.limit(plan.limit_s)
            record = Record.attach(told["fd"], told["layout"])
            generator = Generator(line, assembly, plan, record, Path(told["folder"]))
            run_on_fast_loop(generator.run())
        finally:
            assembly.close()
    except errors.expected() as error:
        line.say({"failed": str(error)})
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
