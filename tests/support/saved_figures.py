"""A saved run's figures beside those of its document."""

from __future__ import annotations

from typing import Any

from drumfire.loadgen import logs
from drumfire.loadgen.saved import SavedRun

FIGURES = ("metric", "latency_ns", "query_latency_ns", "lateness_ns")


def differences(saved: SavedRun) -> dict[str, Any]:
    """By section of the document: what is computed again, and what the document has."""
    again = dict.fromkeys(FIGURES) | saved.figures
    again["results"] = {} if saved.results is None else logs.result_values(saved.effective, saved.results)
    return {name: [value, saved.result[name]] for name, value in again.items() if value != saved.result[name]}
