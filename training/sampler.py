"""Which images a step trains on, and which of them a rank sees.

An epoch is a list of global batches, the same on every rank and for any number of ranks: each image once, the pictures
of a batch all wide or all tall, but for the last batches, which hold what is left.  It follows from the seed and the
epoch's number, so a resumed run needs only its place.  Knows indices, not images.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Share:
    """What one rank sees at a time of a batch."""

    indices: Indices
    counted: bool
    """False where it only stands in for nothing: the batch is smaller than the ranks are many."""
    fraction: float
    """How much of the batch the ranks see at this time, together."""


def epoch_batches(tall: npt.NDArray[np.bool_], batch_size: int, seed: int, epoch: int) -> list[Indices]:
    """The global batches of an epoch, in order.  ``tall``: for each image whether it is higher than wide."""
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
    """What a rank sees of a batch: one share for each of at most ``accumulation`` parts.

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
    """The images that a rank evaluates: none twice, none left out, shares differing by at most one."""
    return range(rank, count, world)
