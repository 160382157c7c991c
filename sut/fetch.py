"""Downloads over HTTP: an interrupted transfer resumes, and the file appears only when it is complete and correct.

The first download writes the SHA-256 beside the file, in the form of ``sha256sum``; every later use checks it.
Reports progress to a callback, not to a screen.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import urllib.error
import urllib.request
from collections.abc import Callable
from pathlib import Path

from drumfire.loadgen.errors import UserError

_CHUNK = 1 << 20
_TIMEOUT_S = 60

Progress = Callable[[int, int | None], None]
"""Called with the bytes received and the size of the file (None if the server does not state it)."""


class FetchError(UserError, RuntimeError):
    """A file cannot be fetched, or its SHA-256 has changed.  The text is one line and names the fix."""


def fetch(url: str, path: Path, progress: Progress = lambda done, whole: None) -> str:
    """Fetch ``url`` to ``path`` and return the SHA-256; if the file exists, only check it.

    Resumes an earlier transfer from ``path`` + ``.part``.  Raises ``FetchError``.
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
            raise FetchError(f"{url} has SHA-256 {digest}, but {_record(path)} says {recorded}: {_FIX}")
        if recorded is None:
            _record(path).write_text(f"{digest}  {path.name}\n")
        os.replace(partial, path)
    except (OSError, ValueError) as error:  # urllib's errors are OSErrors
        text = " ".join(str(error).split())
        raise FetchError(f"cannot fetch {url}: {text}; run the same command again to resume") from None
    return digest


_FIX = "if the file was changed on purpose, remove the record; else fetch it again"


def check(path: Path) -> str:
    """Return the SHA-256 of ``path``, and record it if it has no record.  Raises ``FetchError`` if they differ."""
    try:
        digest, recorded = _sha256(path), _recorded(path)
        if recorded is None:
            _record(path).write_text(f"{digest}  {path.name}\n")
    except OSError as error:
        raise FetchError(f"cannot check {path}: {error.strerror or error}; fix that, or set MODEL_DIR") from None
    if recorded not in (None, digest):
        raise FetchError(f"{path} has SHA-256 {digest}, but {_record(path)} says {recorded}: {_FIX}")
    return digest


def _transfer(url: str, partial: Path, progress: Progress) -> None:
    have = partial.stat().st_size if partial.exists() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        response = urllib.request.urlopen(request, timeout=_TIMEOUT_S)
    except urllib.error.HTTPError as error:
        if error.code == 416 and error.headers.get("Content-Range", "").endswith(f"/{have}"):
            return  # already complete
        if error.code == 416:
            partial.unlink()  # the file on the server has changed: the next try starts from 0
        raise
    with response:
        if response.status != 206:
            have = 0
        length = response.headers.get("Content-Length")
        whole = None if length is None else int(length) + have
        free = shutil.disk_usage(partial.parent).free
        if whole is not None and whole - have > free:
            raise OSError(f"{(whole - have) / 1e6:.0f} MB needed, but {partial.parent} has {free / 1e6:.0f} MB free")
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
        return _record(path).read_text(encoding="ascii").split()[0]
    except FileNotFoundError:
        return None
    except (IndexError, ValueError):
        raise FetchError(f"{_record(path)} is empty or damaged: remove it") from None


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
