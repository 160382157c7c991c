"""System shared memory that clients have told this server of, by name.

Knows POSIX shared memory as Linux keeps it; must not know requests.  Regions are their clients': they are mapped, never
made and never unlinked here, so that nothing of ours is left behind whatever ends this process.
"""

from __future__ import annotations

import mmap
import os
import stat
from pathlib import Path
from typing import Any, NamedTuple

from drumfire.sut.kserve.grpc.framing import Status
from drumfire.sut.kserve.messages.exchange import Region
from drumfire.sut.serving.refusal import Refusal

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
    """The regions by name.  Used by the event loop alone; views that were given out outlive their region."""

    def __init__(self, folder: Path = FOLDER, most: int = MOST_REGIONS) -> None:
        self._folder, self._most = folder, most
        self._regions: dict[str, _Mapped] = {}

    def register(self, name: str, key: str, offset: int, byte_size: int) -> None:
        """Map a region.  Raises ``Refusal``."""
        if not name or len(name) > _LONGEST_NAME:
            raise _wrong(f"a region's name has 1 to {_LONGEST_NAME} characters")
        if name in self._regions:
            raise Refusal(Status.ALREADY_EXISTS, f"shared memory region {name!r} is registered already")
        if len(self._regions) >= self._most:
            raise Refusal(Status.UNAVAILABLE, f"{self._most} regions are registered, no more are taken")
        if offset < 0 or byte_size < 1:
            raise _wrong(f"region {name!r} of {byte_size} bytes at offset {offset}")
        descriptor = self._open(key)
        try:
            found = os.fstat(descriptor)
            if not stat.S_ISREG(found.st_mode):
                raise _wrong(f"{key!r} is no shared memory")
            if offset + byte_size > found.st_size:
                raise _wrong(f"{key!r} has {found.st_size} bytes: {byte_size} at offset {offset} are not there")
            start = offset // mmap.ALLOCATIONGRANULARITY * mmap.ALLOCATIONGRANULARITY
            mapped = mmap.mmap(descriptor, offset + byte_size - start, offset=start)
        except OSError as error:
            os.close(descriptor)
            raise _wrong(f"{key!r} can not be mapped: {error.strerror}") from None
        except BaseException:
            os.close(descriptor)
            raise
        memory = memoryview(mapped)[offset - start :]
        self._regions[name] = _Mapped(key, offset, byte_size, descriptor, memory)

    def unregister(self, name: str = "") -> None:
        """Let go of a region, or of all.  One that is not there is none to let go of, as in Triton."""
        for one in [name] if name else list(self._regions):
            region = self._regions.pop(one, None)
            if region is not None:
                # The mapping ends with the last view of it, which a request under way may hold.
                os.close(region.descriptor)

    def status(self, name: str = "") -> list[dict[str, Any]]:
        """What is registered, all or one.  Raises ``Refusal`` for a name that is not."""
        if name and name not in self._regions:
            raise Refusal(Status.NOT_FOUND, f"no shared memory region {name!r} is registered")
        return [
            {"name": one, "key": region.key, "offset": region.offset, "byte_size": region.size}
            for one, region in self._regions.items()
            if name in ("", one)
        ]

    def view(self, region: Region) -> memoryview:
        """The bytes that a tensor has in a region.  Raises ``Refusal`` where they are not within it."""
        mapped = self._regions.get(region.name)
        if mapped is None:
            raise _wrong(f"no shared memory region {region.name!r} is registered")
        if region.offset < 0 or region.size < 0 or region.offset + region.size > mapped.size:
            raise _wrong(
                f"region {region.name!r} has {mapped.size} bytes: {region.size} at offset {region.offset} are not there"
            )
        # To touch what its owner has cut off since would end this process by SIGBUS.
        if os.fstat(mapped.descriptor).st_size < mapped.offset + region.offset + region.size:
            raise _wrong(f"the shared memory of region {region.name!r} was cut short since it was registered")
        return mapped.memory[region.offset : region.offset + region.size]

    def _open(self, key: str) -> int:
        """A name in the folder of shared memory and nothing else: no path, no link, nothing that blocks."""
        name = key.removeprefix("/")
        if not name or "/" in name or "\0" in name or name in (".", "..") or len(name) > _LONGEST_NAME:
            raise _wrong(f"key {key[:80]!r}: the name of a POSIX shared memory object is wanted, such as '/name'")
        try:
            flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
            return os.open(self._folder / name, flags)
        except FileNotFoundError:
            raise _wrong(f"there is no shared memory {key!r}") from None
        except (OSError, ValueError) as error:
            text = error.strerror if isinstance(error, OSError) else str(error)
            raise _wrong(f"shared memory {key!r} can not be opened: {text}") from None


def _wrong(text: str) -> Refusal:
    return Refusal(Status.INVALID_ARGUMENT, text)
