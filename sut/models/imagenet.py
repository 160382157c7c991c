"""Classification of ImageNet's pictures: what ResNet-50 and MobileNet share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from drumfire.sut.data import imagenet
from drumfire.sut.data.imagenet import CLASSES, LabelledPictures
from drumfire.sut.data.recipes import RECIPES, Recipe
from drumfire.sut.models.classifier import Float32Array, LabelArray, LabelJudge
from drumfire.sut.models.picture_model import PictureModel


class ImageNetClassifier(PictureModel, LabelJudge):
    """Dataset index i is the i-th line of val_map.txt.  Labels are 0..999, as there."""

    data_kind, data_name, total_count = "imagenet", "ILSVRC 2012", imagenet.VALIDATION_COUNT
    performance_count = 1024
    outputs = ("logits",)
    state_dict_recipe: str
    """The preprocessing for weights in torch's state dicts, which were trained on differently scaled samples."""

    def __init__(self) -> None:
        super().__init__()
        self._pictures: LabelledPictures | None = None

    @property
    def recipe_in_use(self) -> Recipe:
        """See ``PictureModel.recipe_in_use``."""
        return RECIPES[self.state_dict_recipe if self.state_dict_given else self.recipe]

    def read(self, folder: Path, count: int | None) -> Sequence[Path]:
        """See ``PictureModel.read``."""
        self._pictures = imagenet.read(folder, count)
        return self._pictures.files

    def labels(self) -> LabelArray:
        """The classes of the pictures of the last call of ``library``, shape (n,)."""
        assert self._pictures is not None
        return self._pictures.labels

    def respond(self, outputs: Sequence[npt.NDArray[Any]]) -> Float32Array:
        """The class as float32 of shape (n, 1), from class numbers (n,) or from scores (n, 1000 or 1001).

        In networks with 1001 classes, and in those that give class numbers, class 0 is the background.  Raises
        ``ValueError`` for other outputs.
        """
        for output in outputs:
            if output.ndim == 1 and np.issubdtype(output.dtype, np.integer):
                return (output - 1).astype(np.float32)[:, None]
        scores = outputs[0]
        if scores.ndim != 2 or scores.shape[1] not in (CLASSES, CLASSES + 1):
            raise ValueError(
                f"the network gives {scores.dtype} of shape {('n', *scores.shape[1:])}: {self.name} gives scores of "
                f"{CLASSES} or {CLASSES + 1} classes, or class numbers; are these its weights?"
            )
        labels: Float32Array = (scores.argmax(axis=1) - (scores.shape[1] - CLASSES)).astype(np.float32)
        return labels[:, None]
