"""A system in processes of its own: the same answers as in threads, whatever befalls the processes."""

import asyncio
import gc
import json
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from drumfire.loadgen.errors import UserError
from drumfire.loadgen.interpreter import run_on_fast_loop
from drumfire.loadgen.logs import write_accuracy
from drumfire.loadgen.record import Gauge, Status
from drumfire.loadgen.responses import as_bytes
from drumfire.loadgen.run import Test
from drumfire.loadgen.settings import Mode, Scenario, TestSettings
from drumfire.loadgen.warm_up import WarmUp
from drumfire.sut.local import process as own_process
from drumfire.sut.local.host import Surroundings
from drumfire.sut.local.process import MOST_WORKERS, OwnProcess
from tests.support import own_systems

ROOT = Path(__file__).parents[3]
SYSTEMS = "tests.support.own_systems"
SPARED = {"SPARED": "yes"}
Own = Callable[..., OwnProcess]


def open_files() -> int:
    gc.collect()  # tables of earlier runs
    return len(os.listdir("/proc/self/fd"))


def is_alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def await_end(*pids: int) -> None:
    for _ in range(500):
        if not any(map(is_alive, pids)):
            return
        time.sleep(0.01)
    raise AssertionError(f"{pids} live on")


@pytest.fixture
def own() -> Iterator[Own]:
    """Makes a system in processes of its own; at the end, nothing of it is left."""
    run_on_fast_loop(asyncio.sleep(0))  # the first loop opens files for all
    files, threads, made = open_files(), threading.active_count(), []

    def make(function: str = "batched", *arguments: Any, spared: tuple[bool, ...] = (False,), workers: int = 1) -> Any:
        around = [Surroundings(SPARED if one else {}) for one in spared]
        made.append(OwnProcess(f"{SYSTEMS}:{function}", *arguments, workers=workers, processes=around))
        return made[-1]

    yield make
    pids = [pid for system in made for pid in system.pids]
    for system in made:
        system.shut()
    assert not any(map(is_alive, pids))
    assert open_files() <= files
    assert threading.active_count() == threads


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is stopped is found at once."""
    monkeypatch.setattr(own_process, "_ANSWER_S", 0.3)
    monkeypatch.setattr(own_process, "_CLOSE_S", 0.6)


def settings(scenario: Scenario = Scenario.Server, mode: Mode = Mode.PerformanceOnly, **more: Any) -> TestSettings:
    basic = {"min_query_count": 200, "min_duration_ms": 0, "server_target_qps": 4000.0, "offline_expected_qps": 4000.0}
    if scenario == Scenario.MultiStream:
        basic["multi_stream_samples_per_query"] = 8
    if scenario == Scenario.Offline:
        basic["min_query_count"] = 1
        basic["min_duration_ms"] = 50
    return TestSettings(scenario=scenario, mode=mode, **(basic | more))


def run(system: Any, asked: TestSettings | None = None, library: Any = None, **options: Any) -> Test:
    test = Test(system, library or system.library, asked or settings(), **({"patience_s": 30.0} | options))
    run_on_fast_loop(test.run())
    adds_up(test)
    return test


def adds_up(test: Test) -> None:
    """The table, the gauges and the faults tell the same."""
    record, faults = test.record, test.answers.faults
    issued = record.gauges[Gauge.ISSUED]
    status = record.status[:issued]
    assert not record.status[issued : record.rows].any()
    assert (status != Status.PENDING).all()
    assert record.gauges[Gauge.ANSWERED] == test.answers.answered == issued
    assert record.gauges[Gauge.FAILED] == np.count_nonzero(status == Status.FAILED) == faults.failed.total()
    assert np.count_nonzero(status == Status.UNANSWERED) == faults.unanswered
    assert record.gauges[Gauge.REFUSED] == faults.refused.total()
    good = status == Status.OK
    assert (record.completed[:issued][good] >= record.issued[:issued][good]).all()


def is_fine(test: Test) -> None:
    assert test.spoiled() == []
    assert (test.record.status[: test.record.issued_rows] == Status.OK).all()


def kept(test: Test) -> dict[int, bytes]:
    """The logged responses, by row."""
    found: dict[int, bytes] = {}
    for one in test.answers.kept:
        for row, data in zip(one.rows.tolist(), as_bytes(one.responses), strict=True):
            assert row not in found
            found[row] = data
    return found


SCENARIOS = list(Scenario)


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda one: one.name)
def test_responses_are_those_of_threads(own: Own, scenario: Scenario, tmp_path: Path) -> None:
    modes = [
        settings(scenario, Mode.AccuracyOnly),
        settings(scenario, Mode.SubmissionRun),
        settings(scenario, accuracy_log_probability=0.3, accuracy_log_rng_seed=5),
        settings(scenario, accuracy_log_sampling_target=20, accuracy_log_rng_seed=5),
    ]
    system = own("batched")
    threads = own_systems.batched()
    for number, asked in enumerate(modes):
        there, here = run(system, asked), run(threads.system, asked, threads.library)
        is_fine(there)
        logs = [tmp_path / f"{number} {where}" for where in ("there", "here")]
        # Closed loops end by count here, so that both have the same rows.
        assert there.record.issued_rows == here.record.issued_rows
        assert (there.record.sample_index == here.record.sample_index).all()
        for test, log in zip((there, here), logs, strict=True):
            write_accuracy(log, test.answers.kept, test.record.sample_index, test.phases)
        assert logs[0].read_bytes() == logs[1].read_bytes()
        assert logs[0].stat().st_size > 100


@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda one: one.name)
def test_a_coroutine_answers_in_every_scenario(own: Own, scenario: Scenario) -> None:
    system = own("coroutine")
    for mode in (Mode.AccuracyOnly, Mode.SubmissionRun):
        test = run(system, settings(scenario, mode))
        is_fine(test)
        for row, data in kept(test).items():
            assert data == np.int32(test.record.sample_index[row] * 7).tobytes()


def test_large_responses_arrive_whole(own: Own) -> None:
    test = run(own("big_batches"), settings(Scenario.Offline, Mode.AccuracyOnly))
    is_fine(test)
    assert {len(data) for data in kept(test).values()} == {400_000}


def test_a_warm_up_leaves_the_run_alone(own: Own) -> None:
    system = own("batched")
    for scenario in SCENARIOS:
        test = run(system, settings(scenario), warm_up=WarmUp(queries=30))
        is_fine(test)
        assert test.issuer.warmed.queries == 30


def test_a_search_makes_the_system_once_and_leaves_nothing_behind(own: Own) -> None:
    system = own("batched", spared=(False, False), workers=2)
    is_fine(run(system))
    before = open_files(), threading.active_count(), system.ask("fds"), system.ask("threads")
    for _ in range(20):
        is_fine(run(system, settings(min_query_count=20)))
    assert (open_files(), threading.active_count(), system.ask("fds"), system.ask("threads")) == before
    assert system.ask("made") == 1
    assert system.ask("loads") == 21


@pytest.mark.parametrize("size", [1, 8])
def test_each_row_is_computed_once(own: Own, size: int) -> None:
    system = own("batched_small" if size == 1 else "batched_two", spared=(False, False), workers=2)
    for asked in (settings(min_query_count=2000, server_target_qps=20_000.0), settings(Scenario.Offline)):
        test = run(system, asked)
        is_fine(test)
        columns, rows = test.record.columns, test.record.issued_rows
        assert set(np.unique(columns["process"][:rows])) <= {0, 1}
        begun, sizes = columns["begun"][:rows], columns["batch_size"][:rows]
        assert sizes.max() <= size
        at = 0
        while at < rows:  # batches are runs of rows
            end = at + int(sizes[at])
            assert (sizes[at:end] == sizes[at]).all()
            assert (begun[at:end] == begun[at]).all()
            at = end
        assert at == rows
    assert len(set(system.pids)) == 2


def test_a_batch_waits_for_fuller_ones_and_goes_at_the_end(own: Own) -> None:
    test = run(own("batched_patient"), settings(min_query_count=100))
    is_fine(test)
    assert np.unique(test.record.columns["batch_size"][:96]).tolist() == [8]
    assert (test.record.columns["batch_size"][96:100] == 4).all()


def test_too_many_outstanding_queries_end_the_run(own: Own) -> None:
    test = run(own("batched_slow"), settings(server_max_async_queries=10, min_query_count=1000))
    assert any("outstanding" in report.end.value for report in test.reports)


# What befalls the process.

KILLED = "was ended by SIGKILL (by hand, or by the kernel where memory ran out)"


def is_lost(system: OwnProcess, test: Test, how: str) -> None:
    """The run says how the process was lost, and the next one is refused in a line."""
    assert any(how in line for line in test.spoiled()), test.spoiled()
    results = test.results()
    assert results is None or not results.valid
    with pytest.raises(UserError, match="the process of the system under test") as caught:
        run(system)
    assert "\n" not in str(caught.value)


def test_killed_while_it_computes(own: Own) -> None:
    system = own("batched", {"compute": "kill"})
    test = run(system, settings(min_query_count=4000))
    assert test.record.issued_rows < 4000
    assert KILLED in next(iter(test.answers.faults.failed))
    is_lost(system, test, KILLED)


@pytest.mark.parametrize("where", ["compute", "lock"])
def test_one_of_two_is_killed(own: Own, where: str) -> None:
    system = own("batched", {where: "kill"}, spared=(True, False))
    test = run(system, settings(min_query_count=4000))
    assert test.answers.faults.refused == {}
    columns, rows = test.record.columns, test.record.issued_rows
    spared = columns["process"][:rows] == 0
    assert np.count_nonzero(columns["status"][:rows][spared] == Status.OK)
    is_lost(system, test, KILLED)


@pytest.mark.parametrize("where", ["compute", "lock"])
def test_one_of_two_is_stopped(own: Own, where: str, impatient: None) -> None:
    system = own("batched", {where: "stop"}, spared=(True, False))
    test = run(system, settings(min_query_count=400), patience_s=0.3)
    assert test.answers.faults.refused == {}
    is_lost(system, test, "stopped")


@pytest.mark.parametrize("where", ["compute", "load"])
def test_stopped(own: Own, where: str, impatient: None) -> None:
    system = own("batched", {where: "stop"})
    if where == "load":
        with pytest.raises(UserError, match="was stopped by a signal"):
            run(system)
    else:
        is_lost(system, run(system, patience_s=0.3), "was stopped by a signal")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM, signal.SIGRTMIN + 3])
def test_lost_between_two_runs(own: Own, number: int, impatient: None) -> None:
    system = own("batched")
    is_fine(run(system))
    os.kill(system.pids[0], number)
    with pytest.raises(UserError, match=r"the process of the system under test .* was (ended|stopped) by"):
        run(system)
    with pytest.raises(UserError, match=r"the process of the system under test .* was (ended|stopped) by"):
        run(system)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP])
def test_lost_while_it_waits_for_rows(own: Own, number: int, impatient: None) -> None:
    system = own("batched")
    pid = system.pids[0]
    test = Test(system, system.library, settings(server_target_qps=2.0, min_query_count=50), patience_s=0.3)

    async def both() -> None:
        asyncio.get_running_loop().call_later(0.1, os.kill, pid, number)
        await test.run()

    run_on_fast_loop(both())
    adds_up(test)
    is_lost(system, test, "SIGKILL" if number == signal.SIGKILL else "stopped")


@pytest.mark.parametrize("where", ["load", "second load"])
def test_killed_while_it_loads(own: Own, where: str) -> None:
    system = own("batched", {where: "kill"})
    test = Test(system, system.library, settings(mode=Mode.SubmissionRun))
    with pytest.raises(UserError, match="SIGKILL"):
        run_on_fast_loop(test.run())
    adds_up(test)
    if where == "second load":  # the accuracy phase is kept
        assert test.record.issued_rows == own_systems.COUNT
        assert len(kept(test)) == own_systems.COUNT


@pytest.mark.parametrize("what", ["kill", "exit", "stop"])
def test_lost_while_it_is_made(own: Own, what: str, impatient: None) -> None:
    how = {"kill": KILLED, "exit": "ended with status 7", "stop": "was stopped by a signal"}[what]
    with pytest.raises(UserError) as caught:
        own("batched", {"make": what})
    assert how in str(caught.value)


def test_what_making_raises_is_told_in_a_line(own: Own, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError, match=r"^give it another colour$"):
        own("batched", {"make": "refuse"})
    assert capfd.readouterr().err == ""
    with pytest.raises(UserError, match=r"^ValueError: of no use$"):
        own("batched", {"make": "raise"})
    assert capfd.readouterr().err.count("ValueError: of\nno use") == 1
    for function, what in (("nothing", "AttributeError"), ("missing", "missing")):
        with pytest.raises(UserError, match=what) as caught:
            own(function)
        assert "\n" not in str(caught.value)


def test_arguments_that_cannot_travel(own: Own) -> None:
    with pytest.raises(UserError, match="its arguments cannot reach"):
        own("batched", own_systems.unreadable())


@pytest.mark.parametrize("what", ["memory", "big array"])
def test_no_memory(own: Own, what: str) -> None:
    with pytest.raises(UserError, match="memory"):
        own("batched", {"make": what})
    system = own("batched", {"compute": what})
    test = run(system)
    assert test.answers.faults.failed.total()
    assert "emory" in next(iter(test.answers.faults.failed))
    assert np.count_nonzero(test.record.status == Status.OK)


def test_a_batch_that_raises_fails_and_the_run_goes_on(own: Own) -> None:
    system = own("batched", {"compute": "raise"})
    test = run(system)
    assert test.record.issued_rows == 200
    assert list(test.answers.faults.failed) == ["ValueError: of no use"]
    assert any("most often with: ValueError: of no use" in line for line in test.spoiled())
    is_fine(run(system))


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ("twice", "a second answer to a row"),
        ("unissued", "an answer to a row that was never issued"),
        ("late", "an answer after the run had stopped waiting for it"),
    ],
)
def test_unruly_answers_are_refused(own: Own, answer: str, why: str) -> None:
    system = own("unruly", answer)
    test = run(system, settings(min_query_count=20), patience_s=0.2 if answer == "late" else 30.0)
    assert set(test.answers.faults.refused) == {why}
    if answer != "late":
        assert (test.record.status[:20] == Status.OK).all()


def test_no_answers_end_by_patience(own: Own) -> None:
    system = own("unruly", "never")
    test = run(system, settings(min_query_count=20), patience_s=0.2)
    assert test.answers.faults.unanswered == 20
    assert any("stopped answering" in line for line in test.spoiled())


def test_too_few_responses_fail(own: Own) -> None:
    test = run(own("unruly", "fewer"), settings(min_query_count=20))
    assert test.answers.faults.failed.total() == 20
    assert "responses to a batch of" in next(iter(test.answers.faults.failed))


# Coroutines.


def test_a_coroutine_that_raises(own: Own) -> None:
    test = run(own("coroutine", "raise"))
    assert list(test.answers.faults.failed) == ["ValueError: of no use"]
    assert test.record.issued_rows == 200


def test_a_coroutine_whose_process_is_killed(own: Own) -> None:
    system = own("coroutine", "kill")
    is_lost(system, run(system, settings(min_query_count=4000)), KILLED)


def test_a_coroutine_system_that_aborts(own: Own) -> None:
    system = own("special", "aborting")
    test = run(system, settings(min_query_count=4000))
    assert test.answers.aborted == "it went home"


def test_a_system_that_cannot_issue(own: Own, capfd: pytest.CaptureFixture[str]) -> None:
    test = run(own("special", "raising"), settings(min_query_count=4000))
    assert test.answers.aborted == "RuntimeError: it cannot issue"
    assert "Traceback" in capfd.readouterr().err


def test_tokens(own: Own) -> None:
    system = own("special", "tokens")
    asked = settings(mode=Mode.AccuracyOnly, use_token_latencies=True)
    test = run(system, asked)
    is_fine(test)
    rows = test.record.issued_rows
    first, done = test.record.columns["first_token"][:rows], test.record.completed[:rows]
    assert (first > 0).all()
    assert (first <= done).all()
    assert (test.record.columns["n_tokens"][:rows] == 2).all()
    indices = test.record.sample_index[:rows].astype(np.int32)
    assert test.answers.first_tokens == {row: indices[row].tobytes() for row in range(rows)}


def test_several_processes_need_a_batched_system(own: Own) -> None:
    with pytest.raises(UserError, match="coroutine is no BatchedSystem"):
        own("coroutine", spared=(False, False))


# Surroundings.


def test_more_workers_than_asked_for_are_refused(own: Own) -> None:
    with pytest.raises(UserError, match="2 workers, and its process was asked for 1"):
        own("batched_two")
    with pytest.raises(UserError, match=f"at most {MOST_WORKERS}"):
        own("batched", workers=MOST_WORKERS + 1)


def test_not_on_linux(own: Own, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(os, "eventfd")
    with pytest.raises(UserError, match="needs Linux"):
        own("batched")


def test_after_the_end(own: Own) -> None:
    system = own("batched")
    system.shut()
    with pytest.raises(UserError, match="batched has been shut"):
        run(system, library=own_systems.Numbers({}))


def test_two_systems_at_once(own: Own) -> None:
    systems = [own("batched"), own("coroutine")]
    tests = [Test(one, one.library, settings(server_target_qps=1000.0)) for one in systems]

    async def both() -> None:
        await asyncio.gather(*(test.run() for test in tests))

    run_on_fast_loop(both())
    for test in tests:
        adds_up(test)
        is_fine(test)


def test_a_system_outlives_the_thread_that_made_it(own: Own) -> None:
    made: list[OwnProcess] = []
    thread = threading.Thread(target=lambda: made.append(own("batched")))
    thread.start()
    thread.join()
    is_fine(run(made[0]))
    tests: list[Test] = []
    thread = threading.Thread(target=lambda: tests.append(run(made[0])))
    thread.start()
    thread.join()
    is_fine(tests[0])


def test_standard_streams_are_not_the_line(own: Own) -> None:
    links = own("batched").ask("links")
    assert links[0] == "/dev/null"
    assert links[1] == links[2]


def test_a_forked_worker_of_the_model_does_not_hide_its_death(own: Own) -> None:
    system = own("batched", {"compute": "kill"})
    worker = system.ask("fork")
    is_lost(system, run(system, settings(min_query_count=4000)), KILLED)
    await_end(worker)


def test_what_the_model_started_ends_with_it(own: Own) -> None:
    system = own("batched")
    worker = system.ask("fork")
    is_fine(run(system))
    system.shut()
    await_end(worker)


def test_few_open_files(own: Own) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = open_files()
    resource.setrlimit(resource.RLIMIT_NOFILE, (open_files() + 6, hard))
    try:
        with pytest.raises((UserError, OSError)):
            own("batched", workers=20)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    assert open_files() == files


# The generator's process.

SCRIPT = """
import asyncio, json, os, sys
from drumfire.loadgen.interpreter import run_on_fast_loop
from drumfire.loadgen.run import Test
from drumfire.loadgen.settings import Scenario, TestSettings
from drumfire.sut.local.host import Surroundings
from drumfire.sut.local.process import OwnProcess

where, spared = sys.argv[1:3]
around = [Surroundings({"SPARED": spared})] * 2
test = None

def begin():
    global system, test
    print("started", flush=True)
    system = OwnProcess("tests.support.own_systems:batched", {where: "sleep"}, processes=around)
    pids = [system.ask("fork"), *system.pids]
    print(json.dumps(pids), flush=True)
    asked = TestSettings(scenario=Scenario.Server, server_target_qps=1000, min_query_count=10**6)
    test = Test(system, system.library, asked)

async def go():
    if where == "run":
        asyncio.get_running_loop().call_later(0.2, os.write, 1, b"running\\n")
    await test.run()

try:
    begin()
    run_on_fast_loop(go())
except KeyboardInterrupt:
    print("interrupted", test and test.record.issued_rows, flush=True)
    if test:
        system.shut()
"""


def generator(where: str) -> tuple[subprocess.Popen[str], list[int]]:
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, where, "yes" if where == "run" else "no"],
        cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)}, text=True, start_new_session=True,
        stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "started\n"
    pids = json.loads(process.stdout.readline()) if where != "make" else []
    if where == "run":
        assert process.stdout.readline() == "running\n"
    return process, pids


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.parametrize("where", ["run", "load", "make"])
def test_the_generator_is_killed(where: str) -> None:
    process, pids = generator(where)
    if where == "make":
        while len(pids) < 2:
            pids = children(process.pid)
    process.kill()
    process.communicate()
    await_end(*pids)


def test_the_generator_is_stopped_and_goes_on() -> None:
    process, pids = generator("run")
    os.kill(process.pid, signal.SIGSTOP)
    time.sleep(0.2)
    assert all(map(is_alive, pids))
    os.kill(process.pid, signal.SIGCONT)
    os.killpg(process.pid, signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert out.startswith("interrupted ")
    assert int(out.split()[1]) > 100
    assert err == ""
    await_end(*pids)


@pytest.mark.parametrize("where", ["run", "load", "make"])
def test_ctrl_c(where: str) -> None:
    process, pids = generator(where)
    if where == "make":
        while len(pids) < 2:
            pids = children(process.pid)
    for _ in range(1 if where == "run" else 400):  # who is impatient presses again
        if process.poll() is not None:
            break
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.02)
    out, err = process.communicate(timeout=20)
    assert "interrupted" in out
    assert "Traceback" not in err
    await_end(*pids)
