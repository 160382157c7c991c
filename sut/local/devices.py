"""Where models compute: one device, or several of a kind, each with a process of its own."""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from drumfire.loadgen.errors import UserError
from drumfire.loadgen.limits import usable_cores

NUMBERS = r"all|\d+(,\d+)*"
"""What may follow a device's kind and a colon."""
FORMS = "gpu:1, gpu:0,1 or gpu:all"
_VISIBLE = "CUDA_VISIBLE_DEVICES"
_SMI_S = 30.0
"""How long nvidia-smi may take; it hangs where a driver does."""
_UNIFIED_MEMORY = "/dev/nvidia-uvm"
"""CUDA keeps it open once it has started; nvidia-smi's library does not open it."""
_bound: tuple[str, str | None] | None = None
"""The GPU that this process sees alone, and the value of ``_VISIBLE`` before."""


class DeviceError(UserError):
    """A device that is not there.  The text is one line and names the fix."""


@dataclass(frozen=True)
class Placement:
    """Where a process runs."""

    variables: Mapping[str, str] = field(default_factory=dict)
    """Environment variables that it has beside this process's."""
    cores: Sequence[int] = ()
    """The cores that it may use; none stands for all."""
    device: str | None = None
    """Its own, for the result."""


def kind(device: str) -> str:
    """The word before the numbers: ``cpu`` or ``gpu``."""
    return device.partition(":")[0]


def numbers(device: str) -> list[str]:
    """The GPUs that a word such as ``gpu:0,2`` or ``gpu:all`` names, as nvidia-smi numbers them; none without numbers.

    Raises ``DeviceError``.
    """
    name, _, listed = device.partition(":")
    if not listed:
        return []
    if name != "gpu":
        raise DeviceError(f"{device}: only GPUs have numbers: {name} alone, or gpu:0")
    seen = _seen()
    if listed == "all":
        if not seen:
            raise DeviceError(f"{device}: no NVIDIA GPU is seen here: check nvidia-smi and the driver")
        return seen
    chosen = listed.split(",")
    if len(set(chosen)) < len(chosen):
        raise DeviceError(f"{device} names a GPU twice")
    missing = [one for one in chosen if one not in seen]
    if missing:
        there = f"there are {', '.join(seen)}" if seen else "no NVIDIA GPU is seen here: check nvidia-smi"
        raise DeviceError(f"{device}: there is no GPU {', '.join(missing)}; {there}")
    return chosen


def only_gpu(number: str) -> Placement:
    """A process that sees this GPU alone, by variables that frameworks read as they load."""
    return Placement({_VISIBLE: number, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}, device=f"gpu:{number}")


def bind(number: str) -> None:
    """Have this process see this GPU alone, from now on.  Raises ``DeviceError`` where it computes on another already.

    CUDA reads the variables once, as it starts.
    """
    global _bound
    if _bound is None and not _uses_cuda():
        _bound = number, os.environ.get(_VISIBLE)
        os.environ.update(only_gpu(number).variables)
    elif _bound is None or _bound[0] != number:
        which = "GPUs" if _bound is None else f"GPU {_bound[0]}"
        raise DeviceError(f"gpu:{number}: this process uses {which} already, and cannot change: start another")


def pinned(processes: int, threads: int) -> list[Placement]:
    """Cores of their own for several ``processes`` of ``threads`` threads each, and one left, if there are as many.

    One process moves to where there is room.
    """
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") and processes > 1 else []
    cores = cores[1:] if usable_cores() == len(cores) > processes * threads else []  # else a quota limits time instead
    return [Placement(cores=cores[at * threads : (at + 1) * threads]) for at in range(processes)]


def _uses_cuda() -> bool:
    """Whether CUDA has started in this process."""
    with contextlib.suppress(OSError):
        for name in os.listdir("/proc/self/fd"):
            with contextlib.suppress(OSError):
                if os.readlink(f"/proc/self/fd/{name}") == _UNIFIED_MEMORY:
                    return True
    return False


def _seen() -> list[str]:
    """The numbers of the GPUs that this process may use.  Raises ``DeviceError`` where they cannot be known."""
    if shutil.which("nvidia-smi") is None:
        return []
    command = ["nvidia-smi", "--query-gpu=index,uuid", "--format=csv,noheader"]
    try:
        listed = subprocess.run(command, capture_output=True, text=True, check=False, timeout=_SMI_S)
    except subprocess.TimeoutExpired:
        raise DeviceError(f"nvidia-smi has not answered for {_SMI_S:g} s: check the driver") from None
    lines = listed.stdout.splitlines() if listed.returncode == 0 else []
    found = {number: uuid for number, _, uuid in (line.replace(" ", "").partition(",") for line in lines)}
    allowed = os.environ.get(_VISIBLE) if _bound is None else _bound[1]
    if not found or allowed is None:
        return list(found)
    chosen: list[str] = []
    for word in allowed.replace(" ", "").split(","):
        # A UUID may be shortened.
        number = word if word in found else next((n for n, uuid in found.items() if word and uuid.startswith(word)), "")
        if not number:  # CUDA reads no further
            break
        chosen.append(number)
    if not chosen:
        raise DeviceError(
            f"{_VISIBLE}={allowed} names no whole GPU: leave out the numbers after gpu:, or name GPUs there as "
            "nvidia-smi -L does"
        )
    return chosen
