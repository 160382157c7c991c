"""Models whose weights an installed package brings, on samples of different sizes that come with the model."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path

from drumfire.loadgen.responses import Responses
from drumfire.loadgen.system import IndexArray
from drumfire.sut.data.ragged import RaggedBatch, RaggedLibrary
from drumfire.sut.models.model import Form, bundled_count, no_such_form
from drumfire.sut.models.weights.installed import InstalledFile


class PackagedModel(ABC):
    """The weights' and the data's side of a ``Model``; the package's file is ONNX."""

    name: str
    extra: str
    shipped: InstalledFile
    total_count: int
    reservations: Sequence[str] = ()
    refused_by: Sequence[str] = ("pytorch", "tf", "tflite", "tvm-onnx", "tvm-pytorch")

    @abstractmethod
    def read(self, indices: IndexArray) -> RaggedBatch:
        """The samples of these dataset indices, as a ``RaggedLibrary`` reads them."""

    def weights(self, cache: Path, given: Path | None = None, form: Form = Form.ONNX) -> Path:
        """See ``Model.weights``: the package's file."""
        if given is None and form is not Form.ONNX:
            raise no_such_form(self.name, form)
        return given or self.shipped.of(self.name, self.extra)

    def library(
        self, dataset_path: Path | None = None, count: int | None = None, performance_count: int | None = None
    ) -> RaggedLibrary:
        """See ``Model.library``."""
        total = bundled_count(self.name, self.total_count, dataset_path, count)
        return RaggedLibrary(self.name, self.read, total, min(total, performance_count or total))

    def logged(self, indices: IndexArray, responses: Responses) -> Responses:
        """See ``Model.logged``: the answers as they are."""
        return responses
