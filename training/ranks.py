"""The ranks of a run: who they are, and how they agree.  Started by torchrun, or one rank alone without it.

A fault of one rank becomes the same exception on all of them, at the next moment when they talk: so nobody waits for a
rank that is gone.  Small talk goes over gloo and never waits for a GPU.  Knows nothing of training.
"""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import distributed

from drumfire.training.faults import InputError, LostRank, one_line

_PATIENCE = timedelta(minutes=10)
"""A rank that is silent for so long is lost.  Rank 0 scores an evaluation meanwhile: half a minute for COCO."""


@dataclass(frozen=True)
class Place:
    """Where this process stands, from torchrun's environment."""

    rank: int
    world: int
    local_rank: int

    @staticmethod
    def here() -> Place:
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
        given = [name for name in names if name in os.environ]
        if not given:
            return Place(0, 1, 0)
        try:
            return Place(*(int(os.environ[name]) for name in names))
        except (KeyError, ValueError):
            raise InputError(
                f"{', '.join(names)} must be three whole numbers or all be unset: start with torchrun"
            ) from None


class Ranks:
    """This rank and its way to the others."""

    def __init__(self, place: Place, device: torch.device) -> None:
        self.rank, self.world = place.rank, place.world
        self.first_on_host = place.local_rank == 0
        self.device = device
        self.hosts: list[str] = self.everyones(socket.gethostname())
        """By rank."""

    @property
    def first(self) -> bool:
        return self.rank == 0

    def agree(self, fault: str | None) -> None:
        """All ranks come here.  If any has a fault, all raise ``InputError`` with the first rank's."""
        for of_rank in self.everyones(fault):
            if of_rank is not None:
                raise InputError(of_rank)

    def totals(self, values: Sequence[float], fault: str | None = None) -> list[float]:
        """The sums over the ranks.  As ``agree`` if any has a fault."""
        if self.world == 1:
            self.agree(fault)
            return list(values)
        sums = torch.tensor([*values, float(fault is not None)], dtype=torch.float64)
        with _noticing_loss():
            distributed.all_reduce(sums)
        found: list[float] = sums.tolist()
        faults = found.pop()
        if faults:
            self.agree(fault)
        return found

    def everyones(self, value: Any) -> list[Any]:
        """What each rank brought, by rank."""
        if self.world == 1:
            return [value]
        found: list[Any] = [None] * self.world
        with _noticing_loss():
            distributed.all_gather_object(found, value)
        return found

    def gathered(self, value: Any) -> list[Any]:
        """What each rank brought, by rank; on the ranks other than 0 nothing."""
        if self.world == 1:
            return [value]
        found: list[Any] | None = [None] * self.world if self.first else None
        with _noticing_loss():
            distributed.gather_object(value, found)
        return found or []

    def from_first(self, value: Any) -> Any:
        """What rank 0 brought."""
        if self.world == 1:
            return value
        box = [value]
        with _noticing_loss():
            distributed.broadcast_object_list(box, src=0)
        return box[0]

    def meet(self) -> None:
        """Return once every rank has come here and finished what it asked its device for."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.agree(None)


def device_for(place: Place, name: str) -> torch.device:
    """``auto``, ``cpu`` or ``cuda`` as this rank's device.  ``InputError`` where it has none."""
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if place.local_rank >= count:
        raise InputError(
            f"local rank {place.local_rank} has no GPU, this host has {count}: "
            "lower --nproc_per_node, or give --device cpu",
            local=True,
        )
    return torch.device("cuda", place.local_rank)


@contextlib.contextmanager
def joined(place: Place, device: torch.device, backend: str) -> Iterator[Ranks]:
    """Join the others, and leave at the end.  ``backend``: ``auto``, ``gloo`` or ``nccl``, for the gradients.

    After an error nothing is left orderly, as that may wait for ranks that are gone: the process has to be ended.
    """
    if backend == "nccl" and device.type != "cuda":
        raise InputError("nccl needs a GPU for every rank and this one trains on the CPU: give --backend gloo")
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if place.world == 1:
        yield Ranks(place, device)
        return
    if device.type == "cuda":
        backend = "cpu:gloo,cuda:gloo" if backend == "gloo" else "cpu:gloo,cuda:nccl"
    try:
        distributed.init_process_group("gloo" if device.type == "cpu" else backend, timeout=_PATIENCE)
    except (RuntimeError, ValueError) as error:
        raise InputError(f"rank {place.rank} can not meet the others: {one_line(error)}", local=True) from None
    yield Ranks(place, device)
    distributed.destroy_process_group()


@contextlib.contextmanager
def _noticing_loss() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if not is_loss(error):
            raise
        raise LostRank(one_line(error)) from None


def is_loss(error: RuntimeError) -> bool:
    """Whether torch says by this that a collective could not be finished."""
    if isinstance(error, (distributed.DistError, distributed.DistBackendError)):
        return True
    return any(word in str(error) for word in ("gloo", "NCCL", "Connection closed by peer", "Connection reset by peer"))
