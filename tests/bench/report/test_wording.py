"""A report's words fit its numbers."""

from __future__ import annotations

import re
from typing import Any

from drumfire.bench.report import terminal
from drumfire.bench.report.rows import report
from tests.bench.report.test_terminal import document, server_side

_WRONG = re.compile(r"(?<![\d,.])1 (?!s\b|us\b|ns\b|ms\b)\w+s\b(?! (of|per))")
"""A plural after 1."""


def _of_one(value: Any) -> Any:
    """The document with 1 in place of every count."""
    if isinstance(value, dict):
        return {key: _of_one(one) for key, one in value.items()}
    if isinstance(value, list):
        return [_of_one(one) for one in value]
    return 1 if isinstance(value, int) and not isinstance(value, bool) else value


def test_a_report_of_one_of_everything() -> None:
    found = document()
    found["system"]["server"] = server_side()
    found["errors"]["messages"] = {"too bad": 1}
    generator = {"name": "a", "lost": None, "answered": 1, "samples": 1, "lateness_ns": None, "latency_ns": None}
    found["hosts"] = {
        "kind": "hosts", "status": "complete", "start_dispersion_ns": None, "slowest": None,
        "generators": [{**generator, "machine": {}}],
    }  # fmt: skip
    found["warmup"] = {"queries": 1, "seconds": 1.0, "failed": 1}
    found["confidence"] = {"verdict": "open", "queries": 1, "over": 1, "limit_s": 1.0}
    text = " ".join(terminal.encoded(report(_of_one(found))).decode().split())
    for words in ("1 query in", "1 generator ", "1 time: too bad", "1 core,", "1 request counted", "preempted 1 time,"):
        assert words in text
    assert [wrong.group() for wrong in _WRONG.finditer(text)] == []
