"""What a model or a coroutine gives for a batch: a model's outputs, and the responses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from drumfire.loadgen.errors import UserError
from drumfire.loadgen.wording import counted


class OutputError(UserError, ValueError):
    """Outputs, or responses, that are not one for each sample.  The text is one line, and names the output."""


def check_count(responses: Any, rows: int) -> None:
    """Raise ``TypeError`` for what cannot be responses, and ``OutputError`` unless ``rows`` rows have as many."""
    kind = type(responses)  # quicker than ``isinstance``: this is done for each batch
    if kind is np.ndarray:
        wrong = responses.dtype.hasobject or responses.ndim == 0
    elif kind is list:  # its items are alike, so one tells enough
        wrong = bool(responses) and responses[0] is None
    else:
        sequence = hasattr(responses, "__getitem__") and hasattr(responses, "__len__")
        wrong = not sequence or isinstance(responses, str | bytes | bytearray | Mapping)
    if wrong:
        name = kind.__name__ + (" of objects" if kind in (list, np.ndarray) else "")
        raise TypeError(f"{name} in place of responses: return an array or a list of bytes, an item for each sample")
    if len(responses) != rows:
        raise OutputError(f"{len(responses)} responses to a batch of {rows}")


def check_outputs(outputs: Sequence[Any], names: Sequence[str], rows: int) -> None:
    """Raise ``OutputError`` unless each of a model's outputs is an array with a row for each of ``rows`` samples.

    ``names`` are the outputs', for the message; none where they are not known.
    """
    if not outputs:
        raise OutputError("the model gives no output")
    for position, output in enumerate(outputs):
        if isinstance(output, np.ndarray) and output.ndim and len(output) == rows:
            continue
        name = f"output {names[position]!r}" if len(names) == len(outputs) else f"output {position}"
        shape = f"the shape {list(output.shape)}" if hasattr(output, "shape") else f"the type {type(output).__name__}"
        raise OutputError(
            f"the model's {name} has {shape} for {counted(rows, 'sample')}: its first size must be the batch, so "
            "export it as a tensor with one"
        )
