"""What the reference answers with a crash, a hang or silence is an error here that says what to do."""

import asyncio
import gc
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from drumfire.loadgen.compat import api as lg
from drumfire.loadgen.compat import settings as compat_settings
from drumfire.loadgen.compat import start
from drumfire.loadgen.directory import OutputError
from drumfire.loadgen.settings import SettingsError

SCENARIOS = ("SingleStream", "MultiStream", "Server", "Offline")


class Harness:
    """A system that answers with ``answer``, given a list of QuerySample, and a test of some tenths of a second."""

    def __init__(self, folder: Path, answer: Callable[[list], object] | None = None) -> None:
        self.folder = folder
        self.answer = answer or answer_at_once
        self.issued = 0
        self.sut = lg.ConstructSUT(self.issue, lambda: None)
        self.qsl = lg.ConstructQSL(50, 20, lambda _: None, lambda _: None)
        self.settings = lg.TestSettings()
        self.settings.min_duration_ms = 0
        self.settings.min_query_count = 30
        self.settings.server_target_qps = 3000
        self.logs = lg.LogSettings()
        self.logs.log_output.outdir = str(folder)

    def issue(self, samples: list) -> None:
        self.issued += len(samples)
        self.answer(samples)

    def run(self, scenario: str = "SingleStream", **settings: Any) -> None:
        self.settings.scenario = getattr(lg.TestScenario, scenario)
        for name, value in settings.items():
            setattr(self.settings, name, value)
        lg.StartTestWithLogSettings(self.sut, self.qsl, self.settings, self.logs, str(self.folder / "no.config"))

    def detail(self) -> list[dict[str, Any]]:
        lines = (self.folder / "mlperf_log_detail.txt").read_text().splitlines()
        return [json.loads(line.removeprefix(":::MLLOG ")) for line in lines]

    def value(self, key: str) -> Any:
        return next(entry["value"] for entry in self.detail() if entry["key"] == key)

    def errors(self) -> list[str]:
        return [entry["value"] for entry in self.detail() if entry["metadata"]["is_error"]]


def responses(samples: list) -> list:
    return [lg.QuerySampleResponse(sample.id, 0, 0) for sample in samples]


def answer_at_once(samples: list) -> None:
    lg.QuerySamplesComplete(responses(samples))


@pytest.fixture(autouse=True)
def _short_patience(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(start, "patience_s", 0.5)
    compat_settings.config.errors.clear()  # of other tests
    yield
    compat_settings.config.errors.clear()


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_two_tests_in_one_process(scenario: str, tmp_path: Path) -> None:
    harness = Harness(tmp_path)
    for _ in range(2):
        harness.run(scenario)
        assert harness.errors() == []


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_what_a_callback_raises_comes_out_and_the_next_test_runs(scenario: str, tmp_path: Path) -> None:
    def fail(samples: list) -> None:
        if harness.issued > 10:
            raise LookupError("no such model")
        answer_at_once(samples)

    harness = Harness(tmp_path, fail)
    with pytest.raises(LookupError, match="no such model"):
        harness.run(scenario)
    assert harness.errors()[-1] == "LookupError: no such model"
    assert harness.value("result_validity") == "INVALID"
    harness.answer = answer_at_once
    harness.run(scenario)
    assert harness.errors() == []


def test_a_library_that_fails_is_told(tmp_path: Path) -> None:
    harness = Harness(tmp_path)

    def load(indices: list) -> None:
        raise LookupError("no such file")

    harness.qsl = lg.ConstructQSL(50, 20, load, lambda _: None)
    with pytest.raises(LookupError):
        harness.run()
    assert harness.issued == 0


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_an_answer_to_no_sample_breaks_the_test_off(scenario: str, tmp_path: Path) -> None:
    harness = Harness(tmp_path, lambda samples: lg.QuerySamplesComplete([lg.QuerySampleResponse(10**12, 0, 0)]))
    with pytest.raises(ValueError, match="id 1000000000000"):
        harness.run(scenario)


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_an_answer_to_no_sample_by_a_thread_breaks_the_test_off(scenario: str, tmp_path: Path) -> None:
    told: list[BaseException] = []

    def wrong() -> None:
        try:
            lg.QuerySamplesComplete([lg.QuerySampleResponse(10**12, 0, 0)] * 2)
        except ValueError as error:
            told.append(error)

    def issue(samples: list) -> None:
        thread = threading.Thread(target=wrong)
        thread.start()
        thread.join()

    harness = Harness(tmp_path, issue)
    with pytest.raises(ValueError, match="id 1000000000000"):
        harness.run(scenario)
    assert told


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_an_answer_that_never_comes_is_a_timeout(scenario: str, tmp_path: Path) -> None:
    def forget_one(samples: list) -> None:
        lg.QuerySamplesComplete(responses(samples)[harness.issued > 10 :])

    harness = Harness(tmp_path, forget_one)
    with pytest.raises(TimeoutError, match="QuerySamplesComplete"):
        harness.run(scenario)
    assert harness.value("result_validity") == "INVALID"


@pytest.mark.parametrize("by_thread", [False, True])
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_second_answer_is_counted_and_the_first_stands(scenario: str, by_thread: bool, tmp_path: Path) -> None:
    """As in the reference, but that it is not VALID."""

    def twice(samples: list) -> None:
        def work() -> None:
            # Both in one call, so that the test can not be over before the second.
            lg.QuerySamplesComplete([one for one in responses(samples) for _ in range(2)])

        if by_thread:
            thread = threading.Thread(target=work)
            thread.start()
            thread.join()
        else:
            work()

    harness = Harness(tmp_path, twice)
    harness.run(scenario)
    assert harness.value("result_validity") == "INVALID"
    assert harness.errors() == ["Attempted to complete a sample twice."] * harness.issued


def test_a_second_answer_in_a_call_of_its_own(tmp_path: Path) -> None:
    def twice(samples: list) -> None:
        answer_at_once(samples)
        answer_at_once(samples)

    harness = Harness(tmp_path, twice)
    harness.run("SingleStream")
    assert harness.errors() == ["Attempted to complete a sample twice."] * 30


def test_an_answer_when_no_test_runs(tmp_path: Path) -> None:
    kept: list = []
    harness = Harness(tmp_path, lambda samples: (kept.extend(samples), answer_at_once(samples)))
    harness.run()
    lg.QuerySamplesComplete([])
    lg.FirstTokenComplete([])
    for complete in (lg.QuerySamplesComplete, lg.FirstTokenComplete):
        with pytest.raises(RuntimeError, match="no test is running"):
            complete(responses(kept[:1]))


def test_a_late_answer_to_an_earlier_test(tmp_path: Path) -> None:
    kept: list = []
    harness = Harness(tmp_path, lambda samples: (kept.extend(samples), answer_at_once(samples)))
    harness.run()
    harness.answer = lambda samples: answer_at_once(kept[:1])
    with pytest.raises(ValueError, match="which no sample of this test was issued with"):
        harness.run()


@pytest.mark.parametrize("wrong", [None, 5, [1], [None], ["x"], [1, 2], [lg.QuerySample(1, 2)], iter(())])
@pytest.mark.parametrize("mode", ["PerformanceOnly", "AccuracyOnly"])
def test_answers_of_another_type(wrong: Any, mode: str, tmp_path: Path) -> None:
    harness = Harness(tmp_path, lambda samples: lg.QuerySamplesComplete(wrong))
    with pytest.raises(TypeError):
        harness.run(mode=getattr(lg.TestMode, mode))


@pytest.mark.parametrize("kind", [list, tuple, lg.VectorQuerySampleResponse])
@pytest.mark.parametrize("scenario", SCENARIOS)
def test_answers_in_any_sequence(kind: type, scenario: str, tmp_path: Path) -> None:
    harness = Harness(tmp_path, lambda samples: lg.QuerySamplesComplete(kind(reversed(responses(samples)))))
    harness.run(scenario)
    assert harness.errors() == []


def test_data_at_no_address(tmp_path: Path) -> None:
    harness = Harness(tmp_path, lambda s: lg.QuerySamplesComplete([lg.QuerySampleResponse(s[0].id, 0, 8)]))
    with pytest.raises(ValueError, match="8 bytes at address 0"):
        harness.run(mode=lg.TestMode.AccuracyOnly)


@pytest.mark.parametrize(
    ("total", "perf", "settings", "told"),
    [
        (50, 20, {"server_num_issue_query_threads": 2}, "server_num_issue_query_threads must be 0"),
        (50, 0, {}, "at least 1"),
        (50, 20, {"min_query_count": 0}, "generate no query"),
        (20, 20, {"scenario": lg.TestScenario.Server, "server_target_qps": 0}, "above 0"),
        (50, 20, {"scenario": lg.TestScenario(9)}, "not a scenario"),
        (50, 20, {"mode": lg.TestMode(9)}, "not a mode"),
    ],
)
def test_settings_that_make_no_test(total: int, perf: int, settings: dict, told: str, tmp_path: Path) -> None:
    harness = Harness(tmp_path)
    harness.qsl = lg.ConstructQSL(total, perf, lambda _: None, lambda _: None)
    for name, value in settings.items():
        setattr(harness.settings, name, value)
    with pytest.raises(SettingsError, match=told):
        lg.StartTestWithLogSettings(harness.sut, harness.qsl, harness.settings, harness.logs)


def test_a_folder_that_is_not_there(tmp_path: Path) -> None:
    harness = Harness(tmp_path)
    harness.logs.log_output.outdir = str(tmp_path / "nowhere")
    with pytest.raises(OutputError, match="make the folder first"):
        harness.run()
    assert harness.issued == 0
    harness.logs.log_output.outdir = str(tmp_path)
    harness.run()


def test_handles() -> None:
    sut, qsl = lg.ConstructSUT(print, print), lg.ConstructQSL(1, 1, print, print)
    settings = lg.TestSettings()
    for wrong in ((0, qsl), (sut, 0), (qsl, sut), (10**9, qsl)):
        with pytest.raises(ValueError, match="handle"):
            lg.StartTest(*wrong, settings)
    for destroy, handle in ((lg.DestroySUT, qsl), (lg.DestroyFastSUT, sut), (lg.DestroyQDL, sut), (lg.DestroyQSL, sut)):
        with pytest.raises(ValueError, match="is the handle of a"):
            destroy(handle)
    lg.DestroySUT(0)
    lg.DestroySUT(sut)
    for use in (lambda: lg.DestroySUT(sut), lambda: lg.StartTest(sut, qsl, settings)):
        with pytest.raises(ValueError, match="already destroyed"):
            use()
    for wrong_type in (None, 2.0, -3, "1"):
        with pytest.raises(TypeError):
            lg.DestroySUT(wrong_type)
    with pytest.raises(TypeError, match="is not callable"):
        lg.ConstructSUT(1, print)
    with pytest.raises(TypeError):
        lg.ConstructQSL(-1, 1, print, print)


def test_one_test_at_a_time(tmp_path: Path) -> None:
    told: list[BaseException] = []

    def nested(samples: list) -> None:
        try:
            lg.StartTest(harness.sut, harness.qsl, harness.settings)
        except RuntimeError as error:
            told.append(error)
        answer_at_once(samples)

    harness = Harness(tmp_path, nested)
    harness.run(min_query_count=1)
    assert "already" in str(told[0])


def test_a_second_user_conf_is_told_in_the_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compat_settings, "config", compat_settings.ConfigReader())
    monkeypatch.setattr(start, "config", compat_settings.config)
    conf = tmp_path / "user.conf"
    conf.write_text("*.*.min_query_count = 31\n")
    harness = Harness(tmp_path)
    assert harness.settings.FromConfig(str(conf), "resnet50", "SingleStream") == 0
    assert (harness.settings.performance_sample_count_override, harness.settings.min_query_count) == (1024, 31)
    assert lg.TestSettings().FromConfig(str(conf), "resnet50", "SingleStream") == 0
    harness.run(min_duration_ms=0, performance_sample_count_override=0)
    assert "Multiple conf files are used" in harness.errors()[0]
    harness.run()
    assert harness.errors() == []


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_a_callback_may_run_a_loop_of_its_own_and_a_loop_may_start_a_test(scenario: str, tmp_path: Path) -> None:
    async def answer(samples: list) -> None:
        await asyncio.sleep(0)
        answer_at_once(samples)

    async def main() -> asyncio.AbstractEventLoop:
        harness.run(scenario)
        return asyncio.get_running_loop()

    harness = Harness(tmp_path, lambda samples: asyncio.run(answer(samples)))
    assert asyncio.run(main()) is not None
    assert harness.errors() == []


def test_callbacks_come_in_the_thread_of_the_call(tmp_path: Path) -> None:
    threads: set[int] = set()
    harness = Harness(tmp_path, lambda samples: (threads.add(threading.get_ident()), answer_at_once(samples)))
    raised: list[BaseException] = []

    def run() -> None:
        try:
            harness.run("MultiStream")
        except BaseException as error:
            raised.append(error)

    caller = threading.Thread(target=run)
    caller.start()
    ident = caller.ident
    caller.join()
    assert (threads, raised) == ({ident}, [])


def test_the_interpreter_is_as_the_script_has_it(tmp_path: Path) -> None:
    seen: set[tuple[float, bool]] = set()
    harness = Harness(
        tmp_path, lambda samples: (seen.add((sys.getswitchinterval(), gc.isenabled())), answer_at_once(samples))
    )
    before = (sys.getswitchinterval(), gc.isenabled(), gc.get_threshold())
    harness.run("Server")
    assert seen == {before[:2]}
    assert (sys.getswitchinterval(), gc.isenabled(), gc.get_threshold()) == before


@pytest.mark.parametrize("scenario", SCENARIOS)
@pytest.mark.parametrize("waiting", [False, True])
def test_an_interrupt_ends_the_test_at_once(scenario: str, waiting: bool, tmp_path: Path) -> None:
    """In the callback, or while the answer is waited for, where the reference can not be interrupted at all."""

    def issue(samples: list) -> None:
        if waiting:
            threading.Timer(0.1, os.kill, (os.getpid(), signal.SIGINT)).start()
        else:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(20)

    start.patience_s = 60
    handler = signal.getsignal(signal.SIGINT)
    harness = Harness(tmp_path, issue)
    with pytest.raises(KeyboardInterrupt):
        harness.run(scenario, min_query_count=1)
    assert signal.getsignal(signal.SIGINT) is handler
    assert harness.errors()[-1] == "KeyboardInterrupt"
    harness.answer = answer_at_once
    harness.run(scenario)
