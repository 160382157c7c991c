"""Traffic is sized by what was measured on the path that runs, and the note says what was measured and what follows."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drumfire.bench.assemble.options import TrafficOptions
from drumfire.bench.assemble.probe import Probe
from drumfire.bench.assemble.sizing import offline_samples, size_traffic
from drumfire.loadgen.answers import Answers
from drumfire.loadgen.config import ConfigReader
from drumfire.loadgen.errors import UserError
from drumfire.loadgen.rounds import DEFAULT_ROUND
from drumfire.loadgen.settings import Mode, Scenario, TestSettings, effective
from drumfire.loadgen.traffic import expected_rows
from drumfire.sut.local.null import NullSystem, null_library
from tests.support.command import here, one_line_error

CLOSED = [Scenario.SingleStream, Scenario.MultiStream]


class Measured:
    """A service of a known speed, which must not be asked in vain."""

    def __init__(self, rate: float | None = None) -> None:
        self._rate, self.checked = rate, False

    def check(self) -> None:
        self.checked = True

    def query_seconds(self, samples: int) -> tuple[float, float]:
        assert self._rate is not None
        return samples / self._rate, 0.5 * samples / self._rate

    def samples_per_second(self, *, together: bool) -> float:
        assert self._rate is not None
        return self._rate


def sized(
    scenario: Scenario, rate: float | None, *, null: bool = False, count: int | None = None, **asked: object
) -> tuple[TestSettings, list[str], str | None]:
    settings, notes = TestSettings(scenario=scenario), list[str]()
    ConfigReader(DEFAULT_ROUND).from_config(settings, None, "x", scenario.name)
    for name, value in ({"min_query_count": 100} | asked).items():
        setattr(settings, name, value)
    if count is not None:
        settings.min_query_count = settings.max_query_count = count
    service = Measured(rate)
    source = size_traffic(settings, "x", TrafficOptions(count=count), service, notes, null=null)
    assert service.checked
    return settings, notes, source


@given(st.floats(10, 1e7), st.integers(1000, 600_000))
def test_offline_lasts_about_its_least_duration(rate: float, duration_ms: int) -> None:
    settings, (note, *_), source = sized(Scenario.Offline, rate, min_duration_ms=duration_ms, min_query_count=1)
    samples = effective(settings, 10, 10).samples_per_query
    assert samples == offline_samples(settings)
    assert samples / rate == pytest.approx(1.21 * duration_ms / 1000, rel=0.01, abs=1 / rate)
    assert f"the one query has {samples:,} samples" in note
    assert source == "measured"


@pytest.mark.parametrize("scenario", Scenario)
def test_an_accuracy_run_measures_nothing_that_it_does_not_need(scenario: Scenario) -> None:
    settings, notes, source = sized(
        scenario, 1000.0 if scenario == Scenario.Server else None, mode=Mode.AccuracyOnly, min_duration_ms=600_000
    )
    if scenario == Scenario.Server:  # which sends its samples at a rate also then
        assert settings.server_target_qps == 250
    else:
        assert source is None
        assert notes == []


@pytest.mark.parametrize("scenario", CLOSED)
@given(st.integers(2, 10**6))
def test_a_count_alone_draws_only_that_many_queries(scenario: Scenario, count: int) -> None:
    settings, _, _ = sized(scenario, 1e9, count=count, min_duration_ms=600_000)
    internal = effective(settings, 10, 10)
    assert expected_rows(internal, 10) <= (count + 1) * internal.samples_per_query


def test_the_null_server_run_says_that_nothing_was_measured() -> None:
    settings, (note,), source = sized(Scenario.Server, None, null=True)
    assert settings.server_target_qps == 1000
    assert "measure" not in note
    assert source is None


def test_server_says_what_was_measured_and_what_is_sent() -> None:
    _, (note,), source = sized(Scenario.Server, 1000.0)
    assert note == (
        "no --qps given: sending 250 queries a second, a quarter of the 1000 that were measured one after another"
    )
    assert source == "measured"


@pytest.mark.parametrize("scenario", CLOSED)
def test_a_run_that_takes_much_longer_than_asked_says_so(scenario: Scenario) -> None:
    samples = 8 if scenario == Scenario.MultiStream else 1
    _, (note,), _ = sized(scenario, 2.0 * samples, min_duration_ms=1000)
    assert "takes about 50 s, longer than its least duration of 1 s" in note
    assert "at least 100 queries" in note
    assert sized(scenario, 200.0 * samples, min_duration_ms=1000)[1] == []


def test_a_slow_rate_is_told_too() -> None:
    assert "takes about 50 s" in sized(Scenario.Server, 8.0, min_duration_ms=1000)[1][-1]


def test_the_null_system_is_measured_as_it_runs() -> None:
    probe = Probe(NullSystem(Mode.PerformanceOnly), null_library())
    assert probe.query_seconds(1)[0] < 1e-3
    assert probe.samples_per_second(together=True) > 1e5


def test_a_remote_system_may_be_much_faster_in_the_run_than_it_was_before() -> None:
    """What was measured in a bad moment must not be too few queries: the fastest of them counts, and that halved."""

    class Jittery(NullSystem):
        """Every tenth query takes 50 us, the others 2 ms."""

        answer = None  # type: ignore[assignment]

        async def open(self, answers: Answers) -> None:
            self._complete, self._issued = answers.complete, 0

        def issue(self, first: int, last: int) -> None:
            self._issued += 1
            seconds = 50e-6 if self._issued % 10 == 0 else 2e-3
            asyncio.get_running_loop().call_later(seconds, self._complete, first, last)

    usual_s, least_s = Probe(Jittery(Mode.PerformanceOnly), null_library(), remote=True).query_seconds(1)
    assert usual_s >= 1e-3
    assert least_s < usual_s / 4


def test_a_failed_probe_says_what_was_sent_where() -> None:
    class Failing(NullSystem):
        answer = None  # type: ignore[assignment]

        async def open(self, answers: object) -> None:
            self._fail = answers.fail  # type: ignore[attr-defined]

        def issue(self, first: int, last: int) -> None:
            self._fail(first, last, "no reply within 0.2 s (--request-timeout)")

    system = Failing(Mode.SubmissionRun)
    with pytest.raises(UserError) as caught:
        Probe(system, null_library(), "http://h/x (POST of application/json)").check()
    assert str(caught.value) == (
        "the check before the run failed: http://h/x (POST of application/json): no reply within 0.2 s "
        "(--request-timeout)"
    )


def test_a_failed_probe_names_the_sample() -> None:
    class Refusing(NullSystem):
        answer = None  # type: ignore[assignment]

        async def open(self, answers: Any) -> None:
            self._answers = answers

        def issue(self, first: int, last: int) -> None:
            for row in range(first, last):
                if self._answers.sample_index[row] == 5:
                    self._answers.fail(row, row + 1, "no")
                else:
                    self._answers.complete(row, row + 1)

    for place, told in (({}, "sample 5: no"), ({"place": "line {}".format}, "line 5: no")):
        with pytest.raises(UserError) as caught:
            Probe(Refusing(Mode.SubmissionRun), null_library(), samples=8, **place).check()
        assert str(caught.value) == f"the check before the run failed: {told}"


def test_a_null_run_of_five_queries(tmp_path: object) -> None:
    done = here("run", "null", "digits", "--count", "5", "--no-dashboard", "--output", f"{tmp_path}/run")
    assert done.returncode == 1
    told = " ".join(done.stdout.split())
    assert "5 samples, 5 queries" in told
    assert "raise --count to" in told
    assert "latency so the loadgen" not in told


def test_a_table_that_memory_cannot_hold_names_what_helps(tmp_path: object) -> None:
    words = ["run", "null", "digits", "--time", "1e8", "--no-dashboard", "--output", f"{tmp_path}/run"]
    done = here(*words)
    one_line_error(done, "GB are available: lower --time")
    assert "--qps" not in done.stderr
