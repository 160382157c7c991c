"""The ranks of a run and their communication.  torchrun starts them; without it there is one rank.

A fault of one rank becomes the same exception on all of them at their next exchange, so that no rank waits for one that
has stopped.  Exchanges go over gloo and never wait for a GPU.  Does not depend on training.
"""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
from torch import distributed

from drumfire.training.faults import InputError, LostRank, one_line

LISTENER = "DRUMFIRE_LISTENER"
"""An environment variable: the number of the open socket on which rank 0 serves the others, if a launcher made one."""
_PATIENCE = timedelta(minutes=10)
"""A rank that is silent for longer is lost.  The others wait while rank 0 scores an evaluation: 30 s for COCO."""

_BEAT_S = 2.0
_MOST_MISSED = 8
"""A rank is named as silent after so many intervals of ``_BEAT_S`` without a sign of life."""


@dataclass(frozen=True)
class Place:
    """The position of this process, from torchrun's environment."""

    rank: int
    world: int
    local_rank: int

    @staticmethod
    def here() -> Place:
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
        if not any(name in os.environ for name in names):
            return Place(0, 1, 0)
        try:
            return Place(*(int(os.environ[name]) for name in names))
        except (KeyError, ValueError):
            raise InputError(f"{', '.join(names)} must all be integers or all be unset: start with torchrun") from None


class Ranks:
    """This rank and its communication with the others."""

    def __init__(self, place: Place, device: torch.device) -> None:
        self.rank, self.world = place.rank, place.world
        self.first_on_host = place.local_rank == 0
        self.device = device
        self.hosts: list[str] = self.all_gather(socket.gethostname())
        """By rank."""

    @property
    def first(self) -> bool:
        return self.rank == 0

    def agree(self, fault: str | None) -> None:
        """Every rank must call this.  If any has a fault, all raise ``InputError`` with the lowest rank's."""
        for of_rank in self.all_gather(fault):
            if of_rank is not None:
                raise InputError(of_rank)

    @contextlib.contextmanager
    def agreeing(self, fault: str | None = None) -> Iterator[None]:
        """Every rank must run the block.  If it raises ``InputError`` on any, or any has a fault, all raise it."""
        try:
            yield
        except InputError as error:
            fault = str(error)
        self.agree(fault)

    def totals(self, values: Sequence[float], fault: str | None = None) -> list[float]:
        """The sums over the ranks.  Raises like ``agree`` if any has a fault."""
        if self.world == 1:
            self.agree(fault)
            return list(values)
        sums = torch.tensor([*values, float(fault is not None)], dtype=torch.float64)
        with _raising_lost_rank():
            distributed.all_reduce(sums)
        totals: list[float]
        *totals, faults = sums.tolist()
        if faults:
            self.agree(fault)
        return totals

    def all_gather(self, value: Any) -> list[Any]:
        """The value of each rank, by rank."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        with _raising_lost_rank():
            distributed.all_gather_object(values, value)
        return values

    def gather(self, value: Any) -> list[Any]:
        """On rank 0 the value of each rank, by rank; on the others nothing."""
        if self.world == 1:
            return [value]
        values: list[Any] | None = [None] * self.world if self.first else None
        with _raising_lost_rank():
            distributed.gather_object(value, values)
        return values or []

    def broadcast(self, value: Any) -> Any:
        """The value of rank 0."""
        if self.world == 1:
            return value
        box = [value]
        with _raising_lost_rank():
            distributed.broadcast_object_list(box, src=0)
        return box[0]

    def barrier(self) -> None:
        """Return once every rank has called this and its device has finished its work."""
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        self.agree(None)


def device_for(place: Place, name: str) -> torch.device:
    """This rank's device for ``auto``, ``cpu`` or ``cuda``.  ``InputError`` if it has no GPU."""
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
    """Join the other ranks, and leave them at the end.  ``backend``: ``auto``, ``gloo`` or ``nccl``, for the gradients.

    After an error there is no orderly shutdown, because it may wait for ranks that are gone: the process must exit.
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
        store = _store(place)
        distributed.init_process_group(
            "gloo" if device.type == "cpu" else backend,
            store=distributed.PrefixStore("group", store),
            rank=place.rank,
            world_size=place.world,
            timeout=_PATIENCE,
        )
    except (RuntimeError, ValueError) as error:
        raise InputError(f"rank {place.rank} cannot join the others: {one_line(error)}", local=True) from None
    with Pulse(place, store.clone()):
        yield Ranks(place, device)
    distributed.destroy_process_group()


def _store(place: Place) -> distributed.Store:
    """What the ranks find each other by: a launcher's socket, or the rendezvous of torchrun."""
    listener = os.environ.get(LISTENER)
    if listener is None:
        store: distributed.Store = next(distributed.rendezvous("env://", timeout=_PATIENCE))[0]
        return store
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    if place.rank:
        return distributed.TCPStore(address, port, place.world, timeout=_PATIENCE)
    return distributed.TCPStore(
        address,
        port,
        place.world,
        is_master=True,
        timeout=_PATIENCE,
        wait_for_workers=False,
        master_listen_fd=int(listener),
    )


class Pulse:
    """Says on stderr which ranks are silent, as those that wait for them cannot: a thread beside the run.

    Rank 0 looks after the others, and rank 1 after rank 0.
    """

    def __init__(self, place: Place, store: distributed.Store) -> None:
        """``store``: a connection of its own, as a connection that waits lets nobody else in."""
        self._rank, self._store = place.rank, store
        watched = {0: range(1, place.world), 1: range(1)}.get(place.rank, ())
        self._beats, self._missed = dict.fromkeys(watched, 0), dict.fromkeys(watched, 0)
        self._over = threading.Event()

    def __enter__(self) -> Pulse:
        threading.Thread(target=self._run, name="pulse", daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()

    def _run(self) -> None:
        beat = self.timed_beat if self._rank == 1 else self.beat
        with contextlib.suppress(RuntimeError):  # the store is gone: so is its rank
            while not self._over.wait(_BEAT_S):
                beat()

    def beat(self) -> None:
        """Show that this rank lives; say which others have become silent, and which are heard of again."""
        self._store.add(_beats_of(self._rank), 1)
        for rank, before in self._beats.items():
            self._beats[rank] = beats = self._store.add(_beats_of(rank), 0)
            missed, self._missed[rank] = self._missed[rank], 0 if beats > before else self._missed[rank] + 1
            if self._missed[rank] == _MOST_MISSED:
                _say_silent(rank)
            elif missed >= _MOST_MISSED > self._missed[rank]:
                _say_back(rank)

    def timed_beat(self) -> None:
        """Say so too where the store does not answer, as it is stopped with rank 0 if that one's process has it."""
        late = threading.Timer(_BEAT_S * _MOST_MISSED, _say_silent, (0,))
        late.daemon = True
        late.start()
        try:
            self.beat()
            if not late.is_alive():
                _say_back(0)
        finally:
            late.cancel()


def _beats_of(rank: int) -> str:
    return f"pulse/{rank}"


def _say_silent(rank: int) -> None:
    print(
        f"training: nothing has been heard of rank {rank} for {_BEAT_S * _MOST_MISSED:.0f} s: it or its host may be "
        f"stopped or gone; the run ends after {_PATIENCE.seconds // 60} minutes of it",
        file=sys.stderr,
        flush=True,
    )


def _say_back(rank: int) -> None:
    print(f"training: rank {rank} is heard of again", file=sys.stderr, flush=True)


@contextlib.contextmanager
def _raising_lost_rank() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if not is_loss(error):
            raise
        raise LostRank(one_line(error)) from None


def is_loss(error: RuntimeError) -> bool:
    """Whether torch's error means that an exchange with another rank failed."""
    if isinstance(error, (distributed.DistError, distributed.DistBackendError)):
        return True
    return any(word in str(error) for word in ("gloo", "NCCL", "Connection closed by peer", "Connection reset by peer"))
