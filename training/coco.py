"""Reads a data set in COCO's layout: checks the annotations, and loads images with their boxes and masks.

``FOLDER/train2017/*.jpg``, ``FOLDER/val2017/*.jpg``, ``FOLDER/annotations/instances_{train,val}2017.json``.  Does not
depend on a model.  What is random about an image follows from the seed, the epoch and its index, so that no generator
has a state to save.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from faster_coco_eval import mask as masks
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from drumfire.loadgen.annotations import read_annotations
from drumfire.loadgen.errors import UserError
from drumfire.training.faults import InputError, one_line

TRAIN, VALIDATION = "train", "val"
_SMALLEST_BOX = 1.0
"""Pixels.  An image is trained on if it has a box that is wider and higher."""


@dataclass(frozen=True)
class Picture:
    """One image as the annotations describe it."""

    id: int
    file: Path
    width: int
    height: int
    trainable: bool
    """Whether the image has anything to learn from, decided as in the reference."""
    packed: bytes
    """Its annotations as JSON: as Python objects COCO's millions of numbers would fill the memory of every worker."""

    @property
    def annotations(self) -> list[dict[str, Any]]:
        annotations: list[dict[str, Any]] = json.loads(self.packed)
        return annotations


@dataclass(frozen=True)
class Annotations:
    """One annotation file.  A category's label is its index in ``categories`` plus 1; 0 is the background."""

    file: Path
    pictures: tuple[Picture, ...]
    categories: tuple[int, ...]

    def trainable(self) -> tuple[Picture, ...]:
        return tuple(picture for picture in self.pictures if picture.trainable)


@dataclass(frozen=True)
class Sample:
    """An image and its objects."""

    picture_id: int
    image: Tensor
    """uint8, (3, height, width)"""
    boxes: Tensor
    """float32, (n, 4): x1, y1, x2, y2 in pixels, without crowds"""
    labels: Tensor
    """int64, (n,)"""
    masks: Tensor
    """uint8, (n, height, width)"""
    draw: int
    """A random number for this image in this epoch, as the seed of further draws."""


@dataclass(frozen=True)
class Unreadable:
    """Stands in for a sample that could not be read, so that all ranks learn of the fault before any of them stops."""

    fault: str


def annotation_file(folder: Path, part: str) -> Path:
    return folder / "annotations" / f"instances_{part}2017.json"


def image_folder(folder: Path, part: str) -> Path:
    return folder / f"{part}2017"


def missing(folder: Path) -> str | None:
    """Which parts of the layout are missing, in one line; None if the layout is complete."""
    needed = [place(folder, part) for part in (TRAIN, VALIDATION) for place in (annotation_file, image_folder)]
    absent = [str(path) for path in needed if not path.exists()]
    return f"the data set lacks {', '.join(absent)}" if absent else None


def drop_from_cache(folder: Path) -> bool:
    """Drop the data from the system's page cache without reading it.  False if that is not possible."""
    if not hasattr(os, "posix_fadvise"):
        return False
    for path in folder.rglob("*"):
        if path.is_file():
            try:
                handle = os.open(path, os.O_RDONLY)
            except OSError:
                return False
            try:
                os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(handle)
    return True


def read(folder: Path, part: str) -> Annotations:
    """Read and check an annotation file.  ``InputError`` names the first fault."""
    file = annotation_file(folder, part)
    try:
        document = read_annotations(file, masks=True)
    except UserError as error:
        raise InputError(str(error)) from None
    images = image_folder(folder, part)
    of_image: dict[int, list[Mapping[str, Any]]] = defaultdict(list)
    for annotation in document["annotations"]:
        of_image[annotation["image_id"]].append(annotation)
    pictures = tuple(
        Picture(
            image["id"],
            images / image["file_name"],
            image["width"],
            image["height"],
            any(map(_has_size, of_image[image["id"]])),
            json.dumps(of_image[image["id"]]).encode(),
        )
        for image in sorted(document["images"], key=lambda image: image["id"])
    )
    categories = tuple(sorted(category["id"] for category in document["categories"]))
    return Annotations(file, pictures, categories)


Shown = tuple[int, int]
"""The epoch in which a picture is shown, and the picture's index."""


class Pictures(torch.utils.data.Dataset[Sample | Unreadable]):
    """Loads pictures.  With a ``seed`` a random half of them is mirrored, another half in each epoch."""

    def __init__(self, pictures: Sequence[Picture], categories: Sequence[int], seed: int | None = None) -> None:
        self._pictures, self._seed = pictures, seed
        self._label = {category: at for at, category in enumerate(categories, 1)}

    def __getitem__(self, shown: Shown) -> Sample | Unreadable:
        epoch, index = shown
        picture = self._pictures[index]
        try:
            sample = self._load(picture)
        except (OSError, UnidentifiedImageError, Image.DecompressionBombError, InputError) as error:
            return Unreadable(f"cannot use image {picture.file}: {one_line(error)}; fetch it again")
        except (ValueError, TypeError, IndexError, KeyError) as error:
            return Unreadable(f"the annotations of {picture.file} are broken: {one_line(error)}")
        if self._seed is None:
            return sample
        draws = np.random.default_rng([self._seed, epoch, index])
        draw = int(draws.integers(2**62))
        return _augmented(sample, draw, mirrored=bool(draws.random() < 0.5))

    def _load(self, picture: Picture) -> Sample:
        with Image.open(picture.file) as image:
            pixels = np.array(image.convert("RGB"))
        size = (picture.height, picture.width)
        if pixels.shape[:2] != size:
            raise InputError(
                f"it is {pixels.shape[1]}x{pixels.shape[0]} and the annotations say {picture.width}x{picture.height}"
            )
        things = [a for a in picture.annotations if not a["iscrowd"]]
        x, y, width, height = np.array([a["bbox"] for a in things], dtype=np.float32).reshape(-1, 4).T
        right, bottom = np.clip(x + width, 0, picture.width), np.clip(y + height, 0, picture.height)
        boxes = np.stack((np.clip(x, 0, None), np.clip(y, 0, None), right, bottom), axis=1)
        kept = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
        things = [thing for thing, keep in zip(things, kept, strict=True) if keep]
        shapes = [_mask(thing["segmentation"], size) for thing in things]
        return Sample(
            picture.id,
            torch.from_numpy(pixels).permute(2, 0, 1).contiguous(),
            torch.from_numpy(boxes[kept]),
            torch.tensor([self._label[thing["category_id"]] for thing in things], dtype=torch.int64),
            torch.from_numpy(np.stack(shapes) if shapes else np.zeros((0, *size), dtype=np.uint8)),
            draw=0,
        )


def _augmented(sample: Sample, draw: int, *, mirrored: bool) -> Sample:
    """The sample as a rank sees it in an epoch."""
    if not mirrored:
        return Sample(sample.picture_id, sample.image, sample.boxes, sample.labels, sample.masks, draw)
    x1, y1, x2, y2 = sample.boxes.unbind(1)
    width = sample.image.shape[-1]
    boxes = torch.stack((width - x2, y1, width - x1, y2), dim=1)
    return Sample(sample.picture_id, sample.image.flip(-1), boxes, sample.labels, sample.masks.flip(-1), draw)


def _mask(segmentation: Any, size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """The (height, width) mask of polygons, or of run lengths as numbers or in COCO's string form."""
    if isinstance(segmentation, list):
        runs = masks.merge(masks.frPyObjects(segmentation, *size))
    elif isinstance(segmentation["counts"], list):
        runs = masks.frPyObjects(segmentation, *size)
    else:
        runs = segmentation
    mask: npt.NDArray[np.uint8] = masks.decode(runs)
    if mask.shape != size:
        raise ValueError(f"a mask of {mask.shape[1]}x{mask.shape[0]} pixels")
    return mask


def _has_size(annotation: Mapping[str, Any]) -> bool:
    return all(side > _SMALLEST_BOX for side in annotation["bbox"][2:])
