"""The README's Python runs as it is printed, and says why where it does not measure."""

from __future__ import annotations

import contextlib
import io
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest

README = Path(__file__).parents[1] / "README.md"


async def ask_my_server(batch: Any) -> Any:
    return np.zeros((len(batch), 10), np.float32)


@pytest.mark.parametrize("there", [True, False])
def test_a_system_of_your_own(there: bool) -> None:
    (code,) = re.findall(r"```python\n(.*?)```", README.read_text(), re.DOTALL)
    assert "min_duration_ms=10_000" in code
    said = io.StringIO()
    with contextlib.redirect_stdout(said):
        exec(
            code.replace("min_duration_ms=10_000", "min_duration_ms=500"),
            {"ask_my_server": ask_my_server} if there else {},
        )
    verdict, percentiles = said.getvalue().splitlines()
    assert re.match(r"\{0\.5: \d+", percentiles)
    # Slow for a moment or not, a system that is there answers.
    assert ("samples failed, most often with: NameError: name 'ask_my_server' is not defined" in verdict) != there
    assert there == ("samples failed" not in verdict)
