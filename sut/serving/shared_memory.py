"""Regions of system shared memory that clients have registered, by name.

Handles POSIX shared memory on Linux.  Does not depend on requests.  Regions belong to the clients: the server opens
them and never creates or unlinks them, so it leaves nothing behind, however the process ends.
"""

from __future__ import annotations

import os
import stat
import weakref
from pathlib import Path
from typing import Any, NamedTuple

from drumfire.sut.kserve.grpc.framing import Status
from drumfire.sut.kserve.messages.exchange import Buffer, Region
from drumfire.sut.serving.refusal import Refusal, invalid

FOLDER = Path("/dev/shm")
MOST_REGIONS = 4096
_LONGEST_NAME = 255


class _File:
    """A file descriptor, closed with the last one who holds this object, or before."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self._close = weakref.finalize(self, os.close, descriptor)

    def close(self) -> None:
        self._close()

    @property
    def size(self) -> int:
        return os.fstat(self.descriptor).st_size


class _Registered(NamedTuple):
    key: str
    offset: int
    size: int
    file: _File


class SharedBytes:
    """The place of a tensor in a region.

    It is read and written as a file.  A mapping would be unsafe: its client may truncate the memory at any time, and
    whoever then touches it is ended by SIGBUS.
    """

    __slots__ = ("_file", "_offset", "region")

    def __init__(self, file: _File, offset: int, region: Region) -> None:
        """``offset``: in the file, where ``region.offset`` counts from the start of the region."""
        self._file, self._offset, self.region = file, offset, region

    def __len__(self) -> int:
        return self.region.size

    def read_into(self, place: memoryview) -> None:
        """Fill ``place``, which is as long as this.  Raises ``Refusal`` if the memory has been truncated."""
        at = 0
        while at < len(place):
            count = os.preadv(self._file.descriptor, [place[at:]], self._offset + at)
            if not count:
                raise self._truncated()
            at += count

    def read(self) -> bytes:
        """A copy.  Raises ``Refusal`` if the memory has been truncated."""
        copy = bytearray(len(self))
        self.read_into(memoryview(copy))
        return bytes(copy)

    def write(self, contents: Buffer) -> None:
        """Write ``contents`` to the start of the place.  Raises ``Refusal`` if they do not fit, or the memory has been
        truncated."""
        size = len(contents)
        if size > len(self):
            raise invalid(
                f"an output of {size} bytes does not fit in the {len(self)} bytes of shared memory at its place in "
                f"region {self.region.name!r}"
            )
        if self._file.size < self._offset + size:  # writing would extend the client's memory
            raise self._truncated()
        at = 0
        try:
            while at < size:
                at += os.pwrite(self._file.descriptor, contents[at:], self._offset + at)
        except OSError as error:
            raise invalid(f"region {self.region.name!r} cannot be written: {error.strerror}") from None

    def _truncated(self) -> Refusal:
        return invalid(f"the shared memory of region {self.region.name!r} was truncated after it was registered")


class SystemRegions:
    """The regions by name.  Only the event loop uses this object; places stay valid after their region is removed."""

    def __init__(self, folder: Path = FOLDER, most: int = MOST_REGIONS) -> None:
        self._folder, self._most = folder, most
        self._regions: dict[str, _Registered] = {}

    def register(self, name: str, key: str, offset: int, byte_size: int) -> None:
        """Open a region.  Raises ``Refusal``."""
        if not name or len(name) > _LONGEST_NAME:
            raise invalid(f"a region's name has 1 to {_LONGEST_NAME} characters")
        if name in self._regions:
            raise Refusal(Status.ALREADY_EXISTS, f"shared memory region {name!r} is registered already")
        if len(self._regions) >= self._most:
            raise Refusal(Status.UNAVAILABLE, f"{self._most} regions are registered: no more are accepted")
        if offset < 0 or byte_size < 1:
            raise invalid(f"region {name!r} of {byte_size} bytes at offset {offset}")
        file = self._open(key)
        try:
            if not stat.S_ISREG(os.fstat(file.descriptor).st_mode):
                raise invalid(f"{key!r} is not shared memory")
            if offset + byte_size > file.size:
                raise invalid(f"{key!r} has {file.size} bytes: {byte_size} at offset {offset} exceed it")
        except Refusal:
            file.close()
            raise
        self._regions[name] = _Registered(key, offset, byte_size, file)

    def unregister(self, name: str = "") -> None:
        """Remove one region, or all.  Unregistering an unknown region is not an error, as in Triton."""
        for one in [name] if name else list(self._regions):
            self._regions.pop(one, None)

    def status(self, name: str = "") -> list[dict[str, Any]]:
        """One registered region, or all.  Raises ``Refusal`` for an unknown name."""
        if name and name not in self._regions:
            raise Refusal(Status.NOT_FOUND, f"shared memory region {name!r} is not registered")
        return [
            {"name": one, "key": region.key, "offset": region.offset, "byte_size": region.size}
            for one, region in self._regions.items()
            if name in ("", one)
        ]

    def place(self, region: Region) -> SharedBytes:
        """The place of a tensor in a region.  Raises ``Refusal`` if it is not within it."""
        found = self._regions.get(region.name)
        if found is None:
            raise invalid(f"shared memory region {region.name!r} is not registered")
        if region.offset < 0 or region.size < 0 or region.offset + region.size > found.size:
            raise invalid(
                f"region {region.name!r} has {found.size} bytes: {region.size} at offset {region.offset} exceed it"
            )
        return SharedBytes(found.file, found.offset + region.offset, region)

    def _open(self, key: str) -> _File:
        """Open a name in the folder of shared memory; never a path, a link, or a file that blocks."""
        name = key.removeprefix("/")
        if not name or "/" in name or "\0" in name or name in (".", "..") or len(name) > _LONGEST_NAME:
            raise invalid(f"key {key[:80]!r} is not the name of a POSIX shared memory object, such as '/name'")
        try:
            flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            return _File(os.open(self._folder / name, flags))
        except FileNotFoundError:
            raise invalid(f"shared memory {key!r} does not exist") from None
        except (OSError, ValueError) as error:
            text = error.strerror if isinstance(error, OSError) else str(error)
            raise invalid(f"shared memory {key!r} cannot be opened: {text}") from None
