"""Where models compute: one device, or several of a kind, each with a process of its own."""

from __future__ import annotations

import os
import shutil
import subprocess

from drumfire.loadgen.errors import UserError
from drumfire.loadgen.limits import usable_cores
from drumfire.sut.local.host import Surroundings

NUMBERS = r"all|\d+(,\d+)*"
"""What may follow a device's kind and a colon."""
_VISIBLE = "CUDA_VISIBLE_DEVICES"


class DeviceError(UserError):
    """A device that is not there.  The text is one line and names the fix."""


def kind(device: str) -> str:
    return device.partition(":")[0]


def numbers(device: str) -> list[str]:
    """The GPUs that a word such as ``gpu:0,2`` or ``gpu:all`` names; none for ``gpu`` and ``cpu``."""
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


def alone(number: str) -> Surroundings:
    """A process that sees this GPU alone, by variables that frameworks read as they load."""
    return Surroundings({_VISIBLE: number, "CUDA_DEVICE_ORDER": "PCI_BUS_ID"}, device=f"gpu:{number}")


def pinned(processes: int, threads: int) -> list[Surroundings]:
    """Cores of their own for several ``processes`` of ``threads`` threads each, and one left, if there are as many.

    One process moves to where there is room.
    """
    cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") and processes > 1 else []
    cores = cores[1:] if usable_cores() == len(cores) > processes * threads else []  # else a quota limits time instead
    return [Surroundings(cores=cores[at * threads : (at + 1) * threads]) for at in range(processes)]


def _seen() -> list[str]:
    """The numbers of the GPUs that this process may use."""
    if shutil.which("nvidia-smi") is None:
        return []
    listed = subprocess.run(
        ["nvidia-smi", "--query-gpu=index", "--format=csv,noheader"], capture_output=True, text=True, check=False
    )
    found = listed.stdout.split() if listed.returncode == 0 else []
    allowed = os.environ.get(_VISIBLE)
    return found if allowed is None else [one for one in allowed.split(",") if one in found]
