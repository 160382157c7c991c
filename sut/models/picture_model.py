"""Models with published weights that are measured on a data set of pictures in files.

Handles where the pictures are and how they become samples.  Does not depend on what the network answers.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path

from drumfire.sut.cache import cache_folder
from drumfire.sut.data import location
from drumfire.sut.data.library import ArrayLibrary
from drumfire.sut.data.pictures import PictureReader
from drumfire.sut.data.recipes import RECIPES, Recipe
from drumfire.sut.models.tensors import Tensors
from drumfire.sut.models.weights.publication import PublishedNetwork


class PictureModel(PublishedNetwork):
    """The weights' and the data's side of a ``Model``."""

    licence = "the weights' and the pictures' own; nothing of either comes with Drumfire"
    data_kind: str
    """One of ``fake.KINDS``."""
    data_name: str
    """The name of the whole data set, which has ``total_count`` pictures."""
    total_count: int
    performance_count: int
    """Samples in memory unless the caller sets another number."""
    recipe: str
    """The preprocessing, one of ``RECIPES``."""
    outputs: Sequence[str]
    """The names of the outputs of our own export."""

    def __init__(self) -> None:
        super().__init__()
        self._data_reservations: list[str] = []

    @abstractmethod
    def read(self, folder: Path, count: int | None) -> Sequence[Path]:
        """Read the list of the pictures in ``folder`` and return their files, the first ``count``.

        Raises ``DataError``.
        """

    @property
    def tensors(self) -> Tensors:
        """See ``Model.tensors``: samples as the recipe makes them."""
        recipe = RECIPES[self.recipe]
        return Tensors.of_one(recipe.shape, self.outputs, recipe.dtype)

    @property
    def reservations(self) -> Sequence[str]:
        """See ``Model.reservations``."""
        return (*self.weights_reservations, *self._data_reservations)

    def library(
        self, dataset_path: Path | None = None, count: int | None = None, performance_count: int | None = None
    ) -> ArrayLibrary:
        """See ``Model.library``.  Raises ``DataError``, a ``ValueError``, for faults in the data."""
        folder, generated = location.folder(self.data_kind, dataset_path)
        files = self.read(folder, count)
        total = len(files)
        self._data_reservations = [generated] if generated else []
        if not generated and total != self.total_count:
            self._data_reservations = [f"{total} pictures, not the {self.total_count} of {self.data_name}"]
        return self.of_files(files, min(total, performance_count or self.performance_count))

    def of_files(self, files: Sequence[Path], performance_count: int) -> ArrayLibrary:
        """The library of these pictures."""
        reader = PictureReader(self.recipe_in_use, cache_folder())
        return ArrayLibrary(
            self.name,
            lambda indices: reader.read([files[index] for index in indices]),
            len(files),
            performance_count,
        )

    @property
    def recipe_in_use(self) -> Recipe:
        """The preprocessing that the weights were trained with."""
        return RECIPES[self.recipe]
