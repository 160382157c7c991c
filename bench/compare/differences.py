"""The differences of two runs besides their figures: what was run, how, and where."""

from __future__ import annotations

import enum
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drumfire.bench.report.figures import duration
from drumfire.loadgen.settings import Scenario

Document = Mapping[str, Any]
Pair = tuple[Document, Document]


class Area(enum.Enum):
    """What a difference is a part of."""

    SETTINGS = "settings"
    MACHINE = "machines"
    VERSIONS = "versions"
    REVISION = "revisions"


@dataclass(frozen=True)
class Difference:
    """Something that two runs do not have in common."""

    area: Area
    name: str
    a: str
    """The value of the first run, for people."""
    b: str

    def __str__(self) -> str:
        return f"{self.name} {self.a} / {self.b}"


_SYSTEM = ("model", "backend", "device", "threads", "instances", "max_batch_size", "max_queue_delay_ms")
_REMOTE = ("urls", "client", "connections", "concurrency", "shared_memory", "input_data")
_ASKED = ("qps", "samples_per_query", "target_latency_ns", "target_latency_percentile", "performance_sample_count")
_MACHINE = ("cpu", "cores", "cpu_quota", "governor", "gpus")
_SOFTWARE = ("system", "python")
_SHARE = 0.02
"""Memory that differs by less may be the same machine's: what the kernel keeps varies."""


def differences(a: Document, b: Document) -> list[Difference]:
    """The differences of two result documents, the weightiest first; of what both of them hold."""
    return [one for find in (_settings, _machine, _versions) for one in find((a, b))]


def _settings(pair: Pair) -> Iterator[Difference]:
    yield from _differing(Area.SETTINGS, pair, ("mode",))
    systems = _both(pair, "system")
    if not all(one.get("backend") for one in systems):
        yield from _differing(Area.SETTINGS, pair, ("sut_name",))
    yield from _differing(Area.SETTINGS, systems, _SYSTEM)
    yield from _differing(Area.SETTINGS, _both(systems, "remote"), _REMOTE)
    offline = pair[0].get("scenario") == Scenario.Offline.name  # its one query has as many samples as it takes
    asked = [name for name in _ASKED if not (offline and name == "samples_per_query")]
    yield from _differing(Area.SETTINGS, _both(pair, "asked"), asked)
    yield from _differing(Area.SETTINGS, (_further(pair[0]), _further(pair[1])))


def _further(document: Document) -> Document:
    """Settings that a document holds in other forms, or only where they are not the default."""
    weights = (document.get("system") or {}).get("weights")
    return {
        **({"weights": Path(str(weights)).name} if weights else {}),
        "schedule": (document.get("schedule") or {}).get("name", "poisson"),
        **{name: (document.get("loop") or {}).get(name, 0) for name in ("concurrency", "think_time_ns")},
        "warm-up": (document.get("warmup") or {}).get("queries", 0),
        "generators": len((document.get("hosts") or {}).get("generators", ())) or 1,
        **{f"{name} seed": seed for name, seed in (document.get("seeds") or {}).items()},
    }


def _machine(pair: Pair) -> Iterator[Difference]:
    machines = _both(pair, "environment")
    yield from _differing(Area.MACHINE, machines, _MACHINE)
    a, b = (one.get("memory_bytes") or 0 for one in machines)
    if a and b and abs(a - b) > _SHARE * max(a, b):
        yield Difference(Area.MACHINE, "memory", f"{a / 1e9:.0f} GB", f"{b / 1e9:.0f} GB")


def _versions(pair: Pair) -> Iterator[Difference]:
    machines = _both(pair, "environment")
    yield from _differing(Area.VERSIONS, machines, _SOFTWARE)
    yield from _differing(Area.VERSIONS, _both(machines, "versions"))
    yield from _differing(Area.VERSIONS, _both(pair, "system"), ("description",))
    yield from _differing(Area.REVISION, machines, ("git_revision",))


def _both(pair: Pair, name: str) -> Pair:
    """A section of both documents; empty for a document without it."""
    return pair[0].get(name) or {}, pair[1].get(name) or {}


def _differing(area: Area, pair: Pair, names: Iterable[str] | None = None) -> Iterator[Difference]:
    """The values that both documents have and that differ; of these names only, if any are given."""
    a, b = pair
    for name in a if names is None else names:
        if name in a and name in b and a[name] != b[name]:
            shown = name.removesuffix("_ns").replace("_", " ")
            yield Difference(area, shown, _text(name, a[name]), _text(name, b[name]))


def _text(name: str, value: Any) -> str:
    if value is None:
        return "none"
    if name.endswith("_ns"):
        return duration(value)
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value)) or "none"
    return f"{value:,.6g}" if isinstance(value, float) else str(value)
