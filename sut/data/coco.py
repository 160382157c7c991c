"""Annotated pictures in COCO's format: reads, checks and evaluates COCO 2017 and MLPerf's subset of OpenImages.

Detections are rows of seven float32, as in MLPerf's accuracy logs: the dataset index, then ymin, xmin, ymax, xmax as
fractions of the picture, the score and the category's id.  Does not depend on a model.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from drumfire.loadgen import installation
from drumfire.loadgen.annotations import read_annotations
from drumfire.sut.data import DataError

Detections = npt.NDArray[np.float32]
"""Shape (n, 7)."""

_GAPS = {12, 26, 29, 30, 45, 66, 68, 69, 71, 83}
COCO_CATEGORIES = tuple(number for number in range(1, 91) if number not in _GAPS)
"""The ids of COCO's 80 categories, in order; label k of a network with contiguous labels 1..80 is the k-th of them."""
OPENIMAGES_CATEGORIES = tuple(range(264))
"""The ids of MLPerf's subset of OpenImages, which its networks use as labels."""


class Layout(NamedTuple):
    """The paths of a data set's parts below its folder."""

    name: str
    annotations: str
    pictures: str
    categories: Sequence[int]
    whole: int
    """Number of pictures in the validation set, which the published figures refer to."""
    licences: frozenset[int] | None = None
    """COCO's numbers of the licences that a picture may have; None for any."""


COCO = Layout("coco", "annotations/instances_val2017.json", "val2017", COCO_CATEGORIES, 5000)
COCO_SAFE = COCO._replace(whole=1525, licences=frozenset({4, 5, 6, 7, 8}))
"""MLPerf's subset since round v6.0: CC BY, CC BY-SA, CC BY-ND, Flickr's commons, the US government.

A picture without a licence in the file counts."""
OPENIMAGES = Layout(
    "openimages", "annotations/openimages-mlperf.json", "validation/data", OPENIMAGES_CATEGORIES, 24_781
)


@dataclass(frozen=True)
class AnnotatedPictures:
    """Pictures of an annotation file, in its order."""

    files: Sequence[Path]
    images: Sequence[Mapping[str, Any]]
    """The file's entries for ``files``: id, width, height."""
    annotations: Sequence[Mapping[str, Any]]
    """Annotations of ``images`` only."""
    categories: Sequence[Mapping[str, Any]]


class Precision(NamedTuple):
    """The precision of detected boxes."""

    mean: float
    """mAP, a fraction: the mean over classes and over the overlaps 0.50, 0.55, ... 0.95."""
    table: tuple[str, ...]
    """COCO's twelve metrics, as the lines that pycocotools prints."""


def read(folder: Path, layout: Layout, count: int | None = None) -> AnnotatedPictures:
    """Read the data set in ``folder``, or its first ``count`` pictures.  Raises ``UserError`` for the first fault."""
    file = folder / layout.annotations
    if not file.exists():
        raise DataError(
            f"{file} is missing: {folder} must hold {layout.annotations} and {layout.pictures}/, or generate pictures "
            f"with 'drumfire prepare fake {layout.name}'"
        )
    document = read_annotations(file, masks=False)
    strange = sorted({category["id"] for category in document["categories"]} - set(layout.categories))
    if strange:
        raise DataError(f"{file} has the category {strange[0]}, which {layout.name} lacks: is it another data set's?")
    images = document["images"]
    if layout.licences is not None:
        images = [image for image in images if image.get("license") in (None, *layout.licences)]
        if not images:
            raise DataError(
                f"{file}: no picture has one of COCO's licences {sorted(layout.licences)}: give COCO's own file, or "
                "one whose images have no 'license'"
            )
    kept = images[:count]
    files = [_file(_pictures(folder, layout), image["file_name"]) for image in kept]
    absent = [path for path in files if not path.is_file()]
    if absent:
        raise DataError(
            f"{len(absent)} of the {len(files)} pictures that {file} lists are missing, first {absent[0]}: "
            "put them there"
        )
    ids = {image["id"] for image in kept}
    of_kept = [annotation for annotation in document["annotations"] if annotation["image_id"] in ids]
    return AnnotatedPictures(files, kept, of_kept, document["categories"])


def _pictures(folder: Path, layout: Layout) -> Path:
    """The folder of the pictures; that of MLPerf's subset of COCO has another name."""
    pictures = folder / layout.pictures
    safe = pictures.with_name(f"{pictures.name}_safe")
    return safe if safe.is_dir() and not pictures.is_dir() else pictures


def _file(pictures: Path, name: str) -> Path:
    """The picture's path; ``name`` may have a folder or not, as the reference's tools differ in this."""
    return pictures / Path(name).name


def check_evaluator() -> None:
    """Raise ``DataError`` if pycocotools, which ``evaluate`` needs, is not installed."""
    try:
        import pycocotools.cocoeval  # noqa: F401
    except ImportError as error:
        raise DataError(f"the precision of detections needs {error.name}: {installation.command('coco')}") from None


def evaluate(truth: AnnotatedPictures, answered: npt.NDArray[np.integer[Any]], detections: Detections) -> Precision:
    """COCO's box precision over the pictures with the dataset indices ``answered``, by pycocotools.

    The precision is 0 if there are no detections.  Raises ``DataError`` if pycocotools is not installed.
    """
    if not len(detections) or not len(answered):
        return Precision(0.0, ())
    check_evaluator()
    from pycocotools.coco import COCO as GroundTruth  # noqa: N811 (its class has the data set's name)
    from pycocotools.cocoeval import COCOeval

    with contextlib.redirect_stdout(io.StringIO()):  # pycocotools prints its progress
        ground = GroundTruth()
        ground.dataset = {
            "images": list(truth.images),
            "annotations": list(truth.annotations),
            "categories": list(truth.categories),
        }
        ground.createIndex()
        evaluation = COCOeval(ground, ground.loadRes(_in_pixels(truth, detections)), "bbox")
        evaluation.params.imgIds = [truth.images[index]["id"] for index in answered]
        evaluation.evaluate()
        evaluation.accumulate()
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        evaluation.summarize()
    mean = max(float(evaluation.stats[0]), 0.0)  # -1 if the pictures have no annotations
    return Precision(mean, tuple(line.strip() for line in printed.getvalue().splitlines()))


def _in_pixels(truth: AnnotatedPictures, detections: Detections) -> npt.NDArray[np.float64]:
    """Detections in pycocotools' form, shape (n, 7): picture id, x, y, width, height in pixels, score, category."""
    index = detections[:, 0].astype(np.int64)
    sizes = np.array([(image["width"], image["height"]) for image in truth.images], np.float64)[index]
    ids = np.array([image["id"] for image in truth.images], np.float64)[index]
    top, left, bottom, right = detections[:, 1:5].astype(np.float64).T
    width, height = sizes.T
    columns = (ids, left * width, top * height, (right - left) * width, (bottom - top) * height, *detections[:, 5:].T)
    return np.stack(columns, axis=1)
