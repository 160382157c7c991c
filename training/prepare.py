"""``python -m drumfire.training.prepare``: the data sets, fetched with checksums or generated.

coco: COCO 2017 and the backbone's weights, about 20 GB; what is there is checked and kept.  shapes: the small
benchmark's.  sample: a few generated pictures of COCO's form, to try the maskrcnn path with.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from drumfire.training import coco, pictures
from drumfire.training.download import fetch
from drumfire.training.faults import InputError, one_line

_BYTES_NEEDED = 46 * 10**9
"""Archives and what is in them."""


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
_WEIGHTS_NAME = "R-50.pkl"


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m drumfire.training.prepare", description=__doc__)
    parser.add_argument("data", choices=("coco", "shapes", "sample"))
    parser.add_argument(
        "--data-dir", type=Path, metavar="D", help="where (default: runs/data/maskrcnn, shapes or sample)"
    )
    parser.add_argument("--check", action="store_true", help="coco: fetch nothing, tell what is missing")
    options = parser.parse_args(arguments)
    name = "maskrcnn" if options.data == "coco" else options.data
    folder = options.data_dir or Path("runs/data") / name
    try:
        if options.data == "coco":
            if not options.check:
                _fetch_coco(folder)
            check(folder)
        else:
            generated(folder, pictures.SHAPES if options.data == "shapes" else pictures.SAMPLE)
    except InputError as error:
        print(f"prepare: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("prepare: interrupted; the same command goes on where it was", file=sys.stderr)
        return 130
    print(f"{options.data} is ready in {folder}")
    return 0


def generated(folder: Path, recipe: pictures.Recipe) -> None:
    """Generate the data set unless it is there.  ``InputError`` where the folder holds something else."""
    if not folder.exists():
        try:
            pictures.generate(folder, recipe)
        except OSError as error:
            raise InputError(f"cannot write {folder}: {one_line(error)}; choose another --data-dir") from None
    elif (absent := coco.missing(folder)) is not None:
        raise InputError(f"{folder} is there but {absent}: remove it, or choose another --data-dir")


def check(folder: Path) -> None:
    """Read the annotations and see that every image is there.  ``InputError`` names the first that is not."""
    if (absent := coco.missing(folder)) is not None:
        raise InputError(f"{absent}: run 'python -m drumfire.training.prepare coco --data-dir {folder}'")
    if not (folder / _WEIGHTS_NAME).exists():
        raise InputError(f"{folder / _WEIGHTS_NAME} is missing: fetch it from {_WEIGHTS}")
    for part in (coco.TRAIN, coco.VALIDATION):
        found = coco.read(folder, part)
        there = {path.name for path in coco.image_folder(folder, part).iterdir()}
        absent_files = [picture.file for picture in found.pictures if picture.file.name not in there]
        if absent_files:
            raise InputError(
                f"{len(absent_files)} of {len(found.pictures)} images are missing, first {absent_files[0]}"
            )
        print(f"{part}: {len(found.pictures)} images, {len(found.trainable())} of them with something to learn from")


def _fetch_coco(folder: Path) -> None:
    for archive in _COCO:
        if all((folder / name).exists() for name in archive.holds):
            continue
        file = folder / archive.url.rpartition("/")[2]
        fetch(archive.url, file, archive.md5, needed_bytes=_BYTES_NEEDED)
        _unpack(file, folder, archive.holds)
        file.unlink()
    if not (folder / _WEIGHTS_NAME).exists():
        fetch(_WEIGHTS, folder / _WEIGHTS_NAME, md5=None)


def _unpack(file: Path, folder: Path, holds: Sequence[str]) -> None:
    """Put what the archive ``holds`` into its place, each only when it is whole."""
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
