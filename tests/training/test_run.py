"""Whole runs in processes of their own: divided over ranks, killed and resumed, and given what they can not use."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.extra
pytest.importorskip("mlperf_logging", reason="needs the extra train")

import torch  # noqa: E402

from drumfire.loadgen.installation import ROOT  # noqa: E402
from drumfire.training import checkpoint  # noqa: E402
from drumfire.training.__main__ import main  # noqa: E402
from drumfire.training.faults import InputError  # noqa: E402

Start = Callable[..., Any]


def events(folder: Path, kind: str) -> list[dict[str, Any]]:
    lines = (folder / "events.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["kind"] == kind]


def losses(folder: Path) -> list[float]:
    return [step["loss"] for step in events(folder, "step")]


def logged(folder: Path, key: str) -> list[dict[str, Any]]:
    lines = (folder / "mlperf.log").read_text().splitlines()
    return [line for line in (json.loads(text.partition(" ")[2]) for text in lines) if line["key"] == key]


def wait_for(condition: Callable[[], bool], within_s: float = 120) -> None:
    until = time.monotonic() + within_s
    while not condition():
        assert time.monotonic() < until, "it did not come to that"
        time.sleep(0.02)


def assert_same_course(found: list[float], expected: list[float]) -> None:
    """Equal but for rounding, which grows as it chooses other regions."""
    assert len(found) == len(expected)
    assert found[0] == pytest.approx(expected[0], rel=1e-6)
    assert found == pytest.approx(expected, rel=2e-3)


def test_two_ranks_of_torchrun_have_the_loss_of_one(start: Start, data: Path, tmp_path: Path) -> None:
    asked = ["shapes", "--data-dir", str(data), "--seed", "5", "--steps", "2", "--workers", "0"]
    torchrun = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "drumfire.training")
    run = start(*asked, "--output", "of-2", program=torchrun)
    assert main([*asked, "--output", str(tmp_path / "of-1")]) == 0
    (end,) = run.ended()
    assert end.status == 0, end.stderr
    assert_same_course(losses(tmp_path / "of-2"), losses(tmp_path / "of-1"))


@pytest.mark.slow
def test_ranks_have_the_loss_of_one(start: Start, data: Path, tmp_path: Path) -> None:
    """Over the end of an epoch, whose last batch is one image: the second rank has nothing to count."""
    asked = ("shapes", "--data-dir", str(data), "--seed", "5", "--steps", "5")
    runs = [start(*asked, "--output", f"of-{ranks}", ranks=ranks) for ranks in (1, 2)]
    assert [end.status for run in runs for end in run.ended()] == [0] * 3
    assert_same_course(losses(tmp_path / "of-2"), losses(tmp_path / "of-1"))
    alone, divided = (events(tmp_path / f"of-{ranks}", "accuracy")[0] for ranks in (1, 2))
    assert divided["box"] == pytest.approx(alone["box"], abs=1e-3)
    assert divided["mask"] == pytest.approx(alone["mask"], abs=1e-3)


@pytest.mark.slow
def test_killed_and_resumed_as_if_never_stopped(start: Start, data: Path, tmp_path: Path) -> None:
    asked = ("shapes", "--data-dir", str(data), "--seed", "3", "--epochs", "2", "--checkpoint-every", "2")
    (whole,) = start(*asked, "--output", "whole").ended()
    assert whole.status == 1, "so small a set is not learnt in two epochs"
    folder = tmp_path / "killed"

    def steps() -> int:
        return len(losses(folder)) if (folder / "events.jsonl").exists() else 0

    for after in (3, 6):  # in the first epoch with steps after the checkpoint, and in the second
        run = start(*asked, "--output", "killed", *(["--resume"] if after > 3 else []))
        wait_for(lambda: steps() >= after)  # noqa: B023
        run.kill(0)
        run.ended()
        checkpoint.load(folder / "checkpoint.pt")
    stopped = time.time()
    (end,) = start(*asked, "--output", "killed", "--resume").ended()
    assert end.status == 1
    assert losses(folder) == losses(tmp_path / "whole"), "to the last bit"
    for kind in ("accuracy", "epoch"):
        times = {"since_start_s": 0.0}
        assert [e | times for e in events(folder, kind)] == [e | times for e in events(tmp_path / "whole", kind)]
    result = json.loads((folder / "result.json").read_text())
    assert result["resumptions"] == 2
    (began,), (ended,) = logged(folder, "run_start"), logged(folder, "run_stop")
    assert result["official_s"] == (ended["time_ms"] - began["time_ms"]) / 1000
    assert ended["time_ms"] / 1000 > stopped, "the clock ran on"
    assert result["lost_s"] > 0
    assert result["training_s"] + result["evaluation_s"] + result["lost_s"] <= result["official_s"] + 0.1
    assert result["wall_s"] >= result["official_s"]
    assert result["images"] == json.loads((tmp_path / "whole/result.json").read_text())["images"] == 50
    assert not list(folder.glob("*.partial"))


@pytest.mark.slow
def test_one_rank_killed_ends_all(start: Start, data: Path, tmp_path: Path) -> None:
    run = start("shapes", "--data-dir", str(data), "--output", "run", ranks=2)
    wait_for(lambda: (tmp_path / "run/events.jsonl").exists() and len(losses(tmp_path / "run")) > 1)
    run.kill(1)
    first, second = run.ended(within_s=60)
    assert second.status == -9
    assert first.status == 1
    assert "rank 0: another rank is gone" in first.stderr
    assert "--resume" in first.stderr


def test_told_to_end(start: Start, data: Path, tmp_path: Path) -> None:
    run = start("shapes", "--data-dir", str(data), "--output", "run")
    wait_for(lambda: (tmp_path / "run/events.jsonl").exists() and len(losses(tmp_path / "run")) > 1)
    run.processes[0].terminate()
    (end,) = run.ended()
    assert end.status == 130
    assert end.stderr.strip() == "training: rank 0: interrupted; --resume continues from the last checkpoint"


def no_annotations(folder: Path) -> str:
    (folder / "annotations/instances_val2017.json").unlink()
    return "instances_val2017.json"


def corrupt_picture(folder: Path) -> str:
    picture = sorted((folder / "train2017").iterdir())[3]
    picture.write_bytes(picture.read_bytes()[:200])
    return picture.name


def missing_picture(folder: Path) -> str:
    picture = sorted((folder / "train2017").iterdir())[-1]
    picture.unlink()
    return picture.name


def corrupt_evaluation_picture(folder: Path) -> str:
    picture = sorted((folder / "val2017").iterdir())[-1]
    picture.write_bytes(b"not a picture")
    return picture.name


def no_json(folder: Path) -> str:
    (folder / "annotations/instances_train2017.json").write_text('{"images": [')
    return "instances_train2017.json"


def unlisted_image(folder: Path) -> str:
    path = folder / "annotations/instances_train2017.json"
    found = json.loads(path.read_text())
    found["annotations"][0]["image_id"] = 999
    path.write_text(json.dumps(found))
    return "image_id is 999, must be the id of an image in the file"


def wrong_json(folder: Path) -> str:
    (folder / "annotations/instances_train2017.json").write_text('{"images": [], "annotations": []}')
    return "categories is missing"


def assert_one_line(stderr: str, named: str) -> None:
    (line,) = stderr.splitlines()
    assert line.startswith("training: ")
    assert named in line


@pytest.mark.slow
@pytest.mark.parametrize("spoil", [no_annotations, missing_picture])
def test_a_fault_is_told_once_and_ends_all_ranks(
    start: Start, data: Path, tmp_path: Path, spoil: Callable[[Path], str]
) -> None:
    shutil.copytree(data, tmp_path / "spoilt")
    named = spoil(tmp_path / "spoilt")
    ends = start("shapes", "--data-dir", "spoilt", "--output", "run", "--epochs", "1", ranks=2).ended(within_s=60)
    assert [end.status for end in ends] == [2, 2]
    assert_one_line(ends[0].stderr + ends[1].stderr, named)


@pytest.mark.parametrize(
    "spoil",
    [no_annotations, missing_picture, corrupt_picture, corrupt_evaluation_picture, no_json, wrong_json, unlisted_image],
)
def test_unusable_data(
    data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], spoil: Callable[[Path], str]
) -> None:
    shutil.copytree(data, tmp_path / "spoilt")
    named = spoil(tmp_path / "spoilt")
    folders = ["--data-dir", str(tmp_path / "spoilt"), "--output", str(tmp_path / "run")]
    assert main(["shapes", *folders, "--epochs", "1", "--workers", "0"]) == 2
    assert_one_line(capfd.readouterr().err, named)


USAGES = [
    (["--backend", "nccl", "--device", "cpu"], "--backend gloo"),
    (["--batch-size", "7"], "multiple of 2"),
    (["--output", "/proc/none"], "choose another --output"),
    (["--resume"], "start without --resume"),
    (["--epochs", "0"], "--epochs: must be at least 1, not 0"),
    (["--division", "closed"], "leave --division open"),
    (["--speed", "9"], "--speed"),
]


@pytest.mark.parametrize(("options", "named"), USAGES)
def test_wrong_usage(
    data: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str], options: list[str], named: str
) -> None:
    folders = ["--data-dir", str(data), "--output", str(tmp_path / "run")]
    assert main(["shapes", *folders, "--accumulation", "2", *options]) == 2
    assert_one_line(capfd.readouterr().err, named)


@pytest.mark.slow
def test_wrong_usage_ends_all_ranks(start: Start, data: Path) -> None:
    ends = start("shapes", "--data-dir", str(data), "--backend", "nccl", "--device", "cpu", ranks=2).ended(within_s=60)
    assert [end.status for end in ends] == [2, 2]
    assert_one_line(ends[0].stderr + ends[1].stderr, "nccl needs a GPU")


@pytest.mark.slow
def test_no_room_for_the_checkpoint(start: Start, data: Path, tmp_path: Path) -> None:
    """A limit on the size of files stands in for a full disk."""
    limited = (
        "import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20)); "
        "sys.argv[0] = 'training'; runpy.run_module('drumfire.training', run_name='__main__', alter_sys=True)"
    )
    ends = start("shapes", "--data-dir", str(data), "--output", "run", ranks=2, program=["-c", limited]).ended(
        within_s=60
    )
    assert [end.status for end in ends] == [2, 2]
    (line,) = [line for end in ends for line in end.stderr.splitlines()]
    assert "cannot write the checkpoint run/checkpoint.pt" in line
    assert "make room" in line
    assert not list((tmp_path / "run").glob("checkpoint*")), "never half of one"


@pytest.mark.slow
def test_two_hosts_on_loopback(data: Path, tmp_path: Path, start: Start) -> None:
    """torchrun's own rendezvous, as over two machines."""
    (alone,) = start("shapes", "--data-dir", str(data), "--seed", "5", "--steps", "3", "--output", "one").ended()
    assert alone.status == 0
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    hosts = [
        subprocess.Popen(
            [
                *(sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=1"),
                *("--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{port}", f"--node-rank={host}"),
                *(
                    "--rdzv-id=test",
                    "--local-addr=127.0.0.1",
                    "-m",
                    "drumfire.training",
                    "shapes",
                    "--data-dir",
                    str(data),
                ),
                *("--seed", "5", "--steps", "3", "--output", "hosts"),
            ],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT), "GLOO_SOCKET_IFNAME": "lo", "OMP_NUM_THREADS": "1"},
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for host in range(2)
    ]
    try:
        assert [host.wait(timeout=120) for host in hosts] == [0, 0]
    finally:
        for host in hosts:
            host.kill()
    assert_same_course(losses(tmp_path / "hosts"), losses(tmp_path / "one"))


def test_a_checkpoint_is_whole_or_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "checkpoint.pt"
    checkpoint.save({"at": 1}, path)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="No space left on device; make room"):
        checkpoint.save({"at": 2}, path)
    assert checkpoint.load(path) == {"at": 1}
    assert list(tmp_path.iterdir()) == [path]
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(InputError, match="cannot read the checkpoint"):
        checkpoint.load(path)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_gpu_trains_as_the_cpu(start: Start, data: Path, tmp_path: Path) -> None:
    asked = ("shapes", "--data-dir", str(data), "--seed", "5", "--steps", "3")
    for options in (["--device", "cpu"], ["--device", "cuda", "--precision", "fp32"], ["--device", "cuda"]):
        (end,) = start(*asked, *options, "--output", "-".join(options).replace("--", "")).ended()
        assert end.status == 0
    cpu, gpu, mixed = (
        losses(tmp_path / name)[0] for name in ("device-cpu", "device-cuda-precision-fp32", "device-cuda")
    )
    # The devices draw other anchors from the same seed: near, not equal.
    assert gpu == pytest.approx(cpu, rel=0.1)
    assert mixed == pytest.approx(gpu, rel=0.05)
