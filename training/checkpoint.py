"""Writes checkpoints as a whole or not at all: a new one replaces the old one only when it is on the disk.

Does not depend on the contents of a checkpoint.
"""

from __future__ import annotations

import errno
import io
import os
import warnings
from pathlib import Path
from typing import Any

import torch

from drumfire.loadgen.files import in_one_step
from drumfire.training.faults import InputError, one_line

ANOTHER = "start a new run in another --output"
"""What to do about a checkpoint that cannot be used."""


def save(state: dict[str, Any], path: Path) -> None:
    """Replace the checkpoint at ``path``.  ``InputError`` if it cannot be written: the old one then remains."""
    try:
        # Through memory, because torch's own error for a full disk does not name the cause.
        packed = io.BytesIO()
        torch.save(state, packed)
        with in_one_step(path) as file:
            file.write(packed.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise InputError(
            f"cannot write the checkpoint {path}: {one_line(error)}; make room, then start again with --resume"
        ) from None


def load(path: Path) -> dict[str, Any]:
    """Read the checkpoint at ``path``, tensors on the CPU.  ``InputError`` if it is missing or not readable."""
    if not path.exists():
        raise InputError(f"checkpoint {path} does not exist: start without --resume")
    if not path.is_file():
        raise InputError(f"cannot read the checkpoint {path}: it is not a file; choose another --output")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's, for other files than its own
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # what a damaged file makes torch raise can be nearly anything
        why = "it is damaged, or another program's"
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):  # the latter of a file cut short
            why = one_line(error)
        raise InputError(f"cannot read the checkpoint {path}: {why}; {ANOTHER}") from None
    if not isinstance(state, dict):
        raise InputError(f"{path} is not the checkpoint of a run; {ANOTHER}")
    return state
