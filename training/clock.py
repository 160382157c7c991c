"""The clocks of a run.  They go on while a run is stopped, and can be laid down in a checkpoint.

Official: from run_start to run_stop, with every touch of the data and every evaluation.  Wall: from the start of the
first process to the end, with building the model.  Both are times of day, as the rules' log has them; parts are
measured with the monotonic clock.
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
    """When the last checkpoint was made."""
    train_s: float = 0.0
    """In training steps, waiting for data included."""
    data_wait_s: float = 0.0
    """Of this rank's training time, how long the model waited for data."""
    evaluation_s: float = 0.0
    lost_s: float = 0.0
    """From checkpoints to the resumptions from them: done twice, or stopped."""
    resumptions: int = 0
    images: int = 0
    """Trained on, by all ranks."""

    @property
    def official_s(self) -> float:
        return (self.run_stop_ms - self.run_start_ms) / 1000

    @property
    def since_start_s(self) -> float:
        """Official time so far."""
        return (now_ms() - self.run_start_ms) / 1000

    def state(self) -> dict[str, Any]:
        """For a checkpoint made now."""
        self.saved_ms = now_ms()
        return asdict(self)

    def go_on(self) -> None:
        """From a checkpoint: what was done since it was made is lost."""
        self.resumptions += 1
        self.lost_s += (now_ms() - self.saved_ms) / 1000


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def process_start_ms() -> int:
    """When this process was started, before Python or torch was loaded.  To 10 ms; where /proc is not there, now."""
    try:
        ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
        age_s = time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, AttributeError):
        age_s = 0.0
    return now_ms() - max(int(age_s * 1000), 0)
