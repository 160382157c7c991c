"""``drumfire.run`` and ``drumfire.save``: what the command does, for programs and notebooks."""

from __future__ import annotations

import ast
import asyncio
import errno
import inspect
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

import drumfire
from drumfire.bench.assemble.options import RunOptions
from drumfire.bench.cli import main
from drumfire.bench.commands import run as command
from drumfire.bench.options.parser import parse
from drumfire.bench.options.values import build, plain, words
from drumfire.loadgen.errors import UnsavedError
from drumfire.loadgen.installation import ROOT
from drumfire.loadgen.record import Record
from tests.support.command import SCHEMA
from tests.support.saved_figures import differences

QUICK: dict[str, Any] = {"scenario": "Server", "qps": 1500, "max_latency": 2, "time": 0.4}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_a_run_is_saved_and_returned(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    run = drumfire.run("onnxruntime", "digits", **QUICK)
    assert isinstance(run, drumfire.SavedRun)
    assert capfd.readouterr() == ("", "")
    assert run.folder.parent == tmp_path / "runs"
    assert run.valid
    assert run.result == json.loads((run.folder / "result.json").read_text())
    jsonschema.validate(run.result, SCHEMA)
    assert differences(run) == {}
    assert run.report.startswith("Result is : VALID\n")
    assert run.result == drumfire.load(run.folder).result


def test_the_command_of_a_result_does_the_same_run(tmp_path: Path) -> None:
    run = drumfire.run("null", "digits", output=tmp_path / "a b", **QUICK)
    program, *line = shlex.split(run.result["command"])
    assert program == "drumfire"
    line[line.index("--output") + 1] = str(tmp_path / "again")
    assert main(line) in (0, 1)
    other = drumfire.load(tmp_path / "again")
    assert other.requested == run.requested
    assert (other.columns["scheduled"] == run.columns["scheduled"]).all()


@pytest.mark.parametrize(
    "given",
    [
        {"backend": "ONNXRuntime", "model": "digits", "device": "cuda", "scenario": "offline", "accuracy": True},
        {"backend": "pytorch", "model": "a b.pt", "until_confident": 0.0, "max_queue_delay": 0, "no_dashboard": True},
        {"backend": "triton", "model": "m", "url": ["grpc://a:1", "grpc://b:1"], "concurrency": 3},
        {"backend": "null", "model": "digits", "trace": False, "dataset_path": "d/e"},
    ],
)
def test_options_as_words_are_the_same_options(given: dict[str, Any]) -> None:
    options = build(RunOptions, given)
    parsed = parse(command.COMMAND, words(options))
    assert plain(build(RunOptions, parsed.values)) == plain(options)


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({"qps": -1}, "--qps: must be at least 0.000001, not -1"),
        ({"pqs": 1}, "unknown option --pqs (did you mean --qps?)"),
        ({"scenario": "Sever"}, "did you mean Server?"),
        ({"threads": 2}, "--threads has no effect with null"),
        ({"json": True}, "json is for the command line"),
        ({"submission": True, "accuracy": True}, "leave --accuracy out"),
        ({"output": "/dev/null/run"}, "choose another --output"),
    ],
)
def test_wrong_usage_is_an_error_of_one_line(given: dict[str, Any], text: str, tmp_path: Path) -> None:
    with pytest.raises(drumfire.UserError) as caught:
        drumfire.run("null", "digits", **given)
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_run_that_cannot_be_saved(monkeypatch: pytest.MonkeyPatch) -> None:
    def save(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Record, "save", save)
    with pytest.raises(UnsavedError, match=r"could not be saved in runs/.*No space left"):
        drumfire.run("null", "digits", **QUICK)


def test_a_run_that_is_shown(capfd: pytest.CaptureFixture[str]) -> None:
    run = drumfire.run("null", "digits", quiet=False, no_dashboard=True, scenario="Server", qps=200, time=0.2)
    shown = capfd.readouterr().out
    assert shown.startswith("warning: this run can only be INVALID")
    assert shown.endswith(run.report)


# Beside a running loop.


def test_within_a_running_loop() -> None:
    async def notebook() -> tuple[drumfire.SavedRun, str]:
        run = drumfire.run("onnxruntime", "digits", **QUICK)
        return run, await asyncio.sleep(0, "the loop goes on")

    run, said = asyncio.run(notebook())
    assert differences(run) == {}
    assert said == "the loop goes on"
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("drumfire")]


def test_cells_as_ipython_runs_them() -> None:
    """A cell is code that may await, compiled by itself, and run by a loop that goes on between cells."""
    cells = [
        "import asyncio, drumfire",
        "first = drumfire.run('null', 'digits', scenario='SingleStream', time=0.1)",
        "await asyncio.sleep(0)\nsecond = drumfire.run('null', 'digits', scenario='Offline', qps=2000, time=0.1)",
        "both = [first.result['scenario'], second.result['scenario']]",
    ]
    space: dict[str, Any] = {}

    async def shell() -> None:
        for cell in cells:
            code = compile(cell, "<cell>", "exec", flags=ast.PyCF_ALLOW_TOP_LEVEL_AWAIT)
            if inspect.iscoroutine(awaited := eval(code, space)):
                await awaited

    loop = asyncio.new_event_loop()
    try:
        loop.run_until_complete(shell())
    finally:
        loop.close()
    assert space["both"] == ["SingleStream", "Offline"]


def test_in_a_thread() -> None:
    found: list[drumfire.SavedRun] = []
    thread = threading.Thread(target=lambda: found.append(drumfire.run("null", "digits", **QUICK)))
    thread.start()
    thread.join()
    assert differences(found[0]) == {}


INTERRUPTED = """
import asyncio, os, signal, sys, threading, drumfire
from drumfire.loadgen.run import Test

number = signal.Signals[sys.argv[2]]
begin = Test._run_phase

async def phase(self, phase):  # the signal comes when the run itself has begun, and not the probe before it
    if os.path.exists("out/settings.json"):
        threading.Timer(0.3, os.kill, (os.getpid(), number)).start()
    return await begin(self, phase)

Test._run_phase = phase

def once():
    return drumfire.run("null", "digits", scenario="Server", qps=200, time=60, output="out")

async def cell():
    run = once()
    print(run.result["reasons"][0], flush=True)
    await asyncio.sleep(0)
    print("not reached")

try:
    asyncio.run(cell()) if sys.argv[1] == "loop" else once()
except KeyboardInterrupt:
    print("KeyboardInterrupt")
print(signal.getsignal(number) in (signal.default_int_handler, signal.SIG_DFL))
"""


@pytest.mark.parametrize("where", ["loop", "plain"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_is_saved_and_the_program_gets_its_signal(
    where: str, number: signal.Signals, tmp_path: Path
) -> None:
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        [sys.executable, "-c", INTERRUPTED, where, number.name],
        capture_output=True, text=True, timeout=120, check=False, env={**os.environ, "PYTHONPATH": path},
    )  # fmt: skip
    run = drumfire.load(tmp_path / "out")
    assert run.result["reasons"][0] == f"The run was cut short: interrupted by {number.name}."
    assert run.result["delivered"]["samples"] > 0
    if number == signal.SIGTERM:
        assert done.returncode == -signal.SIGTERM
        return
    assert done.returncode == 0, done.stderr
    said = ["The run was cut short: interrupted by SIGINT."] if where == "loop" else []
    assert done.stdout.splitlines() == [*said, "KeyboardInterrupt", "True"]


# A test of one's own.


class Library:
    name, total_count, performance_count = "numbers", 40, 30

    def load(self, indices: Any) -> None:
        pass

    unload = load

    def batch(self, indices: Any) -> Any:
        return np.asarray(indices, np.float32)[:, None]


def own_test(mode: drumfire.Mode = drumfire.Mode.PerformanceOnly) -> drumfire.Test:
    async def infer(batch: Any) -> list[bytes]:
        return [row.tobytes() for row in batch]

    system = drumfire.CoroutineSystem("my system", infer, Library(), max_batch_size=4)
    settings = drumfire.TestSettings(
        scenario=drumfire.Scenario.Server, mode=mode, server_target_qps=1500, server_target_latency_ns=2 * 10**9,
        min_duration_ms=400,
    )  # fmt: skip
    return drumfire.Test(system, Library(), settings)


@pytest.mark.parametrize("mode", [drumfire.Mode.PerformanceOnly, drumfire.Mode.AccuracyOnly])
def test_a_test_of_ones_own_is_saved(mode: drumfire.Mode, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    test = own_test(mode)

    async def program() -> drumfire.SavedRun:
        await test.run()
        return drumfire.save(test)

    run = asyncio.run(program())
    assert run.folder.parent == tmp_path / "runs"
    jsonschema.validate(run.result, SCHEMA)
    assert differences(run) == {}
    assert run.valid
    assert run.result["sut_name"] == "my system"
    assert run.requested == test.requested
    assert "system       my system\n" in run.report
    capfd.readouterr()
    assert main(["show", str(run.folder)]) == 0
    assert capfd.readouterr().out == run.report


def test_a_test_is_saved_where_it_is_asked_to(tmp_path: Path) -> None:
    test = own_test()
    with pytest.raises(drumfire.UserError, match="has not run"):
        drumfire.save(test, tmp_path / "out")
    asyncio.run(test.run())
    assert drumfire.save(test, tmp_path / "out").folder == tmp_path / "out"
    with pytest.raises(drumfire.UserError, match="already holds a run"):
        drumfire.save(test, tmp_path / "out")


async def under_way(test: drumfire.Test) -> asyncio.Future[None]:
    """Its run, which has answered something."""
    running = asyncio.ensure_future(test.run())
    while not test.answers.answered:
        await asyncio.sleep(0.001)
    return running


def test_a_test_that_still_runs_is_not_saved(tmp_path: Path) -> None:
    test = own_test()

    async def program() -> None:
        running = await under_way(test)
        with pytest.raises(drumfire.UserError, match="still running: save it when"):
            drumfire.save(test, tmp_path / "out")
        await running

    asyncio.run(program())
    assert drumfire.save(test, tmp_path / "out").valid


def test_a_test_runs_once() -> None:
    test = own_test()

    async def twice() -> list[BaseException | None]:
        return await asyncio.gather(test.run(), test.run(), return_exceptions=True)

    first, second = asyncio.run(twice())
    assert first is None
    assert isinstance(second, drumfire.UserError)
    assert "make another Test" in str(second)
    with pytest.raises(drumfire.UserError, match="make another Test"):
        asyncio.run(test.run())
    assert test.results().valid


def test_a_test_whose_task_is_cancelled_is_cut_short(tmp_path: Path) -> None:
    test = own_test()

    async def program() -> None:
        running = await under_way(test)
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running

    asyncio.run(program())
    run = drumfire.save(test, tmp_path / "out")
    assert run.result["reasons"][0] == "The run was cut short: its task was cancelled."
    assert run.result["delivered"]["samples"] > 0


def test_a_test_that_raises_is_cut_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    test, calls = own_test(), iter(range(9))
    issue = test.system.issue

    def failing(first: int, last: int) -> None:
        if next(calls) == 5:
            raise ValueError("out of\nservice")
        issue(first, last)

    monkeypatch.setattr(test.system, "issue", failing)
    with pytest.raises(ValueError, match="out of"):
        asyncio.run(test.run())
    run = drumfire.save(test, tmp_path / "out")
    assert run.result["reasons"][0] == "The run was cut short: ValueError: out of service."
    assert "ValueError: out of service" in (run.folder / "mlperf_log_detail.txt").read_text()


def test_a_fast_loop_within_a_loop() -> None:
    async def cell() -> None:
        drumfire.run_on_fast_loop(own_test().run())

    with pytest.raises(drumfire.UserError, match="a loop runs here already: await the coroutine"):
        asyncio.run(cell())
