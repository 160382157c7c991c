"""The figure of a benchmark: mean average precision against official time, a line for each run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

_KINDS = (("box", "-"), ("mask", "--"))


def save(results: Sequence[Mapping[str, Any]], title: str, path: Path) -> None:
    figure = Figure(figsize=(8, 5), layout="constrained")
    axes = figure.add_subplot()
    for number, result in enumerate(results):
        for kind, style in _KINDS:
            axes.plot(
                [at["since_start_s"] for at in result["evaluations"]],
                [at[kind] for at in result["evaluations"]],
                style,
                color=f"C{number}",
                marker=".",
                label=f"seed {result['seed']}" if kind == "box" else None,
            )
    for kind, style in _KINDS:
        target = results[0]["target"][kind]
        axes.axhline(target, linestyle=style, color="grey", linewidth=1, label=f"{kind} target {target}")
    axes.set(title=f"{title} (solid: boxes, dashed: masks)", xlabel="seconds since run_start", ylabel="mAP")
    axes.set_ylim(bottom=0)
    axes.legend(fontsize="small")
    figure.savefig(path, dpi=120)
