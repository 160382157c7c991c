"""What befalls the generator's process, whose systems have processes of their own."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from drumfire.loadgen.installation import ROOT
from tests.support.own_processes import await_end, is_alive

WHERE = ["run", *(pytest.param(where, marks=pytest.mark.slow) for where in ("load", "make"))]
SCRIPT = """
import asyncio, json, os, sys
from drumfire.loadgen.interpreter import run_on_fast_loop
from drumfire.loadgen.run import Test
from drumfire.loadgen.settings import Scenario, TestSettings
from drumfire.sut.local.devices import Placement
from drumfire.sut.local.process import OwnProcess

where, spared = sys.argv[1:3]
placements = [Placement({"SPARED": spared})] * 2
test = None

def begin():
    global system, test
    print("started", flush=True)
    system = OwnProcess("tests.support.own_systems:batched", {where: "sleep"}, processes=placements)
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
    while len(pids) < 2:
        pids = children(process.pid)
    if where == "run":
        assert process.stdout.readline() == "running\n"
    return process, pids


def children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@pytest.mark.parametrize("where", WHERE)
def test_the_generator_is_killed(where: str) -> None:
    process, pids = generator(where)
    process.kill()
    process.communicate()
    await_end(*pids)


@pytest.mark.slow
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


@pytest.mark.parametrize("where", WHERE)
def test_ctrl_c(where: str) -> None:
    process, pids = generator(where)
    for _ in range(1 if where == "run" else 400):  # who is impatient presses again
        if process.poll() is not None:
            break
        os.killpg(process.pid, signal.SIGINT)
        time.sleep(0.02)
    out, err = process.communicate(timeout=20)
    assert "interrupted" in out
    assert "Traceback" not in err
    await_end(*pids)
