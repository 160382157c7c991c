"""Where a model's pictures are: the folder given, else $DATA_DIR, else generated ones, which say nothing of accuracy.

Knows the environment and the cache; must not know how pictures are read.
"""

from __future__ import annotations

import os
from pathlib import Path

from drumfire.sut.cache import cache_folder
from drumfire.sut.data import fake

COUNT = 128
"""Pictures that are generated where none are given; more are had with 'drumfire prepare fake'."""


def folder(kind: str, given: Path | None) -> tuple[Path, str | None]:
    """The folder of pictures of ``kind`` (see ``fake.KINDS``), and what must be told of it where they are generated.

    Generates them on first use.  Raises ``DataError``.
    """
    if given is not None:
        return given, None
    if "DATA_DIR" in os.environ:
        return Path(os.environ["DATA_DIR"]), None
    made = cache_folder() / f"fake-{kind}-{COUNT}"
    if not made.exists():
        fake.generate(kind, made, COUNT)
    return made, f"{COUNT} generated pictures ({made}): set DATA_DIR or --dataset-path to measure on real ones"
