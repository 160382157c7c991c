"""The server's figures as Prometheus text, under Triton's names.

Source: Triton's "Metrics" page, and the output of Triton 2.51.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from drumfire.sut.serving.scheduler import Scheduler
from drumfire.sut.serving.statistics import Statistics

_COUNTERS: tuple[tuple[str, str, Callable[[Mapping[str, Any]], float]], ...] = (
    (
        "nv_inference_request_success",
        "Number of successful inference requests, all batch sizes",
        lambda stats: stats["inference_stats"]["success"]["count"],
    ),
    ("nv_inference_count", "Number of inferences performed (does not include cached requests)",
     lambda stats: stats["inference_count"]),
    ("nv_inference_exec_count", "Number of model executions performed (does not include cached requests)",
     lambda stats: stats["execution_count"]),
    ("nv_inference_request_duration_us", "Cumulative inference request duration in microseconds",
     lambda stats: stats["inference_stats"]["success"]["ns"] // 1000),
    ("nv_inference_queue_duration_us", "Cumulative inference queuing duration in microseconds",
     lambda stats: stats["inference_stats"]["queue"]["ns"] // 1000),
    ("nv_inference_compute_input_duration_us", "Cumulative compute input duration in microseconds",
     lambda stats: stats["inference_stats"]["compute_input"]["ns"] // 1000),
    ("nv_inference_compute_infer_duration_us", "Cumulative compute inference duration in microseconds",
     lambda stats: stats["inference_stats"]["compute_infer"]["ns"] // 1000),
    ("nv_inference_compute_output_duration_us", "Cumulative inference compute output duration in microseconds",
     lambda stats: stats["inference_stats"]["compute_output"]["ns"] // 1000),
)  # fmt: skip
_REASONS = ("REJECTED", "CANCELED", "BACKEND", "OTHER")
_SIZES: tuple[tuple[str, Callable[[Statistics], int], str], ...] = (
    ("drumfire_computed_size", lambda one: one.computed_sizes,
     "Sum of the samples' sizes as computed, such as tokens, padding included"),
    ("drumfire_padding_size", lambda one: one.computed_sizes - one.own_sizes, "The part of it that is padding"),
)  # fmt: skip
_GPU_HELP = {
    "nv_gpu_utilization": "GPU utilization rate [0.0 - 1.0)",
    "nv_gpu_power_usage": "GPU power usage in watts",
    "nv_gpu_memory_used_bytes": "GPU used memory, in bytes",
    "nv_gpu_memory_total_bytes": "GPU total memory, in bytes",
}


class Metrics:
    """The page's text, built for each request."""

    def __init__(self, schedulers: Iterable[Scheduler], gpus: Mapping[str, Mapping[str, float]]) -> None:
        self._schedulers, self._gpus = list(schedulers), gpus
        self._machine = MachineCpu()

    def text(self) -> str:
        lines: list[str] = []
        models = [(one, _labels(one)) for one in self._schedulers]
        stats = [(one.statistics.model_stats("", ""), labels) for one, labels in models]
        for name, help_text, figure in _COUNTERS:
            _head(lines, name, "counter", help_text)
            lines += [f"{name}{{{labels}}} {figure(one)}" for one, labels in stats]
        name = "nv_inference_request_failure"
        _head(lines, name, "counter", "Number of failed inference requests, all batch sizes")
        for one, labels in models:
            for reason in _REASONS:
                lines.append(f'{name}{{{labels},reason="{reason}"}} {one.statistics.failures[reason]}')
        name = "nv_inference_pending_request_count"
        _head(lines, name, "gauge", "Instantaneous number of pending requests awaiting execution per-model.")
        lines += [f"{name}{{{labels}}} {one.pending}" for one, labels in models]
        name = "drumfire_worker_lost"
        _head(lines, name, "counter", "Number of workers that were lost and replaced")
        lines += [f"{name}{{{labels}}} {one.statistics.lost_workers}" for one, labels in models]
        for name, of, help_text in _SIZES:
            figures = [(of(one.statistics), labels) for one, labels in models if one.model.padding is not None]
            if figures:
                _head(lines, name, "counter", help_text)
                lines += [f"{name}{{{labels}}} {figure}" for figure, labels in figures]
        self._machine_lines(lines)
        self._gpu_lines(lines)
        return "\n".join(lines) + "\n"

    def _machine_lines(self, lines: list[str]) -> None:
        utilization = self._machine.utilization()
        if utilization is not None:
            _head(lines, "nv_cpu_utilization", "gauge", "CPU utilization rate [0.0 - 1.0]")
            lines.append(f"nv_cpu_utilization {utilization:.6g}")
        total, used = machine_memory()
        if total:
            _head(lines, "nv_cpu_memory_total_bytes", "gauge", "CPU total memory (RAM), in bytes")
            lines.append(f"nv_cpu_memory_total_bytes {total}")
            _head(lines, "nv_cpu_memory_used_bytes", "gauge", "CPU used memory (RAM), in bytes")
            lines.append(f"nv_cpu_memory_used_bytes {used}")

    def _gpu_lines(self, lines: list[str]) -> None:
        gpus = dict(self._gpus)
        for name, help_text in _GPU_HELP.items():
            values = [(uuid, figures[name]) for uuid, figures in gpus.items() if name in figures]
            if values:
                _head(lines, name, "gauge", help_text)
                lines += [f'{name}{{gpu_uuid="{uuid}"}} {value}' for uuid, value in values]


class MachineCpu:
    """The share of all processors' time that was used between two readings, on Linux."""

    def __init__(self) -> None:
        self._last = self._read()

    def utilization(self) -> float | None:
        """0 to 1 since the last call; None if unknown."""
        before, self._last = self._last, self._read()
        busy, total = self._last[0] - before[0], self._last[1] - before[1]
        return min(max(busy / total, 0.0), 1.0) if total > 0 else None

    def _read(self) -> tuple[int, int]:
        """Busy ticks and all ticks (proc_stat(5))."""
        try:
            ticks = [int(one) for one in Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]]
        except (OSError, ValueError):
            return 0, 0
        idle = ticks[3] + ticks[4]  # idle and iowait
        return sum(ticks) - idle, sum(ticks)


def machine_memory() -> tuple[int, int]:
    """Total and used bytes; zeros if unknown."""
    try:
        lines = Path("/proc/meminfo").read_text().split("\n")
        figures = {
            name: int(rest.split()[0]) << 10 for name, _, rest in (line.partition(":") for line in lines) if rest
        }
        return figures["MemTotal"], figures["MemTotal"] - figures["MemAvailable"]
    except (OSError, ValueError, LookupError):
        return 0, 0


def _head(lines: list[str], name: str, kind: str, help_text: str) -> None:
    lines.append(f"# HELP {name} {help_text}")
    lines.append(f"# TYPE {name} {kind}")


def _labels(scheduler: Scheduler) -> str:
    name = scheduler.model.name.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
    return f'model="{name}",version="{scheduler.model.version}"'
