"""``drumfire run`` as a user types it, with the embedded model, and everything that may go wrong."""

import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import jsonschema
import numpy as np
import pytest

from drumfire.bench.assemble import local
from drumfire.bench.cli import main
from drumfire.sut.local import batcher
from drumfire.sut.local.batcher import BatchedSystem
from tests.support import faulty_run
from tests.support.command import (
    ROOT,
    SCHEMA,
    await_answers,
    drumfire,
    finished,
    here,
    one_line_error,
    press,
    result_of,
    start,
)

SCENARIOS = ["SingleStream", "MultiStream", "Server", "Offline"]
DIGITS = ["run", "onnxruntime", "digits", "cpu"]
# Few queries a second and a wide bound: what is tested here is not this machine's speed.
SMALL = ["--qps", "1500", "--max-latency", "2", "--time", "0.4"]
QUIET = ["--no-dashboard"]


@pytest.fixture(scope="module", params=SCENARIOS)
def valid_run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[dict, Path, str]:
    """Server in a process of its own, with the live view: its stdout must be the JSON and nothing else."""
    folder = tmp_path_factory.mktemp("run") / "out"
    server = request.param == "Server"
    # Of Offline more batches than any machine does in its time, and few enough for a slow one.
    offline = ["--qps", "200000", "--max-batchsize", "1", "--time", "0.1"]
    small = {"Server": SMALL, "Offline": [*offline, *QUIET]}.get(request.param, ["--time", "0.3", *QUIET])
    done = (drumfire if server else here)(*DIGITS, "--scenario", request.param, *small, "--json", "--output", folder)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout), folder, request.param


def test_json_fits_the_schema(valid_run: tuple[dict, Path, str]) -> None:
    result, folder, scenario = valid_run
    jsonschema.validate(result, SCHEMA)
    assert result["validity"] == "VALID"
    assert result["scenario"] == scenario
    assert result == json.loads((folder / "result.json").read_text())


def test_summary_file_has_the_same_figures(valid_run: tuple[dict, Path, str]) -> None:
    result, folder, scenario = valid_run
    summary = (folder / "mlperf_log_summary.txt").read_text()
    assert "Result is : VALID" in summary
    figures = result["query_latency_ns"] or result["latency_ns"]
    assert f"99.00 percentile latency (ns)   : {figures['p99']}\n" in summary
    if scenario == "Server":
        assert f"Completed samples per second    : {result['metric']['value']:.2f}\n" in summary
    elif scenario == "Offline":
        assert f"Samples per second: {result['metric']['value']:g}\n" in summary
    else:
        assert f"percentile estimate: {result['metric']['value']}\n" in summary


def test_columns_tell_the_run_again(valid_run: tuple[dict, Path, str]) -> None:
    result, folder, _ = valid_run
    columns = {path.stem: np.load(path) for path in (folder / "columns").glob("*.npy")}
    assert {len(column) for column in columns.values()} == {result["delivered"]["samples"]}
    assert (columns["issued"] >= columns["scheduled"]).all()
    assert (columns["begun"] >= columns["issued"]).all()
    assert (columns["completed"] >= columns["begun"]).all()
    assert sum(int(size) * n for size, n in result["system"]["batch_sizes"].items()) == len(columns["status"])
    assert int((columns["completed"] - columns["scheduled"]).max()) == result["latency_ns"]["max"]


@pytest.mark.parametrize("scenario", SCENARIOS)
def test_accuracy_of_digits(scenario: str, tmp_path: Path) -> None:
    qps = ["--qps", "5000"] if scenario == "Server" else []
    words = [*DIGITS, "--scenario", scenario, "--accuracy", *qps, "--json", *QUIET]
    result = result_of(here(*words, "--output", tmp_path / "out"), 0)
    assert result["command"].split()[1:4] == DIGITS[:3]  # its own words, whatever this process was started with
    assert result["accuracy"]["value"] >= 0.98
    assert result["accuracy"]["total"] == 500
    logged = json.loads((tmp_path / "out" / "mlperf_log_accuracy.json").read_text())
    assert {entry["qsl_idx"] for entry in logged} == set(range(500))


def test_last_screen_has_verdict_first_and_same_figures(tmp_path: Path) -> None:
    done = here(*DIGITS, "--scenario", "Server", *SMALL, *QUIET, "--output", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stdout.split("\n") if line.strip()]
    assert lines[0].strip() == "Result is : VALID"
    result = json.loads((tmp_path / "out" / "result.json").read_text())
    assert f"{result['metric']['value']:.4g}".rstrip("0").rstrip(".")[:3] in done.stdout.replace(",", "")
    assert "\x1b[" not in done.stdout


def test_null_system_runs(tmp_path: Path) -> None:
    words = ["run", "null", "digits", "--scenario", "Server", *SMALL, "--json", *QUIET]
    result_of(here(*words, "--output", tmp_path / "out"), 0)


def test_null_system_is_not_accurate(tmp_path: Path) -> None:
    done = here("run", "null", "digits", "--accuracy", "--json", *QUIET, "--output", tmp_path / "out")
    assert done.returncode == 1
    assert "below the target" in json.loads(done.stdout)["reasons"][0]


def test_too_few_queries_are_warned_of_with_the_mend(tmp_path: Path) -> None:
    arguments = ["--count", "100", "--time", "60", "--scenario", "Server", "--qps", "200", "--max-latency", "0.1"]
    done = here(*DIGITS, *arguments, *QUIET, "--output", tmp_path / "out")
    assert done.returncode == 1
    assert "Result is : INVALID" in done.stdout
    told = " ".join(done.stdout.split())
    assert "can only be INVALID" in told
    assert "459" in told
    assert "raise --count to 459" in told


def test_user_conf_is_applied_and_the_command_line_wins(tmp_path: Path) -> None:
    conf = tmp_path / "user.conf"
    conf.write_text("*.Server.target_qps = 1500\n*.Server.min_duration = 400\ndigits.Server.target_latency = 2000\n")
    words = [*DIGITS, "--scenario", "Server", "--user-conf", conf, "--json", *QUIET]
    result = result_of(here(*words, "--output", tmp_path / "a"), 0)
    assert result["asked"]["qps"] == 1500
    assert result["system"]["qps_source"] == "user.conf"
    done = here(*words, "--qps", "1600", "--output", tmp_path / "b")
    assert json.loads(done.stdout)["asked"]["qps"] == 1600


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["run", "onnxruntime", "resnet51"], ["resnet51", "digits"]),
        (["run", "onnxruntim", "digits"], ["BACKEND", "onnxruntim", "did you mean onnxruntime?"]),
        (["run", "pytorch", "some/where.onnx"], ["some/where.onnx"]),
        ([*DIGITS, "--scenario", "Sever"], ["Sever", "did you mean Server?"]),
        ([*DIGITS, "--qps", "0"], ["--qps", "at least 0.000001"]),
        ([*DIGITS, "--qps", "nan"], ["--qps", "at least 0.000001"]),
        ([*DIGITS, "--time", "-5"], ["--time", "at least 0.001"]),
        ([*DIGITS, "--count", "1.5"], ["--count", "whole number"]),
        ([*DIGITS, "--max-queue-delay", "-1"], ["--max-queue-delay", "at least 0"]),
        ([*DIGITS, "--max-batchsize", "99999"], ["--max-batchsize", "65,535"]),
        ([*DIGITS, "--workers", "2"], ["--workers", "no effect with onnxruntime, only with triton"]),
        ([*DIGITS, "--find-peak-performance"], ["--find-peak-performance", "Server or MultiStream"]),
        ([*DIGITS, "--scenario", "MultiStream", "--find-peak-performance"], ["--max-latency"]),
        ([*DIGITS, "--until-confident"], ["--until-confident", "Server"]),
        ([*DIGITS, "--submission", "--accuracy"], ["--submission", "--accuracy"]),
        ([*DIGITS, "--audit-conf", "/no/such/audit.config"], ["/no/such/audit.config"]),
        (["audit", "TEST02", "null", "digits"], ["TEST02", "TEST01"]),
        (["audit", "TEST01", "null", "digits", "--accuracy"], ["--accuracy", "audit"]),
        ([*DIGITS, "--user-conf", "/no/such/user.conf"], ["/no/such/user.conf"]),
        ([*DIGITS, "--weights", "/no/such.onnx"], ["/no/such.onnx"]),
        (["run", "onnxruntime", "./no-such.onnx"], ["no-such.onnx"]),
        ([*DIGITS, "--dataset-path", "/tmp"], ["own data", "--dataset-path"]),
        ([*DIGITS, "--output", "/dev/null/run"], ["/dev/null/run", "--output"]),
        ([*DIGITS, "--scenario", "Server", "--qps", "1e9", "--time", "1000"], ["MB free", "lower --qps or --time"]),
        (["run", "onnxruntime", "digits", "gpu"], ["onnx-gpu"]),
    ],
    ids=lambda value: " ".join(value[-3:]) if isinstance(value, list) else None,
)
def test_bad_input_gets_one_line_and_status_2(
    arguments: list[str], words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    one_line_error(here(*arguments), *words)
    assert not (tmp_path / "runs").exists() or not list((tmp_path / "runs").rglob("result.json"))


@pytest.mark.parametrize("wrong", [["--qps", "0"], ["--weights", "/no/such.onnx"]])
def test_a_process_ends_with_one_line_and_status_2(wrong: list[str], tmp_path: Path) -> None:
    """What the parser refuses, and what the run does."""
    one_line_error(drumfire(*DIGITS, *wrong, cwd=tmp_path), *wrong[-1:])


def test_malformed_user_conf(tmp_path: Path) -> None:
    conf = tmp_path / "user.conf"
    conf.write_text("*.Server.target_qps = 100 # as agreed\n")
    one_line_error(here(*DIGITS, "--user-conf", conf, "--output", tmp_path / "out"), "line 1", "comment")


@pytest.mark.parametrize("content", ["truncated", "wrong", "empty"])
def test_broken_model_file(content: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    whole = (ROOT / "sut" / "models" / "data" / "digits.onnx").read_bytes()
    broken = tmp_path / "broken.onnx"
    broken.write_bytes({"truncated": whole[: len(whole) // 2], "wrong": b"not a model" * 50, "empty": b""}[content])
    one_line_error(here(*DIGITS, "--weights", broken, "--output", tmp_path / "out"), "broken.onnx")
    assert capfd.readouterr().err == ""  # where the framework itself would write


def test_bare_model_file_runs_on_random_samples(tmp_path: Path) -> None:
    model = ROOT / "sut" / "models" / "data" / "digits.onnx"
    words = ["run", "onnxruntime", model, "--scenario", "Server", *SMALL, "--json", *QUIET]
    result_of(here(*words, "--output", tmp_path / "out"), 0)
    one_line_error(here("run", "onnxruntime", model, "--accuracy", "--output", tmp_path / "b"), "labels")


def disk_with(monkeypatch: pytest.MonkeyPatch, free: int) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda path: shutil._ntuple_diskusage(10**12, 10**12 - free, free))


def test_full_disk_is_known_before_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk_with(monkeypatch, 1000)
    one_line_error(here(*DIGITS, *SMALL, "--output", tmp_path / "out"), "MB free", "--output")


@pytest.mark.parametrize(
    ("words", "smaller"),
    [
        (["--scenario", "Server", "--qps", 10_000, "--time", 600], "--qps or --time"),
        (["--scenario", "Offline", "--qps", 10_000, "--time", 600], "--qps or --time"),
        (["--scenario", "Server", "--qps", 400_000, "--trace", "--time", 2], "--qps or --time"),
    ],
)
def test_full_disk_is_known_before_anything_is_loaded(
    words: list[object], smaller: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "assemble", lambda options: pytest.fail("it was loaded"))
    disk_with(monkeypatch, 170_000_000)
    done = here(*DIGITS, *words, "--output", tmp_path / "out")
    one_line_error(
        done, "has 170 MB free and the run may need", "history prune", "another --output", f"lower {smaller}"
    )
    assert not (tmp_path / "out").exists()


def test_little_room_is_a_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    disk_with(monkeypatch, 4_400_000)
    words = ["run", "null", "digits", "--scenario", "Server", "--qps", 400, "--time", 0.1, *QUIET]
    done = here(*words, "--output", tmp_path / "out")
    assert "note: the run may need 4 MB in" in done.stdout
    disk_with(monkeypatch, 44_000_000)
    assert "may need" not in here(*words, "--output", tmp_path / "roomy").stdout


def test_a_run_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "result.json").write_text("{}")
    one_line_error(here(*DIGITS, "--output", tmp_path), "already holds a run", "--output")


@pytest.mark.slow
@pytest.mark.parametrize(
    ("fault", "key", "says"),
    [
        ("fail_one_in_a_thousand", "failed", "samples failed, most often with: the thousandth sample"),
        ("raise_in_a_worker", "failed", "RuntimeError: the device is gone"),
        ("never_answer_some", "unanswered", "never answered"),
        ("hang_a_worker", "unanswered", "no good answer came for 1 s"),
        ("answer_twice", "refused", "a second answer to a row"),
        ("answer_what_was_never_issued", "refused", "never issued"),
    ],
)
@pytest.mark.parametrize("scenario", ["Server", "Offline"])
def test_faults_make_the_run_invalid(
    fault: str, key: str, says: str, scenario: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if scenario == "Offline" and fault == "answer_what_was_never_issued":
        pytest.skip("in Offline every row is issued at once")
    words = [
        "--scenario",
        scenario,
        "--qps",
        "5000",
        "--time",
        "0.3",
        "--max-latency",
        "2",
        "--patience",
        "1",
        "--processes",
        "0",  # where the fault is
        "--json",
    ]
    command = [*DIGITS, *words, "--output", tmp_path / "out"]
    if fault == "hang_a_worker":  # it hangs for as long as its process lives
        done = drumfire(*command, fault=fault)
    else:
        monkeypatch.setattr(BatchedSystem, "_run", getattr(faulty_run, fault))
        monkeypatch.setattr(batcher, "_MOST_BATCHES", 1)
        done = here(*command, *QUIET)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    result = json.loads(done.stdout)
    jsonschema.validate(result, SCHEMA)
    assert result["validity"] == "INVALID"
    assert result["errors"][key] > 0
    assert any(says in reason for reason in result["reasons"]), result["reasons"]
    assert "Result is : INVALID" in (tmp_path / "out" / "mlperf_log_summary.txt").read_text()


@pytest.mark.parametrize(
    ("scenario", "number"),
    [
        ("Server", signal.SIGINT),
        *(
            pytest.param(*one, marks=pytest.mark.slow)
            for one in itertools.product(("Server", "SingleStream"), (signal.SIGINT, signal.SIGTERM))
            if one != ("Server", signal.SIGINT)
        ),
    ],
)
def test_interrupted_run_is_saved_and_invalid(scenario: str, number: signal.Signals, tmp_path: Path) -> None:
    words = ["--scenario", scenario, "--qps", "500", "--time", "300", "--json", "--output", tmp_path / "out"]
    process = start(*DIGITS, *words)
    try:
        await_answers(process)
        press(process, number)
    finally:
        done = finished(process, 30)
    result = result_of(done, 130)
    assert result["validity"] == "INVALID"
    assert signal.Signals(number).name in result["reasons"][0]
    assert result["delivered"]["samples"] > 0
    assert len(np.load(tmp_path / "out" / "columns" / "completed.npy")) >= result["delivered"]["samples"]


def test_interrupted_before_the_run(tmp_path: Path) -> None:
    code = (
        "import time; from drumfire.bench.cli import program; from drumfire.bench.commands import run; "
        "run.local.assemble = lambda o: (print('ready', flush=True), time.sleep(60)); program()"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code, *DIGITS],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT, start_new_session=True,
    )  # fmt: skip
    try:
        assert process.stdout.readline() == "ready\n"
        time.sleep(0.1)
        os.kill(process.pid, signal.SIGINT)
        _, stderr = process.communicate(timeout=30)
    finally:
        process.kill()
    assert process.returncode == 130
    assert stderr == "drumfire: interrupted, and nothing was saved\n"


def test_models_and_version() -> None:
    listed = json.loads(drumfire("models", "--json").stdout)
    assert {"digits", "shapes", "efficientnet-lite0", "resnet50"} <= {model["name"] for model in listed["models"]}
    assert "digits" in here("models").stdout
    version = here("--version")
    assert version.returncode == 0
    assert version.stdout.startswith("drumfire ")


def test_help_is_worth_reading() -> None:
    text = here("run", "--help").stdout
    for word in ("SingleStream", "--max-queue-delay", "ms", "For example: drumfire run"):
        assert word in text


def test_the_words_are_the_processes_own_unless_given(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["drumfire", "models", "--table"])
    assert main() == 0
    assert capsys.readouterr().out == here("models", "--table").stdout
    assert here().stdout == here("--help").stdout != ""
