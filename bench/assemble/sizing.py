"""Sizes the traffic from a short measurement of the system where the user gives no rate.

No figure of a result comes from this measurement.
"""

from __future__ import annotations

from typing import Protocol

from drumfire.bench.assemble.options import TrafficOptions
from drumfire.loadgen.config import ConfigReader
from drumfire.loadgen.settings import Loop, Scenario, TestSettings

_NULL_RATE = 1000.0
"""Queries a second of the null system, which is not measured, unless the user gives a rate."""
_SERVER_SHARE = 0.25
"""The default rate of a Server run, as a share of the model's rate one by one: far from saturation, because the issuing
thread and the machine's other work need CPU time too."""
_OFFLINE_MARGIN = 1.3
_OFFLINE_SPARE_S = 2.0
"""Traffic beyond the margin: a machine that was disturbed during the measurement may be twice as fast for seconds."""
_CLOSED_LOOP_MARGIN = 0.7
"""Assume shorter latencies than measured, so that the queries drawn before the run last for it."""


class Service(Protocol):
    """How fast a system answers, measured before the run on real samples; measuring also warms it up."""

    def check(self) -> None:
        """Check that the system takes the data.  Raises ``UserError``."""

    def query_seconds(self, samples: int) -> float:
        """Seconds that one query of a closed loop takes."""

    def samples_per_second(self, *, together: bool) -> float:
        """The rate when samples are sent one by one, or all together."""


def size_traffic(
    settings: TestSettings, model_name: str, options: TrafficOptions, service: Service | None, notes: list[str]
) -> str:
    """Set the scenario's rate if the user did not, add to the run's notes, and return the rate's source.

    The source is ``--qps``, ``user.conf`` or ``measured``.
    """
    built_in, scenario = TestSettings(), settings.scenario
    ConfigReader(options.round).from_config(built_in, None, model_name, scenario.name)

    def is_set(name: str) -> bool:
        return bool(getattr(settings, name) != getattr(built_in, name))

    if service is not None:
        service.check()  # even if nothing is to be measured
    if scenario.loop is Loop.CLOSED:
        single = scenario == Scenario.SingleStream
        name = "single_stream_expected_latency_ns" if single else "multi_stream_expected_latency_ns"
        if is_set(name):
            return "user.conf"
        samples = 1 if single else settings.multi_stream_samples_per_query
        seconds = service.query_seconds(samples) if service is not None else 1e-6
        setattr(settings, name, max(seconds * _CLOSED_LOOP_MARGIN * 1e9, 500.0))
        return "measured"
    offline = scenario == Scenario.Offline
    name = "offline_expected_qps" if offline else "server_target_qps"
    capacity = service.samples_per_second(together=offline) if service is not None else _NULL_RATE
    if options.qps is not None or is_set(name):
        if offline and settings.offline_expected_qps * 2 < capacity:
            notes.append(
                f"--qps {settings.offline_expected_qps:g} sizes the one query of Offline, and {capacity:.0f} samples a "
                "second were measured: the run may end before its least duration; raise --qps"
            )
        return "user.conf" if options.qps is None else "--qps"
    spare = _OFFLINE_SPARE_S / (settings.min_duration_ms / 1e3) if settings.min_duration_ms else 0.0
    rate = _rounded(capacity * (_OFFLINE_MARGIN + spare if offline else _SERVER_SHARE))
    setattr(settings, name, rate)
    notes.append(f"no --qps given: sending {rate:g} a second, from a measurement of {_rounded(capacity):g} a second")
    return "measured"


def _rounded(rate: float) -> float:
    return float(f"{rate:.3g}")
