"""What the servers of a run did in the last seconds, for the live view: from the readings of the run's sampler.

Asks no server itself.  Does not depend on the run's table or on a screen.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from drumfire.sut.remote.figures import NO_STATISTICS, Gpus, ServerFigures
from drumfire.sut.sampler import Reading, ReadingFeed

ReadFigures = Callable[[], ServerFigures | None]
"""Reads the newest figures; None where the run has no servers."""


def follow(fd: int | None) -> ReadFigures:
    """Follow the readings in a sampler's memory; ``fd`` is None without a sampler."""
    if fd is None:
        return lambda: None
    feed, latest = ReadingFeed(fd), Latest()

    def figures() -> ServerFigures:
        latest.add(feed.new())
        return latest.figures

    return figures


class Latest:
    """The newest reading of each meter; one covers the time since the one before, a sampler's period."""

    def __init__(self) -> None:
        self._newest: dict[str, Reading] = {}

    def add(self, readings: Iterable[Reading]) -> None:
        self._newest |= {reading.meter: reading for reading in readings}

    @property
    def figures(self) -> ServerFigures:
        newest = list(self._newest.values())
        gpus = together(_gpus(newest))
        for reading in newest:
            for note in reading.notes:
                if note.startswith(NO_STATISTICS):
                    return ServerFigures(gpus=gpus, note=note.removeprefix(NO_STATISTICS))
        return figures_of([reading.values for reading in newest], gpus)


def figures_of(servers: Sequence[Mapping[str, float]], gpus: Gpus | None = None) -> ServerFigures:
    """Figures of all servers together, from a reading of each."""
    if not servers or any("requests_per_s" not in one for one in servers):
        return ServerFigures(gpus=gpus)
    return ServerFigures(
        sum(one["requests_per_s"] for one in servers),
        _mean(servers, "batch_size", "batches_per_s"),
        _mean(servers, "queue_ns", "requests_per_s"),
        _mean(servers, "compute_ns", "requests_per_s"),
        _mean(servers, "cached_share", "requests_per_s"),
        gpus,
    )


def together(gpus: Sequence[Mapping[str, float]]) -> Gpus | None:
    """All GPUs as one, from the figures of each; None for an empty sequence."""
    if not gpus:
        return None
    reported = {name: [gpu[name] for gpu in gpus if name in gpu] for name in Gpus.__dataclass_fields__}
    sums = {name: sum(values) if values else None for name, values in reported.items()}
    used = sums["utilization"]
    return Gpus(
        len(gpus),
        None if used is None else used / len(reported["utilization"]),
        sums["power_w"],
        sums["memory_used_bytes"],
        sums["memory_total_bytes"],
    )


def _gpus(readings: Iterable[Reading]) -> list[dict[str, float]]:
    """The figures of each GPU; servers on one host report the same ones."""
    by_uuid: dict[str, dict[str, float]] = {}
    for reading in readings:
        for name, value in reading.values.items():
            uuid, _, figure = name.rpartition(".")
            if uuid:
                by_uuid.setdefault(uuid, {})[figure] = value
    return list(by_uuid.values())


def _mean(values: Sequence[Mapping[str, float]], name: str, weight: str) -> float | None:
    """The mean of a figure over readings of different weight; None where no reading has it."""
    having = [one for one in values if name in one]
    total = sum(one[weight] for one in having)
    return sum(one[name] * one[weight] for one in having) / total if total else None
