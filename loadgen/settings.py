"""The settings of a test: the requested ones, and the effective ones that follow from them.

``TestSettings`` have the names and defaults of the reference LoadGen's Python module; ``EffectiveSettings`` are derived
from them once, when the test starts.  Pure data and arithmetic.
"""

from __future__ import annotations

import enum
import math
import numbers
from dataclasses import dataclass
from typing import Any, Self

from drumfire.loadgen.errors import UserError


class SettingsError(UserError, ValueError):
    """Settings that no test can follow.  The text is one line and says what to change."""


class Loop(enum.Enum):
    """What makes a row due."""

    OPEN = "open"
    """A schedule, drawn before the run; in Offline all rows are due at the start."""
    CLOSED = "closed"
    """The answer to a query before: to the last one, or to any of several under way."""


CLOSED_LOOP = "ClosedLoop"
"""What a closed loop of n queries under way is called where others have a scenario's name."""


class _Named(enum.IntEnum):
    """Also found by a member's name, in any case.  Raises ``SettingsError`` for others."""

    @classmethod
    def _missing_(cls, value: object) -> Self:
        found = [one for one in cls if isinstance(value, str) and one.name.casefold() == value.casefold()]
        if not found:
            known = ", ".join(cls.__members__)
            raise SettingsError(f"unknown {cls.__name__.lower()} {value!r}: choose one of {known}")
        return found[0]


class Scenario(_Named):
    SingleStream = 0
    MultiStream = 1
    Server = 2
    Offline = 3

    @property
    def loop(self) -> Loop:
        return Loop.CLOSED if self in (Scenario.SingleStream, Scenario.MultiStream) else Loop.OPEN


class Mode(_Named):
    SubmissionRun = 0
    AccuracyOnly = 1
    PerformanceOnly = 2
    FindPeakPerformance = 3

    @property
    def has_accuracy(self) -> bool:
        """Whether a phase of the run is judged by its answers."""
        return self in (Mode.AccuracyOnly, Mode.SubmissionRun)


def percentile_name(percentile: float) -> str:
    """0.5 is ``p50``, 0.999 is ``p99.9``."""
    return f"p{percentile * 100:g}"


_LONGEST_S = 1e9
_LEAST_RATE, _MOST_RATE = 1e-6, 1e15
"""Queries/s.  Beyond these bounds the times of queries, ns, leave 64 bits; no test is so long or so fast."""


class _Looped:
    """The loop of a test, from its settings."""

    scenario: Scenario
    concurrency: int

    @property
    def loop(self) -> Loop:
        return self.scenario.loop

    @property
    def is_closed(self) -> bool:
        """Whether several queries are kept under way, as by ``--loop closed``, which is not an MLPerf scenario.

        SingleStream and MultiStream wait for answers too (``loop``), but for each one in turn (``in_turn``).
        """
        return bool(self.concurrency)

    @property
    def in_turn(self) -> bool:
        """Whether each query waits for the answer to the one before: SingleStream and MultiStream."""
        return self.loop is Loop.CLOSED and not self.is_closed

    @property
    def kind(self) -> str:
        """The name of the scenario, or ``CLOSED_LOOP``."""
        return CLOSED_LOOP if self.is_closed else self.scenario.name


@dataclass
class TestSettings(_Looped):
    """The requested settings.  Latencies in ns, durations in ms, rates per second, percentiles as fractions.

    Names, types and defaults are those of ``mlperf_loadgen.TestSettings`` 6.0; the last two are not MLPerf's.
    ``scenario`` and ``mode`` may be given by their names.
    """

    __test__ = False  # pytest takes classes called Test* for tests

    scenario: Scenario = Scenario.SingleStream
    mode: Mode = Mode.PerformanceOnly
    single_stream_expected_latency_ns: float = 1e6
    single_stream_target_latency_percentile: float = 0.90
    multi_stream_expected_latency_ns: float = 8e6
    multi_stream_target_latency_percentile: float = 0.99
    multi_stream_samples_per_query: int = 8
    server_target_qps: float = 1.0
    server_target_latency_ns: int = 100_000_000
    server_target_latency_percentile: float = 0.99
    server_coalesce_queries: bool = False
    server_find_peak_qps_decimals_of_precision: int = 1
    server_find_peak_qps_boundary_step_size: float = 1.0
    server_max_async_queries: int = 0
    server_num_issue_query_threads: int = 0
    offline_expected_qps: float = 1.0
    sample_concatenate_permutation: bool = False
    min_duration_ms: int = 10_000
    max_duration_ms: int = 0
    min_query_count: int = 100
    max_query_count: int = 0
    qsl_rng_seed: int = 0
    sample_index_rng_seed: int = 0
    schedule_rng_seed: int = 0
    accuracy_log_rng_seed: int = 0
    accuracy_log_probability: float = 0.0
    accuracy_log_sampling_target: int = 0
    test05: bool = False
    test05_qsl_rng_seed: int = 0
    test05_sample_index_rng_seed: int = 0
    test05_schedule_rng_seed: int = 0
    print_timestamps: bool = False
    performance_issue_unique: bool = False
    performance_issue_same: bool = False
    performance_issue_same_index: int = 0
    performance_sample_count_override: int = 0
    accuracy_sample_count_override: int = 0
    use_token_latencies: bool = False
    ttft_latency: int = 100_000_000
    tpot_latency: int = 100_000_000
    infer_token_latencies: bool = False
    token_latency_scaling_factor: int = 0
    concurrency: int = 0
    """n: SingleStream's queries in a closed loop of n under way, where the answer to any makes the next due; 0: in the
    scenario's own loop."""
    think_time_ns: int = 0
    """In such a loop: from an answer until the next query is due."""

    def __setattr__(self, name: str, value: Any) -> None:
        default = getattr(type(self), name, None)
        if isinstance(default, _Named):
            value = type(default)(value)
        elif type(default) is int and isinstance(value, float) and value.is_integer():
            value = int(value)
        super().__setattr__(name, value)


@dataclass(frozen=True)
class EffectiveSettings(_Looped):
    """The settings that a test over one library follows.  Units as in ``TestSettings``."""

    scenario: Scenario
    mode: Mode
    samples_per_query: int
    target_qps: float
    target_latency_ns: int
    target_latency_percentile: float
    max_async_queries: int
    target_duration_ms: int
    """How long to generate and issue traffic; validity depends on ``min_duration_ms``."""
    min_duration_ms: int
    max_duration_ms: int
    min_query_count: int
    max_query_count: int
    min_sample_count: int
    qsl_rng_seed: int
    sample_index_rng_seed: int
    schedule_rng_seed: int
    accuracy_log_rng_seed: int
    accuracy_log_probability: float
    accuracy_log_sampling_target: int
    print_timestamps: bool
    performance_issue_unique: bool
    performance_issue_same: bool
    performance_issue_same_index: int
    performance_sample_count: int
    accuracy_sample_count: int
    sample_concatenate_permutation: bool
    use_token_latencies: bool
    ttft_latency: int
    tpot_latency: int
    infer_token_latencies: bool
    token_latency_scaling_factor: int
    errors: tuple[str, ...] = ()
    """Invalid settings, which the reference logs before it continues."""
    concurrency: int = 0
    think_time_ns: int = 0

    @property
    def stops_early(self) -> bool:
        """Whether MLPerf's early stopping has a say in the verdict."""
        return self.scenario != Scenario.Offline and not self.is_closed

    @property
    def expected_s(self) -> float:
        """How long the test takes at least, as far as the settings' durations tell."""
        return max(self.target_duration_ms, self.min_duration_ms) / 1000

    @property
    def query_width(self) -> int:
        """Samples that belong together: those of a query, but Offline's single query is divided by samples."""
        return self.samples_per_query if self.scenario == Scenario.MultiStream else 1


OF_CLOSED_LOOPS = ("concurrency", "think_time_ns")
"""Settings of closed loops of several queries alone."""
LOGGED_IN_THIS_ORDER = (
    "qsl_rng_seed",
    "sample_index_rng_seed",
    "schedule_rng_seed",
    "accuracy_log_rng_seed",
    "accuracy_log_probability",
    "accuracy_log_sampling_target",
    "print_timestamps",
    "performance_issue_unique",
    "performance_issue_same",
    "performance_issue_same_index",
)
"""Settings that the reference's logs all list in this order."""


def effective(requested: TestSettings, total_count: int, performance_count: int) -> EffectiveSettings:
    """Derive the effective settings for a library of ``total_count`` samples, ``performance_count`` fitting in memory.

    Source: the reference's TestSettingsInternal; products are taken left to right in doubles and truncated.
    Raises ``SettingsError``, which the reference does not: it replaces some values that no test can follow.
    """
    r = requested
    _check_numbers(r)
    errors: list[str] = []
    duration_s = r.min_duration_ms / 1000.0
    performance_samples = r.performance_sample_count_override or performance_count
    samples_per_query, max_async, target_latency, percentile = 1, 0, 0, 0.99
    min_query_count, target_duration = r.min_query_count, r.min_duration_ms

    if r.scenario == Scenario.SingleStream:
        target_qps = _rate_of_latency(r.single_stream_expected_latency_ns)
        max_async, percentile = 1, r.single_stream_target_latency_percentile
        if r.is_closed:
            max_async = r.concurrency
            target_qps = _rate(r.concurrency * 1e9 / (r.single_stream_expected_latency_ns + r.think_time_ns))
        if r.sample_concatenate_permutation:
            min_query_count = max(min_query_count, int(2.0 * duration_s * target_qps))
            min_query_count += performance_count - min_query_count % performance_count
    elif r.scenario == Scenario.MultiStream:
        target_qps = _rate_of_latency(r.multi_stream_expected_latency_ns)
        max_async, percentile = 1, r.multi_stream_target_latency_percentile
        samples_per_query = r.multi_stream_samples_per_query
    elif r.scenario == Scenario.Server:
        target_qps = _rate(r.server_target_qps)
        max_async, percentile = r.server_max_async_queries, r.server_target_latency_percentile
        target_latency = r.server_target_latency_ns
        if min_query_count / target_qps > _LONGEST_S:
            raise SettingsError(
                f"{min_query_count} queries at {target_qps:g} a second take more than {_LONGEST_S:.0e} s (31 years)"
            )
    else:
        target_qps = _rate(r.offline_expected_qps)
        max_async = 1
        if r.performance_issue_unique:
            samples_per_query = performance_samples
        else:
            samples_per_query = max(r.min_query_count, int(1.1 * duration_s * target_qps))
        min_query_count, target_duration = 1, 0

    if not 0 < percentile < 1:
        raise SettingsError(f"the target percentile must be above 0 and below 100 %, not {percentile * 100:g} %")
    if r.performance_issue_same and r.performance_issue_same_index >= performance_samples:
        errors.append(
            f"performance_issue_same_index = {r.performance_issue_same_index} must be below the performance sample "
            f"count {performance_samples}"
        )
    if r.performance_issue_unique and r.performance_issue_same:
        errors.append("performance_issue_unique and performance_issue_same cannot both be true")

    return EffectiveSettings(
        scenario=r.scenario,
        mode=r.mode,
        samples_per_query=samples_per_query,
        target_qps=target_qps,
        target_latency_ns=target_latency,
        target_latency_percentile=percentile,
        max_async_queries=max_async,
        target_duration_ms=target_duration,
        min_duration_ms=r.min_duration_ms,
        max_duration_ms=r.max_duration_ms,
        min_query_count=min_query_count,
        max_query_count=r.max_query_count,
        min_sample_count=min_query_count * samples_per_query,
        qsl_rng_seed=r.qsl_rng_seed,
        sample_index_rng_seed=r.sample_index_rng_seed,
        schedule_rng_seed=r.schedule_rng_seed,
        accuracy_log_rng_seed=r.accuracy_log_rng_seed,
        accuracy_log_probability=r.accuracy_log_probability,
        accuracy_log_sampling_target=r.accuracy_log_sampling_target,
        print_timestamps=r.print_timestamps,
        performance_issue_unique=r.performance_issue_unique,
        performance_issue_same=r.performance_issue_same,
        performance_issue_same_index=r.performance_issue_same_index,
        performance_sample_count=performance_samples,
        accuracy_sample_count=r.accuracy_sample_count_override or total_count,
        sample_concatenate_permutation=r.sample_concatenate_permutation,
        use_token_latencies=r.use_token_latencies,
        ttft_latency=r.ttft_latency,
        tpot_latency=r.tpot_latency,
        infer_token_latencies=r.infer_token_latencies,
        token_latency_scaling_factor=r.token_latency_scaling_factor,
        errors=tuple(errors),
        concurrency=r.concurrency,
        think_time_ns=r.think_time_ns,
    )


def _check_numbers(requested: TestSettings) -> None:
    for name, value in vars(requested).items():
        kind = type(getattr(TestSettings, name))
        if name == "server_find_peak_qps_decimals_of_precision":  # -2 rounds to hundreds
            continue
        if kind is int and not (isinstance(value, numbers.Integral) and int(value) >= 0):
            raise SettingsError(f"{name} must be a whole number of at least 0, not {value!r}")
        if kind is int and value >= 1 << 64:
            raise SettingsError(f"{name} must be below 2^64")
        if kind is float and not (isinstance(value, numbers.Real) and 0 <= float(value) < math.inf):
            raise SettingsError(f"{name} must be a finite number of at least 0, not {value!r}")
    if requested.min_duration_ms > _LONGEST_S * 1000:
        raise SettingsError(f"min_duration_ms must be at most {_LONGEST_S * 1000:.0e} (31 years)")
    if requested.multi_stream_samples_per_query < 1:
        raise SettingsError("multi_stream_samples_per_query must be at least 1, not 0")
    if requested.is_closed and requested.scenario != Scenario.SingleStream:
        raise SettingsError(
            f"a closed loop of {requested.concurrency} has the queries of SingleStream, not of "
            f"{requested.scenario.name}: leave concurrency out"
        )
    if requested.is_closed and requested.mode in (Mode.SubmissionRun, Mode.FindPeakPerformance):
        raise SettingsError(f"{requested.mode.name} is for MLPerf's scenarios, not for a closed loop: leave one out")
    if requested.think_time_ns and not requested.is_closed:
        raise SettingsError("think_time_ns is for a closed loop: give concurrency, or leave it out")
    if requested.think_time_ns > _LONGEST_S * 1e9:
        raise SettingsError(f"think_time_ns must be at most {_LONGEST_S * 1e9:.0e} (31 years)")


def _rate_of_latency(expected_latency_ns: float) -> float:
    if not 1e9 / _MOST_RATE <= expected_latency_ns <= 1e9 / _LEAST_RATE:
        raise SettingsError(
            f"the expected latency must be above 0 ns, within {1e9 / _MOST_RATE:g} to {1e9 / _LEAST_RATE:g}, not "
            f"{expected_latency_ns:g}"
        )
    return 1e9 / expected_latency_ns


def _rate(target_qps: float) -> float:
    if not _LEAST_RATE <= target_qps <= _MOST_RATE:
        raise SettingsError(
            f"the target rate must be above 0 queries/s, within {_LEAST_RATE:g} to {_MOST_RATE:g}, not {target_qps:g}"
        )
    return target_qps
