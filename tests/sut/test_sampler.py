"""The sampler: meters read in a process of its own, which is slow, fails and dies without harm to a run."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from drumfire.loadgen.installation import ROOT
from drumfire.sut import sampler as sampling
from drumfire.sut.sampler import Reading, ReadingFeed, Sampler
from tests.support.meters import Clock, Failing, Fatal, Missing, Mute, Slow, plan


def await_readings(sampler: Sampler, wanted: Callable[[list[Reading]], bool]) -> list[Reading]:
    feed, found = ReadingFeed(sampler.fd), list[Reading]()
    for _ in range(1200):
        found += feed.new()
        if wanted(found):
            return found
        time.sleep(0.05)
    raise AssertionError(found)


def values(sampler: Sampler, name: str, origin_ns: int = 0) -> list[float]:
    (found,) = [one for one in sampler.series(origin_ns) if one.name == name]
    return list(found.points["value"].tolist())


def test_readings_become_series() -> None:
    origin_ns = time.monotonic_ns()
    with Sampler([plan(Clock)]) as sampler:
        seen = await_readings(sampler, lambda found: len(found) >= 2)
    end_ns = time.monotonic_ns()
    assert values(sampler, "Clock.count")[:3] == [1.0, 2.0, 3.0]  # the last is read at the end
    assert set(values(sampler, "Clock.pid")) == {float(sampler._process.pid)}  # type: ignore[union-attr]
    assert values(sampler, "Clock.pid")[0] != os.getpid()
    assert min(values(sampler, "Clock.nice")[1:]) == 19  # after the first, which comes before the run
    names = {one.name: one for one in sampler.series(origin_ns)}
    assert names.keys() == {"Clock.count", "Clock.pid", "Clock.nice", "Clock._etc_a"}
    assert (names["Clock.count"].unit, names["Clock.count"].source) == ("readings", "a clock")
    assert names["Clock._etc_a"].unit == "V"
    times = names["Clock.count"].points["time"]
    assert 0 < times[0] < times[1] < times[-1] < end_ns - origin_ns
    assert seen == sampler.readings[: len(seen)]
    assert sampler.notes == []


def test_a_slow_meter_delays_no_other_and_no_end(monkeypatch: pytest.MonkeyPatch) -> None:
    with Sampler([plan(Slow), plan(Clock)]) as sampler:
        await_readings(sampler, lambda found: sum(one.meter == "Clock" for one in found) >= 4)
    assert len(values(sampler, "Clock.count")) >= 4
    assert values(sampler, "Slow.count") == [1.0]
    assert sampler._process is not None
    assert sampler._process.returncode == 0


def test_meters_that_fail_leave_a_note() -> None:
    with Sampler([plan(Failing), plan(Missing), plan(Clock)]) as sampler:
        await_readings(sampler, lambda found: sum(one.meter == "Clock" for one in found) >= 2)
    assert sorted(sampler.notes) == ["Failing: the device is gone", "Missing: no such driver"]
    assert len(values(sampler, "Clock.count")) >= 2


def test_a_sampler_that_died_keeps_what_it_read() -> None:
    with Sampler([plan(Fatal)]) as sampler:
        assert sampler._process is not None
        sampler._process.wait(60)
    assert values(sampler, "Fatal.count") == [1.0]
    assert sampler.notes == ["the sampler ended during the run, with status 3"]


def test_a_sampler_that_is_stopped_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "_END_PATIENCE_S", 0.2)
    with Sampler([plan(Clock)]) as sampler:
        assert sampler._process is not None
        os.kill(sampler._process.pid, signal.SIGSTOP)
    assert sampler._process.wait(20) == -signal.SIGKILL
    assert values(sampler, "Clock.count")[0] == 1.0


def test_a_sampler_that_cannot_start_is_a_note(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_more(*_: object, **__: object) -> None:
        raise OSError(11, "no more processes")

    monkeypatch.setattr(sampling.module_process, "start", no_more)
    with Sampler([plan(Clock)]) as sampler:
        pass
    assert sampler.series(0) == []
    (note,) = sampler.notes
    assert "no more processes" in note


def test_without_meters_there_is_no_process() -> None:
    with Sampler([]) as sampler:
        assert sampler._process is None
    assert (sampler.readings, sampler.notes, sampler.series(0)) == ([], [], [])


def test_a_run_shorter_than_a_period_starts_no_process() -> None:
    with Sampler([plan(Clock)], sampling.PERIOD_S / 2) as sampler:
        assert sampler._process is None
    assert (sampler.readings, sampler.series(0)) == ([], [])
    assert sampler.notes == ["no series: the run's least duration is below 2 s"]


def test_a_sampler_in_a_process_with_many_open_files() -> None:
    """``select`` ends at 1,024; a client with thousands of connections does not."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(max(soft, 2048), hard), hard))
    with contextlib.ExitStack() as files:
        files.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        while files.enter_context(open(os.devnull)).fileno() < 1024:
            pass
        with Sampler([plan(Clock)]) as sampler:
            pass
    assert values(sampler, "Clock.count")[0] == 1.0


def test_it_ends_with_its_run() -> None:
    script = (
        "import time\nfrom drumfire.sut.sampler import Sampler\nfrom tests.support.meters import Clock, plan\n"
        "with Sampler([plan(Clock, token='a secret')]) as sampler:\n"
        "    print(sampler._process.pid, flush=True)\n    time.sleep(60)\n"
    )
    run = subprocess.Popen(
        [sys.executable, "-c", script], cwd=ROOT, stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": str(ROOT)}
    )
    assert run.stdout is not None
    pid = int(run.stdout.readline())
    assert b"secret" not in Path(f"/proc/{pid}/cmdline").read_bytes()
    os.kill(pid, signal.SIGINT)  # Ctrl-C is for the run
    run.kill()
    run.wait()
    run.stdout.close()
    for _ in range(200):
        try:
            if Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z":
                return
        except (FileNotFoundError, ProcessLookupError):
            return
        time.sleep(0.05)
    raise AssertionError("the sampler lives on")


def test_a_meter_that_never_answered_is_a_note() -> None:
    with Sampler([plan(Mute)]) as sampler:
        pass
    (note,) = sampler.notes
    assert note.startswith("Mute: not read")
    assert sampler.series(0) == []
    assert sampler._process is not None
    assert sampler._process.returncode == 0  # it did not wait for the meter until it was killed
