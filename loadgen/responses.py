"""What a system under test answers: the forms that responses may have, and those that are kept for the accuracy log."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

from drumfire.loadgen.record import RowArray

Responses: TypeAlias = npt.NDArray[Any] | Sequence[bytes]
"""A system's answers, one item per row: ``responses[i]`` holds row i's bytes (the memory of an array row, or bytes)."""


def as_bytes(responses: Responses) -> Iterator[bytes]:
    """The bytes of each response."""
    return map(_bytes, responses)


def rows_of(index: int, response: Any, width: int, what: str) -> npt.NDArray[np.float32]:
    """The response to sample ``index`` as rows of ``width`` float32: shape (k, width).

    ``what``: a row, for the message of the ``ValueError`` about a response of another size.
    """
    data = _bytes(response)
    if len(data) % (4 * width):
        raise _wrong_size(index, data, width, what)
    return np.frombuffer(data, "<f4").reshape(-1, width)


def table_of(indices: Iterable[int], responses: Responses, width: int, what: str) -> npt.NDArray[np.float32]:
    """The responses to samples ``indices``, each of ``width`` float32: shape (n, width).

    ``what``: a response, for the message of the ``ValueError`` about one of another size or type.
    """
    if isinstance(responses, np.ndarray):
        if responses.dtype != np.float32 or math.prod(responses.shape[1:]) != width:
            raise ValueError(f"{what} is {width} float32, not {responses.shape[1:]} of {responses.dtype}")
        return responses.reshape(len(responses), width)
    answers = list(as_bytes(responses))
    for index, data in zip(indices, answers, strict=False):
        if len(data) != 4 * width:
            raise _wrong_size(index, data, width, what)
    return np.frombuffer(b"".join(answers), "<f4").reshape(-1, width)


def _wrong_size(index: int, data: bytes, width: int, what: str) -> ValueError:
    return ValueError(
        f"the response to sample {index} has {len(data)} bytes: {what} is {width} float32, {4 * width} bytes"
    )


def _bytes(response: Any) -> bytes:
    return response if isinstance(response, bytes) else np.asarray(response).tobytes()


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
