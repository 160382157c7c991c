"""Weights: synthetic, prepared, given; exports are made once, and what does not fit is one line."""

import re
from importlib.metadata import PackageNotFoundError
from pathlib import Path

import numpy as np
import pytest

from drumfire.loadgen import installation
from drumfire.sut import models
from drumfire.sut.fetch import FetchError
from drumfire.sut.models import MissingExtra, WeightsError
from drumfire.sut.models.mobilenet import MobileNet
from drumfire.sut.models.resnet50 import ResNet50
from drumfire.sut.models.weights.publication import SYNTHETIC, PublishedNetwork

PUBLISHED = [model for model in models.MODELS.values() if isinstance(model, PublishedNetwork)]


def test_the_six() -> None:
    names = {"resnet50", "mobilenet", "retinanet", "ssd-mobilenet", "ssd-resnet34", "yolo11l"}
    assert {model.name for model in PUBLISHED} == names
    assert [model.name for model in PUBLISHED if not model.published] == ["yolo11l"]  # its licence forbids
    for model in PUBLISHED:
        if not model.published:
            continue
        assert model.published[0].file.endswith(".onnx")
        for published in model.published:
            assert published.url.startswith("https://zenodo.org/record/")
            assert published.url.endswith("/" + published.file)


def test_an_onnx_file_is_taken_as_it_is(tmp_path: Path) -> None:
    given, model = tmp_path / "any.onnx", ResNet50()
    given.write_bytes(b"")
    assert model.weights(tmp_path, given) == given
    assert model.weights_reservations == []
    assert not model.state_dict_given


def test_a_prepared_file_is_checked(tmp_path: Path) -> None:
    model, prepared = ResNet50(), tmp_path / "resnet50_v1.onnx"
    prepared.write_bytes(b"weights")
    assert model.weights(tmp_path) == prepared
    assert model.weights(tmp_path) == prepared
    assert model.weights_reservations == []
    prepared.write_bytes(b"others")
    with pytest.raises(FetchError, match=r"resnet50_v1\.onnx has SHA-256 "):
        model.weights(tmp_path)


def test_a_missing_torch_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def absent(package: str) -> str:
        raise PackageNotFoundError(package)

    monkeypatch.setattr("drumfire.sut.models.weights.forms.version", absent)
    says = f"^resnet50 needs torch, which is not installed: {re.escape(installation.command('vision'))}$"
    with pytest.raises(MissingExtra, match=says):
        ResNet50().weights(tmp_path)


def test_the_name_of_an_export_depends_on_the_code_that_makes_it() -> None:
    code = {f"{path.parent.name}/{path.name}" for path in ResNet50()._code()}
    exporters = {f"weights/{form}_export.py" for form in ("onnx", "tflite", "torch")}
    assert code >= exporters | {"weights/publication.py", "models/resnet50.py", "networks/resnet.py"}


@pytest.mark.extra
class TestWithTorch:
    @pytest.fixture(autouse=True)
    def _needs(self) -> None:
        pytest.importorskip("torch")
        pytest.importorskip("onnxscript")

    def test_synthetic_weights_are_said_and_made_once(self, tmp_path: Path) -> None:
        import onnxruntime

        model = MobileNet()
        path = model.weights(tmp_path)
        assert model.weights_reservations == [SYNTHETIC]
        made = path.stat().st_mtime_ns
        assert MobileNet().weights(tmp_path) == path
        assert path.stat().st_mtime_ns == made
        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        batch = np.random.default_rng(1).standard_normal((3, 3, 224, 224)).astype(np.float32)
        (logits,) = session.run(None, {"input": batch})
        assert logits.shape == (3, 1001)
        assert logits.std(axis=0).max() > 0.01  # the answer depends on the picture

    def test_a_state_dict_of_another_network(self, tmp_path: Path) -> None:
        import torch

        network = MobileNet().network(None)
        torch.save(network.state_dict(), tmp_path / "mobilenet.pth")
        with pytest.raises(
            WeightsError, match="holds the weights of another network than resnet50: Missing key"
        ) as raised:
            ResNet50().weights(tmp_path, tmp_path / "mobilenet.pth")
        assert "\n" not in str(raised.value)

    @pytest.mark.parametrize("content", [b"", b"no weights"])
    def test_a_file_that_is_no_state_dict(self, tmp_path: Path, content: bytes) -> None:
        (tmp_path / "weights.pth").write_bytes(content)
        with pytest.raises(WeightsError, match=r"weights\.pth is not a state dict of tensors"):
            ResNet50().weights(tmp_path, tmp_path / "weights.pth")
        with pytest.raises(WeightsError, match=r"^cannot read .*: No such file or directory$"):
            ResNet50().weights(tmp_path, tmp_path / "missing.pth")

    def test_given_weights_are_those_that_run(self, tmp_path: Path) -> None:
        import onnxruntime
        import torch

        network = MobileNet().network(None)
        with torch.no_grad():
            network.classifier.bias.add_(torch.arange(1001) == 7, alpha=1e4)
        for name, state in (("plain", network.state_dict()), ("checkpoint", {"model": network.state_dict()})):
            torch.save(state, tmp_path / f"{name}.pth")
            model = MobileNet()
            path = model.weights(tmp_path, tmp_path / f"{name}.pth")
            assert model.weights_reservations == []
            assert model.state_dict_given
            session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
            outputs = session.run(None, {"input": np.zeros((1, 3, 224, 224), np.float32)})
            assert np.asarray(model.respond(outputs)).tolist() == [[6]]

    def test_torchvisions_weights_bring_their_own_recipe(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        pytest.importorskip("cv2")
        monkeypatch.setenv("MODEL_DIR", str(tmp_path))
        monkeypatch.setattr("drumfire.sut.data.location.COUNT", 2)
        model = ResNet50()
        before = self._first(model)
        model._source = tmp_path / "resnet50-19c8e357.pth"
        assert np.abs(before).max() > 100  # bytes less a mean
        assert np.abs(self._first(model)).max() < 3  # standardised

    @staticmethod
    def _first(model: ResNet50) -> np.ndarray:
        library = model.library()
        library.load(np.array([0]))
        return library.batch(np.array([0]))["input"]
