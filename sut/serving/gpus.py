"""How busy the GPUs are, as nvidia-smi tells, where there is one.

Knows its output; must not know the server.  One nvidia-smi goes on for as long as the server does and writes a line a
GPU every two seconds, which a thread reads: none is started again and again.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import threading
from collections.abc import Mapping

_PERIOD_S = 2
_FIELDS = ("uuid", "utilization.gpu", "power.draw", "memory.used", "memory.total")
_UNITS = {"utilization.gpu": 0.01, "power.draw": 1.0, "memory.used": 1 << 20, "memory.total": 1 << 20}
"""What a figure is multiplied by: shares of 1, W and bytes."""
_NAMES = {
    "utilization.gpu": "nv_gpu_utilization",
    "power.draw": "nv_gpu_power_usage",
    "memory.used": "nv_gpu_memory_used_bytes",
    "memory.total": "nv_gpu_memory_total_bytes",
}


class Gpus:
    """Reads from ``start`` to ``close``; without nvidia-smi there are none."""

    def __init__(self) -> None:
        self.figures: dict[str, Mapping[str, float]] = {}
        """By UUID, under Triton's names for them; figures that are not told are missing."""
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        found = shutil.which("nvidia-smi")
        if found is None:
            return
        query = f"--query-gpu={','.join(_FIELDS)}"
        with contextlib.suppress(OSError):
            self._process = subprocess.Popen(
                [found, query, "--format=csv,noheader,nounits", f"--loop={_PERIOD_S}"],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                start_new_session=True,  # Ctrl-C is for the server: it ends this one
            )  # fmt: skip
            threading.Thread(target=self._read, name="gpus", daemon=True).start()

    def close(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def _read(self) -> None:
        assert self._process is not None
        assert self._process.stdout is not None
        for line in self._process.stdout:
            uuid, figures = parse(line)
            if uuid:
                self.figures[uuid] = figures


def parse(line: str) -> tuple[str, dict[str, float]]:
    """UUID and figures of one line; an empty UUID for a line of another kind."""
    values = [value.strip() for value in line.split(",")]
    if len(values) != len(_FIELDS) or not values[0].startswith("GPU-"):
        return "", {}
    figures = {}
    for name, value in zip(_FIELDS[1:], values[1:], strict=True):
        with contextlib.suppress(ValueError):  # [N/A]
            figures[_NAMES[name]] = float(value) * _UNITS[name]
    return values[0], figures
