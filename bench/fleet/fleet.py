"""All generators of a run together: gets them ready, compares them, starts and follows them, and ends them.

Handles crews and decides which generators are lost.  Does not depend on rows or on a screen.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from drumfire.bench.fleet.child import Child, Part, Sighting
from drumfire.bench.fleet.crew import Crew
from drumfire.bench.fleet.facts import Facts, differences
from drumfire.loadgen.errors import UserError
from drumfire.loadgen.loggers import FLEET
from drumfire.sut.remote.endpoint import Endpoint

STALE_S, LOST_S = 1.0, 3.0
"""After this long without a message in a run, a generator is shown as stale, and then judged lost."""
_READY_S = 120.0
"""How long generators may take to get ready, which includes reading their samples; beside a warm-up."""
_BEAT_S = 1.0
_LOOK_S = 0.05
_BLIND_S = 0.5
"""If we have not looked for this long ourselves, silence proves nothing."""
_HALT_S = 10.0


@dataclass(frozen=True)
class Loss:
    """A lost generator."""

    name: str
    reason: str
    at: datetime
    after_s: float
    """Time from the phase's start to its last message."""
    last: Sighting


class Fleet:
    """Crews and their generators, by part."""

    def __init__(
        self,
        crews: Sequence[Crew],
        facts: Facts,
        *,
        on_loss: str,
        lead_ns: int,
        warm_up_s: float = 0.0,
    ) -> None:
        """``facts``: of this process.  ``on_loss``: see --on-host-loss.  ``lead_ns``: how long before a phase its start
        is announced.  ``warm_up_s``: how long a warm-up may take.
        """
        self.crews = crews
        self.lost: dict[int, Loss] = {}
        self.aborted: str | None = None
        """Why a loss ended the run; None where it did not."""
        self.planned_ns = 0
        """When the current phase should begin: ns of our wall clock."""
        self.on_launch: Callable[[Child], object] = lambda child: None
        """Called for each generator of this machine, before any begins."""
        self.on_look: Callable[[Sequence[Sighting]], object] = lambda sightings: None
        """Called after each look at the generators in a phase."""
        self.names = {one.slice.part: one.name for crew in crews for one in crew.assignments}
        self.last_seen: dict[int, Sighting] = {}
        self.messages: dict[int, Mapping[str, Any]] = {}
        """The last message of each generator at the end of a phase, by part."""
        self._facts, self._on_loss, self._lead_ns, self._ready_s = facts, on_loss, lead_ns, _READY_S + warm_up_s
        self._looked_s = 0.0
        self._over = threading.Event()
        self._beats = threading.Thread(target=self._beat, name="beats", daemon=True)

    async def open(self) -> None:
        """Start all generators and wait until they are ready.

        Raises ``UserError`` where a generator cannot start or differs from this process.
        """
        self._beats.start()
        await self._each(lambda crew: crew.launch())
        for crew in self.crews:
            for child in crew.children:
                self.on_launch(child)
        until_s = time.monotonic() + self._ready_s
        compared = False
        while True:
            sightings = self.look()
            for one in sightings:
                if one.gone is not None:
                    raise UserError(f"{self.names[one.part]} could not start: {one.gone}")
            if not compared and len(sightings) == len(self.names) and all(one.facts for one in sightings):
                self._compare(sightings)
                compared = True
            if compared and all(one.ready >= 0 for one in sightings):
                FLEET.info("%d generators are ready", len(sightings))
                return
            if time.monotonic() > until_s:
                late = ", ".join(name for part, name in self.names.items() if self._is_late(part))
                raise UserError(f"not ready within {self._ready_s:g} s: {late}")
            await asyncio.sleep(_LOOK_S)

    async def close(self) -> None:
        self._over.set()
        await self._each(lambda crew: crew.close())

    @property
    def served(self) -> Mapping[Endpoint, int]:
        """Requests that each server answered with outputs, by the generators' reports; 0 where there is no report."""
        return Counter({Endpoint.of(url): count for url, count in self._sum("served").items()})

    @property
    def happened(self) -> Mapping[str, int]:
        return self._sum("happened")

    def look(self) -> list[Sighting]:
        """The last known state of each generator, by part."""
        sightings = sorted((one for crew in self.crews for one in crew.look()), key=lambda one: one.part)
        self.last_seen |= {one.part: one for one in sightings}
        return sightings

    async def begin(self, number: int) -> int:
        """Wait until all are ready for a phase and announce its start; returns the start, ns of our monotonic clock."""
        self._looked_s = time.monotonic()
        while not all(one.ready >= number or one.part in self.lost for one in self._judged()):
            await asyncio.sleep(_LOOK_S)
        now_ns = time.time_ns()
        self.planned_ns = now_ns + self._lead_ns
        FLEET.debug("phase %d begins in %.3f s", number, self._lead_ns * 1e-9)
        for crew in self.crews:
            crew.begin(self.planned_ns)
        return time.monotonic_ns() + self.planned_ns - now_ns

    async def follow(self, number: int) -> None:
        """Wait until every generator has ended the phase or is lost."""
        while True:
            sightings = self._judged(number)
            self.on_look(sightings)
            if self.lost and self._on_loss == "abort":
                loss = next(iter(self.lost.values()))
                self.aborted = f"{loss.name} was lost, and --on-host-loss is abort"
                await self.halt(number, self.aborted)
                return
            if all(one.ended >= number or one.part in self.lost for one in sightings):
                return
            await asyncio.sleep(_LOOK_S)

    async def halt(self, number: int, reason: str) -> None:
        """Have all end the phase early; wait for at most ``_HALT_S``."""
        FLEET.info("all generators are to end: %s", reason)
        for crew in self.crews:
            crew.stop(reason)
        until_s = time.monotonic() + _HALT_S
        while time.monotonic() < until_s:
            if all(one.ended >= number or one.gone or one.part in self.lost for one in self.look()):
                return
            await asyncio.sleep(_LOOK_S)

    async def collect(self, number: int) -> list[Part]:
        """What the generators did in a phase, by part; those that can no longer be asked are left out."""
        parts = [part for parts in await self._each(lambda crew: crew.collect(number)) for part in parts]
        self.messages |= {part.part: part.message for part in parts if part.message is not None}
        return sorted(parts, key=lambda part: part.part)

    def state(self, sighting: Sighting) -> str:
        """Its state as the view shows it: lost, done, starting, stale or running."""
        if sighting.part in self.lost:
            return "lost"
        if sighting.ended >= sighting.ready >= 0:
            return "done"
        if sighting.ready < 0:
            return "starting"
        return "stale" if sighting.silent_s > STALE_S else "running"

    def _judged(self, number: int | None = None) -> list[Sighting]:
        """Look at all generators and update ``lost``."""
        sightings = self.look()
        now_s = time.monotonic()
        blind = now_s - self._looked_s > _BLIND_S
        self._looked_s = now_s
        for one in sightings:
            if one.part in self.lost or (number is not None and one.ended >= number):
                continue
            reason = one.gone
            if reason is None and one.silent_s > LOST_S and not blind:
                reason = f"not heard for {LOST_S:g} s"
            if reason is not None:
                after_s = max((time.time_ns() - self.planned_ns) * 1e-9, 0.0) if self.planned_ns else 0.0
                self.lost[one.part] = Loss(
                    self.names[one.part], reason, datetime.now().astimezone(), after_s - min(one.silent_s, after_s), one
                )
                FLEET.error("%s is lost: %s", self.names[one.part], reason)
                self._crew_of(one.part).kill(one.part)
        return sightings

    def _crew_of(self, part: int) -> Crew:
        return next(crew for crew in self.crews if any(one.slice.part == part for one in crew.assignments))

    def _is_late(self, part: int) -> bool:
        seen = self.last_seen.get(part)
        return seen is None or seen.ready < 0

    def _compare(self, sightings: Sequence[Sighting]) -> None:
        table = differences(self._facts, {self.names[one.part]: one.facts or {} for one in sightings})
        if table:
            lines = "\n  ".join(table)
            raise UserError(f"the generators differ from this process; make them the same:\n  {lines}")

    def _sum(self, name: str) -> Counter[str]:
        """The sum of these counts over the last messages of the generators."""
        counts: Counter[str] = Counter()
        for message in self.messages.values():
            counts.update(message[name])
        return counts

    async def _each(self, what: Callable[[Crew], object]) -> list[list[Part]]:
        """Call ``what`` for all crews at once, each in a thread."""
        loop = asyncio.get_running_loop()
        with ThreadPoolExecutor(len(self.crews)) as pool:
            return list(await asyncio.gather(*(loop.run_in_executor(pool, what, crew) for crew in self.crews)))  # type: ignore[arg-type]

    def _beat(self) -> None:
        """Runs in a thread, so that a signal or a slow screen does not delay the beats."""
        while not self._over.wait(_BEAT_S):
            for crew in self.crews:
                crew.beat()
