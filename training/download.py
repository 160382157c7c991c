"""Downloads a file: resumes after an interruption, and accepts it only with the right checksum."""

from __future__ import annotations

import hashlib
import os
import shutil
import urllib.error
import urllib.request
from pathlib import Path
from typing import IO

from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

from drumfire.training.faults import InputError, one_line

_CHUNK = 1 << 20
_TIMEOUT_S = 60


def fetch(url: str, path: Path, md5: str | None, needed_bytes: int = 0) -> None:
    """Fetch ``url`` to ``path``, continuing the file that an interrupted call left as ``path`` + ``.part``.

    ``InputError`` if it cannot be fetched, the disk has less than ``needed_bytes`` free, or the checksum is wrong: only
    then the part is removed.
    """
    partial = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(path.parent).free
        if free < needed_bytes:
            raise InputError(f"{path.parent} has {free / 1e9:.0f} GB free, {needed_bytes / 1e9:.0f} GB may be needed")
        _transfer(url, partial)
        if md5 is not None and (actual := _md5(partial)) != md5:
            partial.unlink()
            raise InputError(f"{url} came with MD5 {actual}, not {md5}: start again")
        os.replace(partial, path)
    except (OSError, ValueError) as error:  # urllib's errors are OSErrors
        raise InputError(f"cannot fetch {url}: {one_line(error)}; run the same command again to resume") from None


def _transfer(url: str, partial: Path) -> None:
    have = partial.stat().st_size if partial.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code == 416 and have:  # nothing is left to send, and the checksum decides
            return
        raise
    with response:
        resumed = response.status == 206
        length = response.headers.get("Content-Length")
        total = None if length is None else int(length) + (have if resumed else 0)
        with partial.open("ab" if resumed else "wb") as file:
            _copy(response, file, partial.stem, have if resumed else 0, total)
    if total is not None and partial.stat().st_size != total:
        raise OSError("the connection ended early")


def _copy(source: IO[bytes], file: IO[bytes], name: str, have: int, total: int | None) -> None:
    columns = (TextColumn(name), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns) as progress:
        shown = progress.add_task(name, completed=have, total=total)
        while chunk := source.read(_CHUNK):
            file.write(chunk)
            progress.update(shown, advance=len(chunk))


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "md5").hexdigest()
