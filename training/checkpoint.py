"""Writes checkpoints as a whole or not at all: a new one replaces the old one only when it is on the disk.

Does not depend on the contents of a checkpoint.
"""

from __future__ import annotations

import io
import os
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch

from drumfire.training.faults import InputError, one_line


def save(state: dict[str, Any], path: Path) -> None:
    """Replace the checkpoint at ``path``.  ``InputError`` if it cannot be written: the old one then remains."""
    partial = path.with_suffix(".partial")
    try:
        # Through memory, because torch's own error for a full disk does not name the cause.
        packed = io.BytesIO()
        torch.save(state, packed)
        with partial.open("wb") as file:
            file.write(packed.getbuffer())
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        partial.unlink(missing_ok=True)
        raise InputError(
            f"cannot write the checkpoint {path}: {one_line(error)}; make room, then start again with --resume"
        ) from None


def load(path: Path) -> dict[str, Any]:
    """Read the checkpoint at ``path``, tensors on the CPU.  ``InputError`` if it is missing or not readable."""
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(f"checkpoint {path} does not exist: start without --resume") from None
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        raise InputError(f"cannot read the checkpoint {path}: {one_line(error)}") from None
    return state
