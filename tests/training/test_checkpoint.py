"""A checkpoint that no run of this version wrote is refused in one line, before anything is trained."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.extra
pytest.importorskip("mlperf_logging", reason="needs the extra train")

import torch  # noqa: E402

from drumfire.training import checkpoint, result  # noqa: E402
from drumfire.training.__main__ import main  # noqa: E402
from drumfire.training.clock import Clock  # noqa: E402
from drumfire.training.faults import InputError  # noqa: E402
from drumfire.training.tasks import TASKS  # noqa: E402
from drumfire.training.train import EVENTS, MLLOG, check_state  # noqa: E402

FILE = Path("run/checkpoint.pt")
IDENTITY = {"task": "shapes", "seed": 5, "batch_size": 8, "accumulation": 1, "precision": "fp32"}
EVALUATION = {"epoch": 1, "since_start_s": 5.0, "box": 0.1, "mask": 0.2}
TASK = TASKS["shapes"]


def state(**changed: Any) -> dict[str, Any]:
    made = {
        "identity": IDENTITY,
        "clock": Clock(1).state(),
        "position": (1, 2, 3),
        "evaluations": [EVALUATION],
        "journals": {EVENTS: 0, MLLOG: 0},
        "model": {"weight": torch.zeros(3)},
        "optimizer": {},
        "scaler": {},
    }
    return made | changed


def test_what_a_run_saves_is_accepted(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    checkpoint.save(state(), path)
    check_state(checkpoint.load(path), path, TASK)


@pytest.mark.parametrize(
    "changed",
    [
        *({name: None} for name in ("identity", "clock", "position", "evaluations", "journals")),
        {"identity": {}},
        {"identity": IDENTITY | {"seed": "5"}},
        {"identity": IDENTITY | {"seed": -5}},
        {"position": (1, 2)},
        {"position": (0, 2, 3)},
        {"position": (1, 2.0, 3)},
        {"position": {"epoch": 1}},
        {"clock": {}},
        {"clock": Clock(1).state() | {"hands": 2}},
        {"clock": Clock(1).state() | {"train_s": float("nan")}},
        {"clock": Clock(1).state() | {"images": "many"}},
        {"clock": Clock(1).state() | {"images\n\x1b": "many"}},
        {"clock": Clock(1).state() | {"train_s": 10**400}},
        {"journals": {EVENTS: 0}},
        {"journals": {EVENTS: 0, MLLOG: -1}},
        {"journals": {EVENTS: 0, "../other": 1}},
        {"journals": {EVENTS: 0, MLLOG: 0, "../other": 1}},
        {"evaluations": [{"epoch": 1, "box": float("inf")}]},
        {"evaluations": [1]},
        *({"evaluations": [{other: 1.0 for other in EVALUATION if other != name}]} for name in EVALUATION),
    ],
    ids=lambda changed: f"{'-'.join(changed)}",
)
def test_parts_that_no_run_saves_are_refused(changed: dict[str, Any]) -> None:
    told = rf"^{FILE} is not a checkpoint of this version \(.+\); start a new run in"
    with pytest.raises(InputError, match=told) as raised:
        check_state(state(**changed), FILE, TASK)
    assert str(raised.value).isprintable()


def test_damaged_and_foreign_files_are_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "checkpoint.pt"
    checkpoint.save(state(), path)
    whole = path.read_bytes()
    draws = random.Random(1)
    damaged = [
        b"",
        b"\0" * 100,
        b"PK\x03\x04",
        b"not a checkpoint",
        b"\x80\x02}q\x00.",
        whole[:-1],
        whole[: len(whole) // 2],
    ]
    for _ in range(200):
        changed = bytearray(whole)
        for _ in range(draws.randrange(1, 20)):
            changed[draws.randrange(len(changed))] = draws.randrange(256)
        damaged.append(bytes(changed))
    refused = 0
    for content in damaged:
        path.write_bytes(content)
        said = ""
        try:
            checkpoint.load(path)
        except InputError as error:
            refused += 1
            said = str(error)
        assert "\n" not in said
        assert len(said) < 400 + len(str(path))
    assert refused > 50
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(
        InputError, match=r"^cannot read the checkpoint .+: it is damaged, or another program's; start a"
    ):
        checkpoint.load(path)
    for other in ([1, 2], torch.zeros(3), "text", 5):
        torch.save(other, path)
        with pytest.raises(InputError, match="is not the checkpoint of a run; start a new run in another --output"):
            checkpoint.load(path)


def test_a_checkpoint_of_another_model_ends_a_run_with_status_2(
    data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    run.mkdir()
    checkpoint.save(state(), run / "checkpoint.pt")
    asked = ["shapes", "--data-dir", str(data), "--output", str(run), "--resume", "--workers", "0", "--device", "cpu"]
    assert main(asked) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "checkpoint.pt has other parts than this model" in line
    checkpoint.save(state(identity=IDENTITY | {"task": "maskrcnn"}), run / "checkpoint.pt")
    assert main(asked) == 2
    assert "holds a run of task maskrcnn" in capsys.readouterr().err


RESULT = {
    "seed": 1, "converged": True, "epochs": 2, "target": {"box": 0.5}, "official_s": 1.5, "wall_s": 2,
    "training_s": 1.0,
    "evaluations": [{"epoch": 1, "since_start_s": 1.0, "box": 0.5}], "evaluation_s": 0.5, "images": 10,
    "images_per_s": 10.0, "environment": {"versions": {"torch": "2"}},
}  # fmt: skip


@pytest.mark.parametrize(
    "content",
    [
        "", "{", "[]", "null", "\xff", "[" * 100_000,
        *(json.dumps({**RESULT, name: value}) for name in RESULT for value in (None, "x", [1])),
        *(json.dumps({**RESULT, name: float("nan")}) for name in ("official_s", "images", "epochs")),
        json.dumps({**RESULT, "target": {"box": 0.5, "mask\n": 0.5}}),
        json.dumps({**RESULT, "environment": {}}),
        *(json.dumps({**RESULT, "evaluations": [{name: 1.0}]}) for name in ("epoch", "since_start_s", "box")),
        *(json.dumps({other: RESULT[other] for other in RESULT if other != name}) for name in RESULT),
    ],
)  # fmt: skip
def test_a_damaged_result_is_refused_in_one_line(tmp_path: Path, content: str) -> None:
    path = tmp_path / "result.json"
    path.write_bytes(json.dumps(RESULT).encode())
    assert result.load(path) == RESULT
    path.write_bytes(content.encode("latin-1"))
    with pytest.raises(InputError, match=r"result\.json.*choose another --output") as raised:
        result.load(path)
    assert "\n" not in str(raised.value)
