"""``--spin``: every run with a schedule has it, its result says so, and where it takes too much, a warning does."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from drumfire.bench.assemble import local
from drumfire.bench.assemble.options import LocalOptions, RemoteOptions, RunOptions
from drumfire.bench.fleet.options import FleetOptions
from drumfire.loadgen import pacer
from drumfire.loadgen.pacer import Spin
from tests.support.command import here
from tests.support.served import serving

_SERVER = ["run", "null", "digits", "--scenario", "Server", "--qps", 1000, "--time", 0.05, "--no-dashboard"]


@pytest.mark.parametrize("spin", [None, *Spin])
def test_the_result_names_the_mode_and_what_it_cost(
    spin: Spin | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "usable_cores", lambda: 1)
    words = [] if spin is None else ["--spin", spin]
    done = here(*_SERVER, *words, "--output", tmp_path / "run")
    assert f"(--spin {spin or 'adaptive'})" in " ".join(done.stdout.split())
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    overhead = result["overhead"]
    crowded = [text for text in result["warnings"] if "--spin full takes a core" in text]
    assert len(crowded) == (spin == "full")
    assert overhead["pacer_spin"] == (spin or "adaptive")
    assert (overhead["pacer_spin_s"] > 0) == (spin != "off")
    assert {"p50", "p99"} <= result["lateness_ns"].keys()
    assert 0 <= overhead["issuing_cpu_us_per_sample"] * 1e-6 <= overhead["issuing_thread_cpu_s"]
    if spin == "full":
        assert overhead["pacer_spin_s"] > 0.5 * overhead["issuing_thread_cpu_s"]
    shown = here("show", tmp_path / "run")
    assert f"(--spin {spin or 'adaptive'})" in " ".join(shown.stdout.split())


def test_the_warm_up_and_the_phase_wait_alike(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    known = pacer.Pacer.__init__

    def noting(self: pacer.Pacer, spin: Spin = Spin.ADAPTIVE, **more: bool) -> None:
        made.append(spin)
        known(self, spin, **more)

    monkeypatch.setattr(pacer.Pacer, "__init__", noting)
    here(*_SERVER, "--spin", "off", "--warmup", 3, "--output", tmp_path / "run")
    assert made[-2:] == [Spin.OFF, Spin.OFF]  # after the check before the run


def test_elsewhere_it_has_no_effect_and_a_note_says_so(tmp_path: Path) -> None:
    words = ["run", "null", "digits", "--time", 0.01, "--no-dashboard", "--spin", "full", "--output", tmp_path / "run"]
    done = here(*words)
    assert "--spin has no effect in SingleStream" in done.stdout + done.stderr
    assert json.loads((tmp_path / "run" / "result.json").read_text())["overhead"]["pacer_spin"] is None


@pytest.mark.parametrize(
    ("cores", "traffic", "fleet", "warned"),
    [
        (1, ("full", "Server"), None, True),
        (2, ("full", "Server"), None, False),
        (1, ("off", "Server"), None, False),
        (1, ("full", "Offline"), None, False),
        (2, ("full", "Server"), FleetOptions(workers=2), True),
        (3, ("full", "Server"), FleetOptions(workers=2), False),
        (2, ("full", "Server"), FleetOptions(workers=2, hosts=2), False),  # on cores of other machines
    ],
)
def test_a_core_for_itself_where_there_is_none_other(
    cores: int, traffic: tuple[str, str], fleet: FleetOptions | None, warned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "usable_cores", lambda: cores)
    asked: Any = SimpleNamespace(spin=traffic[0], scenario=traffic[1])
    options = RunOptions("null", "digits", traffic=asked, system=fleet and RemoteOptions(None, fleet))
    found = local.crowded(options, 0)
    assert len(found) == warned
    assert all(f"and {cores} can be used" in text for text in found)


@pytest.mark.parametrize(
    ("cores", "processes", "instances", "warned"),
    [
        (2, 0, 1, False),
        (2, 1, 1, True),  # the generator, and a worker that never sleeps either
        (3, 1, 1, False),
        (3, 2, 1, True),
        (2, 1, 2, False),  # several workers of a process sleep
    ],
)
def test_processes_of_the_model_that_never_sleep_count(
    cores: int, processes: int, instances: int, warned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "usable_cores", lambda: cores)
    asked: Any = SimpleNamespace(spin=Spin.FULL, scenario="Server")
    system = LocalOptions(backend=SimpleNamespace(instances=instances))
    assert len(local.crowded(RunOptions("pytorch", "digits", traffic=asked, system=system), processes)) == warned


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_generators_of_their_own_wait_as_asked(workers: int, tmp_path: Path) -> None:
    with serving("null", "identity") as served:
        words = ["run", "triton", "identity", "--url", served.ready["grpc"], "--input", "INPUT0:16", *_SERVER[3:]]
        here(*words, "--workers", workers, "--spin", "off", "--output", tmp_path / "run")
    overhead = json.loads((tmp_path / "run" / "result.json").read_text())["overhead"]
    assert overhead["pacer_spin"] == "off"
    assert overhead["pacer_spin_s"] == 0
