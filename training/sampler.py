"""Decides which images a step trains on, and which of them a rank sees.

An epoch is a list of global batches, the same on every rank and for any number of ranks.  It has each image once, and
the images of a batch are all wide or all tall, except in the last batches, which hold the rest.  It follows from the
seed and the epoch's number, so a resumed run needs only its position.  Handles indices, not images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Share:
    """The part of a batch that one rank sees at a time."""

    indices: Indices
    counted: bool
    """False for a stand-in, which a rank has when there are more ranks than images."""
    fraction: float
    """The fraction of the batch that all ranks together see at this time."""


def epoch_batches(tall: npt.NDArray[np.bool_], batch_size: int, seed: int, epoch: int) -> list[Indices]:
    """The global batches of an epoch, in order.  ``tall`` (n,): whether an image is higher than wide."""
    draws = np.random.default_rng([seed, epoch])
    order = draws.permutation(len(tall))
    whole: list[Indices] = []
    left: list[Indices] = []
    for group in (order[tall[order]], order[~tall[order]]):
        full = len(group) // batch_size * batch_size
        whole.extend(group[:full].reshape(-1, batch_size))
        left.append(group[full:])
    batches = [whole[at] for at in draws.permutation(len(whole))]
    rest = draws.permutation(np.concatenate(left))
    batches.extend(rest[at : at + batch_size] for at in range(0, len(rest), batch_size))
    return batches


def shares(batch: Indices, accumulation: int, rank: int, world: int) -> list[Share]:
    """A rank's shares of a batch, one for each of at most ``accumulation`` parts.

    The number of shares is the same on all ranks, and each has at least one image.
    """
    parts = [part for part in np.array_split(batch, accumulation) if len(part)]
    found = []
    for part in parts:
        mine = np.array_split(part, world)[rank]
        fraction = len(part) / len(batch)
        found.append(Share(mine, True, fraction) if len(mine) else Share(part[:1], False, fraction))
    return found


def evaluation_share(count: int, rank: int, world: int) -> Sequence[int]:
    """The images that a rank evaluates.  Every image is in one rank's share, and shares differ by at most one image."""
    return range(rank, count, world)
