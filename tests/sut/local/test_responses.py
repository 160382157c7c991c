"""What is no responses is refused, whatever its length."""

from __future__ import annotations

import re
from typing import Any

import numpy as np
import pytest

from drumfire.sut.local.responses import OutputError, check_count, check_outputs


@pytest.mark.parametrize(
    "wrong",
    [None, "ab", b"ab", bytearray(2), {"a": 1, "b": 2}, {1, 2}, 7, iter([b"a", b"b"]), [None, None],
     np.array([None, {}]), np.float32(3), np.array(3)],
)  # fmt: skip
def test_what_is_no_responses(wrong: Any) -> None:
    with pytest.raises(TypeError, match="in place of responses: return an array or a list of bytes"):
        check_count(wrong, 2)


@pytest.mark.parametrize("good", [[b"a", b""], (b"a", b"b"), np.zeros((2, 0)), np.array(["a", "b"]), [np.zeros(3)] * 2])
def test_what_is_responses(good: Any) -> None:
    check_count(good, 2)
    with pytest.raises(ValueError, match="2 responses to a batch of 3"):
        check_count(good, 3)


@pytest.mark.parametrize(
    ("outputs", "says"),
    [
        ([], "the model gives no output"),
        ([np.zeros((2, 3)), np.float32(1)], "the model's output 'b' has the shape [] for 2 samples"),
        ([np.zeros((2, 3)), np.zeros((1, 2))], "the model's output 'b' has the shape [1, 2] for 2 samples"),
        ([np.zeros((3, 2))], "the model's output 0 has the shape [3, 2] for 2 samples"),
        ([np.zeros(2), [{0: 0.5}, {0: 0.5}]], "the model's output 'b' has the type list for 2 samples"),
    ],
)
def test_outputs_without_a_row_for_each_sample(outputs: list[Any], says: str) -> None:
    with pytest.raises(OutputError, match=f"^{re.escape(says)}"):
        check_outputs(outputs, ("a", "b"), 2)


def test_outputs_with_a_row_for_each_sample() -> None:
    check_outputs([np.zeros((2, 3)), np.zeros(2)], ("a", "b"), 2)
