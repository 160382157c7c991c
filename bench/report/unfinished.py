"""Describes a run that has no result: what is known of it, as a document for ``rows.unfinished``, and how it ended."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from drumfire.loadgen.errors import UserError
from drumfire.loadgen.saved import SavedRun


def why(saved: SavedRun) -> Iterator[str]:
    """Sentences on how it ended."""
    if saved.under_way:
        yield "It is under way: look again when it has ended."
        return
    if saved.ended is None:
        yield "The run ended before all of it was saved: do it again."
        return
    yield f"Its process ended before it had saved the run, seen at {saved.ended['seen']}: do it again."
    if saved.ended["unsaved"] is not None:
        yield f"What it had measured could not be saved: {saved.ended['unsaved']}"


def document(saved: SavedRun) -> dict[str, Any]:
    """The part of a result document that is known before the run or follows from the columns that are there."""
    found: dict[str, Any] = {}
    with contextlib.suppress(UserError):
        found |= saved.subject
        asked = saved.effective
        found |= {"scenario": asked.kind, "mode": asked.mode.name}
        found["asked"] = {
            "target_latency_percentile": asked.target_latency_percentile,
            "target_latency_ns": asked.target_latency_ns,
        }
        if saved.results is not None and saved.measured is not None:
            seconds = int(saved.measured.completed.max()) * 1e-9
            found["delivered"] = {
                "samples": saved.results.samples,
                "queries": saved.measured.queries,
                "duration_s": seconds,
                "samples_per_second": saved.results.samples / seconds if seconds else 0.0,
            }
            found |= saved.figures
    return found
