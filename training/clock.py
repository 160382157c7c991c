"""The times of a run, which a checkpoint can hold.  They include the time while a run is stopped.

Official time: from run_start to run_stop, with all reading of data and all evaluations.  Wall time: from the start of
the first process to the end, with building the model.  Both are times of day, as in the log that the rules require;
their parts are measured with the monotonic clock.
"""

from __future__ import annotations

import os
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass
class Clock:
    """Times of day in milliseconds since 1970, durations in seconds."""

    process_start_ms: int
    run_start_ms: int = 0
    run_stop_ms: int = 0
    saved_ms: int = 0
    """When the last checkpoint was saved."""
    train_s: float = 0.0
    """In training steps, with waiting for data."""
    data_wait_s: float = 0.0
    """The part of this rank's training time in which the model waited for data."""
    evaluation_s: float = 0.0
    lost_s: float = 0.0
    """From each checkpoint to its resumption: work that is done twice, and time while stopped."""
    resumptions: int = 0
    images: int = 0
    """Images trained on, by all ranks."""

    @property
    def official_s(self) -> float:
        return (self.run_stop_ms - self.run_start_ms) / 1000

    @property
    def since_start_s(self) -> float:
        """Official time so far."""
        return (now_ms() - self.run_start_ms) / 1000

    def state(self) -> dict[str, Any]:
        """What a checkpoint saved now must hold."""
        self.saved_ms = now_ms()
        return asdict(self)

    def resume(self) -> None:
        """Continue from a checkpoint: the time since it was saved is lost."""
        self.resumptions += 1
        self.lost_s += (now_ms() - self.saved_ms) / 1000


def now_ms() -> int:
    """Milliseconds since 1970."""
    return time.time_ns() // 1_000_000


def process_start_ms() -> int:
    """When this process started, before it loaded Python and torch, to 10 ms.  Without /proc: the time now."""
    try:
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        age_s = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, AttributeError):
        age_s = 0.0
    return now_ms() - max(int(age_s * 1000), 0)
