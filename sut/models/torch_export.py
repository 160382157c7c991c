"""Turns a PyTorch network into an exported program, which can be run without the code that made it.

Knows torch's exporter; must not know any one model.
"""

from __future__ import annotations

import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:
    from torch import nn


def export(network: nn.Module, sample_shape: tuple[int, ...], path: Path, *, dtype: npt.DTypeLike = np.float32) -> None:
    """Write ``network`` (in eval mode) to ``path``, replacing the file in one step.

    The program takes one tensor of shape (N, *sample_shape), for any N.
    """
    import torch

    batch = torch.from_numpy(np.zeros((2, *sample_shape), dtype))  # a batch of one would be taken for a fixed size
    program = torch.export.export(network, (batch,), dynamic_shapes=({0: torch.export.Dim("N")},))
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".export-") as folder:
        part = Path(folder, path.name)
        torch.export.save(program, part)
        os.replace(part, path)
