"""Formats figures for people: fitting units, three or four digits, separated thousands.

Turns numbers into text; depends on nothing else here.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from drumfire.loadgen.wording import counted

_UNITS = (("ns", 1), ("us", 1_000), ("ms", 1_000_000), ("s", 1_000_000_000))
_STEPS = (1, 2, 5, 10)
"""Round numbers within a decade."""


def duration(ns: float) -> str:
    """A duration in ns: ``812 ns``, ``4.12 us``, ``41.2 ms``, ``1834 s``."""
    unit, size = next((unit for unit in _UNITS if abs(ns) < 999.5 * unit[1]), _UNITS[-1])
    return f"{digits(ns / size)} {unit}" if size > 1 else f"{ns:.0f} {unit}"


def seconds(duration_s: float) -> str:
    """A duration in s, written as ``duration`` writes it."""
    return duration(duration_s * 1e9)


def metric_value(metric: Mapping[str, Any]) -> str:
    """The value of a result's ``metric``, in ns or 1/s."""
    return duration(metric["value"]) if metric["unit"] == "ns" else rate(metric["value"])


def digits(value: float) -> str:
    """Three digits or more: ``4.12``, ``41.2``, ``412``, ``41,234``."""
    places = 2 if abs(value) < 9.995 else 1 if abs(value) < 99.95 else 0
    return f"{value:,.{places}f}"


def rate(per_second: float) -> str:
    """A rate: ``998.4/s``, ``41,234/s``."""
    return f"{per_second:.1f}/s" if 99.95 <= per_second < 999.95 else f"{digits(per_second)}/s"


def share(fraction: float) -> str:
    """A share from 0 to 1 as ``0%``, ``0.013%``, ``4.2%``, ``97%``; only 0 itself reads ``0%``."""
    if fraction <= 0:
        return "0%"
    return "<0.001%" if fraction < 1e-5 else f"{fraction * 100:.2g}%" if fraction < 0.995 else f"{fraction * 100:.3g}%"


def batch_sizes(sizes: Mapping[str, int]) -> str:
    """The most frequent batch sizes with their counts."""
    most = sorted(sizes.items(), key=lambda size: size[1], reverse=True)[:8]
    shown = [f"{size}: {count:,}" for size, count in sorted(most, key=lambda size: (len(size[0]), size[0]))]
    return "  ".join(shown) + (f"  and {counted(len(sizes) - 8, 'more size')}" if len(sizes) > 8 else "")


def elements(sizes: Mapping[str, Any], per_second: float) -> str:
    """Samples of different sizes, as a result's ``system.sizes`` has them, and the rate of their elements."""
    span = f"{sizes['least']:,} to {sizes['most']:,} elements, mean {digits(sizes['mean'])}"
    padding = f"; {share(sizes['padding'])} of what was computed is padding" if "padding" in sizes else ""
    return f"{span}; {digits(per_second)} elements a second{padding}"


def errors(found: Mapping[str, Any]) -> str:
    """A result's ``errors``, without the messages."""
    counts = {name: found[name] for name in ("failed", "unanswered", "refused")}
    if not any(counts.values()):
        return "none"
    text = ", ".join(f"{count:,} {name}" for name, count in counts.items())
    if (samples := found.get("samples")) is None:
        return text
    named, count = samples["first"], samples["count"]
    more = f" and {counted(count - len(named), 'other')}" if count > len(named) else ""
    return f"{text}; failed: {'samples' if count > 1 else 'sample'} {', '.join(map(str, named))}{more}"


def clock(seconds: float) -> str:
    """A duration in s: ``0:07``, ``12:34``, ``1:02:03``."""
    minutes, left = divmod(round(max(seconds, 0.0)), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{left:02}" if hours else f"{minutes}:{left:02}"


def round_up(value: float) -> float:
    """The lowest 1, 2 or 5 times a power of ten that is not below ``value``; 0 where ``value`` is not positive."""
    if value <= 0:
        return 0.0
    decade = 10.0 ** math.floor(math.log10(value))
    return next(step * decade for step in (*_STEPS, 20) if step * decade >= value * (1 - 1e-9))


def round_down(value: float) -> float:
    """The highest 1, 2 or 5 times a power of ten that is not above ``value``, which is above 0."""
    decade = 10.0 ** math.floor(math.log10(value) + 1e-9)
    return next(step * decade for step in reversed(_STEPS) if step * decade <= value * (1 + 1e-9))
