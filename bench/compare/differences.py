"""What differs between two runs besides their figures: what was run, how, and where."""

from __future__ import annotations

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from drumfire.bench.report.figures import duration

Document = Mapping[str, Any]


class Kind(enum.Enum):
    """Where a difference lies."""

    SETTINGS = "settings"
    MACHINE = "machines"
    VERSIONS = "versions"
    REVISION = "revisions"


@dataclass(frozen=True)
class Difference:
    """Something that two runs do not have in common."""

    kind: Kind
    name: str
    a: str
    """As people read it."""
    b: str

    def __str__(self) -> str:
        return f"{self.name} {self.a} / {self.b}"


_SYSTEM = ("model", "backend", "device", "threads", "instances", "max_batch_size", "max_queue_delay_ms")
_REMOTE = ("urls", "client", "connections", "concurrency", "shared_memory", "input_data")
_ASKED = (
    *("qps", "samples_per_query", "target_latency_ns", "target_latency_percentile", "performance_sample_count"),
    *("min_duration_s", "max_query_count"),
)
_MACHINE = ("cpu", "cores", "cpu_quota", "governor", "gpus")
_SOFTWARE = ("system", "python")
_SHARE = 0.02
"""Memory that differs by less is the same machine's: what the kernel keeps varies."""


def differences(a: Document, b: Document) -> list[Difference]:
    """In the order of their weight; what only one of the two documents knows is none."""
    return list(_settings(a, b)) + list(_machine(a, b)) + list(_versions(a, b))


def _settings(a: Document, b: Document) -> Iterator[Difference]:
    yield from _differing(Kind.SETTINGS, a, b, ("mode",))
    systems = [one.get("system") or {} for one in (a, b)]
    if not all(one.get("backend") for one in systems):
        yield from _differing(Kind.SETTINGS, a, b, ("sut_name",))
    yield from _differing(Kind.SETTINGS, *systems, _SYSTEM)
    weights = [{"weights": Path(str(one["weights"])).name} if one.get("weights") else {} for one in systems]
    yield from _differing(Kind.SETTINGS, *weights, ("weights",))
    yield from _differing(Kind.SETTINGS, *(one.get("remote") or {} for one in systems), _REMOTE)
    yield from _differing(Kind.SETTINGS, *(one.get("asked") or {} for one in (a, b)), _ASKED)
    yield from _differing(Kind.SETTINGS, *({"schedule": (one.get("schedule") or {}).get("name")} for one in (a, b)))
    yield from _differing(Kind.SETTINGS, *({"warm-up": (one.get("warmup") or {}).get("queries", 0)} for one in (a, b)))
    generators = [len((one.get("hosts") or {}).get("generators", ())) or 1 for one in (a, b)]
    yield from _differing(Kind.SETTINGS, *({"generators": one} for one in generators))
    seeds = [one.get("seeds") or {} for one in (a, b)]
    yield from _differing(Kind.SETTINGS, *({f"{name} seed": one[name] for name in one} for one in seeds))


def _machine(a: Document, b: Document) -> Iterator[Difference]:
    machines = [one.get("environment") or {} for one in (a, b)]
    yield from _differing(Kind.MACHINE, *machines, _MACHINE)
    memory = [one.get("memory_bytes") for one in machines]
    if all(memory) and max(memory) - min(memory) > _SHARE * max(memory):
        yield Difference(Kind.MACHINE, "memory", *(f"{one / 1e9:.0f} GB" for one in memory))


def _versions(a: Document, b: Document) -> Iterator[Difference]:
    machines = [one.get("environment") or {} for one in (a, b)]
    yield from _differing(Kind.VERSIONS, *machines, _SOFTWARE)
    yield from _differing(Kind.VERSIONS, *(one.get("versions") or {} for one in machines))
    yield from _differing(Kind.VERSIONS, *(one.get("system") or {} for one in (a, b)), ("description",))
    yield from _differing(Kind.REVISION, *machines, ("git_revision",))


def _differing(kind: Kind, a: Document, b: Document, names: tuple[str, ...] | None = None) -> Iterator[Difference]:
    """Of these names, or of all, those that both have, with other values."""
    for name in [name for name in a if name in b] if names is None else names:
        if name in a and name in b and a[name] != b[name]:
            shown = name.removesuffix("_ns").replace("_", " ")
            yield Difference(kind, shown, _text(name, a[name]), _text(name, b[name]))


def _text(name: str, value: Any) -> str:
    if value is None:
        return "none"
    if name.endswith("_ns"):
        return duration(value)
    if isinstance(value, (list, tuple)):
        return ", ".join(map(str, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value)
