"""A case: the load that all sides put on the server in the same way.

Only data; does not depend on any side.
"""

from __future__ import annotations

from dataclasses import dataclass

INPUT, OUTPUT = "INPUT0", "OUTPUT0"
PROTOCOLS = {"grpc": "gRPC", "http": "HTTP"}
"""What a label calls each protocol."""


@dataclass(frozen=True)
class Case:
    """An input of FP32 ``elements``, sent again and again: ``concurrency`` requests at a time, or at ``rate``."""

    model: str
    protocol: str
    """grpc or http."""
    elements: int
    concurrency: int | None = None
    rate: float | None = None
    """Requests a second, Poisson."""
    loop: bool = False
    """Whether Drumfire's side is its closed loop, which also has latencies from the schedule; else it is Offline."""
