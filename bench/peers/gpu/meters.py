"""The GPU's use, power and memory during each part, as NVML has them (read by nvidia-smi)."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

from drumfire.bench.peers.gpu.cells import Kinds, block, share, si
from drumfire.bench.peers.gpu.plan import Figure
from drumfire.sut.serving.gpus import GpuReader

_LOOK_S = 0.5
"""How often it is looked whether there is a new reading, which comes more seldom."""
NAMES = {
    "nv_gpu_utilization": "utilization",
    "nv_gpu_power_usage": "power_w",
    "nv_gpu_memory_used_bytes": "memory_bytes",
}
"""In the figures, by the server's names."""


class Meter:
    """Reads from the start of ``metered`` to its end."""

    def __init__(self, reader: GpuReader) -> None:
        self._reader = reader
        self._stopped = threading.Event()
        self._readings: list[Mapping[str, float]] = []
        self._last: Mapping[str, float] | None = None

    def watch(self) -> None:
        """Keep each reading of the first GPU, once."""
        while not self._stopped.wait(_LOOK_S):
            self.look()

    def look(self) -> None:
        reading = next(iter(list(self._reader.figures.values())), None)
        if reading is not None and reading is not self._last:
            self._last = reading
            self._readings.append(reading)

    def stop(self) -> None:
        self._stopped.set()

    def since_last(self) -> Figure:
        """The means and the largest values since the last call; empty without any."""
        readings, self._readings = self._readings, []
        return summary(readings)


def summary(readings: list[Mapping[str, float]]) -> Figure:
    """Means and largest values of what the readings have."""
    figure: Figure = {}
    for name, short in NAMES.items():
        values = [reading[name] for reading in readings if name in reading]
        if values:
            figure |= {f"mean_{short}": sum(values) / len(values), f"most_{short}": max(values)}
    return figure


@contextmanager
def metered() -> Iterator[Meter]:
    reader = GpuReader()
    meter = Meter(reader)
    reader.start()
    threading.Thread(target=meter.watch, name="meter", daemon=True).start()
    try:
        yield meter
    finally:
        meter.stop()
        reader.close()


def tables(of: Kinds) -> Sequence[str]:
    """The figures of kind ``meter``, in Markdown."""
    head = ("NVML, during", "use, mean", "use, most", "power, mean", "power, most", "memory, most")
    rows = [
        (
            one["part"], share(one.get("mean_utilization")), share(one.get("most_utilization")),
            si(one.get("mean_power_w"), "W"), si(one.get("most_power_w"), "W"),
            si(one.get("most_memory_bytes"), "B"),
        )
        for one in of["meter"]
    ]  # fmt: skip
    return [block(head, rows)]
