"""Classification of ImageNet's pictures: what ResNet-50 and MobileNet share.

Knows the data set's labels, recipes and the forms of the published networks' outputs; must not know a backend.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from drumfire.sut.cache import cache_folder
from drumfire.sut.data import imagenet, location
from drumfire.sut.data.imagenet import CLASSES, LabelledPictures
from drumfire.sut.data.library import ArrayLibrary
from drumfire.sut.data.pictures import PictureReader
from drumfire.sut.data.recipes import RECIPES
from drumfire.sut.models.classifier import Float32Array, LabelArray, LabelJudge
from drumfire.sut.models.weights.publication import PublishedNetwork


class ImageNetClassifier(PublishedNetwork, LabelJudge):
    """Dataset index i is the i-th line of val_map.txt.  Labels are 0..999, as there."""

    licence = "the weights' and the pictures' own; nothing of either comes with Drumfire"
    outputs = ("logits",)
    total_count = imagenet.VALIDATION_COUNT
    performance_count = 1024
    recipe: str
    state_dict_recipe: str
    """For weights that come as torch's state dict, which were trained on other numbers."""

    def __init__(self) -> None:
        super().__init__()
        self._pictures: LabelledPictures | None = None
        self._data_reservations: list[str] = []

    @property
    def reservations(self) -> Sequence[str]:
        """See ``Model.reservations``."""
        return (*self.weights_reservations, *self._data_reservations)

    def library(
        self, dataset_path: Path | None = None, count: int | None = None, performance_count: int | None = None
    ) -> ArrayLibrary:
        """See ``Model.library``.  Raises ``DataError``, a ``ValueError``, for what is wrong with the data."""
        recipe = RECIPES[self.state_dict_recipe if self.state_dict_given else self.recipe]
        reader = PictureReader(recipe, cache_folder())
        folder, told = location.folder("imagenet", dataset_path)
        pictures = self._pictures = imagenet.read(folder, count)
        total = len(pictures.files)
        self._data_reservations = [told] if told else []
        if not told and total != imagenet.VALIDATION_COUNT:
            self._data_reservations = [f"{total} pictures, not the {imagenet.VALIDATION_COUNT} of ILSVRC 2012"]
        return ArrayLibrary(
            self.name,
            lambda indices: reader.read([pictures.files[index] for index in indices]),
            total,
            min(total, performance_count or self.performance_count),
        )

    def labels(self) -> LabelArray:
        """Of the pictures that ``library`` gave last."""
        assert self._pictures is not None
        return self._pictures.labels

    def respond(self, outputs: Sequence[npt.NDArray[Any]]) -> Float32Array:
        """The class as float32 of shape (n, 1), from class numbers (n,) or from scores (n, 1000 or 1001).

        Networks with 1001 classes, and those that give class numbers, count a background class first.  Raises
        ``ValueError`` for anything else.
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
