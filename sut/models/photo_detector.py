"""Detection on annotated photos: what the detectors of COCO and OpenImages share.

Knows layouts, recipes and the weights' side; must not know a backend.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from drumfire.sut.cache import cache_folder
from drumfire.sut.data import coco, location
from drumfire.sut.data.coco import AnnotatedPictures, Layout
from drumfire.sut.data.library import ArrayLibrary
from drumfire.sut.data.pictures import PictureReader
from drumfire.sut.data.recipes import RECIPES
from drumfire.sut.models.detector import OUTPUTS, DetectionJudge
from drumfire.sut.models.weights.publication import PublishedNetwork


class PhotoDetector(PublishedNetwork, DetectionJudge):
    """Dataset index i is the i-th picture of the annotation file."""

    licence = "the weights' and the pictures' own; nothing of either comes with Drumfire"
    outputs = OUTPUTS
    layout: Layout
    recipe: str
    performance_count: int
    total_count: int

    def __init__(self) -> None:
        super().__init__()
        self._truth: AnnotatedPictures | None = None
        self._data_reservations: list[str] = []

    @property
    def reservations(self) -> Sequence[str]:
        """See ``Model.reservations``."""
        return (*self.weights_reservations, *self._data_reservations)

    def library(
        self, dataset_path: Path | None = None, count: int | None = None, performance_count: int | None = None
    ) -> ArrayLibrary:
        """See ``Model.library``.  Raises ``DataError``, a ``ValueError``, for what is wrong with the data."""
        reader = PictureReader(RECIPES[self.recipe], cache_folder())
        folder, told = location.folder(self.layout.name, dataset_path)
        truth = self._truth = coco.read(folder, self.layout, count)
        total = len(truth.files)
        self._data_reservations = [told] if told else []
        if not told and total != self.layout.whole:
            self._data_reservations = [f"{total} pictures, not the {self.layout.whole} of {self.layout.name}"]
        return ArrayLibrary(
            self.name,
            lambda indices: reader.read([truth.files[index] for index in indices]),
            total,
            min(total, performance_count or self.performance_count),
        )

    def truth(self) -> AnnotatedPictures:
        """Of the pictures that ``library`` gave last."""
        assert self._truth is not None
        return self._truth
