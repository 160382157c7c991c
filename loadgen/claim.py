"""A run's folder before the run: claimed by one process, checked, and told what will be measured.

The claim is a lock on the folder itself (``flock``).  It ends with its process, however that ends, and with those that
inherited its descriptor, so nothing has to be cleaned up.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any

from drumfire.loadgen.advice import on_size
from drumfire.loadgen.directory import (
    COLUMNS,
    ENVIRONMENT,
    LAYOUT,
    RESULT,
    SETTINGS,
    OutputError,
    write_json,
    write_settings,
)
from drumfire.loadgen.record import bytes_per_row
from drumfire.loadgen.run import Test

RUNS = Path("runs")
"""Where runs are saved by default, in the working directory."""
_SLACK_BYTES = 4 << 20
"""Room for the files whose size does not depend on the number of rows."""
_LOG_BYTES_PER_ROW = 24
_LARGE_BYTES = 1_000_000_000
"""What a run of this size needs is said, and of any that leaves hardly anything."""
_SCARCE = 1.1
"""Room for this many times what a run needs is said to be scarce."""
_RESERVED_BYTES = 256 << 10
"""Held during the run for the small files of its result, so that they fit where others fill the disk meanwhile."""
_LOOK_S = 0.05
"""Longer than ``is_claimed`` holds a folder."""
_NO_LOCKS = {errno.EBADF, errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP, errno.EINVAL}
"""How ``flock`` fails on file systems that cannot lock a folder, such as some NFS."""


class Claim:
    """A folder that no other process can claim before ``close``.  Made by ``take`` or ``new``."""

    def __init__(self, folder: Path, fd: int, made: list[Path], note: str | None) -> None:
        self.folder = folder
        self.fd = fd
        """The folder's descriptor, which holds the lock: a process that inherits it holds the claim too."""
        self.note = note
        """Why the folder is not locked; None where it is."""
        self.made = made
        """Folders that the claim made, the deepest first."""
        self.log_bytes_per_row = _LOG_BYTES_PER_ROW
        """What a row takes on the disk beside its columns."""
        self._reserve = contextlib.ExitStack()
        self._test: Test | None = None

    @classmethod
    def take(cls, folder: Path, resumed: str | None = None) -> Claim:
        """Claim ``folder``, which is made where it is missing.

        A folder that holds a run is refused, and so is that of an unfinished one, unless the file ``resumed`` is in it.
        Raises ``OutputError``.
        """
        while True:
            try:
                made = [path for path in (folder, *folder.parents) if not path.exists()]
                folder.mkdir(parents=True, exist_ok=True)
                fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
            except OSError as error:
                raise _unwritable(folder, error) from None
            with contextlib.ExitStack() as undoing:
                undoing.callback(os.close, fd)
                note = _lock(fd, folder)
                if not _is_at(fd, folder):
                    continue  # who held it has removed it
                undoing.pop_all()
                claim = undoing.enter_context(cls(folder, fd, made, note))
                _check_free(folder, resumed)
                _check_writable(folder)
                undoing.pop_all()
                return claim

    @classmethod
    def new(cls, name: str) -> Claim:
        """Claim a new folder in ``RUNS``, which no other process takes; its name begins with the time.

        Raises ``OutputError``.
        """
        named, number = f"{datetime.now():%Y%m%d-%H%M%S}-{name}", 1
        while True:
            folder = RUNS / (named if number == 1 else f"{named}-{number}")
            made = [folder] if RUNS.exists() else [folder, RUNS]
            try:
                folder.mkdir(parents=True)
            except FileExistsError:
                number += 1
            except OSError as error:
                raise _unwritable(RUNS, error) from None
            else:
                claim = cls.take(folder)
                claim.made += made
                return claim

    def __enter__(self) -> Claim:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if error is not None and self._test is not None and not self._test.record.issued_rows:
            self._undo()
        self.close()

    def begin(self, test: Test, environment: Mapping[str, Any], subject: Mapping[str, Any] | None = None) -> str | None:
        """Write what is known before ``test`` is measured: its settings, the machine, and the table's layout.

        ``subject``: of the result's ``command`` and ``system`` what is known, for a run that is killed.  Returns what
        ``check_room`` says.
        Raises ``OutputError``, also where there is no room for the run.  If the block then ends by an error before a
        row has been issued, all of it is removed.
        """
        self._test = test
        try:
            said = self.check_room(test.record.rows, on_size(test.effective, test.knobs), test.system.columns)
            write_settings(test, self.folder, subject)
            write_json(self.folder / ENVIRONMENT, environment)
            (self.folder / COLUMNS).mkdir(exist_ok=True)
            (self.folder / COLUMNS / LAYOUT).write_text(test.record.layout + "\n", encoding="utf-8")
            self.make_room()
            held = tempfile.TemporaryFile(dir=self.folder)  # noqa: SIM115 - has no name, and ends with us
            self._reserve.enter_context(held)
            held.write(bytes(_RESERVED_BYTES))
            held.flush()
            return said
        except BaseException as error:  # Ctrl-C too
            self._undo()
            if isinstance(error, OutputError) or not isinstance(error, OSError):
                raise
            raise _unwritable(self.folder, error) from None

    def make_room(self) -> None:
        """Free the room that ``begin`` held for the result, which is saved now."""
        self._reserve.close()

    def _undo(self) -> None:
        """Remove what ``begin`` wrote, as nothing was measured."""
        for name in (f"{COLUMNS}/{LAYOUT}", SETTINGS, ENVIRONMENT):
            with contextlib.suppress(OSError):
                (self.folder / name).unlink()
        with contextlib.suppress(OSError):
            (self.folder / COLUMNS).rmdir()

    def close(self) -> None:
        """End the claim.  Folders that it made and that have stayed empty are removed."""
        self.make_room()
        with contextlib.suppress(OSError):
            for path in self.made:
                path.rmdir()
        os.close(self.fd)

    def check_room(self, rows: int, smaller: str, columns: Mapping[str, Any] | None = None) -> str | None:
        """What a run of so many rows may need of the disk, where that is much or nearly all; None where it is neither.

        ``smaller``: what makes it smaller.  ``columns``: those of its system.  Raises ``OutputError`` where there is
        not so much room.
        """
        needed = rows * (bytes_per_row(columns) + self.log_bytes_per_row) + _SLACK_BYTES
        free = shutil.disk_usage(self.folder).free
        if free < needed:
            raise OutputError(
                f"{self.folder} has {free / 1e6:,.0f} MB free and the run may need {needed / 1e6:,.0f} MB: "
                f"make room (drumfire history prune), choose another --output, or {smaller}"
            )
        if needed < _LARGE_BYTES and free > _SCARCE * needed:
            return None
        return f"the run may need {needed / 1e6:,.0f} MB in {self.folder}, which has {free / 1e6:,.0f} MB free"


def is_claimed(folder: Path) -> bool:
    """Whether a process has claimed the folder, to measure or to save."""
    with contextlib.suppress(OSError):
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(fd)
    return False


@contextlib.contextmanager
def held(folder: Path) -> Iterator[bool]:
    """Hold the folder, so that no process claims it; False where one has.  Raises ``OSError``, also for a link."""
    fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    is_ours = True
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            is_ours = False
        yield is_ours
    finally:
        os.close(fd)


def _lock(fd: int, folder: Path) -> str | None:
    """Lock the folder; returns why it cannot be locked.  Raises ``OutputError`` where another process holds it."""
    until_s = time.monotonic() + _LOOK_S
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return None
        except BlockingIOError:
            if time.monotonic() > until_s:
                text = f"another run is writing to {folder}: wait for its end, or choose another --output"
                raise OutputError(text) from None
            time.sleep(_LOOK_S / 10)
        except OSError as error:
            if error.errno in _NO_LOCKS:
                return f"{folder} is on a file system without locks: see to it that no other run writes there"
            raise _unwritable(folder, error) from None


def _is_at(fd: int, folder: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.stat(folder))
    except FileNotFoundError:
        return False


def _check_free(folder: Path, resumed: str | None) -> None:
    if (folder / RESULT).exists():
        raise OutputError(f"{folder} already holds a run: choose another --output, or remove it first")
    if resumed is not None and (folder / resumed).exists():
        return
    if any((folder / name).exists() for name in (SETTINGS, ENVIRONMENT, COLUMNS)):
        raise OutputError(f"{folder} holds an unfinished run: choose another --output, or remove it first")


def _check_writable(folder: Path) -> None:
    try:
        with tempfile.TemporaryFile(dir=folder) as probe:
            probe.write(b"drumfire")
            probe.flush()
    except OSError as error:
        raise _unwritable(folder, error) from None


def _unwritable(folder: Path, error: OSError) -> OutputError:
    return OutputError(f"cannot write to {folder}: {error.strerror}; choose another --output")
