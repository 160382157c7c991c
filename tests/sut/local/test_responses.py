"""What is no responses is refused, whatever its length."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from drumfire.sut.local.responses import check_count


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
