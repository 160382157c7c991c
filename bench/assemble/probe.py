"""Measures a system before a run, by short runs of the same system over the same library."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from drumfire.loadgen.advice import OPTIONS
from drumfire.loadgen.answers import Answers
from drumfire.loadgen.errors import UserError
from drumfire.loadgen.interpreter import run_on_fast_loop
from drumfire.loadgen.record import Status
from drumfire.loadgen.results import Results
from drumfire.loadgen.run import Test
from drumfire.loadgen.settings import Mode, Scenario, TestSettings
from drumfire.loadgen.system import IndexArray, SampleLibrary, SystemUnderTest
from drumfire.loadgen.wording import counted

_PROBE_S = 0.3
_PATIENCE_S = 20.0
"""How long a measurement waits for an answer."""
_MOST_ROWS = 2e6
"""Of a probe; bounds its memory."""
_MOST_PROBES = 5
_LONG_S = 1.0
"""A probe that took so long is not repeated."""
_PERIOD_SHARE = 0.7
"""Of the mean time from a query to the next, which a disturbance makes longer."""
CLOSED_LOOP_MARGIN = 0.7
"""A run's queries may take this share of what a system in this process was measured to take."""
_REMOTE_MARGIN = 0.5
"""The same for the fastest query of a remote system, where the network and the server may have been busy all the while.
More queries than a run needs cost only memory; too few make it INVALID."""


_CHECKED = 64
"""Most queries that check a remote system, which others may use too."""
_NAMED = 8
"""Most samples that failed where the first of them is named."""


class Probe:
    """How fast a system answers."""

    def __init__(
        self,
        system: SystemUnderTest,
        library: SampleLibrary,
        what: str = "",
        samples: int = 0,
        patience_s: float = _PATIENCE_S,
        *,
        remote: bool = False,
        most: int | None = None,
        advice: Callable[[str], str] = lambda error: "",
        place: Callable[[int], str] = "sample {}".format,
    ) -> None:
        """``what`` was sent and where, for errors.  ``samples``: the most to load; 0 for as many as a run does.
        ``patience_s``: how long to wait for an answer.  ``remote``: the system is not in this process.  ``most``:
        samples to send one by one in all, but for one of each measurement.  ``advice``: what helps with an error, to
        follow it.  ``place``: where a sample stands."""
        self._patience_s, self._remote, self._left, self._advice = patience_s, remote, most, advice
        self._place = place
        self._system, self._library, self._what, self._samples = system, library, what, samples

    def check(self) -> None:
        """Check that the system answers.  Raises ``UserError``."""
        half = _CHECKED if self._left is None else self._left // 2  # something is left to measure
        self._closed(1, min(half, _CHECKED) if self._remote else None)

    def query_seconds(self, samples: int) -> tuple[float, float]:
        """Seconds from a query of ``samples`` to the next in a closed loop: as a rule, and the least to expect."""
        results = self._closed(samples)
        latency = results.query_latency or results.latency
        usual = max(latency.percentiles[0.5], _PERIOD_SHARE * results.duration_ns / results.queries, 1.0) * 1e-9
        if self._remote:
            return usual, _REMOTE_MARGIN * max(latency.minimum, 1) * 1e-9
        return usual, CLOSED_LOOP_MARGIN * usual

    def loop_rate(self, concurrency: int, think_ns: int) -> tuple[float, float]:
        """Queries a second of a closed loop of ``concurrency``: as a rule, and the most to expect."""
        seconds = self.query_seconds(1)[0]
        places = max(min(concurrency, int(_LONG_S / seconds)), 1)  # of a slow system, few: not all are waited for
        if self._left is not None:
            places = max(min(places, self._left), 1)
        settings = TestSettings(
            concurrency=places,
            single_stream_expected_latency_ns=max(50_000, 2e9 * _PROBE_S * places / _MOST_ROWS),
            max_query_count=0 if self._left is None else max(self._left, 1),
        )
        measured = self._run(settings, _PROBE_S).rates["completed_samples_per_sec"]
        latency_s = places / measured * (_REMOTE_MARGIN if self._remote else CLOSED_LOOP_MARGIN)
        usual, most = (concurrency / (one + think_ns * 1e-9) for one in (places / measured, latency_s))
        return usual, most

    def _closed(self, samples: int, most: int | None = None) -> Results:
        """A closed loop of queries of ``samples``, at most ``most`` of them."""
        bounds = [one for one in (most, None if self._left is None else self._left // samples) if one is not None]
        settings = TestSettings(
            scenario=Scenario.MultiStream,
            multi_stream_samples_per_query=samples,
            multi_stream_expected_latency_ns=50_000,
            max_query_count=max(min(bounds), 1) if bounds else 0,
        )
        return self._run(settings, _PROBE_S)

    def samples_per_second(self, *, together: bool) -> float:
        """The rate when samples are sent one by one, or as Offline sends them: all together."""
        rate = 1.0 / self.query_seconds(1)[0]
        return self.offline_rate(rate) if together else rate

    def offline_rate(self, guess: float) -> float:
        """Samples a second of Offline, whose runs here begin at the rate ``guess``."""
        rate, known = max(guess, 4 / _PROBE_S), list[float]()
        while len(known) < _MOST_PROBES:  # each run sizes the next, until one is long enough
            seconds = min(_PROBE_S, _MOST_ROWS / rate)
            results = self._run(TestSettings(scenario=Scenario.Offline, offline_expected_qps=rate), seconds)
            rate = results.rates["samples_per_second"]
            known.append(rate)
            lasted_s = results.latency.maximum * 1e-9
            if lasted_s > _LONG_S or (len(known) > 1 and lasted_s > seconds / 2):
                break
        return max(known[-2:])

    def _run(self, settings: TestSettings, seconds: float) -> Results:
        settings.mode = Mode.PerformanceOnly
        settings.min_duration_ms = max(round(seconds * 1000), 1)
        settings.min_query_count = 1
        settings.performance_sample_count_override = min(self._samples, self._library.performance_count)
        system = _UntilFailed(self._system) if self._remote else self._system
        test = Test(system, self._library, settings, patience_s=self._patience_s, knobs=OPTIONS)
        run_on_fast_loop(test.run())
        faults = test.answers.faults
        what = f"{self._what}: " if self._what else ""
        if faults.failed:
            error = faults.failed.most_common(1)[0][0]
            where = self._where(np.unique(test.record.sample_index[test.record.status == Status.FAILED]))
            what += "" if where in error else where
            raise UserError(f"the check before the run failed: {what}{error}{self._advice(error)}")
        results = test.results()
        if self._left is not None:
            self._left = max(self._left - test.record.issued_rows, 0)
        if faults.unanswered or results is None:
            raise UserError(f"the check before the run failed: {what}no answer within {self._patience_s:.3g} s")
        return results

    def _where(self, failed: IndexArray) -> str:
        """Which samples failed; empty where they are so many that it is not for their values."""
        if len(failed) > _NAMED:
            return ""
        more = f" and {counted(len(failed) - 1, 'other')}" if len(failed) > 1 else ""
        return f"{self._place(int(failed[0]))}{more}: "


class _UntilFailed:
    """``system``, but what follows a failure is not sent: the run ends."""

    answer = None

    def __init__(self, system: SystemUnderTest) -> None:
        self.name, self.columns = system.name, system.columns
        self.flush, self.close = system.flush, system.close
        self._system = system

    async def open(self, answers: Answers) -> None:
        self._answers = answers
        await self._system.open(answers)

    def issue(self, first: int, last: int) -> None:
        if self._answers.faults.failed:
            self._answers.abort("a sample failed")
        else:
            self._system.issue(first, last)
