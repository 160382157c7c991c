"""ONNX Runtime on an NVIDIA GPU: two threads share a session, so that one's samples are copied as the other's compute.

A session may run from several threads: each run has streams of its own, and waits for them without Python's lock.
Samples are gathered into pinned memory, from which the GPU copies them without the CPU.
"""

from __future__ import annotations

import ctypes
import math
import mmap
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from drumfire.loadgen.system import Batch
from drumfire.sut.local.backends import MOST_LANES, Backend
from drumfire.sut.local.backends.onnxruntime import OnnxRuntime

_FOR_ALL_CONTEXTS = 1
"""``cudaHostRegisterPortable``."""


class _Lane(OnnxRuntime):
    """What a thread needs: the session, and pinned memory of its own."""

    beside: Sequence[Backend] = ()

    def __init__(self, session: Any, place: str, version: str, most: int) -> None:
        """``most``: the largest batch."""
        super().__init__(session, place, version)
        needed = [one for one in self.tensors.inputs if not one.optional]
        has_room = all(
            one.batch_axis == 0 and None not in one.sample_shape and not one.dtype.hasobject for one in needed
        )
        self._inputs = needed if has_room else []
        self._most = self.tensors.batch_size or most
        self._own: Batch = {}
        self._rooms: dict[int, Batch] = {}
        self._memory: list[_Pinned] = []
        if has_room and _cuda_runtime() is not None:
            self.description += ", samples in pinned memory"

    def room(self, size: int, number: int = 1) -> Batch | None:
        """See ``HasLanes``."""
        if number > 1 or size > self._most or not self._inputs:
            return None
        if (room := self._rooms.get(size)) is None:
            if not self._own:
                self._reserve()
            room = self._rooms[size] = {name: array[:size] for name, array in self._own.items()}
        return room

    def _reserve(self) -> None:
        for one in self._inputs:
            shape = (self._most, *(size for size in one.sample_shape if size is not None))
            memory = _Pinned(math.prod(shape) * one.dtype.itemsize)
            self._memory.append(memory)
            self._own[one.name] = memory.array.view(one.dtype).reshape(shape)

    def several(self, samples: Batch, size: int, number: int) -> Iterator[list[npt.NDArray[Any]]] | None:
        """The other thread's batches fill the time between this one's."""
        return None

    def close(self) -> None:
        super().close()
        for memory in self._memory:
            memory.release()


class OnGpu(_Lane):
    """A loaded session."""

    def __init__(self, session: Any, place: str, version: str, most: int) -> None:
        super().__init__(session, place, version, most)
        self.beside = [_Lane(session, place, version, most) for _ in range(MOST_LANES - 1)]

    def close(self) -> None:
        super().close()
        for lane in self.beside:
            lane.close()


class _Pinned:
    """Memory that stays where it is, so that a GPU can read it without the CPU; ordinary where CUDA refuses."""

    def __init__(self, size: int) -> None:
        # Of whole pages, which nothing else shares.
        self.array: npt.NDArray[np.uint8] = np.frombuffer(mmap.mmap(-1, max(size, 1)), np.uint8)[:size]
        self._cuda, self._address = _cuda_runtime(), ctypes.c_void_p(self.array.ctypes.data)
        self.is_pinned = self._cuda is not None and not self._cuda.cudaHostRegister(
            self._address, ctypes.c_size_t(size), ctypes.c_uint(_FOR_ALL_CONTEXTS)
        )

    def release(self) -> None:
        if self.is_pinned:
            self.is_pinned = False
            self._cuda.cudaHostUnregister(self._address)


def _cuda_runtime() -> Any:
    """The CUDA runtime that onnxruntime has loaded; None if there is none."""
    try:
        words = [line.split() for line in Path("/proc/self/maps").read_text().splitlines()]
        return next((ctypes.CDLL(line[5]) for line in words if len(line) > 5 and "/libcudart.so" in line[5]), None)
    except OSError:
        return None
