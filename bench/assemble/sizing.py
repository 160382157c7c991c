"""How much traffic to draw where nobody gave a rate: from a short measurement of what the system does.

What is measured here only sizes the traffic; no figure of a result comes from it.
"""

from __future__ import annotations

import argparse
from typing import Protocol

from drumfire.loadgen import Scenario, TestSettings
from drumfire.loadgen.config import ConfigReader

_NULL_RATE = 1000.0
"""Queries a second where neither the user nor a measurement tells: only for the null system."""
_SERVER_SHARE = 0.25
"""Part of what the model answers one by one that a Server run asks for when no rate is given: far from saturation,
as the issuing thread and the machine's other work need their share as well."""
_OFFLINE_MARGIN = 1.3
_OFFLINE_SPARE_S = 2.0
"""Beyond the margin: a machine that was disturbed while it was measured may turn out twice as fast for some seconds."""
_CLOSED_LOOP_MARGIN = 0.7
"""Assume somewhat faster than measured, so that the pre-drawn queries last for the run."""


class Service(Protocol):
    """How fast a system answers, measured before the run on real samples; measuring warms it up as well."""

    def check(self) -> None:
        """See that the system takes the data.  Raises what the command line tells as one line."""

    def query_seconds(self, samples: int) -> float:
        """How long one query of a closed loop takes."""

    def samples_per_second(self, *, together: bool) -> float:
        """The rate when samples are asked for one by one, or all together."""


def size_traffic(
    settings: TestSettings,
    model_name: str,
    options: argparse.Namespace,
    service: Service | None,
    notes: list[str],
) -> str | None:
    """Set the rates that nobody gave; returns where the scenario's rate came from, and adds to the run's notes."""
    built_in, scenario = TestSettings(), settings.scenario
    ConfigReader(options.round).from_config(built_in, None, model_name, scenario.name)

    def given(name: str) -> bool:
        return bool(getattr(settings, name) != getattr(built_in, name))

    if service is not None:
        service.check()  # whatever else was given
    if scenario in (Scenario.SingleStream, Scenario.MultiStream):
        if options.qps is not None:
            notes.append(f"--qps has no effect in {scenario.name}: a query follows when the last is answered")
        single = scenario == Scenario.SingleStream
        name = "single_stream_expected_latency_ns" if single else "multi_stream_expected_latency_ns"
        if given(name):
            return "user.conf"
        samples = 1 if single else settings.multi_stream_samples_per_query
        seconds = service.query_seconds(samples) if service is not None else 1e-6
        setattr(settings, name, max(seconds * _CLOSED_LOOP_MARGIN * 1e9, 500.0))
        return "measured"
    offline = scenario == Scenario.Offline
    name = "offline_expected_qps" if offline else "server_target_qps"
    capacity = service.samples_per_second(together=offline) if service is not None else _NULL_RATE
    if options.qps is not None or given(name):
        if offline and settings.offline_expected_qps * 2 < capacity:
            notes.append(
                f"--qps {settings.offline_expected_qps:g} sizes the one query of Offline, and {capacity:.0f} samples a "
                "second were measured: the run may well be over before its least duration; raise --qps"
            )
        return "user.conf" if options.qps is None else "--qps"
    spare = _OFFLINE_SPARE_S / (settings.min_duration_ms / 1e3) if settings.min_duration_ms else 0.0
    rate = _rounded(capacity * (_OFFLINE_MARGIN + spare if offline else _SERVER_SHARE))
    setattr(settings, name, rate)
    notes.append(f"no --qps given: asking for {rate:g} a second, from a measurement of {_rounded(capacity):g} a second")
    return "measured"


def _rounded(rate: float) -> float:
    return float(f"{rate:.3g}")
