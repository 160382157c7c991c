"""The models by name.

Knows which models there are; importing it costs no framework.
"""

from __future__ import annotations

from sut.models.digits import Digits
from sut.models.efficientnet_lite0 import EfficientNetLite0
from sut.models.model import Accuracy, MissingExtra, Model, UnknownModel

__all__ = ["MODELS", "PLANNED", "Accuracy", "MissingExtra", "Model", "UnknownModel", "get"]

MODELS: dict[str, Model] = {model.name: model for model in (Digits(), EfficientNetLite0())}

PLANNED = ("shapes", "resnet50", "mobilenet", "retinanet", "ssd-mobilenet", "ssd-resnet34")
"""Models that are to come: asking for one says so."""


def get(name: str) -> Model:
    """The model of this name.  Raises ``UnknownModel``, naming those there are."""
    if name in MODELS:
        return MODELS[name]
    why = "is not part of this version yet" if name in PLANNED else "is not known"
    raise UnknownModel(f"model {name!r} {why}; available: {', '.join(MODELS)}")
