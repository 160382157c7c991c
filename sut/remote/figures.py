"""What servers did in the last seconds, in the form that a live view shows."""

from __future__ import annotations

from dataclasses import dataclass

NO_STATISTICS = "no statistics: "
"""How a meter's note begins that is shown in place of the figures."""


@dataclass(frozen=True)
class Gpus:
    """All GPUs that the servers report."""

    count: int
    utilization: float | None
    """Mean over the GPUs, 0 to 1; the other figures are sums."""
    power_w: float | None
    memory_used_bytes: float | None
    memory_total_bytes: float | None


@dataclass(frozen=True)
class ServerFigures:
    """What all servers together did in the last seconds."""

    rate: float | None = None
    """Requests answered per second."""
    mean_batch_size: float | None = None
    queue_ns: float | None = None
    """Mean over the answered requests, as is ``compute_ns``."""
    compute_ns: float | None = None
    cached_share: float | None = None
    gpus: Gpus | None = None
    note: str | None = None
    """Why there are no figures."""
