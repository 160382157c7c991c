"""Utilization, power and memory of the GPUs, from nvidia-smi.

Handles its output.  Does not depend on the server.  One nvidia-smi runs as long as the server and writes a line per
GPU every two seconds, which a thread reads; starting one for every reading would cost more.
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
"""Factors that convert nvidia-smi's figures to shares of 1, W and bytes."""
_NAMES = {
    "utilization.gpu": "nv_gpu_utilization",
    "power.draw": "nv_gpu_power_usage",
    "memory.used": "nv_gpu_memory_used_bytes",
    "memory.total": "nv_gpu_memory_total_bytes",
}


class GpuReader:
    """Reads from ``start`` to ``close``; without nvidia-smi there are no figures."""

    def __init__(self) -> None:
        self.figures: dict[str, Mapping[str, float]] = {}
        """By UUID, under Triton's names; figures that nvidia-smi does not give are missing."""
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
                start_new_session=True,  # Ctrl-C must reach only the server, which ends this process
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
    """UUID and figures of one line; an empty UUID for any other line."""
    values = [value.strip() for value in line.split(",")]
    if len(values) != len(_FIELDS) or not values[0].startswith("GPU-"):
        return "", {}
    figures = {}
    for name, value in zip(_FIELDS[1:], values[1:], strict=True):
        with contextlib.suppress(ValueError):  # [N/A]
            figures[_NAMES[name]] = float(value) * _UNITS[name]
    return values[0], figures
