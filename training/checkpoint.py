"""Checkpoints: whole or not there.  Written beside the old one, put in its place only when all is on the disk.

Knows files; what is in a checkpoint is the trainer's.
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
    """Replace the checkpoint at ``path``.  ``InputError`` where it can not be written: the old one then stays."""
    partial = path.with_suffix(".partial")
    try:
        # Not to the file itself: of a full disk torch would tell only where in its archive it was.
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
    """``InputError`` where there is none, or it is not one."""
    try:
        found: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise InputError(f"there is no checkpoint {path} to resume from: start without --resume") from None
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        raise InputError(f"cannot read the checkpoint {path}: {one_line(error)}") from None
    return found
