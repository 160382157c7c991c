"""The training comparison: a short run of each side, as programs."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from drumfire.bench.peers.training.__main__ import main

pytestmark = [
    pytest.mark.slow,
    pytest.mark.serial,
    pytest.mark.skipif(importlib.util.find_spec("mlperf_logging") is None, reason="needs the extra train"),
]


def test_a_short_round(tmp_path: Path) -> None:
    assert main(["--rounds", "1", "--time", "0.5", "--only", "shapes", "--output", str(tmp_path / "R.md")]) == 0
    text = (tmp_path / "R.md").read_text()
    assert "## Beside plain loop" in text
    assert "shapes, 8 images of 96 px a step" in text
    assert "not compared" not in text
    assert "not measured" not in text
