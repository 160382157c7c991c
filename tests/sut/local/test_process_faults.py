"""What befalls the processes of a system under test, and what the run says of it."""

import asyncio
import os
import signal

import numpy as np
import pytest

from drumfire.loadgen.errors import UserError
from drumfire.loadgen.interpreter import run_on_fast_loop
from drumfire.loadgen.record import Status
from drumfire.loadgen.run import Test
from drumfire.loadgen.settings import Mode
from drumfire.sut.local.host_process import ProcessLost
from tests.support import own_systems
from tests.support.own_processes import (
    KILLED,
    Own,
    adds_up,
    is_fine,
    is_lost,
    kept,
    run,
    settings,
)


def test_killed_while_it_computes(own: Own) -> None:
    system = own("batched", {"compute": "kill"})
    test = run(system, settings(min_query_count=4000))
    assert test.record.issued_rows < 4000
    assert KILLED in next(iter(test.answers.faults.failed))
    is_lost(system, test, KILLED)


@pytest.mark.slow
@pytest.mark.parametrize("where", ["compute", "lock"])
def test_one_of_two_is_killed(own: Own, where: str) -> None:
    system = own("batched", {where: "kill"}, spared=(True, False))
    test = run(system, settings(min_query_count=4000))
    assert test.answers.faults.refused == {}
    columns, rows = test.record.columns, test.record.issued_rows
    spared = columns["process"][:rows] == 0
    assert np.count_nonzero(columns["status"][:rows][spared] == Status.OK)
    is_lost(system, test, KILLED)


@pytest.mark.slow
@pytest.mark.parametrize("where", ["compute", "lock"])
def test_one_of_two_is_stopped(own: Own, where: str, impatient: None) -> None:
    system = own("batched", {where: "stop"}, spared=(True, False))
    test = run(system, settings(min_query_count=400), patience_s=0.3)
    assert test.answers.faults.refused == {}
    is_lost(system, test, "stopped")


@pytest.mark.slow
@pytest.mark.parametrize("where", ["compute", "load"])
def test_stopped(own: Own, where: str, impatient: None) -> None:
    system = own("batched", {where: "stop"})
    if where == "load":
        with pytest.raises(UserError, match="was stopped by a signal"):
            run(system)
    else:
        is_lost(system, run(system, patience_s=0.3), "was stopped by a signal")


@pytest.mark.slow
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSTOP, signal.SIGTERM, signal.SIGRTMIN + 3])
def test_lost_between_two_runs(own: Own, number: int, impatient: None) -> None:
    system = own("batched")
    is_fine(run(system))
    os.kill(system.pids[0], number)
    with pytest.raises(UserError, match=r"the process of the system under test .* was (ended|stopped) by"):
        run(system)
    with pytest.raises(UserError, match=r"the process of the system under test .* was (ended|stopped) by"):
        run(system)


@pytest.mark.slow
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


@pytest.mark.slow
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
    for function, what in (("nothing", "must return a system"), ("missing", "missing")):
        with pytest.raises(UserError, match=what) as caught:
            own(function)
        assert "\n" not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["memory", "big array"])
def test_no_memory(own: Own, what: str) -> None:
    with pytest.raises(UserError, match="memory"):
        own("batched", {"make": what})
    system = own("batched", {"compute": what})
    test = run(system)
    assert test.answers.faults.failed.total()
    assert "emory" in next(iter(test.answers.faults.failed))
    assert np.count_nonzero(test.record.status == Status.OK)


@pytest.mark.slow
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


@pytest.mark.slow
def test_no_answers_end_by_patience(own: Own) -> None:
    system = own("unruly", "never")
    test = run(system, settings(min_query_count=20), patience_s=0.2)
    assert test.answers.faults.unanswered == 20
    assert any("stopped answering" in line for line in test.spoiled())


@pytest.mark.slow
def test_too_few_responses_fail(own: Own) -> None:
    test = run(own("unruly", "fewer"), settings(min_query_count=20))
    assert test.answers.faults.failed.total() == 20
    assert "responses to a batch of" in next(iter(test.answers.faults.failed))


def test_what_a_lost_process_took_is_not_known(own: Own, impatient: None) -> None:
    system = own("batched", {"compute": "kill"})
    assert [one["cpu_s"] for one in system.report()] == [None]
    is_fine(run(system, settings(min_query_count=2)))  # at most two batches
    (report,) = system.report()
    assert report["cpu_s"] > 0
    assert report["memory_bytes"] > 1e6
    run(system)
    (report,) = system.report()
    assert (report["cpu_s"], report["memory_bytes"]) == (None, None)


def test_a_process_that_takes_no_message(own: Own, impatient: None) -> None:
    system = own("batched", {"load": "sleep"})
    (process,) = system._processes
    process.ask("load", np.arange(4))
    with pytest.raises(ProcessLost, match=r"took no message for 0.3 s, so that it was ended$"):
        process.ask("load", np.arange(4_000_000))


def test_a_stopped_process_takes_no_message(own: Own, impatient: None) -> None:
    system = own("batched")
    os.kill(system.pids[0], signal.SIGSTOP)
    with pytest.raises(ProcessLost, match=r"was stopped by a signal, so that it was ended$"):
        system.library.load(np.arange(4_000_000))


def test_a_run_is_valid_whose_system_does_not_close(own: Own, impatient: None) -> None:
    system = own("special", "slow to close")
    is_fine(run(system))
    with pytest.raises(UserError, match=r"did not react within 0.6 s, so that it was ended$"):
        run(system)


def test_an_answer_that_cannot_be_read_is_not_the_next_ones(own: Own) -> None:
    system = own("batched")
    with pytest.raises(ModuleNotFoundError, match="only_there"):
        system.ask("unknown")
    assert system.ask("made") == 1
    is_fine(run(system))


@pytest.mark.slow
def test_loading_reaches_the_others_where_one_is_lost(own: Own) -> None:
    system = own("batched", spared=(True, True, True))
    os.kill(system.pids[0], signal.SIGKILL)
    with pytest.raises(ProcessLost, match="SIGKILL"):
        system.library.load(np.arange(4))
    for process in system._processes[1:]:
        process.ask("ask", "loads", ())
        assert process.result(lambda *_: None) == 1
    system.library.unload(np.arange(4))


def test_issuing_before_and_after_a_run_is_refused(own: Own) -> None:
    system = own("batched")
    for _ in range(2):
        for call in (lambda: system.issue(0, 1), system.flush):
            with pytest.raises(RuntimeError, match="batched is not open"):
                call()
        is_fine(run(system, settings(min_query_count=20)))
