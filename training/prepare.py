"""``python -m drumfire.training.prepare``: fetches data sets with checksums, or generates them.

coco: COCO 2017 and the backbone's weights, about 20 GB; existing files are checked and kept.  shapes: the data set of
the small benchmark, generated.  sample: a few generated pictures in COCO's form, to try maskrcnn with.
"""

from __future__ import annotations

import os
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from drumfire.loadgen.options import option
from drumfire.training import coco, maskrcnn, pictures
from drumfire.training.download import fetch
from drumfire.training.faults import INTERRUPTED, USAGE, InputError, one_line
from drumfire.training.options import parse
from drumfire.training.task import DATA
from drumfire.training.tasks import TASKS

RECIPES = {"shapes": pictures.SHAPES, "sample": pictures.SAMPLE}
"""The data sets that are generated."""
_FOLDERS = {task.data: task.folder for task in TASKS.values()} | {"sample": DATA / "sample"}
_BYTES_NEEDED = 46 * 10**9
"""Space for COCO's archives and their contents."""


@dataclass(frozen=True)
class _Archive:
    url: str
    md5: str
    holds: tuple[str, ...]


_COCO = (
    _Archive(
        "http://images.cocodataset.org/annotations/annotations_trainval2017.zip",
        "f4bbac642086de4f52a3fdda2de5fa2c",
        ("annotations/instances_train2017.json", "annotations/instances_val2017.json"),
    ),
    _Archive("http://images.cocodataset.org/zips/val2017.zip", "442b8da7639aecaf257c1dceb8ba8c80", ("val2017",)),
    _Archive("http://images.cocodataset.org/zips/train2017.zip", "cced6f7f71b7629ddf16f17bbcfab6b2", ("train2017",)),
)
_WEIGHTS = "https://dl.fbaipublicfiles.com/detectron/ImageNetPretrained/MSRA/R-50.pkl"


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of this program."""

    data: str = option(position=True, choices=tuple(_FOLDERS), help="the data set")
    data_dir: Path | None = option(None, metavar="D", help="where (default: runs/data/maskrcnn, shapes or sample)")
    check: bool = option(False, help="coco: fetch nothing, only report what is missing")


def main(arguments: Sequence[str] | None = None) -> int:
    try:
        options = parse("drumfire.training.prepare", __doc__, Options, arguments)
        folder = options.data_dir or _FOLDERS[options.data]
        if options.data in RECIPES:
            generate(folder, RECIPES[options.data])
        else:
            if not options.check:
                _fetch_coco(folder)
            check(folder)
    except InputError as error:
        print(f"prepare: {error}", file=sys.stderr)
        return USAGE
    except KeyboardInterrupt:
        print("prepare: interrupted; run the same command again to resume", file=sys.stderr)
        return INTERRUPTED
    print(f"{options.data} is ready in {folder}")
    return 0


def generate(folder: Path, recipe: pictures.Recipe) -> None:
    """Generate the data set unless it exists.  ``InputError`` if the folder is incomplete or cannot be written."""
    if not folder.exists():
        try:
            pictures.generate(folder, recipe)
        except OSError as error:
            raise InputError(f"cannot write {folder}: {one_line(error)}; choose another --data-dir") from None
    elif (absent := coco.missing(folder)) is not None:
        raise InputError(f"{folder} exists but {absent}: remove it, or choose another --data-dir")


def check(folder: Path) -> None:
    """Check that the annotations are readable and no file is missing.  ``InputError`` names the first missing file."""
    if (absent := coco.missing(folder)) is not None:
        raise InputError(f"{absent}: run 'python -m drumfire.training.prepare coco --data-dir {folder}'")
    if not (folder / maskrcnn.WEIGHTS).exists():
        raise InputError(f"{folder / maskrcnn.WEIGHTS} is missing: fetch it from {_WEIGHTS}")
    for part in (coco.TRAIN, coco.VALIDATION):
        annotations = coco.read(folder, part)
        existing = {path.name for path in coco.image_folder(folder, part).iterdir()}
        listed = annotations.pictures
        absent_files = [picture.file for picture in listed if picture.file.name not in existing]
        if absent_files:
            raise InputError(f"{len(absent_files)} of {len(listed)} images are missing, first {absent_files[0]}")
        print(f"{part}: {len(listed)} images, {len(annotations.trainable())} of them with something to learn from")


def _fetch_coco(folder: Path) -> None:
    for archive in _COCO:
        if all((folder / name).exists() for name in archive.holds):
            continue
        file = folder / archive.url.rpartition("/")[2]
        fetch(archive.url, file, archive.md5, needed_bytes=_BYTES_NEEDED)
        _unpack(file, folder, archive.holds)
        file.unlink()
    if not (folder / maskrcnn.WEIGHTS).exists():
        fetch(_WEIGHTS, folder / maskrcnn.WEIGHTS, md5=None)


def _unpack(file: Path, folder: Path, holds: Sequence[str]) -> None:
    """Unpack the archive, and move what it ``holds`` to its place once all is unpacked."""
    print(f"unpacking {file}", file=sys.stderr)
    try:
        with zipfile.ZipFile(file) as archive, tempfile.TemporaryDirectory(dir=folder) as partial:
            archive.extractall(partial)
            for name in holds:
                (folder / name).parent.mkdir(exist_ok=True)
                os.replace(Path(partial) / name, folder / name)
    except (OSError, zipfile.BadZipFile) as error:
        raise InputError(f"cannot unpack {file}: {one_line(error)}; make room, or remove it and start again") from None


if __name__ == "__main__":
    sys.exit(main())
