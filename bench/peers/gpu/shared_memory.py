"""CUDA shared memory: allocated and registered by the client's own code, opened by another process as a server does.

Runs as a program: see ``child``.  The other process is this module too, with the word ``other``.
"""

from __future__ import annotations

import ctypes
import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence

from drumfire.bench.peers.bare_loop import calls_per_s
from drumfire.bench.peers.goal import number
from drumfire.bench.peers.gpu.cells import Kinds, si
from drumfire.bench.peers.gpu.child import Case, Found, carry_out
from drumfire.bench.peers.gpu.plan import Missing
from drumfire.bench.peers.process import MeasurementError
from drumfire.bench.peers.program import carry_out as run_program
from drumfire.bench.peers.program import one_input
from drumfire.bench.peers.server import get
from drumfire.bench.peers.serving import servers
from drumfire.loadgen.installation import ROOT
from drumfire.sut.kserve.errors import ServerError
from drumfire.sut.remote.kserve.cuda import CudaDriver, CudaSpace

_BYTES = 1 << 26
_LEAST_S = 0.5
_OTHER_S = 30.0
_HANDLE_BYTES = 64
_LAZILY = 1  # cudaIpcMemLazyEnablePeerAccess
_TO_DEVICE, _TO_HOST = 1, 2  # cudaMemcpyKind
_EXTENSION = "cuda_shared_memory"  # among those that a server says it has
_RUN = "a run over CUDA shared memory against a server"


class _Handle(ctypes.Structure):
    """cudaIpcMemHandle_t, which cudaIpcOpenMemHandle takes by value."""

    _fields_ = [("reserved", ctypes.c_char * _HANDLE_BYTES)]


def measure(case: Case) -> Iterator[Found]:
    """A figure of kind ``shared memory`` (bytes a second)."""
    if case["device"] != "gpu":
        yield Missing("CUDA shared memory between two processes", "the cpu has none", expected=True)
        yield Missing(_RUN, "the cpu has none", expected=True)
        return
    space = CudaSpace(_BYTES)
    try:
        yield {"of": "shared memory", **_used(space)}
    finally:
        space.close()
    yield from _served()


def _used(space: CudaSpace) -> dict[str, float]:
    """Have the other process change what this one has written.  Raises ``MeasurementError``."""
    first, expected = bytes(range(256)) * 16, bytes(reversed(range(256))) * 16
    space.write(0, first)
    handle = bytes(space.registration()["raw_handle"])  # type: ignore[arg-type]
    asked = json.dumps({"handle": handle.hex(), "first": first.hex(), "answer": expected.hex()})
    words = [sys.executable, "-m", "drumfire.bench.peers.gpu.shared_memory", "other"]
    other = subprocess.run(
        words, input=asked, capture_output=True, text=True, cwd=ROOT, timeout=_OTHER_S, check=False
    )  # fmt: skip
    if other.returncode:
        raise MeasurementError(f"another process cannot use the memory: {' '.join(other.stderr.split())[-300:]}")
    if bytes(space.read(0, len(expected))) != expected:
        raise MeasurementError("what another process wrote into the memory is not what this one reads")
    data = bytes(_BYTES)
    return {
        "bytes": _BYTES,
        "write_bytes_per_s": _BYTES * calls_per_s(lambda: space.write(0, data), _LEAST_S),
        "read_bytes_per_s": _BYTES * calls_per_s(lambda: space.read(0, _BYTES), _LEAST_S),
        **json.loads(other.stdout.strip().splitlines()[-1]),
    }


def _served() -> Iterator[Found]:
    """A run against our own server, as soon as that can open such memory."""
    with servers.drumfire("null", "identity") as server:
        if _EXTENSION not in json.loads(get(server.http, "/v2")[1])["extensions"]:
            yield Missing(_RUN, "drumfire serve does not open such memory, and no Triton is here", expected=True)
            return
        words = ["run", "triton", "identity", "--url", server.url("grpc"), *one_input(1024)]
        done = run_program([*words, "--shared-memory", "cuda", "--scenario", "Offline", "--count", "2000"])
    yield {"of": "shared memory run", "samples_per_s": done.result["delivered"]["samples_per_second"]}


def other() -> None:
    """The side of a server: open the memory, check what is there, and write an answer."""
    asked = json.load(sys.stdin)
    first, answer = bytes.fromhex(asked["first"]), bytes.fromhex(asked["answer"])
    driver, start = CudaDriver(), ctypes.c_void_p()
    handle = _Handle.from_buffer_copy(bytes.fromhex(asked["handle"]))
    began = time.perf_counter()
    driver.call("cudaIpcOpenMemHandle", ctypes.byref(start), handle, ctypes.c_uint(_LAZILY))
    opened_s = time.perf_counter() - began
    seen = ctypes.create_string_buffer(len(first))
    driver.call("cudaMemcpy", seen, start, ctypes.c_size_t(len(first)), ctypes.c_int(_TO_HOST))
    if seen.raw != first:
        raise ServerError("the memory does not hold what its owner wrote")
    driver.call("cudaMemcpy", start, ctypes.c_char_p(answer), ctypes.c_size_t(len(answer)), ctypes.c_int(_TO_DEVICE))
    driver.call("cudaDeviceSynchronize")
    driver.call("cudaIpcCloseMemHandle", start)
    print(json.dumps({"opened_s": opened_s}))


def tables(of: Kinds) -> Sequence[str]:
    """What ``measure`` found, in Markdown."""
    lines = []
    for one in of["shared memory"]:
        speeds = ", ".join(f"{word} {si(one[f'{word}_bytes_per_s'], 'B/s')}" for word in ("write", "read"))
        lines.append(f"* CUDA shared memory: another process opened, read and changed it; {speeds}")
    for one in of["shared memory run"]:
        lines.append(f"* a run over CUDA shared memory: {number(one['samples_per_s'])} samples/s")
    return lines


if __name__ == "__main__":
    if sys.argv[1:] == ["other"]:
        other()
    else:
        sys.exit(carry_out(measure))
