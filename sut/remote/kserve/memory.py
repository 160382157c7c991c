"""Memory that this process shares with the servers of a run: a region for inputs, and one of slots for outputs.

Makes the regions, registers them with the servers and unregisters them; ``memory_guardian`` unregisters them if this
process no longer can.  Does not depend on rows or on a run's connections.
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

from drumfire.loadgen.installation import ROOT
from drumfire.loadgen.limits import available_memory_bytes
from drumfire.sut.data.inputs import InputError, Inputs
from drumfire.sut.kserve.errors import ServerError
from drumfire.sut.kserve.messages import operations
from drumfire.sut.kserve.messages.exchange import NOT_SENT, Outputs, Part, Region
from drumfire.sut.kserve.messages.operations import Operation
from drumfire.sut.kserve.messages.tensors import DATATYPES, ModelInterface
from drumfire.sut.remote.endpoint import Endpoint, Security, parse_url
from drumfire.sut.remote.kserve.client import Client, Unsupported
from drumfire.sut.remote.kserve.cuda import CudaDriver, CudaSpace

FOLDER = Path("/dev/shm")
"""Where Linux keeps POSIX shared memory."""
SPARE_SLOTS = 64
"""Number of slots that can replace those of abandoned requests."""
UNREGISTER_S = 3.0
"""How long servers may take to release our regions before we leave that to the guardian."""
_AGAIN_S = 0.05
_ALIGNMENT = 64


class SharedMemoryError(ServerError):
    """Memory cannot be shared with the servers.  The text is one line and names the fix."""


class Space(Protocol):
    """A block of memory that servers can also open."""

    def registration(self) -> Mapping[str, str | int | bytes]:
        """The arguments that register it with a server, besides the name."""

    def hold(self, first: int, last: int) -> None:
        """Allocate memory for bytes [first, last).  Raises ``SharedMemoryError``."""

    def write(self, offset: int, data: bytes | memoryview) -> None: ...

    def read(self, offset: int, size: int) -> memoryview:
        """These bytes, valid until the next request that may write there."""

    def hide(self) -> None:
        """Remove its name, once all servers have opened it."""

    def close(self) -> None: ...


class _Kind(NamedTuple):
    """The operations for one kind of memory."""

    register: Operation
    unregister: Operation


_KINDS = {
    "system": _Kind(operations.REGISTER_MEMORY, operations.UNREGISTER_MEMORY),
    "cuda": _Kind(operations.REGISTER_CUDA_MEMORY, operations.UNREGISTER_CUDA_MEMORY),
}


def check(kind: str) -> None:
    """Raise ``ServerError`` if this machine has no memory of the kind (``system`` or ``cuda``)."""
    if kind == "cuda":
        CudaDriver()
    elif not FOLDER.is_dir():
        raise SharedMemoryError(f"--shared-memory system: this machine has no {FOLDER}: leave it out")


def is_fixed(interface: ModelInterface) -> bool:
    """Whether the model fixes the size of every input."""
    return all(spec.datatype != "BYTES" and -1 not in spec.shape for spec in interface.inputs)


def input_bytes(inputs: Inputs, interface: ModelInterface, total_count: int, loaded_count: int) -> int:
    """Bytes for the inputs of any ``loaded_count`` samples.  Reads all samples if the model has open sizes."""
    if is_fixed(interface):
        return loaded_count * sum(_aligned(_size(spec.datatype, spec.shape)) for spec in interface.inputs)
    sizes = [sum(_aligned(len(tensor.data)) for tensor in inputs.sample(index)) for index in range(total_count)]
    return sum(sorted(sizes, reverse=True)[:loaded_count])


def output_bytes(interface: ModelInterface) -> list[int] | None:
    """Bytes of each output of one sample; None if the model has open sizes.  Raises ``InputError`` for BYTES."""
    for spec in interface.outputs:
        if spec.datatype == "BYTES":
            raise InputError(
                f"output {spec} has no largest size to reserve in shared memory: leave out --shared-memory"
            )
    if any(-1 in spec.shape for spec in interface.outputs):
        return None
    return [_size(spec.datatype, spec.shape) for spec in interface.outputs]


class SharedMemory:
    """The regions of a run.  Call ``open`` before ``put``, and ``close`` even if ``open`` failed.

    It has ``input_bytes`` for inputs, and a slot for the outputs of each request under way.  ``output_bytes``: of each
    output of one request.
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
        """Make the regions and register them with every server.  Raises ``ServerError``."""
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
        results = await asyncio.gather(*map(self._register, self._endpoints), return_exceptions=True)
        for error in results:  # only now, when no registration is under way any more
            if isinstance(error, BaseException):
                raise error
        # From here on the names are gone, so nothing stays in /dev/shm even if we and the guardian are killed.
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
            guardian.stdin.close()  # if a server did not answer, the guardian goes on, and we do not wait for it

    # Inputs.

    def forget(self) -> None:
        """Allow ``put`` to overwrite all inputs."""
        self._filled = 0

    def put(self, parts: Sequence[Part]) -> list[Part]:
        """Copy inputs into the region; returns the parts with their places.  Raises ``InputError`` if it is full."""
        placed = []
        for part in parts:
            if part == NOT_SENT:
                placed.append(part)
                continue
            assert not isinstance(part.data, Region)
            offset, size = self._filled, len(part.data)
            if offset + size > self._input_bytes:
                raise InputError(
                    f"the loaded samples need more than the {self._input_bytes} bytes of shared memory reserved for "
                    "them: set --performance-sample-count to the number of samples that are loaded"
                )
            self._spaces[0].write(offset, part.data)
            placed.append(Part(part.shape, Region(self._names[0], offset, size)))
            self._filled += _aligned(size)
        return placed

    # Outputs.

    def regions(self, slot: int) -> list[Region]:
        """The places of the outputs of a request with this slot."""
        return [
            Region(self._names[1], slot * self._slot_bytes + offset, size)
            for offset, size in zip(self._offsets, self._output_bytes, strict=True)
        ]

    def add_slot(self, slot: int) -> bool:
        """Allocate spare slot ``slot`` (numbered from ``slots`` on); returns whether there is memory for it."""
        if slot >= self.slots + SPARE_SLOTS:
            return False
        try:
            self._spaces[1].hold(slot * self._slot_bytes, (slot + 1) * self._slot_bytes)
        except SharedMemoryError:
            return False
        return True

    def outputs(self, slot: int, forms: Outputs) -> Outputs:
        """A server's outputs in the slot, as views of the memory.  Raises ``ValueError`` if one exceeds its region."""
        arrays = []
        for form, region in zip(forms, self.regions(slot), strict=True):
            if form.nbytes > region.size:
                raise ValueError(f"an output has {form.nbytes} bytes, but shared memory has room for {region.size}")
            contents = self._spaces[1].read(region.offset, form.nbytes)
            array: npt.NDArray[Any] = np.frombuffer(contents, form.dtype).reshape(form.shape)
            arrays.append(array)
        return arrays

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
                    raise SharedMemoryError(f"{endpoint} has no shared memory: leave out --shared-memory") from None
                except ServerError as error:
                    if "already" in str(error):  # our name is unique, so this server has two addresses in the run
                        continue
                    raise SharedMemoryError(
                        f"--shared-memory {self._kind} needs a server on this host that can open its memory: the same "
                        f"user, and --ipc=host in a container: {error}"
                    ) from None

    def _guard(self) -> subprocess.Popen[bytes]:
        """Start the guardian, which waits for our end."""
        guardian = subprocess.Popen(
            [sys.executable, "-m", "drumfire.sut.remote.kserve.memory_guardian"],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,  # a pipe from our output must not stay open as long as the guardian
            stderr=subprocess.DEVNULL,
            start_new_session=True,  # keeps Ctrl-C from it
        )
        task = {
            "kind": self._kind,
            "names": self._names,
            "urls": list(map(str, self._endpoints)),
            "security": self._security.plain(),
        }
        assert guardian.stdin is not None
        guardian.stdin.write(json.dumps(task).encode() + b"\n")  # not as arguments: headers hold tokens
        guardian.stdin.flush()
        return guardian


async def unregister(
    kind: str, names: Sequence[str], endpoints: Sequence[Endpoint], security: Security, within_s: float
) -> bool:
    """Make servers release regions; returns whether all confirmed it in time."""

    async def release(endpoint: Endpoint) -> None:
        async with Client(endpoint, security) as client:
            for name in names:
                await _release(client, _KINDS[kind].unregister, name)

    try:
        async with asyncio.timeout(within_s):
            answers = await asyncio.gather(*map(release, endpoints), return_exceptions=True)
    except TimeoutError:
        return False
    return not any(isinstance(answer, BaseException) for answer in answers)


async def _release(client: Client, operation: Operation, name: str) -> None:
    while True:
        try:
            await client.ask(operation, name=name)
            return
        except ServerError as error:
            if "in use" not in str(error):  # by abandoned requests
                raise
        await asyncio.sleep(_AGAIN_S)


def finish(task: Mapping[str, Any], within_s: float) -> None:
    """The guardian's work: unlink the regions, then unregister them with the servers."""
    for name in task["names"]:
        (FOLDER / name).unlink(missing_ok=True)
    security = Security.from_plain(task["security"])
    asyncio.run(unregister(task["kind"], task["names"], list(map(parse_url, task["urls"])), security, within_s))


class PosixSpace:
    """A ``Space`` of ``size`` bytes of Linux's POSIX shared memory, which takes memory only for what is held."""

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
                f"cannot make shared memory in {FOLDER} ({error.strerror}): leave out --shared-memory"
            ) from None

    def registration(self) -> Mapping[str, str | int | bytes]:
        return {"key": f"/{self._path.name}", "offset": 0, "byte_size": self._size}

    def hold(self, first: int, last: int) -> None:
        # Without this, a write when memory is exhausted would kill the writer, the server or us, by SIGBUS.
        try:
            if last > first:
                os.posix_fallocate(self._descriptor, first, last - first)
        except OSError as error:
            if error.errno == errno.ENOSPC:
                _check_room(last - first)
            raise SharedMemoryError(f"cannot allocate shared memory in {FOLDER}: {error.strerror}") from None

    def write(self, offset: int, data: bytes | memoryview) -> None:
        self._map[offset : offset + len(data)] = data

    def read(self, offset: int, size: int) -> memoryview:
        return memoryview(self._map)[offset : offset + size]

    def hide(self) -> None:
        self._path.unlink(missing_ok=True)

    def close(self) -> None:
        os.close(self._descriptor)
        with contextlib.suppress(BufferError):  # outputs still view the map: it is freed with them
            self._map.close()


def _check_room(needed: int) -> None:
    """Raise ``SharedMemoryError`` unless ``needed`` bytes are available."""
    status = os.statvfs(FOLDER)
    room = status.f_bavail * status.f_frsize
    available = available_memory_bytes()
    if needed <= room and (available is None or needed <= available):
        return
    limit = f"{FOLDER} has {room / 1e6:.1f} MB free (docker run --shm-size gives more)"
    if needed <= room:
        limit = f"this machine has {(available or 0) / 1e6:.1f} MB of memory available"
    raise SharedMemoryError(
        f"the run needs {needed / 1e6:.1f} MB of shared memory, but {limit}: lower --performance-sample-count or "
        "--concurrency"
    )


def _size(datatype: str, shape: Sequence[int]) -> int:
    return math.prod(shape) * DATATYPES[datatype].itemsize


def _aligned(size: int) -> int:
    """Bytes of a tensor's place: it begins at a cache line, and an empty tensor has a place too."""
    return -(-max(size, 1) // _ALIGNMENT) * _ALIGNMENT


def _whole_pages(size: int) -> int:
    return max(-(-size // mmap.PAGESIZE), 1) * mmap.PAGESIZE
