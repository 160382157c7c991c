"""What a model or a coroutine gives as the responses to a batch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np


def check_count(responses: Any, rows: int) -> None:
    """Raise ``TypeError`` for what cannot be responses, and ``ValueError`` unless ``rows`` rows have as many."""
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
        raise ValueError(f"{len(responses)} responses to a batch of {rows}")
