"""Worker processes read batches ahead while the model computes.  Measures the time that the model still waits.

Does not depend on what the pictures show.
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
    """Iterating gives the batches of ``wanted`` in order.  The workers live as long as the loader."""

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
        """In total, over all iterations."""

    def __iter__(self) -> Iterator[Batch]:
        batches = iter(self._loader)
        # Receiving a batch from a worker takes time even if it is ready, so a thread receives one batch ahead.
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
