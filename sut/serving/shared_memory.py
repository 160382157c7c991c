"""Regions of system shared memory that clients have registered, by name.

Handles POSIX shared memory on Linux.  Does not depend on requests.  Regions belong to the clients: the server maps
them and never creates or unlinks them, so it leaves nothing behind, however the process ends.
"""

from __future__ import annotations

import mmap
import os
import stat
from pathlib import Path
from typing import Any, NamedTuple

from drumfire.sut.kserve.grpc.framing import Status
from drumfire.sut.kserve.messages.exchange import Region
from drumfire.sut.serving.refusal import Refusal, invalid

FOLDER = Path("/dev/shm")
MOST_REGIONS = 4096
_LONGEST_NAME = 255


class _Mapped(NamedTuple):
    key: str
    offset: int
    size: int
    descriptor: int
    memory: memoryview


class SystemRegions:
    """The regions by name.  Only the event loop uses this object; views stay valid after their region is removed."""

    def __init__(self, folder: Path = FOLDER, most: int = MOST_REGIONS) -> None:
        self._folder, self._most = folder, most
        self._regions: dict[str, _Mapped] = {}

    def register(self, name: str, key: str, offset: int, byte_size: int) -> None:
        """Map a region.  Raises ``Refusal``."""
        if not name or len(name) > _LONGEST_NAME:
            raise invalid(f"a region's name has 1 to {_LONGEST_NAME} characters")
        if name in self._regions:
            raise Refusal(Status.ALREADY_EXISTS, f"shared memory region {name!r} is registered already")
        if len(self._regions) >= self._most:
            raise Refusal(Status.UNAVAILABLE, f"{self._most} regions are registered: no more are accepted")
        if offset < 0 or byte_size < 1:
            raise invalid(f"region {name!r} of {byte_size} bytes at offset {offset}")
        descriptor = self._open(key)
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise invalid(f"{key!r} is not shared memory")
            if offset + byte_size > found.st_size:
                raise invalid(f"{key!r} has {found.st_size} bytes: {byte_size} at offset {offset} exceed it")
            start = offset // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY
            mapped = mmap.mmap(descriptor, offset + byte_size - start, offset=start)
        except OSError as error:
            os.close(descriptor)
            raise invalid(f"{key!r} cannot be mapped: {error.strerror}") from None
        except BaseException:
            os.close(descriptor)
            raise
        memory = memoryview(mapped)[offset - start :]
        self._regions[name] = _Mapped(key, offset, byte_size, descriptor, memory)

    def unregister(self, name: str = "") -> None:
        """Remove one region, or all.  Unregistering an unknown region is not an error, as in Triton."""
        for one in [name] if name else list(self._regions):
            region = self._regions.pop(one, None)
            if region is not None:
                # The mapping lives until its last view is dropped, which a request under way may hold.
                os.close(region.descriptor)

    def status(self, name: str = "") -> list[dict[str, Any]]:
        """One registered region, or all.  Raises ``Refusal`` for an unknown name."""
        if name and name not in self._regions:
            raise Refusal(Status.NOT_FOUND, f"shared memory region {name!r} is not registered")
        return [
            {"name": one, "key": region.key, "offset": region.offset, "byte_size": region.size}
            for one, region in self._regions.items()
            if name in ("", one)
        ]

    def view(self, region: Region) -> memoryview:
        """The bytes of a tensor in a region.  Raises ``Refusal`` if they are not within it."""
        mapped = self._regions.get(region.name)
        if mapped is None:
            raise invalid(f"shared memory region {region.name!r} is not registered")
        if region.offset < 0 or region.size < 0 or region.offset + region.size > mapped.size:
            raise invalid(
                f"region {region.name!r} has {mapped.size} bytes: {region.size} at offset {region.offset} exceed it"
            )
        # If the owner has truncated the memory since, touching it would kill this process with SIGBUS.
        if os.fstat(mapped.descriptor).st_size < mapped.offset + region.offset + region.size:
            raise invalid(f"the shared memory of region {region.name!r} was truncated after it was registered")
        return mapped.memory[region.offset : region.offset + region.size]

    def _open(self, key: str) -> int:
        """Open a name in the folder of shared memory; never a path, a link, or a file that blocks."""
        name = key.removeprefix("/")
        if not name or "/" in name or "\0" in name or name in (".", "..") or len(name) > _LONGEST_NAME:
            raise invalid(f"key {key[:80]!r} is not the name of a POSIX shared memory object, such as '/name'")
        try:
            flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            return os.open(self._folder / name, flags)
        except FileNotFoundError:
            raise invalid(f"shared memory {key!r} does not exist") from None
        except (OSError, ValueError) as error:
            text = error.strerror if isinstance(error, OSError) else str(error)
            raise invalid(f"shared memory {key!r} cannot be opened: {text}") from None
