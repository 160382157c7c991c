"""GPU memory that servers on the same host can open, through the few functions of the CUDA runtime that this needs.

Calls libcudart by ctypes.  Does not depend on the use of the memory.  Written from the documentation of the CUDA
Runtime API, and not yet tried on a real GPU.
"""

from __future__ import annotations

import ctypes
import ctypes.util
from collections.abc import Mapping
from typing import Any

from drumfire.sut.kserve.errors import ServerError

_DEVICE = 0
_HANDLE_BYTES = 64  # CUDA_IPC_HANDLE_SIZE
_TO_DEVICE, _TO_HOST = 1, 2  # cudaMemcpyKind


class _Handle(ctypes.Structure):
    """cudaIpcMemHandle_t, passed by address."""

    _fields_ = [("reserved", ctypes.c_char * _HANDLE_BYTES)]


class CudaDriver:
    """The CUDA runtime on GPU 0.  Raises ``ServerError`` if there is no runtime or no GPU."""

    def __init__(self) -> None:
        for name in (ctypes.util.find_library("cudart"), "libcudart.so", "libcudart.so.13", "libcudart.so.12"):
            try:
                self._library = ctypes.CDLL(name) if name else None
            except OSError:
                self._library = None
            if self._library is not None:
                break
        else:
            raise ServerError(
                "--shared-memory cuda: the CUDA runtime (libcudart) is not found: put it on LD_LIBRARY_PATH, "
                "or use --shared-memory system"
            )
        self._library.cudaGetErrorString.restype = ctypes.c_char_p
        count = ctypes.c_int(0)
        status = self._library.cudaGetDeviceCount(ctypes.byref(count))
        if status or not count.value:
            why = f" ({self._text(status)})" if status else ""
            raise ServerError(f"--shared-memory cuda: no NVIDIA GPU is found{why}: use --shared-memory system")
        self.call("cudaSetDevice", ctypes.c_int(_DEVICE))

    def call(self, name: str, *arguments: Any) -> None:
        status = getattr(self._library, name)(*arguments)
        if status:
            raise ServerError(f"--shared-memory cuda: {name} failed: {self._text(status)}")

    def _text(self, status: int) -> str:
        assert self._library is not None
        text: bytes | None = self._library.cudaGetErrorString(status)
        return (text or b"unknown error").decode(errors="replace")


class CudaSpace:
    """A ``memory.Space`` of ``size`` bytes on the GPU, allocated at once.  Raises ``ServerError``."""

    def __init__(self, size: int) -> None:
        self._driver, self._size = CudaDriver(), size
        self._start = ctypes.c_void_p()
        self._driver.call("cudaMalloc", ctypes.byref(self._start), ctypes.c_size_t(size))

    def registration(self) -> Mapping[str, str | int | bytes]:
        handle = _Handle()
        self._driver.call("cudaIpcGetMemHandle", ctypes.byref(handle), self._start)
        return {"raw_handle": bytes(handle), "device_id": _DEVICE, "byte_size": self._size}

    def hold(self, first: int, last: int) -> None:
        pass  # all of it is allocated

    def write(self, offset: int, data: bytes | memoryview) -> None:
        self._copy(self._at(offset), ctypes.c_char_p(bytes(data)), len(data), _TO_DEVICE)

    def read(self, offset: int, size: int) -> memoryview:
        """A copy, as the CPU cannot address the GPU's memory."""
        contents = ctypes.create_string_buffer(max(size, 1))
        self._copy(contents, self._at(offset), size, _TO_HOST)
        return memoryview(contents).cast("B")[:size]

    def hide(self) -> None:
        pass  # only a process that has the handle can open it

    def close(self) -> None:
        self._driver.call("cudaFree", self._start)

    def _at(self, offset: int) -> ctypes.c_void_p:
        return ctypes.c_void_p((self._start.value or 0) + offset)

    def _copy(self, to: Any, source: Any, size: int, kind: int) -> None:
        self._driver.call("cudaMemcpy", to, source, ctypes.c_size_t(size), ctypes.c_int(kind))
