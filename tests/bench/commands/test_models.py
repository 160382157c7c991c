"""drumfire models: each model and backend with what it needs, and the README's table of both is the one of the code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from drumfire.bench.cli import main
from drumfire.bench.commands import models as listing
from drumfire.sut import models
from drumfire.sut.local import backends
from drumfire.sut.models.weights.publication import PublishedNetwork


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
                assert row[name] == "yes"
                continue
            cache = tmp_path / backend / name
            cache.mkdir(parents=True)
            for published in model.published:
                (cache / published.file).write_bytes(b"weights")
            prepared = model._prepared(cache, backends.form(backend))
            assert row[name] == (prepared.suffix if prepared else "synthetic only")
    assert cells()["pytorch"]["resnet50"] == ".pth"
    assert cells()["onnxruntime"]["retinanet"] == ".onnx"
    assert cells()["tflite"]["retinanet"] == "synthetic only"


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
