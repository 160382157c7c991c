"""What a system under test answers: the forms that responses may have, and those that are kept for the accuracy log."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from drumfire.loadgen.record import RowArray

Responses: TypeAlias = npt.NDArray[Any] | Sequence[bytes]
"""A system's answers, one item per row: ``responses[i]`` holds row i's bytes (the memory of an array row, or bytes)."""


def as_bytes(responses: Responses) -> Iterator[bytes]:
    """The bytes of each response."""
    for response in responses:
        yield response if isinstance(response, bytes) else np.asarray(response).tobytes()


@dataclass
class Kept:
    """Responses kept for the accuracy log: row ``rows[i]`` got ``responses[i]``."""

    rows: RowArray
    responses: Responses

    @classmethod
    def copied(cls, rows: RowArray, responses: Responses) -> Kept:
        """Own copies, as the system may use its arrays again."""
        own = responses.copy() if isinstance(responses, np.ndarray) else list(map(_unchanging, responses))
        return cls(rows.copy(), own)


def _unchanging(response: Any) -> Any:
    if isinstance(response, np.ndarray):
        return response.copy()
    return bytes(response) if isinstance(response, (bytearray, memoryview)) else response
