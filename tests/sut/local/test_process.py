"""A system in processes of its own answers as in threads."""

import asyncio
import os
import resource
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from drumfire.loadgen.errors import UserError
from drumfire.loadgen.installation import ROOT
from drumfire.loadgen.interpreter import run_on_fast_loop
from drumfire.loadgen.logs import write_accuracy
from drumfire.loadgen.record import Status
from drumfire.loadgen.run import Test
from drumfire.loadgen.settings import Mode, Scenario
from drumfire.loadgen.warm_up import WarmUp
from drumfire.sut.local import process as own_process
from drumfire.sut.local.devices import Placement
from drumfire.sut.local.process import MOST_WORKERS, OwnProcess
from tests.support import own_systems
from tests.support.own_processes import (
    KILLED,
    SYSTEMS,
    Own,
    adds_up,
    await_end,
    is_fine,
    is_lost,
    kept,
    open_files,
    run,
    settings,
)

SLOWER = [pytest.param(one, marks=pytest.mark.slow) for one in Scenario if one != Scenario.Server]


@pytest.mark.parametrize("scenario", [Scenario.Server, *SLOWER], ids=lambda one: one.name)
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


@pytest.mark.slow
@pytest.mark.parametrize("scenario", Scenario, ids=lambda one: one.name)
def test_a_coroutine_answers_in_every_scenario(own: Own, scenario: Scenario) -> None:
    system = own("coroutine")
    for mode in (Mode.AccuracyOnly, Mode.SubmissionRun):
        test = run(system, settings(scenario, mode))
        is_fine(test)
        for row, data in kept(test).items():
            assert data == np.int32(test.record.sample_index[row] * 7).tobytes()


@pytest.mark.slow
def test_large_responses_arrive_whole(own: Own) -> None:
    test = run(own("big_batches"), settings(Scenario.Offline, Mode.AccuracyOnly))
    is_fine(test)
    assert {len(data) for data in kept(test).values()} == {400_000}


@pytest.mark.slow
def test_a_warm_up_leaves_the_run_alone(own: Own) -> None:
    system = own("batched")
    for scenario in Scenario:
        test = run(system, settings(scenario), warm_up=WarmUp(queries=30))
        is_fine(test)
        assert test.issuer.warmed.queries == 30


@pytest.mark.slow
def test_a_search_makes_the_system_once_and_leaves_nothing_behind(own: Own) -> None:
    system = own("batched", spared=(False, False), workers=2)
    is_fine(run(system))
    before = open_files(), threading.active_count(), system.ask("fds"), system.ask("threads")
    for _ in range(20):
        is_fine(run(system, settings(min_query_count=20)))
    assert (open_files(), threading.active_count(), system.ask("fds"), system.ask("threads")) == before
    assert system.ask("made") == 1
    assert system.ask("loads") == 21


@pytest.mark.slow
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


@pytest.mark.slow
def test_too_many_outstanding_queries_end_the_run(own: Own) -> None:
    test = run(own("batched_slow"), settings(server_max_async_queries=10, min_query_count=1000))
    assert any("outstanding" in report.end.value for report in test.reports)


def test_arguments_that_cannot_travel(own: Own) -> None:
    with pytest.raises(UserError, match="its arguments cannot reach"):
        own("batched", own_systems.unreadable())


# Coroutines.


@pytest.mark.slow
def test_a_coroutine_that_raises(own: Own) -> None:
    test = run(own("coroutine", "raise"))
    assert list(test.answers.faults.failed) == ["ValueError: of no use"]
    assert test.record.issued_rows == 200


@pytest.mark.slow
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
    with pytest.raises(UserError, match=r"2 workers: OwnProcess\(\.\.\., workers=2\)"):
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


@pytest.mark.slow
def test_two_systems_at_once(own: Own) -> None:
    systems = [own("batched"), own("coroutine")]
    tests = [Test(one, one.library, settings(server_target_qps=1000.0)) for one in systems]

    async def both() -> None:
        await asyncio.gather(*(test.run() for test in tests))

    run_on_fast_loop(both())
    for test in tests:
        adds_up(test)
        is_fine(test)


@pytest.mark.slow
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


@pytest.mark.slow
def test_what_the_model_started_ends_with_it(own: Own) -> None:
    system = own("batched")
    worker = system.ask("fork")
    is_fine(run(system))
    system.shut()
    await_end(worker)


@pytest.mark.slow
def test_few_open_files(own: Own, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_process, "check_files", lambda: None)  # else it would raise the limit
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    files, refused = open_files(), 0
    for more in range(14):
        resource.setrlimit(resource.RLIMIT_NOFILE, (files + more, hard))
        try:
            own("batched").shut()
        except UserError:
            refused += 1
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        assert open_files() == files, more
    assert refused > 3


@pytest.mark.parametrize("kind", ["answering", "raise"])
def test_a_system_that_answers_in_closed_loops_alone(own: Own, kind: str) -> None:
    system = own("special", kind)
    for scenario in (Scenario.SingleStream, Scenario.MultiStream):
        test = run(system, settings(scenario, Mode.AccuracyOnly))
        status = test.record.status[: test.record.issued_rows]
        failed = status == Status.FAILED
        assert failed.any() == (kind == "raise")
        assert set(test.answers.faults.failed) <= {"ValueError: of no use"}
        for row, data in kept(test).items():
            assert data == np.int32(test.record.sample_index[row] * 7).tobytes()
        assert len(kept(test)) == np.count_nonzero(~failed)


@pytest.mark.skipif(not hasattr(os, "sched_getaffinity"), reason="no affinity")
def test_all_threads_of_a_process_are_on_its_cores() -> None:
    core = max(os.sched_getaffinity(0))
    before = os.sched_getaffinity(0)
    with OwnProcess(f"{SYSTEMS}:batched", processes=[Placement({"SPARED": "yes"}, [core])]) as system:
        assert system.ask("cores") == [[core]]
        assert system.ask("spared")
    assert os.sched_getaffinity(0) == before


@pytest.mark.parametrize("make", ["module", "module:", ":make", "", 3, print])
def test_what_is_no_name_of_a_function(make: Any) -> None:
    with pytest.raises(UserError, match="takes the name of a function"):
        OwnProcess(make)


def test_a_function_of_the_script_itself() -> None:
    with pytest.raises(
        UserError, match=r"^__main__:make: another process imports it, so name the file, as my_script:make"
    ):
        OwnProcess("__main__:make")


@pytest.mark.parametrize("name", ["no_such_module:make", "tests.support.own_systems:no_such_function"])
def test_a_function_that_is_not_there(name: str) -> None:
    with pytest.raises(UserError, match=f"^{name} cannot be imported by the system's process: "):
        OwnProcess(name)


def test_what_is_no_system(own: Own) -> None:
    with pytest.raises(UserError, match=r"^builtins:len must return a system and its library, not 3$"):
        OwnProcess("builtins:len", "abc")


def test_a_script_that_makes_one_as_it_is_imported(tmp_path: Path) -> None:
    script = tmp_path / "unguarded.py"
    script.write_text("from drumfire import OwnProcess\nOwnProcess('unguarded:make')\n")
    done = subprocess.run(
        [sys.executable, script], capture_output=True, text=True, timeout=60, check=False,
        env=os.environ | {"PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 1
    assert "put the file's own work behind if __name__ == '__main__'" in done.stderr.splitlines()[-1]


def test_one_run_at_a_time(own: Own) -> None:
    system = own("batched")
    tests = [Test(system, system.library, settings(server_target_qps=1000.0)) for _ in range(2)]

    async def both() -> list[BaseException | None]:
        return await asyncio.gather(*(test.run() for test in tests), return_exceptions=True)

    errors = [error for error in run_on_fast_loop(both()) if error is not None]
    assert len(errors) == 1
    assert "is in a run already" in str(errors[0])


def test_nothing_is_asked_of_what_has_been_shut(own: Own) -> None:
    system = own("batched")
    system.shut()
    for ask in (lambda: system.ask("fds"), lambda: system.library.load(np.arange(1))):
        with pytest.raises(UserError, match="has been shut"):
            ask()


def test_a_fork_does_not_end_the_processes(own: Own) -> None:
    system = own("batched")
    child = os.fork()
    if not child:
        system.shut()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    is_fine(run(system))
