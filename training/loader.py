"""Batches read ahead by worker processes while the model computes, with the time that it waited all the same.

Knows which pictures are wanted and in what order; not what they show.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor

import torch
from torch.utils.data import DataLoader

from drumfire.training.batch import Batch
from drumfire.training.coco import Pictures, Shown


class Loader:
    """Gives the batches of ``wanted``, in order, each time it is iterated.  Its workers live as long as it does."""

    def __init__(self, pictures: Pictures, wanted: Iterable[list[Shown]], workers: int, device: torch.device) -> None:
        self._loader = DataLoader(
            pictures,
            batch_sampler=wanted,
            num_workers=workers,
            collate_fn=Batch.of,
            pin_memory=device.type == "cuda",
            persistent_workers=workers > 0,
        )
        self.waited_s = 0.0

    def __iter__(self) -> Iterator[Batch]:
        batches = iter(self._loader)
        # Taking a batch over from a worker takes a while even if it is ready: a thread does it a batch ahead.
        with ThreadPoolExecutor(1) as taking:
            coming = taking.submit(next, batches, None)
            while True:
                began = time.monotonic()
                batch = coming.result()
                self.waited_s += time.monotonic() - began
                if batch is None:
                    return
                coming = taking.submit(next, batches, None)
                yield batch
