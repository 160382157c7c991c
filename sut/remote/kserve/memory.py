"""Memory that this process and the servers of a run share: one region for inputs, one of slots for outputs.

Knows regions, how servers are told of them and how they are told to let go; must not know rows or connections.
``memory_guardian`` does the telling where this process can not any more.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import json
import math
import mmap
import os
import secrets
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from drumfire.loadgen.environment import available_memory_bytes
from drumfire.loadgen.installation import ROOT
from drumfire.sut.data.inputs import InputError, Inputs
from drumfire.sut.kserve.errors import ServerError
from drumfire.sut.kserve.messages import operations
from drumfire.sut.kserve.messages.exchange import Outputs, Part, Region
from drumfire.sut.kserve.messages.operations import Operation
from drumfire.sut.kserve.messages.tensors import DATATYPES, ModelInterface
from drumfire.sut.remote.endpoint import Endpoint, Security, parse_url
from drumfire.sut.remote.kserve.client import Client, Unsupported
from drumfire.sut.remote.kserve.cuda import CudaDriver, CudaSpace

FOLDER = Path("/dev/shm")
"""Where Linux keeps POSIX shared memory."""
SPARE_SLOTS = 64
"""How many slots of abandoned requests can be replaced."""
UNREGISTER_S = 3.0
"""How long servers may take to let go of our regions before the guardian is left to it."""
_AGAIN_S = 0.05
_ALIGNMENT = 64


class SharedMemoryError(ServerError):
    """Memory can not be shared with the servers.  The text is one line and names the mend."""


class Space(Protocol):
    """A stretch of memory that servers can open as well."""

    def registration(self) -> Mapping[str, str | int | bytes]:
        """What servers are told of it, beside a name."""

    def hold(self, first: int, last: int) -> None:
        """Make sure that there is memory behind bytes [first, last).  Raises ``SharedMemoryError``."""

    def write(self, offset: int, data: bytes | memoryview) -> None: ...

    def read(self, offset: int, size: int) -> memoryview:
        """These bytes, as they are until the next request that may write there."""

    def hide(self) -> None:
        """All servers have it: nobody else need find it any more."""

    def close(self) -> None: ...


class _Kind(NamedTuple):
    """How servers are spoken to about one kind of memory."""

    register: Operation
    unregister: Operation


_KINDS = {
    "system": _Kind(operations.REGISTER_MEMORY, operations.UNREGISTER_MEMORY),
    "cuda": _Kind(operations.REGISTER_CUDA_MEMORY, operations.UNREGISTER_CUDA_MEMORY),
}


def check(kind: str) -> None:
    """Raise ``SharedMemoryError`` where this machine has no memory of the kind (``system`` or ``cuda``)."""
    if kind == "cuda":
        CudaDriver()
    elif not FOLDER.is_dir():
        raise SharedMemoryError(f"--shared-memory system: this machine has no {FOLDER}: leave it out")


def is_fixed(interface: ModelInterface) -> bool:
    """Whether all samples have inputs of one size, which the model tells."""
    return all(spec.datatype != "BYTES" and -1 not in spec.shape for spec in interface.inputs)


def input_bytes(inputs: Inputs, interface: ModelInterface, total_count: int, loaded_count: int) -> int:
    """Room for the inputs of any ``loaded_count`` samples.  Reads all samples where the model leaves sizes open."""
    if is_fixed(interface):
        return loaded_count * sum(_aligned(_size(spec.datatype, spec.shape)) for spec in interface.inputs)
    sizes = [sum(_aligned(len(tensor.data)) for tensor in inputs.sample(index)) for index in range(total_count)]
    return sum(sorted(sizes, reverse=True)[:loaded_count])


def output_bytes(interface: ModelInterface) -> list[int] | None:
    """The size of each output of one sample; None where an open size decides it.  Raises ``InputError`` for BYTES."""
    for spec in interface.outputs:
        if spec.datatype == "BYTES":
            raise InputError(
                f"output {spec}: no room in shared memory is sure to be enough for it: leave out --shared-memory"
            )
    if any(-1 in spec.shape for spec in interface.outputs):
        return None
    return [_size(spec.datatype, spec.shape) for spec in interface.outputs]


class SharedMemory:
    """The regions of a run.  ``open`` before samples are put in; ``close`` whatever ``open`` came to.

    ``slots`` requests may be under way, each with room for outputs of ``output_bytes``.
    """

    def __init__(
        self,
        kind: str,
        endpoints: Sequence[Endpoint],
        security: Security,
        *,
        input_bytes: int,
        output_bytes: Sequence[int],
        slots: int,
    ) -> None:
        self.slots = slots
        self._kind, self._endpoints, self._security = kind, endpoints, security
        self._input_bytes = _whole_pages(input_bytes)
        self._output_bytes = output_bytes
        self._offsets = [sum(map(_aligned, output_bytes[:at])) for at in range(len(output_bytes))]
        self._slot_bytes = sum(map(_aligned, output_bytes))
        self._name = ""
        self._spaces: list[Space] = []
        self._guardian: subprocess.Popen[bytes] | None = None
        self._filled = 0

    async def open(self) -> None:
        """Make the regions and have every server open them.  Raises ``SharedMemoryError``."""
        self._name = f"drumfire-{os.getpid()}-{secrets.token_hex(6)}"
        held = self.slots * self._slot_bytes
        if self._kind == "system":
            _check_room(self._input_bytes + _whole_pages(held))
        self._guardian = self._guard()
        self._spaces = []
        for name, size in zip(
            self._names, (self._input_bytes, _whole_pages(held + SPARE_SLOTS * self._slot_bytes)), strict=True
        ):
            self._spaces.append(CudaSpace(size) if self._kind == "cuda" else PosixSpace(name, size))
        self._spaces[0].hold(0, self._input_bytes)
        self._spaces[1].hold(0, held)
        told = await asyncio.gather(*map(self._register, self._endpoints), return_exceptions=True)
        for error in told:  # when none is still being told
            if isinstance(error, BaseException):
                raise error
        # From here on nothing can be left behind under these names, whatever becomes of us and of the guardian.
        for space in self._spaces:
            space.hide()

    async def close(self) -> None:
        guardian, self._guardian = self._guardian, None
        if guardian is None:
            return
        spaces, self._spaces = self._spaces, []
        is_clean = False
        try:
            for space in spaces:
                space.hide()
            is_clean = await unregister(self._kind, self._names, self._endpoints, self._security, UNREGISTER_S)
            for space in spaces:
                space.close()
        finally:
            if is_clean:
                guardian.kill()
                guardian.wait()
            assert guardian.stdin is not None
            guardian.stdin.close()  # where a server did not answer, the guardian goes on, and nobody waits for it

    # Inputs.

    def forget(self) -> None:
        """What was put in may be written over."""
        self._filled = 0

    def put(self, parts: Sequence[Part]) -> list[Part]:
        """Copy inputs into the region: the same parts with where they lie.  Raises ``InputError`` when it is full."""
        placed = []
        for part in parts:
            assert not isinstance(part.data, Region)
            offset, size = self._filled, len(part.data)
            if offset + size > self._input_bytes:
                raise InputError(
                    f"the loaded samples need more than the {self._input_bytes} bytes of shared memory that were made "
                    "for them: give --performance-sample-count the number that is loaded"
                )
            self._spaces[0].write(offset, part.data)
            placed.append(Part(part.shape, Region(self._names[0], offset, size)))
            self._filled += _aligned(size)
        return placed

    # Outputs.

    def regions(self, slot: int) -> list[Region]:
        """Where the outputs of a request in this slot go."""
        return [
            Region(self._names[1], slot * self._slot_bytes + offset, size)
            for offset, size in zip(self._offsets, self._output_bytes, strict=True)
        ]

    def add_slot(self, slot: int) -> bool:
        """Whether there is memory for one slot more, ``slots`` and above."""
        if slot >= self.slots + SPARE_SLOTS:
            return False
        try:
            self._spaces[1].hold(slot * self._slot_bytes, (slot + 1) * self._slot_bytes)
        except SharedMemoryError:
            return False
        return True

    def outputs(self, slot: int, forms: Outputs) -> Outputs:
        """What a server has written, as views of the memory.  Raises ``ValueError`` for what the slot can not hold."""
        found = []
        for form, region in zip(forms, self.regions(slot), strict=True):
            if form.nbytes > region.size:
                raise ValueError(f"an output of {form.nbytes} bytes in shared memory with room for {region.size}")
            contents = self._spaces[1].read(region.offset, form.nbytes)
            array: npt.NDArray[Any] = np.frombuffer(contents, form.dtype).reshape(form.shape)
            found.append(array)
        return found

    # Servers.

    @property
    def _names(self) -> tuple[str, str]:
        return f"{self._name}-in", f"{self._name}-out"

    async def _register(self, endpoint: Endpoint) -> None:
        async with Client(endpoint, self._security) as client:
            for name, space in zip(self._names, self._spaces, strict=True):
                try:
                    await client.ask(_KINDS[self._kind].register, name=name, **space.registration())
                except Unsupported:
                    raise SharedMemoryError(f"{endpoint} knows no shared memory: leave out --shared-memory") from None
                except ServerError as error:
                    if "already" in str(error):  # nobody else has this name: the server has two addresses in the run
                        continue
                    raise SharedMemoryError(
                        f"--shared-memory {self._kind} needs a server on this host that sees its memory, as the same "
                        f"user and with --ipc=host if in a container: {error}"
                    ) from None

    def _guard(self) -> subprocess.Popen[bytes]:
        """A process that waits for our end."""
        guardian = subprocess.Popen(
            [sys.executable, "-m", "drumfire.sut.remote.kserve.memory_guardian"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,  # whoever reads what we print does not wait for the guardian
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # Ctrl-C is not for it
        )
        security = self._security
        paths = {"ca": security.ca, "certificate": security.certificate, "key": security.key}
        task = {
            "kind": self._kind,
            "names": self._names,
            "urls": list(map(str, self._endpoints)),
            "paths": {name: path and str(path.absolute()) for name, path in paths.items()},
            "headers": [list(header) for header in security.headers],
        }
        assert guardian.stdin is not None
        guardian.stdin.write(json.dumps(task).encode() + b"\n")  # not as arguments: headers hold tokens
        guardian.stdin.flush()
        return guardian


async def unregister(
    kind: str, names: Sequence[str], endpoints: Sequence[Endpoint], security: Security, within_s: float
) -> bool:
    """Have servers let go of regions; whether all have said so."""

    async def ask(endpoint: Endpoint) -> None:
        async with Client(endpoint, security) as client:
            for name in names:
                await _let_go(client, _KINDS[kind].unregister, name)

    try:
        async with asyncio.timeout(within_s):
            answers = await asyncio.gather(*map(ask, endpoints), return_exceptions=True)
    except TimeoutError:
        return False
    return not any(isinstance(answer, BaseException) for answer in answers)


async def _let_go(client: Client, operation: Operation, name: str) -> None:
    while True:
        try:
            await client.ask(operation, name=name)
            return
        except ServerError as error:
            if "in use" not in str(error):  # by requests that nobody waits for any more
                raise
        await asyncio.sleep(_AGAIN_S)


def finish(task: Mapping[str, Any], within_s: float) -> None:
    """What the guardian does of a task that was left: unlink, then tell the servers."""
    for name in task["names"]:
        (FOLDER / name).unlink(missing_ok=True)
    security = Security(
        **{name: path and Path(path) for name, path in task["paths"].items()},
        headers=tuple((name, value) for name, value in task["headers"]),
    )
    asyncio.run(unregister(task["kind"], task["names"], list(map(parse_url, task["urls"])), security, within_s))


class PosixSpace:
    """A ``Space`` of POSIX shared memory.  It takes memory only as it is held; Linux."""

    def __init__(self, name: str, size: int) -> None:
        self._path, self._size = FOLDER / name, size
        self._descriptor = -1
        try:
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            os.ftruncate(self._descriptor, size)
            self._map = mmap.mmap(self._descriptor, size)
        except OSError as error:
            if self._descriptor >= 0:
                os.close(self._descriptor)
                self.hide()
            raise SharedMemoryError(
                f"no shared memory can be made in {FOLDER} ({error.strerror}): leave out --shared-memory"
            ) from None

    def registration(self) -> Mapping[str, str | int | bytes]:
        return {"key": f"/{self._path.name}", "offset": 0, "byte_size": self._size}

    def hold(self, first: int, last: int) -> None:
        # Without this, the first write beyond what there is would end the writer, server or us, by SIGBUS.
        try:
            if last > first:
                os.posix_fallocate(self._descriptor, first, last - first)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                _check_room(last - first)
            raise SharedMemoryError(f"no shared memory can be had in {FOLDER}: {error.strerror}") from None

    def write(self, offset: int, data: bytes | memoryview) -> None:
        self._map[offset : offset + len(data)] = data

    def read(self, offset: int, size: int) -> memoryview:
        return memoryview(self._map)[offset : offset + size]

    def hide(self) -> None:
        self._path.unlink(missing_ok=True)

    def close(self) -> None:
        os.close(self._descriptor)
        with contextlib.suppress(BufferError):  # outputs that are still looked at: it ends with them
            self._map.close()


def _check_room(needed: int) -> None:
    """Raise ``SharedMemoryError`` unless so many bytes can be had."""
    found = os.statvfs(FOLDER)
    room = found.f_bavail * found.f_frsize
    available = available_memory_bytes()
    if needed <= room and (available is None or needed <= available):
        return
    limit = f"{FOLDER} has {room / 1e6:.1f} MB free (docker run --shm-size gives more)"
    if needed <= room:
        limit = f"this machine has {(available or 0) / 1e6:.1f} MB of memory available"
    raise SharedMemoryError(
        f"shared memory of {needed / 1e6:.1f} MB is needed and {limit}: lower --performance-sample-count or "
        "--concurrency"
    )


def _size(datatype: str, shape: Sequence[int]) -> int:
    return math.prod(shape) * DATATYPES[datatype].itemsize


def _aligned(size: int) -> int:
    """Tensors begin at a cache line, and none has no place at all."""
    return -(-max(size, 1) // _ALIGNMENT) * _ALIGNMENT


def _whole_pages(size: int) -> int:
    return max(-(-size // mmap.PAGESIZE), 1) * mmap.PAGESIZE
