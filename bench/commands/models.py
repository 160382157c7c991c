"""``drumfire models``: lists the models and backends, and what each needs."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from drumfire.bench import statuses
from drumfire.bench.options.parser import Command
from drumfire.loadgen import installation
from drumfire.loadgen.environment import versions
from drumfire.loadgen.mlperf_conf import built_in_values
from drumfire.loadgen.options import option
from drumfire.sut import models as known
from drumfire.sut.local import backends
from drumfire.sut.models.benchmarks import BENCHMARKS, configured_as
from drumfire.sut.models.model import Form, Model
from drumfire.sut.models.weights import bundle
from drumfire.sut.models.weights.publication import PublishedNetwork

_OWN = "yes"
_SYNTHETIC = "synthetic only"
_YOURS = "your file"
_NO = "no"


@dataclass(frozen=True)
class Options:
    """The options of ``drumfire models``."""

    json: bool = option(False, help="print one JSON object")
    table: bool = option(False, help="print which backend takes which model, as Markdown")


def show(options: Options) -> int:
    """Print the models and backends as text, a JSON object or a Markdown table, and return the exit status."""
    if options.json:
        print(json.dumps(models()))
    elif options.table:
        print(table())
    else:
        _show_models(models(), Console())
    return statuses.DONE


COMMAND = Command(Options, show, "List the models and the backends, and what each needs.")


def models() -> dict[str, Any]:
    """The models as a JSON-ready dictionary."""
    names = known.MODELS.working()
    bounds = built_in_values() | known.target_latencies(*names)
    return {
        "models": [
            {
                "name": model.name,
                "task": model.task,
                "description": model.description,
                "samples": model.total_count,
                "input_shape": list(model.tensors.inputs[0].sample_shape),
                "quality_target": model.quality_target,
                "server_latency_ms": bounds.get(f"{configured_as(model.name)}.Server.target_latency"),
                "mlperf": _membership(model.name),
                "extra": model.extra,
                "licence": model.licence,
            }
            for model in map(known.get, names)
        ],
        "backends": [
            {
                "name": name,
                "takes": backends.form(name).value,
                "devices": list(backends.devices(name)),
                "weights": {model.name: weights_for(name, model) for model in map(known.get, names)},
                "precisions": list(backends.precisions(name)),
                "extra": backends.extra(name),
                "versions": versions(backends.distributions(name)),
                "lacking": backends.lacking(name),
            }
            for name in backends.BACKENDS.working()
        ],
        "packages": {**known.MODELS.packages(), **backends.BACKENDS.packages()},
        "broken": {**known.MODELS.broken(), **backends.BACKENDS.broken()},
    }


def _membership(model: str) -> dict[str, Any] | None:
    """The model's place in MLPerf; None if it has none."""
    one = BENCHMARKS.get(model)
    if one is None:
        return None
    return {
        "names": list(one.names),
        "first_round": one.first,
        "last_round": one.last,
        "legacy": one.is_legacy,
        "limits": one.limits or None,
    }


def extras(backend: str, model: str, device: str) -> list[str]:
    """The pip extras that a run of a backend and a model (a name or a file) needs.  Raises ``BackendError``."""
    backends.check(backend, device, backends.BackendOptions())
    needed = [backends.extra(backend, device)]
    named, form = known.MODELS.get(model), backends.form(backend)
    if named is None:
        return needed
    if named.extra is not None:
        needed.append(named.extra)
    if form is Form.TFLITE and not bundle.comes_as(named.name, form):
        needed.append("tflite-export")
    return needed


def weights_for(backend: str, model: Model) -> str:
    """Weights on which the backend runs the model: its own, a published file's suffix, the user's, random, or none."""
    if backend in backends.refused_by(model):
        return _NO
    if not isinstance(model, PublishedNetwork):
        return _OWN
    if not model.published:
        return _YOURS
    files = model.published_in(backends.form(backend))
    return Path(files[0].file).suffix if files else _SYNTHETIC


def table() -> str:
    """A table of backends by models, with weights and devices, as Markdown for ``docs/models.md``."""
    models = list(map(known.get, known.MODELS.working()))
    headings = ["backend", "devices", *(model.name for model in models)]
    lines = [headings, ["---"] * len(headings)]
    why = []
    for name in backends.BACKENDS.working():
        weights = [weights_for(name, model) for model in models]
        lines.append([f"`{name}`", ", ".join(backends.devices(name)), *weights])
        if _SYNTHETIC in weights:
            why.append(f"`{name}` takes {backends.form(name).value}")
    rows = "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
    return f"{rows}\n\n{_LEGEND.format(why=', '.join(why))}"


_LEGEND = """\
*yes*: on the weights that come with the model. *no*: only on a file of yours. A suffix: on a file that MLPerf
published, where it has been fetched (a state dict, `.pth`, is exported first); one with operators that `tf` or TVM do
not know is refused. *your file*: on one that you give (`--weights`), else on random weights. *synthetic only*: on
random weights, as MLPerf's file is in another form: {why}."""


def _show_models(listing: dict[str, Any], console: Console) -> None:
    """Print what ``models`` returns."""
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("model", "samples", "target", "Server", "MLPerf", "needs"):
        table.add_column(heading, no_wrap=True)
    for model in listing["models"]:
        table.add_row(
            model["name"],
            str(model["samples"]),
            f"{model['quality_target']:.4g}",
            "none" if model["server_latency_ms"] is None else f"{model['server_latency_ms']:g} ms",
            _rounds(model["mlperf"]),
            _needs(model["name"], model["extra"], listing),
        )
    console.print(table)
    for model in listing["models"]:
        console.print(Text.assemble("\n", (model["name"], "bold"), f": {model['description']}"))
        console.print(Text(model["licence"], "dim"))
        if (mlperf := model["mlperf"]) is not None:
            text = [f"MLPerf's {' and '.join(mlperf['names'])}, {_rounds(mlperf)}", mlperf["limits"]]
            console.print(Text("; ".join(filter(None, text)), "dim"))
    console.print()
    _show_backends(listing, console)
    console.print()
    console.print("or give the path of a file in the form that the backend takes", style="dim")
    console.print(Text(f"to install what a model or backend needs: {installation.command('EXTRA')}"), soft_wrap=True)


def _rounds(mlperf: dict[str, Any] | None) -> str:
    """The rounds that a model is in, as text."""
    if mlperf is None:
        return "none"
    first, last = mlperf["first_round"], mlperf["last_round"]
    rounds = first if first == last else f"{first}-{last}"
    return f"{rounds}, legacy" if mlperf["legacy"] else rounds


def _needs(name: str, extra: str | None, listing: dict[str, Any]) -> Text:
    """What must be installed for a model or a backend."""
    if name in listing["packages"]:
        return Text(listing["packages"][name])
    return Text(f"[{extra}]" if extra else "nothing more")


def _show_backends(listing: dict[str, Any], console: Console) -> None:
    table = Table(box=None, pad_edge=False, header_style="bold")
    for heading in ("backend", "takes", "on", "computes in", "here", "needs"):
        table.add_column(heading, no_wrap=heading != "here")
    for backend in listing["backends"]:
        there = [f"{name} {version}" for name, version in backend["versions"].items() if version]
        if there and backend["lacking"]:
            there = [f"no {name}" for name in backend["lacking"]]
        table.add_row(
            backend["name"],
            backend["takes"],
            " ".join(backend["devices"]),
            " ".join(backend["precisions"]),
            ", ".join(there) or "not installed",
            _needs(backend["name"], backend["extra"], listing),
        )
    console.print(table)
    for text in listing["broken"].values():
        console.print(Text(text, "yellow"), soft_wrap=True)
