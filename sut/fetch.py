"""Fetching a file over HTTP: goes on where it stopped, and is in its place only when it is whole and is the right one.

The SHA-256 is written beside the file when it first comes, in the form of ``sha256sum``, and checked from then on.
Knows no screen: progress goes to whoever asks for it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

_CHUNK = 1 << 20
_TIMEOUT_S = 60

Progress = Callable[[int, int | None], None]
"""Is told the bytes that are there and the whole, None where the server does not say."""


class FetchError(RuntimeError):
    """A file that can not be had, or is not what it was.  The text is one line and names the mend."""


def fetch(url: str, path: Path, progress: Progress = lambda done, whole: None) -> str:
    """Fetch ``url`` to ``path``; returns the SHA-256.  A file that is there is checked and kept.

    What an earlier try left in ``path`` + ``.part`` is gone on with.  Raises ``FetchError``.
    """
    if path.exists():
        return check(path)
    partial = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        _transfer(url, partial, progress)
        digest = _sha256(partial)
        recorded = _recorded(path)
        if recorded is not None and recorded != digest:
            partial.unlink()
            raise FetchError(f"{url} came with SHA-256 {digest}, and {_record(path)} says {recorded}: {_MEND}")
        if recorded is None:
            _record(path).write_text(f"{digest}  {path.name}\n")
        os.replace(partial, path)
    except (OSError, ValueError) as error:  # urllib's errors are OSErrors
        text = " ".join(str(error).split())
        raise FetchError(f"cannot fetch {url}: {text}; the same command goes on where it was") from None
    return digest


_MEND = "if the file was changed on purpose, remove the record; else fetch it again"


def check(path: Path) -> str:
    """The SHA-256 of ``path``; recorded where it was not yet.  Raises ``FetchError`` where it is another one."""
    try:
        digest, recorded = _sha256(path), _recorded(path)
        if recorded is None:
            _record(path).write_text(f"{digest}  {path.name}\n")
    except OSError as error:
        raise FetchError(f"cannot check {path}: {error.strerror or error}; mend that, or set MODEL_DIR") from None
    if recorded not in (None, digest):
        raise FetchError(f"{path} has SHA-256 {digest}, and {_record(path)} says {recorded}: {_MEND}")
    return digest


def _transfer(url: str, partial: Path, progress: Progress) -> None:
    have = partial.stat().st_size if partial.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code == 416 and error.headers.get("Content-Range", "").endswith(f"/{have}"):
            return  # all of it is there
        if error.code == 416:
            partial.unlink()  # another file: the next try starts anew
        raise
    with response:
        if response.status != 206:
            have = 0
        length = response.headers.get("Content-Length")
        whole = None if length is None else int(length) + have
        free = shutil.disk_usage(partial.parent).free
        if whole is not None and whole - have > free:
            raise OSError(
                f"{(whole - have) / 1e6:.0f} MB are to come and {partial.parent} has {free / 1e6:.0f} MB free"
            )
        with partial.open("ab" if have else "wb") as file:
            while chunk := response.read(_CHUNK):
                file.write(chunk)
                have += len(chunk)
                progress(have, whole)
    if whole is not None and have != whole:
        raise OSError(f"the connection ended after {have} of {whole} bytes")


def _record(path: Path) -> Path:
    return path.with_name(path.name + ".sha256")


def _recorded(path: Path) -> str | None:
    try:
        return _record(path).read_text().split()[0]
    except FileNotFoundError:
        return None
    except IndexError:
        raise FetchError(f"{_record(path)} is empty: remove it") from None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
