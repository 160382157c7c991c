"""The reference's own search for a Server peak (mode FindPeakPerformance): full-length runs, doubling, then halving.

Kept for harnesses that use it; ``drumfire.bench.peak.search`` is better for people.  This search needs a first rate
that passes, checks only the latency bound, and has no upper limit.  ``trials`` is its arithmetic.
"""

from __future__ import annotations

import math
from collections.abc import Generator
from dataclasses import dataclass, replace
from typing import TextIO

from drumfire.loadgen.run import DEFAULT_PATIENCE_S, Test
from drumfire.loadgen.settings import Mode, Scenario, TestSettings
from drumfire.loadgen.system import SampleLibrary, SystemUnderTest


@dataclass(frozen=True)
class Trial:
    """A rate to try, and log messages from before and after its samples are loaded."""

    qps: float
    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()


def trials(start_qps: float, step: float, decimals: int) -> Generator[Trial, bool, float | None]:
    """Yields the rates to try; send whether each met the latency bound.  Returns the peak, or None if the first did not
    meet it.
    """
    low = start_qps
    if not (yield Trial(low, (f"FindPeakPerformance: Check validity of the base settings field: {low:f}",))):
        return None
    while True:
        high = low * (1.0 + step)
        if not (yield Trial(high, (f"FindBoundaries: Checking fields [{low:f}, {high:f})",))):
            break
        low = high
    boundaries: tuple[str, ...] = (f"FindPeakPerformance: Found boundaries: [{low:f}, {high:f})",)
    scale = 10.0**decimals
    while math.floor(low * scale) + 1 < math.floor(high * scale):
        middle = low + (high - low) / 2.0
        text = f"FindPeakPerformanceBinarySearch: Testing the mid value of bounds [{low:f}, {high:f}): {middle:f}"
        if (yield Trial(middle, boundaries, (text,))):
            low = middle
        else:
            high = middle
        boundaries = ()
    return low


async def find_peak(
    system: SystemUnderTest,
    library: SampleLibrary,
    requested: TestSettings,
    *,
    config_warnings: tuple[str, ...] = (),
    config_errors: tuple[str, ...] = (),
    audit_errors: tuple[str, ...] = (),
    patience_s: float = DEFAULT_PATIENCE_S,
    timestamps: TextIO | None = None,
) -> Test:
    """Search; returns the run at the peak, with the log of the whole search.

    If the first rate fails, returns its run, and outside of Server a test that never ran; the log has the error.  The
    table and the accuracy log are those of the returned run only.
    """
    requested = replace(requested, mode=Mode.FindPeakPerformance)
    head = Test(
        system,
        library,
        requested,
        config_warnings=config_warnings,
        config_errors=config_errors,
        audit_errors=audit_errors,
        patience_s=patience_s,
        timestamps=timestamps,
    )
    head.log.message("Starting FindPeakPerformance mode")
    if requested.scenario != Scenario.Server:
        head.log.error("error_invalid_config", "Finding peak performance is only supported in Server scenarios.")
        return head
    search = trials(
        head.effective.target_qps,
        requested.server_find_peak_qps_boundary_step_size,
        requested.server_find_peak_qps_decimals_of_precision,
    )
    passed: Test | None = None
    trial = next(search)
    test = head
    while True:
        test.announcements = (list(trial.before), list(trial.after))
        await test.run()
        results = test.results()
        good = results is not None and results.performance_met and test.interrupted is None
        if good:
            passed = test
        try:
            trial = search.send(good)
        except StopIteration as end:
            peak: float | None = end.value
            break
        settings = replace(requested, server_target_qps=trial.qps)
        test = Test(system, library, settings, patience_s=patience_s, log=head.log, timestamps=timestamps)
    if passed is None:
        # The first advice is on the latency; a run that was interrupted may have none.
        advice = results.recommendations[0] if results is not None and results.recommendations else None
        why = test.interrupted or advice or "no query was issued"
        text = f"FindPeakPerformance: Initial lower bound does not satisfy performance constraints, msg: {why}"
        head.log.error("error_runtime", text)
        return head
    head.log.message(f"FindPeakPerformance: Found peak performance field: {peak:f}")
    return passed
