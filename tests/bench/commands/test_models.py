"""drumfire models: each model and backend with what it needs, and the README's table of both is the one of the code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from drumfire.bench.cli import main
from drumfire.bench.commands import models as listing
from drumfire.loadgen import installation
from drumfire.sut import models
from drumfire.sut.local import backends
from drumfire.sut.models.weights.publication import PublishedNetwork
from tests.support.command import here, one_line_error


def cells() -> dict[str, dict[str, str]]:
    """The table by backend and heading."""
    rows = [line.strip("| ").split(" | ") for line in listing.table().splitlines() if line.startswith("|")]
    headings, _, *lines = rows
    return {line[0].strip("`"): dict(zip(headings, line, strict=True)) for line in lines}


def test_the_table_tells_every_backend_and_model() -> None:
    found = cells()
    assert list(found) == list(backends.BACKENDS)
    for backend, row in found.items():
        assert list(row)[2:] == list(models.MODELS)
        assert row["devices"].split(", ") == list(backends.devices(backend))


def test_weights_are_those_that_a_run_would_take(tmp_path: Path) -> None:
    """Where the table names a published file, a run takes it from the cache; elsewhere it makes synthetic ones."""
    for backend, row in cells().items():
        for name, model in models.MODELS.items():
            if not isinstance(model, PublishedNetwork):
                assert row[name] == ("no" if backend in backends.refused_by(model) else "yes")
                continue
            if not model.published:
                assert row[name] == "your file"
                continue
            cache = tmp_path / backend / name
            cache.mkdir(parents=True)
            for published in model.published:
                (cache / published.file).write_bytes(b"weights")
            prepared = model._prepared(cache, backends.form(backend))
            assert row[name] == (prepared.suffix if prepared else "synthetic only")
    assert cells()["pytorch"]["resnet50"] == ".pth"
    assert [cells()[backend]["minilm"] for backend in ("onnxruntime", "pytorch", "tf")] == ["yes", "yes", "no"]
    assert cells()["onnxruntime"]["retinanet"] == ".onnx"
    assert cells()["tflite"]["retinanet"] == "synthetic only"


def test_a_backend_is_here_only_with_all_that_it_imports(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    absent = ["tvm"]
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None if name in absent else object())
    for model in ("digits", "resnet50"):  # no weights are made for it
        done = here("run", "tvm-pytorch", model)
        one_line_error(
            done, "tvm-pytorch needs apache-tvm, which is not installed: ", installation.command("tvm-pytorch")
        )
    one_line_error(here("serve", "tvm-pytorch", "digits"), installation.command("tvm-pytorch"))
    lacking = {one["name"]: one["lacking"] for one in listing.models()["backends"]}
    assert (lacking["tvm-pytorch"], lacking["pytorch"]) == (["apache-tvm"], [])
    assert main(["models"]) == 0
    assert "no apache-tvm" in next(line for line in capsys.readouterr().out.splitlines() if "tvm-pytorch" in line)
    absent.append("torch")
    one_line_error(here("run", "tvm-pytorch", "digits"), "needs apache-tvm and torch, which are not installed: ")


def test_the_rounds_of_each_model(capsys: pytest.CaptureFixture[str]) -> None:
    found = {one["name"]: one["mlperf"] for one in listing.models()["models"]}
    assert [name for name, one in found.items() if one is None] == [
        "digits",
        "shapes",
        "efficientnet-lite0",
        "minilm",
        "ocr-detector",
        "vad",
    ]
    of_mlperf = {name: one for name, one in found.items() if one is not None}
    assert [name for name, one in of_mlperf.items() if not one["legacy"]] == ["resnet50", "yolo11l"]
    assert {name: (one["first_round"], one["last_round"]) for name, one in of_mlperf.items()} == {
        "resnet50": ("v0.5", "v6.1"),
        "mobilenet": ("v0.5", "v0.5"),
        "ssd-mobilenet": ("v0.5", "v2.0"),
        "ssd-resnet34": ("v0.5", "v2.0"),
        "retinanet": ("v2.1", "v6.0"),
        "yolo11l": ("v6.0", "v6.1"),
    }
    assert main(["models"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "…" not in "".join(lines[:10])  # fits into 80 columns
    assert next(line for line in lines if line.startswith("mobilenet ")).split()[4:7] == ["ms", "v0.5,", "legacy"]
    assert next(line for line in lines if line.startswith("yolo11l ")).split()[3:5] == ["none", "v6.0-v6.1"]
    assert "MLPerf's yolo-95 and yolo-99, v6.0-v6.1; edge only, without Server" in lines


def test_a_backend_that_does_not_run_a_model_says_which_does() -> None:
    """Before anything of either is looked for."""
    says = "tf does not run minilm: run it on onnxruntime or pytorch"
    one_line_error(here("run", "tf", "minilm"), says)
    one_line_error(here("serve", "tf", "digits", "minilm"), says)
    one_line_error(here("run", "pytorch", "vad"), "pytorch does not run vad: run it on onnxruntime")


def test_shown_and_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["models"]) == 0
    shown = capsys.readouterr().out
    for name in (*models.MODELS, *backends.BACKENDS):
        assert name in shown
    assert main(["models", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [backend["devices"] for backend in found["backends"] if backend["name"] == "tflite"] == [["cpu"]]
    assert main(["models", "--table"]) == 0
    assert capsys.readouterr().out == listing.table() + "\n"
