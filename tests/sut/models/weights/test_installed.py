"""Weights in packages: found without an import, and refused in one line where they are others."""

import hashlib
from pathlib import Path

import pytest

from drumfire.loadgen import installation
from drumfire.sut.models import MissingExtra, WeightsError
from drumfire.sut.models.weights import installed
from drumfire.sut.models.weights.installed import InstalledFile

HASH = hashlib.sha256(b"weights").hexdigest()


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "package_of_weights"
    folder.mkdir()
    (folder / "__init__.py").write_text("raise AssertionError('it is not imported')")
    monkeypatch.syspath_prepend(tmp_path)
    return folder


def test_a_file_of_a_package(package: Path) -> None:
    (package / "model.onnx").write_bytes(b"weights")
    assert InstalledFile("package_of_weights", "model.onnx", HASH).of("model", "extra") == package / "model.onnx"
    assert installed.folder("model", "package_of_weights", None) == package


def test_another_version_is_said_in_one_line(package: Path) -> None:
    file = InstalledFile("package_of_weights", "model.onnx", HASH)
    for content in (None, b"others"):
        if content is not None:
            (package / "model.onnx").write_bytes(content)
        with pytest.raises(WeightsError) as raised:
            file.of("minilm", "minilm")
        how = installation.command("minilm")
        assert str(raised.value) == f"{package}/model.onnx is not the file that minilm runs: {how}"


def test_no_package_is_said_in_one_line() -> None:
    file = InstalledFile("no_such_package_of_weights", "model.onnx", HASH)
    with pytest.raises(MissingExtra, match=r"^minilm needs no_such_package_of_weights, which is not installed: "):
        file.of("minilm", "minilm")
