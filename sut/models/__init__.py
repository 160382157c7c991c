"""The models by name.  Importing this package imports no framework."""

from __future__ import annotations

from drumfire.sut.models.digits import Digits
from drumfire.sut.models.efficientnet_lite0 import EfficientNetLite0
from drumfire.sut.models.mobilenet import MobileNet
from drumfire.sut.models.model import Accuracy, MissingExtra, Model, UnknownModel, WeightsError
from drumfire.sut.models.resnet50 import ResNet50
from drumfire.sut.models.retinanet import RetinaNet
from drumfire.sut.models.shapes import Shapes
from drumfire.sut.models.ssd_mobilenet import SsdMobileNet
from drumfire.sut.models.ssd_resnet34 import SsdResNet34

__all__ = ["MODELS", "TARGET_LATENCIES", "Accuracy", "MissingExtra", "Model", "UnknownModel", "WeightsError", "get"]

MODELS: dict[str, Model] = {
    model.name: model
    for model in (
        Digits(),
        Shapes(),
        EfficientNetLite0(),
        ResNet50(),
        MobileNet(),
        RetinaNet(),
        SsdMobileNet(),
        SsdResNet34(),
    )
}

TARGET_LATENCIES: dict[str, float] = {
    f"{model.name}.Server.target_latency": model.target_latency_ms
    for model in MODELS.values()
    if model.target_latency_ms is not None
}
"""Server bounds, ms, of the models that MLPerf has no rules for, by their key in a configuration file."""


def get(name: str) -> Model:
    """The model of this name.  Raises ``UnknownModel``, which lists the names."""
    if name not in MODELS:
        raise UnknownModel(f"model {name!r} is not known; available: {', '.join(MODELS)}")
    return MODELS[name]
