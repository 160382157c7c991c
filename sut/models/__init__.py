"""The models by name: those of this project, and those of packages that add some.  Imports no framework."""

from __future__ import annotations

from typing import Any

from drumfire.sut.models.model import Accuracy, MissingExtra, Model, UnknownModel, WeightsError
from drumfire.sut.plugins import Registry, must_have

__all__ = ["MODELS", "Accuracy", "MissingExtra", "Model", "UnknownModel", "WeightsError", "get", "target_latencies"]


class _Models(Registry):
    """Entry points and ours name a model's class; a model is made when it is first looked up."""

    def __getitem__(self, name: str) -> Model:
        found = super().__getitem__(name)
        if isinstance(found, type):
            found = self._loaded[name] = found()
        model: Model = found
        return model


def _admitted(found: Any) -> Model:
    model: Model = found() if isinstance(found, type) else found
    must_have(model, Model)
    return model


MODELS = _Models(
    "drumfire.models",
    {
        "digits": "drumfire.sut.models.digits:Digits",
        "shapes": "drumfire.sut.models.shapes:Shapes",
        "efficientnet-lite0": "drumfire.sut.models.efficientnet_lite0:EfficientNetLite0",
        "minilm": "drumfire.sut.models.minilm:MiniLM",
        "ocr-detector": "drumfire.sut.models.ocr_detector:OcrDetector",
        "vad": "drumfire.sut.models.vad:Vad",
        "resnet50": "drumfire.sut.models.resnet50:ResNet50",
        "mobilenet": "drumfire.sut.models.mobilenet:MobileNet",
        "yolo11l": "drumfire.sut.models.yolo11l:Yolo11l",
        "retinanet": "drumfire.sut.models.retinanet:RetinaNet",
        "ssd-mobilenet": "drumfire.sut.models.ssd_mobilenet:SsdMobileNet",
        "ssd-resnet34": "drumfire.sut.models.ssd_resnet34:SsdResNet34",
    },
    _admitted,
)


def target_latencies(*names: str) -> dict[str, float]:
    """Server bounds, ms, of the models here that MLPerf has no rules for, by their key in a configuration file."""
    bounds = {name: MODELS[name].target_latency_ms for name in names if name in MODELS}
    return {f"{name}.Server.target_latency": bound for name, bound in bounds.items() if bound is not None}


def get(name: str) -> Model:
    """The model of this name.  Raises ``UnknownModel``, which lists the names."""
    if name not in MODELS:
        raise UnknownModel(f"model {name!r} is not known; available: {', '.join(MODELS)}")
    return MODELS[name]
