"""Where a model runs: in a process of its own in Server and Offline, in several, on several GPUs, or in this one.

No machine of the tests has a GPU: a script in the place of nvidia-smi tells of some, and the model runs on the CPU.
"""

from __future__ import annotations

import json
import os
import signal
import stat
import time
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from drumfire.bench.assemble import local
from drumfire.bench.commands.run import claimed
from drumfire.loadgen.errors import UserError
from drumfire.loadgen.settings import Scenario
from drumfire.sut import models
from drumfire.sut.local import devices
from drumfire.sut.local.loaded import Loaded
from tests.support.command import SCHEMA, await_answers, finished, here, one_line_error, options, result_of, start
from tests.support.own_processes import await_end

pytestmark = pytest.mark.skipif(local.usable_cores() < 2, reason="one core, on which a model has no process of its own")
DIGITS = ("run", "onnxruntime", "digits")
SHORT = ("--time", "0.05", "--no-dashboard")


def run(tmp_path: Path, *words: object) -> dict[str, Any]:
    done = here(*DIGITS, *words, *SHORT, "--output", tmp_path / "run", "--json")
    return result_of(done, done.returncode)


@pytest.mark.parametrize(
    ("words", "count"),
    [
        (["--scenario", "Server", "--qps", "500"], 1),
        (["--scenario", "Server", "--qps", "500", "--processes", "0"], 0),
        (["--scenario", "Server", "--qps", "500", "--processes", "2", "--instances", "2"], 2),
        (["--scenario", "Offline", "--qps", "2000"], 1),
        (["--scenario", "SingleStream"], 0),
        (["--scenario", "MultiStream"], 0),
        (["--scenario", "MultiStream", "--processes", "2"], 2),
    ],
)
def test_the_result_names_the_processes(tmp_path: Path, words: list[str], count: int) -> None:
    result = run(tmp_path, *words)
    processes = result["system"]["processes"]
    assert len({one["pid"] for one in processes} - {os.getpid()}) == count
    if count:
        assert sum(one["samples"] for one in processes) == result["delivered"]["samples"]
        assert all(one["cpu_s"] >= 0 and one["memory_bytes"] > 1e6 for one in processes)
        sizes: dict[str, int] = {}
        for one in processes:
            for size, batches in one["batch_sizes"].items():
                sizes[size] = sizes.get(size, 0) + batches
        assert sizes == result["system"]["batch_sizes"]
    shown = here("show", tmp_path / "run").stdout
    assert shown.count("process ") - shown.count("process CPU") == count


def test_a_query_of_several_samples_is_divided(tmp_path: Path) -> None:
    done = here(*DIGITS, "--scenario", "MultiStream", "--processes", "2", *SHORT, "--output", tmp_path / "run")
    assert "note: each query is divided among 2 processes" in done.stdout
    assert "batch sizes  4: " in done.stdout


@pytest.mark.parametrize("scenario", ["Server", "Offline", "MultiStream"])
def test_accuracy_is_that_of_threads(tmp_path: Path, scenario: str) -> None:
    logs = []
    for processes in (0, 2):
        folder = tmp_path / str(processes)
        words = ("--scenario", scenario, "--accuracy", "--processes", processes, "--count", 96, "--max-batchsize", 8)
        result = result_of(here(*DIGITS, *words, "--no-dashboard", "--output", folder, "--json"), 0)
        assert result["accuracy"]["total"] == 96
        log = json.loads((folder / "mlperf_log_accuracy.json").read_text())
        logs.append(sorted(log, key=lambda entry: entry["seq_id"]))
    assert logs[0] == logs[1]


def test_what_is_logged_is_made_where_the_labels_are_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A detector that moves boxes into the picture needs its size, in a run for performance too."""
    audit, calls = tmp_path / "audit.config", []
    audit.write_text("*.*.mode = 2\n*.*.accuracy_log_sampling_target = 64\n")
    kind = type(models.get("digits"))
    for name in ("library", "logged"):
        known = getattr(kind, name)
        monkeypatch.setattr(kind, name, lambda *args, at=name, known=known: (calls.append(at), known(*args))[1])
    for processes in (0, 2):
        calls.clear()
        run(tmp_path / str(processes), "--scenario", "Offline", "--processes", processes, "--audit-conf", audit)
        assert calls[:2] == ["library", "logged"]
        assert calls.count("library") == 1


def test_traffic_is_that_of_threads(tmp_path: Path) -> None:
    columns = []
    for processes in (0, 1, 2):
        folder = tmp_path / str(processes)
        here(*DIGITS, "--scenario", "Server", "--qps", 300, "--processes", processes, *SHORT, "--output", folder)
        columns.append([np.load(folder / "columns" / f"{name}.npy") for name in ("sample_index", "scheduled")])
    for other in columns[1:]:
        for mine, its in zip(columns[0], other, strict=True):
            np.testing.assert_array_equal(mine, its)


def test_a_model_that_is_killed_ends_the_run_with_what_it_had_answered(tmp_path: Path) -> None:
    words = ("--scenario", "Server", "--qps", "200", "--time", "60", "--json", "--output", tmp_path / "run")
    process = start(*DIGITS, *words)
    await_answers(process)
    (computing,) = json.loads((tmp_path / "run" / "settings.json").read_text())["system"]["processes"]
    os.kill(computing["pid"], signal.SIGKILL)
    done = finished(process)
    assert done.returncode == 1, done.stderr
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert any("SIGKILL" in reason for reason in result["reasons"]), result["reasons"]
    assert result["delivered"]["samples"] > 0
    assert "Traceback" not in done.stderr
    jsonschema.validate(result, SCHEMA)
    (lost,) = result["system"]["processes"]
    assert (lost["pid"], lost["cpu_s"], lost["memory_bytes"]) == (computing["pid"], None, None)
    shown = here("show", tmp_path / "run").stdout
    assert f"computed by  process {lost['pid']}\n" in shown


@pytest.mark.parametrize(("words", "times"), [((), 0), (("--accuracy",), 1)])
def test_the_data_is_read_here_only_where_answers_are_judged(
    words: tuple[str, ...], times: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []
    digits = type(models.get("digits"))
    library = digits.library
    monkeypatch.setattr(digits, "library", lambda self, *given: made.append(given) or library(self, *given))
    monkeypatch.setattr(digits, "reservations", ("random weights",))
    assembly = local.assemble(options(*DIGITS, "--scenario", "Server", "--qps", 100, *words))
    try:
        assert len(made) == times
        assert assembly.description["reservations"] == ["random weights"]
        assembly.check_judge("TEST01")
        assert len(made) == 1  # and once is enough
    finally:
        assembly.close()


def test_what_is_said_of_the_data_is_known_where_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Loaded, "__init__", lambda self: None)
    loaded = Loaded()  # type: ignore[call-arg]
    loaded._model = models.get("digits")
    loaded.description, loaded.max_batch_size, loaded._reservations = "", 1, []
    monkeypatch.setattr(type(loaded._model), "reservations", ("8 of 100 pictures",))
    assert loaded.facts()["reservations"] == ["8 of 100 pictures"]


@pytest.mark.slow
def test_a_stopped_model_does_not_outlive_a_killed_run(tmp_path: Path) -> None:
    words = ("--scenario", "Server", "--qps", "200", "--time", "60", "--no-dashboard", "--output", tmp_path / "run")
    process = start(*DIGITS, *words)
    settings = tmp_path / "run" / "settings.json"
    while not settings.exists():
        assert process.poll() is None
        time.sleep(0.02)
    (computing,) = json.loads(settings.read_text())["system"]["processes"]
    time.sleep(0.5)
    os.kill(computing["pid"], signal.SIGSTOP)
    process.kill()
    assert "are saved" in finished(process).stderr  # and its end of the pipe is closed
    await_end(computing["pid"])


def test_no_effect_in_a_closed_loop_of_one(tmp_path: Path) -> None:
    done = here(*DIGITS, "--processes", "2", *SHORT, "--output", tmp_path / "run")
    assert "--processes has no effect in SingleStream" in done.stdout


@pytest.fixture
def gpus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Three GPUs, by their numbers."""
    smi = tmp_path / "bin" / "nvidia-smi"
    smi.parent.mkdir()
    smi.write_text("#!/bin/sh\nprintf '0, GPU-aa0\\n1, GPU-ab1\\n2, GPU-b2\\n'\n")
    smi.chmod(smi.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", str(smi.parent), prepend=os.pathsep)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


@pytest.mark.usefixtures("gpus")
class TestGpus:
    @pytest.mark.parametrize(
        ("word", "numbers"),
        [("gpu", []), ("gpu:1", ["1"]), ("gpu:0,2", ["0", "2"]), ("gpu:all", ["0", "1", "2"]), ("cpu", [])],
    )
    def test_words(self, word: str, numbers: list[str]) -> None:
        assert devices.numbers(word) == numbers

    def test_those_that_are_hidden_are_not_there(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,1")
        assert devices.numbers("gpu:all") == ["2", "1"]
        with pytest.raises(UserError, match=r"gpu:0: there is no GPU 0; there are 2, 1$"):
            devices.numbers("gpu:0")

    @pytest.mark.parametrize(
        ("word", "says"),
        [("cpu:0", "only GPUs have numbers"), ("gpu:1,1", "twice"), ("gpu:0,7", "no GPU 7; there are 0")],
    )
    def test_refused(self, word: str, says: str) -> None:
        with pytest.raises(UserError, match=says):
            devices.numbers(word)

    @pytest.mark.parametrize(
        ("device", "scenario", "given", "count"),
        [
            ("gpu:0,2", "Server", (), 2), ("gpu:all", "Offline", (), 3), ("gpu:0,1", "MultiStream", (), 2),
            ("gpu:1", "MultiStream", (), 0), ("gpu:1", "SingleStream", (), 0), ("cuda:1", "Server", (), 1),
            ("gpu:1", "Server", ("--processes", "1"), 1), ("gpu:1", "Server", ("--processes", "0"), 0),
        ],
    )  # fmt: skip
    def test_a_process_each(self, device: str, scenario: str, given: tuple[str, ...], count: int) -> None:
        asked = options(*DIGITS, device, "--scenario", scenario, *given)
        assert local._processes(asked, Scenario[scenario], len(devices.numbers(asked.device))) == count

    def test_one_query_at_a_time_has_one(self) -> None:
        one_line_error(here("run", "pytorch", "digits", "gpu:0,1"), "SingleStream sends one query at a time")

    def test_another_number_of_processes_is_refused(self) -> None:
        one_line_error(
            here("run", "pytorch", "digits", "gpu:0,1", "--scenario", "Server", "--processes", 3),
            "each GPU of gpu:0,1 has one process",
        )

    @pytest.mark.parametrize(
        ("visible", "seen"),
        [
            ("2,1", ["2", "1"]), (" 2 , 1", ["2", "1"]), ("GPU-b2,GPU-aa0", ["2", "0"]), ("1,-1,0", ["1"]),
            ("GPU-ab,2", ["1", "2"]),
        ],
    )  # fmt: skip
    def test_the_variable_may_name_them_in_any_way(
        self, visible: str, seen: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert devices.numbers("gpu:all") == seen

    @pytest.mark.parametrize("visible", ["MIG-GPU-aa0/1/0", "", "-1", "7"])
    def test_the_variable_may_name_none(self, visible: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        one_line_error(
            here("run", "onnxruntime", "digits", "gpu:0"), f"CUDA_VISIBLE_DEVICES={visible} names no whole GPU"
        )

    def test_a_driver_that_hangs(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (tmp_path / "bin" / "nvidia-smi").write_text("#!/bin/sh\nexec sleep 60\n")
        monkeypatch.setattr(devices, "_SMI_S", 0.05)
        with pytest.raises(UserError, match=r"nvidia-smi has not answered for 0.05 s: check the driver$"):
            devices.numbers("gpu:0")

    def test_this_process_computes_on_one_gpu(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
        monkeypatch.setenv("CUDA_DEVICE_ORDER", "FASTEST_FIRST")
        monkeypatch.setattr(devices, "_bound", None)
        for _ in range(2):
            devices.bind("1")
            assert os.environ["CUDA_VISIBLE_DEVICES"] == "1"
        assert devices.numbers("gpu:all") == ["0", "1"]  # the others are still there, for processes of their own
        with pytest.raises(UserError, match=r"^gpu:0: this process uses GPU 1 already, and cannot"):
            devices.bind("0")
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "1"

    def test_cuda_that_has_started_keeps_its_gpus(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(devices, "_bound", None)
        monkeypatch.setattr(devices, "_UNIFIED_MEMORY", str(tmp_path / "uvm"))
        assert not devices._uses_cuda()
        with (tmp_path / "uvm").open("w"), pytest.raises(UserError, match=r"^gpu:0: this process uses GPUs already"):
            devices.bind("0")
        assert "CUDA_VISIBLE_DEVICES" not in os.environ

    def test_a_folder_is_named_without_colons(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.chdir(tmp_path)
        with claimed(options(*DIGITS, "gpu:0,1", "--scenario", "Server")) as claim:
            assert "-gpu0-1-Server" in claim.folder.name
            assert not set(claim.folder.name) & set(":,")

    def test_a_process_sees_its_own_alone(self) -> None:
        placement = devices.only_gpu("2")
        assert placement.variables["CUDA_VISIBLE_DEVICES"] == "2"
        assert placement.device == "gpu:2"


@pytest.mark.parametrize("word", ["gpu:", "gpu:x", "gpu:1,", "gpu:-1", "gpu:1.5", "tpu:0", "cpu:all:"])
def test_words_that_name_no_device(word: str) -> None:
    done = here("run", "onnxruntime", "digits", word)
    one_line_error(done, f"DEVICE: unknown '{word}'")
    one_line_error(done, "; choose one of cpu, gpu, or write gpu:1, gpu:0,1 or gpu:all")


def test_no_gpu_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    one_line_error(here("run", "onnxruntime", "digits", "gpu:all"), "no NVIDIA GPU is seen")


@pytest.mark.parametrize(
    ("cores", "processes", "threads", "each"),
    [
        (8, 2, 3, [[1, 2, 3], [4, 5, 6]]),
        (8, 3, 2, [[1, 2], [3, 4], [5, 6]]),
        (8, 4, 2, [[], [], [], []]),  # none would be left for the generator
        (8, 1, 2, [[]]),
    ],
)
def test_several_processes_have_cores_of_their_own(
    monkeypatch: pytest.MonkeyPatch, cores: int, processes: int, threads: int, each: list[list[int]]
) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(cores)))
    monkeypatch.setattr(devices, "usable_cores", lambda: cores)
    assert [list(one.cores) for one in devices.pinned(processes, threads)] == each


def test_a_quota_pins_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(8)))
    monkeypatch.setattr(devices, "usable_cores", lambda: 4)
    assert [list(one.cores) for one in devices.pinned(2, 1)] == [[], []]
