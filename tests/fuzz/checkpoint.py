"""A training's checkpoint: loaded and checked, or refused in one line.

An input is a whole file, or the pickle in one: the archive around it has a checksum, which hides it from mutations.
"""

from __future__ import annotations

import io
import zipfile

import torch

from drumfire.training import checkpoint
from drumfire.training.clock import Clock
from drumfire.training.faults import InputError
from drumfire.training.progress import epochs_to_target
from drumfire.training.tasks import TASKS
from drumfire.training.train import EVENTS, MLLOG, check_state
from tests.fuzz.harness import check_line, file

_TASK = TASKS["shapes"]
_FILE = file("checkpoint.pt")


def _seed(evaluations: int) -> bytes:
    state = {
        "identity": {"task": "shapes", "seed": 5, "batch_size": 8, "accumulation": 1, "precision": "fp32"},
        "clock": Clock(1).state(),
        "position": (1, 2, 3),
        "evaluations": [{"epoch": 1, "since_start_s": 5.0, "box": 0.1, "mask": 0.2}] * evaluations,
        "journals": {EVENTS: 10, MLLOG: 20},
        "model": {"weight": torch.arange(3.0)},
        "optimizer": {"state": {}, "param_groups": [{"lr": 0.1}]},
        "scaler": {},
    }
    checkpoint.save(state, _FILE)
    return _FILE.read_bytes()


_WHOLE = [_seed(0), _seed(2)]
_ARCHIVES = [zipfile.ZipFile(io.BytesIO(whole)) for whole in _WHOLE]
_PICKLE = "archive/data.pkl"
SEEDS = [*_WHOLE, *(archive.read(_PICKLE) for archive in _ARCHIVES)]
_PARTS = [(name, _ARCHIVES[1].read(name)) for name in _ARCHIVES[1].namelist() if name != _PICKLE]
TOKENS = [
    b"\x88",
    b"N",
    b"K\x01",
    b"J\xff\xff\xff\xff",
    b"G\x7f\xf0\0\0\0\0\0\0",
    b"}",
    b"]",
    b"X\x01\0\0\0a",
    b"h\x01",
]


def read(data: bytes) -> None:
    if data.startswith(b"\x80"):
        with zipfile.ZipFile(_FILE, "w") as archive:
            for name, contents in ((_PICKLE, data), *_PARTS):
                archive.writestr(name, contents)
    else:
        _FILE.write_bytes(data)
    try:
        state = checkpoint.load(_FILE)
        check_state(state, _FILE, _TASK)
    except InputError as error:
        check_line(error)
        return
    if state["identity"].get("task") == _TASK.name:
        epochs_to_target(state["evaluations"], _TASK.targets)
