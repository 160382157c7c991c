"""Detection on annotated photos: what the detectors of COCO and OpenImages share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from drumfire.sut.data import coco
from drumfire.sut.data.coco import AnnotatedPictures, Layout
from drumfire.sut.models.detector import OUTPUTS, DetectionJudge
from drumfire.sut.models.picture_model import PictureModel


class PhotoDetector(PictureModel, DetectionJudge):
    """Dataset index i is the i-th picture of the annotation file."""

    outputs: Sequence[str] = OUTPUTS
    layout: Layout

    def __init__(self) -> None:
        super().__init__()
        self.data_kind = self.data_name = self.layout.name
        self._truth: AnnotatedPictures | None = None

    def read(self, folder: Path, count: int | None) -> Sequence[Path]:
        """See ``PictureModel.read``."""
        self._truth = coco.read(folder, self.layout, count)
        return self._truth.files

    def truth(self) -> AnnotatedPictures:
        """The annotations of the pictures of the last call of ``library``."""
        assert self._truth is not None
        return self._truth
