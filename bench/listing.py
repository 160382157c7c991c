"""``drumfire models``: the models that can be run, and what each needs."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from loadgen.environment import versions
from loadgen.rounds import built_in_values
from sut import backends
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
        "backends": [
            {
                "name": name,
                "takes": backends.form(name).value,
                "precisions": list(backends.precisions(name)),
                "extra": backends.extra(name),
                "versions": versions(backends.distributions(name)),
            }
            for name in backends.BACKENDS
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
    _show_backends(found["backends"], console)
    console.print()
    console.print("or give the path of a file in the form that the backend takes", style="dim")


def _show_backends(found: list[dict[str, Any]], console: Console) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("backend", "takes", "computes in", "here", "needs"):
        table.add_column(heading, no_wrap=heading != "here")
    for backend in found:
        here = ", ".join(f"{name} {version}" for name, version in backend["versions"].items() if version)
        table.add_row(
            backend["name"],
            backend["takes"],
            " ".join(backend["precisions"]),
            here or "not installed",
            Text(f"pip install '.[{backend['extra']}]'"),
        )
    console.print(table)
