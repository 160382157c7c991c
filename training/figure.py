"""The figure of a benchmark: the qualities of each run against official time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

_STYLES = (("-", "solid"), ("--", "dashed"), (":", "dotted"))


def save(results: Sequence[Mapping[str, Any]], title: str, metric: str, path: Path) -> None:
    """Draw a colour for each run and a line style for each quality, with the targets in grey, as a PNG."""
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    targets: Mapping[str, float] = results[0]["target"]
    styles = dict(zip(targets, _STYLES, strict=False))
    for number, result in enumerate(results):
        for place, (quality, (style, _)) in enumerate(styles.items()):
            axes.plot(
                [evaluation["since_start_s"] for evaluation in result["evaluations"]],
                [evaluation[quality] for evaluation in result["evaluations"]],
                style,
                color=f"C{number}",
                marker=".",
                label=None if place else f"seed {result['seed']}",  # one entry in the legend per run
            )
    for quality, (style, _) in styles.items():
        target = targets[quality]
        axes.axhline(target, linestyle=style, color="grey", linewidth=1, label=f"{quality} target {target}")
    legend = ", ".join(f"{name}: {quality}" for quality, (_, name) in styles.items())
    axes.set(title=f"{title} ({legend})", xlabel="seconds since run_start", ylabel=metric)
    axes.set_ylim(bottom=0)
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=120)
