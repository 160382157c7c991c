"""A load generator as a child process: an ordinary run over its part of the rows.  ``python -m`` starts it.

It reads its assignment from standard input and talks to its supervisor through ``line``.  Its table is in memory that
the supervisor watches.  Does not depend on other generators or hosts.
"""

from __future__ import annotations

import asyncio
import io
import signal
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from drumfire.bench.assemble import remote
from drumfire.bench.assemble.local import Assembly
from drumfire.bench.assemble.options import RunOptions
from drumfire.bench.fleet import responses, traffic
from drumfire.bench.fleet.assignment import Assignment, options_from_plain, settings_from_plain
from drumfire.bench.fleet.facts import facts, machine
from drumfire.bench.fleet.line import Line, LogHandler
from drumfire.loadgen import loggers
from drumfire.loadgen.errors import UserError
from drumfire.loadgen.interpreter import run_on_fast_loop
from drumfire.loadgen.issuer import PhaseReport
from drumfire.loadgen.pacer import Spin
from drumfire.loadgen.record import Record
from drumfire.loadgen.run import Test
from drumfire.loadgen.share import Share
from drumfire.loadgen.warm_up import WarmUp

_BEAT_S = 0.25


class Generator:
    """The run, and its reports to the supervisor."""

    def __init__(
        self, line: Line, assembly: Assembly, assignment: Assignment, record: Record, folder: Path, options: RunOptions
    ) -> None:
        self._line, self._assembly, self._folder = line, assembly, folder
        self._sent_responses = 0
        self._has_begun = False
        """Whether a phase has; the warm-up is over then."""
        asked = WarmUp.of(options.traffic.warmup)
        share = Share(assignment.slice, traffic.read(folder / traffic.FILE, record), record, self._start)
        self.test = Test(
            assembly.system,
            assembly.library,
            assembly.settings,
            patience_s=options.result.patience,
            warm_up=None if asked is None else asked.part(assignment.slice.parts),
            share=share,
            timestamps=io.StringIO(),  # the driver prints them
            knobs=assembly.knobs,
            spin=Spin(options.traffic.spin),
        )

    async def run(self) -> None:
        """The whole run.  ``line`` may end it early."""
        self._line.attend(self.test.interrupt)
        beats = asyncio.ensure_future(self._beat())
        try:
            await self.test.run()
            if not self._has_begun and self.test.answers.aborted is not None:
                raise UserError(self.test.answers.aborted)
            await asyncio.to_thread(self._report_end, max(len(self.test.reports) - 1, 0))
        finally:
            beats.cancel()
            await asyncio.sleep(0)

    async def _start(self, number: int) -> int:
        if number:
            await asyncio.to_thread(self._report_end, number - 1)
        self._has_begun = True
        return await self._line.start(number)

    async def _beat(self) -> None:
        """Runs on the run's own loop, to show that the loop is not blocked."""
        while True:
            self._line.beat()
            await asyncio.sleep(_BEAT_S)

    def _report_end(self, number: int) -> None:
        """Report the end of a phase.  Faults and counts are those of the run so far."""
        test, faults = self.test, self.test.answers.faults
        report = test.reports[number] if number < len(test.reports) else None
        kept = test.answers.kept[self._sent_responses :]
        self._sent_responses += len(kept)
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
                "served": {str(to): count for to, count in served.items()},
                "happened": dict(happened),
                "responses": str(file) if kept else None,
                "warmup": test.issuer.sections().get("warmup"),
            }
        )


def _plain(report: PhaseReport) -> dict[str, Any]:
    """A report as JSON, without what the supervisor knows."""
    return {
        "end": report.end.name,
        "issued_rows": report.issued_rows,
        "lasted_ns": report.lasted_ns,
        "overhead": asdict(report.overhead),
        "pacing": asdict(report.pacing),
        "start_late_ns": report.start_late_ns,
    }


def main() -> int:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the driver handles Ctrl-C and tells us
    line = Line()
    message = line.assignment
    assignment = Assignment.from_json(message)
    try:
        options = options_from_plain(assignment.options)
        if options.result.log_level is not None:
            loggers.send_to(LogHandler(line), options.result.log_level)
        assembly = remote.assemble(options, settings_from_plain(assignment.settings))
        try:
            line.say({"facts": facts(assembly.digests()), "machine": machine()})
            line.limit(assignment.limit_s)
            record = Record.attach(message["fd"], message["layout"])
            generator = Generator(line, assembly, assignment, record, Path(message["folder"]), options)
            run_on_fast_loop(generator.run())
        finally:
            assembly.close()
    except UserError as error:
        line.say({"failed": str(error)})
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
