"""Sizes the traffic from a short measurement of the system where the user gives no rate.

No figure of a result comes from this measurement.
"""

from __future__ import annotations

from typing import Protocol

from drumfire.bench.assemble.options import TrafficOptions
from drumfire.loadgen.advice import OPTIONS, on_size
from drumfire.loadgen.claim import Claim
from drumfire.loadgen.config import ConfigReader
from drumfire.loadgen.settings import Loop, Mode, Scenario, TestSettings, effective
from drumfire.loadgen.traffic import expected_rows
from drumfire.loadgen.wording import counted
from drumfire.sut.models.benchmarks import configured_as

_NULL_RATE = 1000.0
"""Queries a second of a Server run of the null system, whose own rate says nothing."""
_SERVER_SHARE = 0.25
"""The default rate of a Server run, as a share of the model's rate one by one: far from saturation, because the issuing
thread and the machine's other work need CPU time too."""
_OFFLINE_MARGIN = 1.1
"""Beside the LoadGen's own tenth: a machine is not equally fast at all times."""
_LEAST_LATENCY_NS = 50.0
_LONGER = 1.5
"""A run that takes this many times its least duration gets a note."""


class Service(Protocol):
    """How fast a system answers, measured before the run on real samples; measuring also warms it up."""

    def check(self) -> None:
        """Check that the system takes the data.  Raises ``UserError``."""

    def query_seconds(self, samples: int) -> tuple[float, float]:
        """Seconds that one query of a closed loop takes: as a rule, and the least that it may take."""

    def loop_rate(self, concurrency: int, think_ns: int) -> tuple[float, float]:
        """Queries a second of a closed loop of so many: as a rule, and the most to expect."""

    def samples_per_second(self, *, together: bool) -> float:
        """The rate when samples are sent one by one, or all together."""


def size_traffic(
    settings: TestSettings, model_name: str, options: TrafficOptions, service: Service, notes: list[str], *, null: bool
) -> str | None:
    """Set the scenario's rate if the user did not, add to the run's notes, and return the rate's source.

    The source is ``--qps``, ``user.conf`` or ``measured``; None where no measurement is behind it.  ``null``: the
    system is the null system.
    """
    built_in, scenario = TestSettings(), settings.scenario
    ConfigReader(options.round).from_config(built_in, None, configured_as(model_name), scenario.name)

    def is_set(name: str) -> bool:
        return bool(getattr(settings, name) != getattr(built_in, name))

    service.check()  # even if nothing is to be measured
    if scenario.loop is Loop.CLOSED:
        single = scenario == Scenario.SingleStream
        name = "single_stream_expected_latency_ns" if single else "multi_stream_expected_latency_ns"
        if is_set(name):
            return "user.conf"
        if settings.mode == Mode.AccuracyOnly:  # sends every sample once, however long it takes
            return None
        if settings.is_closed:
            usual, most = service.loop_rate(settings.concurrency, settings.think_time_ns)
            seconds, least_s = 1 / usual, settings.concurrency / most - settings.think_time_ns * 1e-9
        else:
            seconds, least_s = service.query_seconds(1 if single else settings.multi_stream_samples_per_query)
        latency_ns = max(least_s * 1e9, _LEAST_LATENCY_NS)  # the queries drawn before the run must last for it
        if options.count is not None:  # no more queries are drawn than are sent
            a_query_ns = 2e6 * settings.min_duration_ms / max(options.count - 1, 1)
            latency_ns = max(latency_ns, max(settings.concurrency, 1) * a_query_ns - settings.think_time_ns)
        setattr(settings, name, latency_ns)
        _note_length(settings, settings.min_query_count * seconds, f"a query takes about {seconds:.2g} s", notes)
        return "measured"
    offline = scenario == Scenario.Offline
    name = "offline_expected_qps" if offline else "server_target_qps"
    source: str | None = "user.conf" if options.qps is None else "--qps"
    if options.qps is None and not is_set(name):
        if offline and settings.mode == Mode.AccuracyOnly:
            return None
        source = "measured"
        if offline:
            capacity = service.samples_per_second(together=True)
            settings.offline_expected_qps = _rounded(capacity * _OFFLINE_MARGIN)
            samples = offline_samples(settings)
            notes.append(
                f"no --qps given: {_rounded(capacity):,.0f} samples a second were measured, so the one query has "
                f"{counted(samples, 'sample')}, which take about {samples / capacity:.2g} s"
            )
        elif null:
            settings.server_target_qps, source = _NULL_RATE, None
            notes.append(
                f"no --qps given: sending {_NULL_RATE:g} queries a second, as the null system answers any rate"
            )
        else:
            capacity = service.samples_per_second(together=False)
            settings.server_target_qps = _rounded(capacity * _SERVER_SHARE)
            notes.append(
                f"no --qps given: sending {settings.server_target_qps:g} queries a second, a quarter of the "
                f"{_rounded(capacity):g} that were measured one after another"
            )
    if not offline and settings.mode != Mode.AccuracyOnly:
        qps, least = settings.server_target_qps, settings.min_query_count
        _note_length(settings, least / qps if qps > 0 else 0.0, f"{qps:g} queries are sent a second", notes)
    return source


def check_room(claim: Claim, settings: TestSettings, options: TrafficOptions) -> None:
    """Raise ``OutputError`` where the claimed folder certainly has no room for the run."""
    if rows := least_rows(settings, options):
        claim.check_room(rows, on_size(effective(settings, 1, 1), OPTIONS))


def least_rows(settings: TestSettings, options: TrafficOptions) -> int:
    """How many rows a run has at least, as far as the options tell before anything is loaded or measured."""
    if settings.mode == Mode.AccuracyOnly or options.find_peak_performance:
        return 0
    if options.qps is not None and settings.scenario in (Scenario.Server, Scenario.Offline):
        return expected_rows(effective(settings, 1, 1), 1)
    width = settings.multi_stream_samples_per_query if settings.scenario == Scenario.MultiStream else 1
    return (options.count or 0) * width


def offline_samples(settings: TestSettings) -> int:
    """Samples of Offline's one query, as the reference counts them."""
    return max(settings.min_query_count, int(1.1 * (settings.min_duration_ms / 1000.0) * settings.offline_expected_qps))


def _note_length(settings: TestSettings, seconds: float, why: str, notes: list[str]) -> None:
    """Say so where a run's least number of queries makes it much longer than its least duration."""
    if seconds > _LONGER * settings.min_duration_ms / 1000:
        notes.append(
            f"this run takes about {seconds:.2g} s, longer than its least duration of "
            f"{settings.min_duration_ms / 1000:g} s (--time): {why}, and it has at least "
            f"{counted(settings.min_query_count, 'query')}"
        )


def _rounded(rate: float) -> float:
    return float(f"{rate:.3g}")
