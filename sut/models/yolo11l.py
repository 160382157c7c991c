"""YOLO11l at up to 640 pixels on MLPerf's subset of COCO, in MLPerf since round v6.0.

A file of open sizes gets each picture at its own shape, as MLPerf's reference does; one of fixed sizes, in a frame of
them.  The weights are the user's own export, as their licence (AGPL-3.0) forbids to give them away here.
"""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from drumfire.loadgen.system import IndexArray
from drumfire.sut.cache import cache_folder
from drumfire.sut.data import coco, scenes
from drumfire.sut.data.inputs import InputError
from drumfire.sut.data.library import INPUT, ArrayLibrary
from drumfire.sut.data.options import InputOptions
from drumfire.sut.data.pictures import PictureReader
from drumfire.sut.data.ragged import Ragged, RaggedLibrary
from drumfire.sut.data.recipes import STEP, Letterbox, Pixels, Recipe
from drumfire.sut.data.sizes import choose
from drumfire.sut.kserve.messages.tensors import ModelInterface
from drumfire.sut.models.model import Form, WeightsError
from drumfire.sut.models.photo_detector import PhotoDetector
from drumfire.sut.models.tensors import Input, Tensors
from drumfire.sut.models.weights.publication import STATE_DICTS, Published

if TYPE_CHECKING:
    from torch import nn

_CATEGORY = np.array(coco.COCO_CATEGORIES)
_ROWS = 4 + _CATEGORY.size
"""Of the network's output: centre x, centre y, width and height in pixels, then the scores of the classes."""
_SIDE = 640
"""Pixels of MLPerf's pictures, of the longer side."""
_SETTLED, _SETTLED_SIDE = 8, 320
"""Pictures that random weights are settled on, and their sides in pixels."""


class Yolo11l(PhotoDetector):
    """The network sees each picture whole, in a grey frame; its answers hold boxes in that frame's pixels.

    They are moved into the picture when they are logged: only then is it known which picture each belongs to.
    """

    name = "yolo11l"
    description = "YOLO11l, 640x640 pixels, 80 classes: COCO 2017 validation set, the 1525 pictures of MLPerf's subset"
    quality_target = 0.95 * 0.534  # yolo-95; yolo-99 has 0.99
    layout, total_count, performance_count = coco.COCO_SAFE, coco.COCO_SAFE.whole, 64
    published: Sequence[Published] = ()
    recipe = "coco-640-letterbox"
    outputs = ("output0",)
    score_threshold, overlap, most = 0.001, 0.7, 300

    def __init__(self) -> None:
        super().__init__()
        self.data_name = "MLPerf's subset of COCO"
        self._letterbox = Letterbox((_SIDE, _SIDE), (_SIDE, _SIDE))

    def for_file(self, file: Tensors, options: InputOptions) -> Yolo11l:
        """See ``FollowsFile``: a fixed side is the frame's; of an open one, each picture has a multiple of ``STEP``."""
        file = file.as_in_file
        named = tuple(replace(spec, dims=one.dims) for spec, one in zip(file.specs, file.inputs, strict=True))
        chosen = choose(ModelInterface(self.name, "", "", named, (), 1), options, file.batch)
        specs = chosen.interface.inputs
        if len(specs) != 1 or len(specs[0].shape) != 3 or specs[0].shape[0] not in (3, -1):
            return self  # which its data does not fit
        drawn = chosen.drawn.get(specs[0].name, {})
        sides = []
        for axis, size in enumerate(specs[0].shape[1:], 1):
            least, most, median = drawn[axis].lengths if axis in drawn else (size, size, None)
            if size < 0 and axis not in drawn:
                least, most = STEP, _SIDE
            if median is not None or (file.inputs[0].sample_shape[axis] is None and (least % STEP or most % STEP)):
                raise InputError(
                    f"{self.name}: its pictures cannot have {drawn[axis].lengths if axis in drawn else size} pixels: "
                    f"give a multiple of {STEP}, such as {_SIDE}, or the least and the most, such as {STEP}..{_SIDE}"
                )
            sides.append((least, most))
        found = copy.copy(self)
        (low, high), (narrow, wide) = sides
        found._letterbox = Letterbox((low, narrow), (high, wide))
        return found

    @property
    def tensors(self) -> Tensors:
        """See ``Model.tensors``."""
        sides = zip(*self._letterbox, strict=True)
        shape = (3, *(least if least == most else None for least, most in sides))
        return Tensors((Input(INPUT, shape, np.dtype(np.float32), dims=("", "height", "width")),), tuple(self.outputs))

    @property
    def reservations(self) -> Sequence[str]:
        """See ``Model.reservations``."""
        height, width = self._letterbox.most
        if (height, width) == (_SIDE, _SIDE):
            return super().reservations
        return (*super().reservations, f"pictures are scaled to fill {height}x{width} pixels, MLPerf's {_SIDE}x{_SIDE}")

    def of_files(self, files: Sequence[Path], performance_count: int) -> ArrayLibrary:
        """See ``PictureModel.of_files``: samples of different shapes, unless the frame is fixed."""
        box, images = self._letterbox, self.truth().images
        if box.is_fixed:
            return super().of_files(files, performance_count)
        frames = [box.place(image["height"], image["width"]).frame for image in images]
        readers = {frame: PictureReader(box.recipe(frame), cache_folder()) for frame in sorted(set(frames))}

        def read(indices: IndexArray) -> dict[str, Ragged]:
            found: dict[int, Pixels] = {}
            for frame, reader in readers.items():
                same = [index for index in indices.tolist() if frames[index] == frame]
                found |= zip(same, reader.read([files[index] for index in same]), strict=True)
            return {INPUT: Ragged.of([found[index] for index in indices.tolist()])}

        return RaggedLibrary(self.name, read, len(files), performance_count)

    @property
    def recipe_in_use(self) -> Recipe:
        """See ``PictureModel.recipe_in_use``; where all pictures have one frame."""
        return self._letterbox.recipe(self._letterbox.most)

    def weights(self, cache: Path, given: Path | None = None, form: Form = Form.ONNX) -> Path:
        """See ``Model.weights``; a state dict is refused, as only the library that made it can read it."""
        if given is not None and given.suffix in STATE_DICTS:
            raise WeightsError(
                f"{given}: {self.name} takes no {given.suffix} file: export it as ONNX at 640 pixels without NMS "
                f"('yolo export model={given.name} format=onnx dynamic=True'), and give that file"
            )
        return super().weights(cache, given, form)

    def new_network(self) -> nn.Module:
        from drumfire.sut.models.networks import yolo

        return yolo.Yolo11()

    def network(self, source: Path | None) -> nn.Module:
        """See ``PublishedNetwork.network``; random weights are settled on a few drawn pictures."""
        network = super().network(source)
        if source is None:
            _settle(network)
        return network

    def candidates(
        self, outputs: Sequence[npt.NDArray[Any]]
    ) -> Iterator[tuple[npt.NDArray[Any], npt.NDArray[Any], npt.NDArray[Any]]]:
        """See ``DetectionJudge.candidates``: each place's best class alone, where its score is above the threshold."""
        if len(outputs) != 1 or outputs[0].ndim != 3 or outputs[0].shape[1] != _ROWS:
            shapes = ", ".join(f"{output.dtype} {list(output.shape)}" for output in outputs)
            raise ValueError(
                f"the network gives {shapes}: {self.name} gives [pictures, {_ROWS}, places], boxes before suppression; "
                "export it without NMS"
            )
        raw = outputs[0]
        best = raw[:, 4:].max(axis=1)
        for picture, scores in zip(raw, best, strict=True):
            good = np.flatnonzero(scores > self.score_threshold)
            found = picture[:, good].astype(np.float32)
            centre, half = found[:2], found[2:4] / 2
            boxes = np.concatenate((centre - half, centre + half)).T
            yield boxes, scores[good].astype(np.float32), found[4:].argmax(axis=0)

    def categories(self, labels: npt.NDArray[Any]) -> npt.NDArray[Any]:
        """See ``DetectionJudge.categories``."""
        categories: npt.NDArray[Any] = _CATEGORY[labels]
        return categories

    def located(self, boxes: npt.NDArray[np.float32], index: int) -> npt.NDArray[np.float32]:
        """See ``DetectionJudge.located``: cut to the picture."""
        image = self.truth().images[index]
        top, left, height, width, _ = self._letterbox.place(image["height"], image["width"])
        origin, size = np.array((top, left) * 2, np.float32), np.array((height, width) * 2, np.float32)
        found: npt.NDArray[np.float32] = ((boxes - origin) / size).clip(0, 1)
        return found


def _settle(network: nn.Module) -> None:
    """Set the batch norms to what drawn pictures give.

    Random weights of a network this deep would else answer all or nothing to every picture.
    """
    import torch
    from torch import nn

    drawn = [
        scenes.draw(_SETTLED_SIDE, _SETTLED_SIDE, 3, np.random.default_rng([1, at])).pixels for at in range(_SETTLED)
    ]
    pictures = torch.from_numpy(np.stack(drawn)).permute(0, 3, 1, 2).float() / 255
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # take over all of the first batch's
    with torch.no_grad():
        network.train()(pictures)
    network.eval()
