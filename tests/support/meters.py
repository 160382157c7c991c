"""Meters for tests: they are made in the sampler's process, by their names here."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from typing import Any

from drumfire.sut.sampler import MeterPlan


class Clock:
    """Counts its readings; says its process, its priority, and names that no file may have."""

    units: Mapping[str, str] = {"count": "readings", "pid": "", "nice": "", "_etc_a": "V"}

    def __init__(self, **more: Any) -> None:
        self.source, self.notes, self._more, self._count = "a clock", list[str](), more, 0

    def read(self) -> Mapping[str, float]:
        self._count += 1
        return {
            "count": self._count, "pid": os.getpid(), "nice": os.getpriority(os.PRIO_PROCESS, 0), "/etc/a": 1.5,
            "nothing": float("nan"),
        }  # fmt: skip


class Slow(Clock):
    """Takes forever, except the first time."""

    def read(self) -> Mapping[str, float]:
        found = super().read()
        if self._count > 1:
            time.sleep(3600)
        return found


class Mute(Clock):
    """Never answers."""

    def read(self) -> Mapping[str, float]:
        time.sleep(3600)
        return {}


class Failing(Clock):
    def read(self) -> Mapping[str, float]:
        raise OSError("the device\nis gone")


class Missing(Clock):
    def __init__(self) -> None:
        raise ImportError("no such driver")


class Fatal(Clock):
    """Ends the whole process at its second reading, as a driver's fault does."""

    def read(self) -> Mapping[str, float]:
        found = super().read()
        if self._count > 1:
            os._exit(3)
        return found


def plan(kind: type[Clock], name: str = "", **arguments: Any) -> MeterPlan:
    return MeterPlan(name or kind.__name__, f"tests.support.meters:{kind.__name__}", arguments)
