"""``drumfire prepare``: what a run needs besides the program, fetched with checksums or generated.

fake draws a data set; check looks whether a data folder is whole; weights fetches a published file.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from bench.assembly import UsageError
from sut import models
from sut.cache import cache_folder
from sut.datasets import coco, fake, imagenet
from sut.fetch import fetch
from sut.models.published import Published, PublishedNetwork


def fake_data(options: argparse.Namespace) -> int:
    folder = options.output or Path(f"fake_{options.kind}")
    fake.generate(options.kind, folder, options.count)
    _console().print(f"{options.count} pictures are in {folder}: export DATA_DIR={folder.resolve()}")
    return 0


def check_data(options: argparse.Namespace) -> int:
    """Read the lists and see that every picture is there."""
    folder = options.dataset_path or Path(os.environ.get("DATA_DIR", ""))
    if folder == Path():
        raise UsageError("no data folder: give --dataset-path, or set DATA_DIR")
    if options.kind == "imagenet":
        labelled = imagenet.read(folder)
        classes = len(set(labelled.labels.tolist()))
        text = f"{len(labelled.files):,} pictures of {classes} classes"
        whole = imagenet.VALIDATION_COUNT
        found = len(labelled.files)
    else:
        layout = {layout.name: layout for layout in (coco.COCO, coco.OPENIMAGES)}[options.kind]
        annotated = coco.read(folder, layout)
        found, whole = len(annotated.files), layout.whole
        text = f"{found:,} pictures with {len(annotated.annotations):,} annotations"
    _console().print(f"{folder} holds {text}" + ("" if found == whole else f" (the real set has {whole:,})"))
    return 0


def weights(options: argparse.Namespace) -> int:
    """Fetch a published file of weights to where runs look for it."""
    published = _published(options)
    path = cache_folder() / published.file
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TransferSpeedColumn())
    with Progress(*columns, TimeRemainingColumn(), console=_console()) as progress:
        shown = progress.add_task(published.file, total=None)
        digest = fetch(
            options.url or published.url,
            path,
            lambda done, whole: progress.update(shown, completed=done, total=whole),
        )
    _console().print(f"{path}: SHA-256 {digest}")
    return 0


def _published(options: argparse.Namespace) -> Published:
    model = models.get(options.model)
    if not isinstance(model, PublishedNetwork):
        raise UsageError(f"{model.name} comes with its weights: nothing to fetch")
    files = {published.file: published for published in model.published}
    if options.file is None:
        return model.published[0]
    if options.file not in files:
        raise UsageError(f"{model.name} has no published file {options.file!r}; available: {', '.join(files)}")
    return files[options.file]


def _console() -> Console:
    return Console(highlight=False, soft_wrap=True)
