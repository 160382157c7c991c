"""Runs of a model's file with the user's labels: judged in process and in another, audited, and what is refused."""

import json
import os
import re
import signal
import time
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest

from drumfire.bench import interface
from drumfire.loadgen.installation import ROOT
from drumfire.loadgen.saved import load
from drumfire.sut.local import backends
from drumfire.sut.models.file import FileModel
from tests.support.command import SCHEMA, WHOLE, finished, here, one_line_error, start
from tests.support.onnx_file import write_sum

pytest.importorskip("onnxruntime")
QUIET = ("--scenario", "Offline", "--json", "--no-dashboard")
FILES = Path(__file__).parents[2] / "data" / "onnx"


@pytest.fixture(scope="module")
def network(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, np.ndarray]:
    """A file, and what it gives for its samples."""
    file = write_sum(tmp_path_factory.mktemp("network") / "sum.onnx", ["a", "b"])
    return file, outputs(file)[0]


def outputs(file: Path) -> list[np.ndarray]:
    backend = backends.load("onnxruntime", file, "cpu", 1)
    model = FileModel(file)
    model.learn(backend)
    library = model.library()
    everything = np.arange(library.total_count)
    library.load(everything)
    given = [np.asarray(output) for output in backend.run(dict(library.batch(everything)))]
    backend.close()
    return given


@pytest.fixture
def labels(network: tuple[Path, np.ndarray], tmp_path: Path) -> Path:
    """The class that the network gives, but for ten samples."""
    classes = network[1].argmax(1)
    classes[:10] ^= 1
    np.save(tmp_path / "labels.npy", classes)
    return tmp_path / "labels.npy"


def result_of(*words: object, status: int = 0) -> dict[str, Any]:
    done = here(*words, *QUIET)
    assert done.returncode == status, done.stdout + done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    jsonschema.validate(result, SCHEMA)
    return result


@pytest.mark.parametrize("processes", [0, 1])
def test_it_is_judged_where_the_labels_are(
    processes: int, network: tuple[Path, np.ndarray], labels: Path, tmp_path: Path
) -> None:
    words = "run", "onnxruntime", network[0], "--accuracy", "--labels", labels, "--processes", processes
    result = result_of(*words, "--output", tmp_path / "run")
    total = network[1].shape[0]
    share = (total - 10) / total
    line = f"accuracy={share:.3%}, good={total - 10}, total={total}"
    assert result["accuracy"] == {
        "metric": "top-1", "value": share, "good": total - 10, "total": total, "expected": total, "target": None,
        "met": None, "lines": [line],
    }  # fmt: skip
    assert result["validity"] == "VALID"
    assert (tmp_path / "run" / "accuracy.txt").read_text() == line + "\n"
    assert f"{line} (no target)" in (tmp_path / "run" / "report.txt").read_text()
    log = json.loads((tmp_path / "run" / "mlperf_log_accuracy.json").read_text())
    answered = {one["qsl_idx"]: np.frombuffer(bytes.fromhex(one["data"]), "<f4").tolist() for one in log}
    assert answered == {index: [best] for index, best in enumerate(network[1].argmax(1).tolist())}


def test_a_target_that_is_missed(network: tuple[Path, np.ndarray], labels: Path, tmp_path: Path) -> None:
    words = "run", "onnxruntime", network[0], "--accuracy", "--labels", labels, "--processes", 0
    result = result_of(*words, "--quality", 0.99, "--output", tmp_path / "missed", status=1)
    assert (result["accuracy"]["target"], result["accuracy"]["met"]) == (0.99, False)
    assert "below the target of 99.000%" in " ".join(result["reasons"])
    result = result_of(*words, "--quality", 0.9, "--output", tmp_path / "met")
    assert (result["accuracy"]["target"], result["accuracy"]["met"]) == (0.9, True)


def test_exact_values_and_an_output_by_its_name(tmp_path: Path) -> None:
    file = FILES / "several_outputs.onnx"
    names = backends.load("onnxruntime", file, "cpu", 1).tensors.outputs
    for name, values in zip(names, outputs(file), strict=True):
        np.save(tmp_path / f"{name}.npy", values)
        words = "run", "onnxruntime", file, "--accuracy", "--labels", tmp_path / f"{name}.npy", "--processes", 0
        accuracy = result_of(*words, "--metric", f"exact:{name}", "--output", tmp_path / name)["accuracy"]
        assert (accuracy["metric"], accuracy["good"]) == ("exact", accuracy["total"])
    one_line_error(here(*words, "--metric", "exact"), f"the model gives {', '.join(names)}: say which output")


@pytest.mark.parametrize("processes", [0, 1])
@pytest.mark.parametrize(
    ("metric", "values", "why"),
    [
        ("top1", [0, 1] * 3 + [2] + [0] * 121, "label 7 is 2, and the model has 2 classes, 0 to 1"),
        ("top5", [0] * 128, "takes the scores of more than 5 classes"),
        ("exact", [[0.0] * 3] * 128, "label 1 has the shape [3], and the model's output [2] for a sample"),
    ],
)
def test_labels_that_no_output_has_are_refused_before_the_run(
    metric: str, values: Any, why: str, processes: int, network: tuple[Path, np.ndarray], tmp_path: Path
) -> None:
    np.save(tmp_path / "labels.npy", np.array(values))
    words = "--accuracy", "--labels", tmp_path / "labels.npy", "--metric", metric, "--processes", processes, *QUIET
    one_line_error(here("run", "onnxruntime", network[0], *words, "--output", tmp_path / "run"), why)
    assert not (tmp_path / "run" / "columns").exists()


@pytest.mark.parametrize("processes", [0, 2])
def test_a_submission_delivers_its_performance_phase(
    processes: int, network: tuple[Path, np.ndarray], labels: Path, tmp_path: Path
) -> None:
    """The accuracy phase before it is in no figure but the accuracy."""
    words = "run", "onnxruntime", network[0], "--submission", "--labels", labels, "--time", 0.05, "--qps", 2000
    done = here(*words, "--processes", processes, "--output", tmp_path / "run", *QUIET)
    result = json.loads(done.stdout)  # how long so few samples take does not matter here, so it may be INVALID
    jsonschema.validate(result, SCHEMA)
    delivered, system = result["delivered"], result["system"]
    assert delivered["queries"] == 1
    assert delivered["samples"] == result["latency_ns"]["count"] == result["asked"]["samples_per_query"]
    assert delivered["samples_per_second"] * delivered["duration_s"] == pytest.approx(delivered["samples"])
    sizes = system["batch_sizes"]
    assert sum(int(size) * count for size, count in sizes.items()) == delivered["samples"]
    assert sum(one["samples"] for one in system["processes"]) == (delivered["samples"] if processes else 0)
    assert result["accuracy"]["total"] == len(network[1])


@pytest.mark.slow
def test_submission_and_audit(network: tuple[Path, np.ndarray], labels: Path, tmp_path: Path) -> None:
    result = result_of(
        "run",
        "onnxruntime",
        network[0],
        "--submission",
        "--labels",
        labels,
        "--time",
        0.1,
        "--output",
        tmp_path / "run",
    )
    assert result["accuracy"]["good"] == result["accuracy"]["total"] - 10
    words = "audit", "TEST01", "onnxruntime", network[0], "--labels", labels, "--time", 0.1, "--scenario", "Offline"
    done = here(*words, "--json", "--output", tmp_path / "audit")
    checks = {check["name"]: check for check in json.loads(done.stdout)["checks"]}
    assert checks["answers"]["passed"], checks
    scored = (tmp_path / "audit" / "TEST01" / "accuracy" / "accuracy.txt").read_text()
    assert re.fullmatch(r"accuracy=[0-9.]+%, good=\d+, total=\d+\n", scored)


def test_what_cannot_be_judged_is_told_in_one_line(
    network: tuple[Path, np.ndarray], labels: Path, tmp_path: Path
) -> None:
    model = "run", "onnxruntime", network[0], "--processes", 0
    run = *model, "--scenario", "Offline", "--no-dashboard", "--output", tmp_path / "run"
    one_line_error(here(*run, "--accuracy"), "bare file without labels: give them with --labels, or run it without")
    one_line_error(here(*run, "--labels", tmp_path / "none.npy"), "the file of labels", "there is no such file")
    one_line_error(here(*run, "--labels", labels, "--metric", "top2"), "--metric top2: not known; available: top1")
    one_line_error(here(*run, "--labels", labels, "--metric", "top5"), "takes the scores of more than 5 classes")
    one_line_error(here(*run, "--labels", labels, "--metric", "top1:x"), "--metric top1:x: the model gives sum")
    one_line_error(here(*run, "--labels", labels, "--metric", "no_such:f"), "cannot be imported: ModuleNotFoundError")
    one_line_error(here(*run, "--metric", "exact"), "--metric has no effect without --labels")
    one_line_error(here(*run, "--quality", "0.5"), "--quality has no effect without --labels")
    one_line_error(here(*run, "--labels", labels, "--quality", "76"), "--quality: must be at most 1, not 76")
    one_line_error(here("run", "onnxruntime", "digits", "--labels", labels), "digits is judged by labels of its own")
    np.save(tmp_path / "few.npy", np.zeros(5, int))
    few = "--labels", tmp_path / "few.npy"
    one_line_error(
        here(*run, *few), f"few.npy has 5 labels for {len(network[1])} samples", "--count 5 uses the first 5"
    )
    assert not (tmp_path / "run").exists()
    done = here(*model, "--labels", labels, "--quality", 1, "--count", 3, "--no-dashboard", "--output", tmp_path / "3")
    for option in ("--labels", "--quality"):
        assert f"note: {option} has no effect without --accuracy or --submission" in done.stdout
    assert result_of(*model, *few, "--count", 5, "--accuracy", "--output", tmp_path / "five")["accuracy"]["total"] == 5


@pytest.mark.parametrize(
    ("function", "why"),
    [("fails", "77: ValueError: this one"), ("ends", "0: SystemExit: 7")],
)
def test_a_function_that_fails_loses_nothing(
    function: str,
    why: str,
    network: tuple[Path, np.ndarray],
    labels: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    name = f"own_metric_{tmp_path.name}"
    (tmp_path / f"{name}.py").write_text(
        "import sys\n"
        "def fails(outputs, labels):\n"
        "    for at, _ in enumerate(labels):\n"
        "        if at == 77:\n"
        "            raise ValueError('this one')\n"
        "    return [True] * len(labels)\n"
        "def ends(outputs, labels):\n    sys.exit(7)\n"
    )
    monkeypatch.chdir(tmp_path)
    judged = "--labels", labels, "--accuracy", "--metric", f"{name}:{function}", "--output", "run"
    done = here("run", "onnxruntime", network[0], "--processes", 0, *judged, *QUIET[:2], QUIET[-1])
    assert done.returncode == 2
    why = f"--metric {name}:{function} cannot judge the answers, first with sample {why}"
    assert done.stderr == f"drumfire: {why}\n"
    result = load("run").result
    assert result["validity"] == "INVALID"
    assert result["reasons"] == [f"The accuracy could not be computed: {why}"]
    assert result["delivered"]["samples"] == len(network[1])
    assert {one.name for one in Path("run").iterdir()} >= WHOLE - {"histograms"}
    assert capfd.readouterr().err == ""  # nor from another process


def test_what_a_function_prints_is_no_part_of_the_result(
    network: tuple[Path, np.ndarray], labels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = f"own_metric_{tmp_path.name}"
    text = "def score(outputs, labels):\n    print('judging', len(labels))\n    return 0.5\n"
    (tmp_path / f"{name}.py").write_text(f"print('imported')\n{text}")
    monkeypatch.chdir(tmp_path)
    judged = "--labels", labels, "--accuracy", "--metric", f"{name}:score", "--output", "run"
    done = here("run", "onnxruntime", network[0], "--processes", 0, *judged, *QUIET)
    assert json.loads(done.stdout)["accuracy"]["value"] == 0.5
    assert "imported" in done.stderr
    assert f"judging {len(network[1])}" in done.stderr


def test_a_signal_ends_a_metric_and_the_run_is_saved(
    network: tuple[Path, np.ndarray], labels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was measured is saved before the metric begins, and the verdict after it was interrupted."""
    seen, out = tmp_path / "seen.txt", tmp_path / "out"
    (tmp_path / "endless_score.py").write_text(
        "import pathlib, signal\n"
        "def score(outputs, labels):\n"
        f"    names = [path.name for path in pathlib.Path({str(out)!r}).rglob('*')]\n"
        f"    pathlib.Path({str(seen)!r}).write_text('\\n'.join(names))\n"
        "    while True:\n"
        "        signal.raise_signal(signal.SIGINT)\n"
    )
    monkeypatch.chdir(tmp_path)
    options: dict[str, Any] = {
        "labels": str(labels),
        "metric": "endless_score:score",
        "accuracy": True,
        "output": str(out),
    }
    with pytest.raises(KeyboardInterrupt):  # which Python's own handler raises in the end
        interface.run("onnxruntime", str(network[0]), scenario="Offline", quiet=True, **options)
    assert {"completed.npy", "status.npy", "mlperf_log_accuracy.json"} <= set(seen.read_text().split())
    saved = load(out)
    assert saved.result["validity"] == "INVALID"
    assert saved.result["reasons"] == ["The accuracy was not computed: interrupted by SIGINT"]
    assert {path.name for path in out.iterdir()} >= WHOLE - {"histograms"}


def test_a_metric_that_raises_an_interruption_itself(
    network: tuple[Path, np.ndarray], labels: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "rude_score.py").write_text("def score(outputs, labels):\n    raise KeyboardInterrupt\n")
    monkeypatch.chdir(tmp_path)
    words = ["--accuracy", "--labels", labels, "--metric", "rude_score:score", "--output", tmp_path / "out"]
    done = here("run", "onnxruntime", network[0], *words, *QUIET)
    assert done.returncode == 130
    said = "drumfire: The accuracy was not computed: interrupted; the run is saved"
    assert [line for line in done.stderr.splitlines() if not line.startswith("note: ")] == [said]
    assert json.loads(done.stdout)["reasons"] == ["The accuracy was not computed: interrupted"]
    assert load(tmp_path / "out").result["validity"] == "INVALID"


@pytest.mark.slow
def test_a_second_signal_ends_what_never_returns_to_python(
    network: tuple[Path, np.ndarray], labels: Path, tmp_path: Path
) -> None:
    (tmp_path / "deaf_score.py").write_text(
        f"import pathlib\ndef score(outputs, labels):\n    pathlib.Path({str(tmp_path / 'begun')!r}).touch()\n"
        "    return sum(range(10**15)) * 1.0\n"
    )
    words = ["--accuracy", "--labels", labels, "--metric", "deaf_score:score", "--output", tmp_path / "out"]
    environ = os.environ | {"PYTHONPATH": f"{ROOT}:{tmp_path}"}
    process = start("run", "onnxruntime", network[0], *words, *QUIET, env=environ)
    try:
        while not (tmp_path / "begun").exists():
            assert process.poll() is None
            time.sleep(0.05)
        time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        time.sleep(1)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
    finally:
        done = finished(process, 30)
    assert done.returncode == -signal.SIGKILL
    assert "answered are saved; drumfire show" in done.stderr
    assert (tmp_path / "out" / "mlperf_log_accuracy.json").stat().st_size > 100
    assert load(tmp_path / "out").ended is not None
