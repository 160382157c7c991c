"""``drumfire`` with a remote system that records several values a row: python recording_run.py WORD...

Row by row, they are what ``values_of`` says of the row's sample.  Generators are started with the same change.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

from drumfire.bench.cli import program
from drumfire.bench.fleet import generator
from drumfire.loadgen.flat_columns import Flat
from drumfire.sut import module_process
from drumfire.sut.kserve.messages.exchange import Failure
from drumfire.sut.remote.system import RemoteSystem

WIDTH = 4
GENERATOR = "drumfire.bench.fleet.generator"
deliver, command = RemoteSystem._deliver, module_process.command


def values_of(sample: int) -> list[int]:
    """What a row of the sample records: nothing, or some values, or more than there is room for."""
    return [sample * 1000 + number for number in range(sample % (WIDTH + 2))]


def fails(sample: int) -> bool:
    """Whether rows of the sample fail."""
    return sample % 7 == 3


def record_and_deliver(self, link, replies):
    flat = self._answers.flat_columns["marks"]
    ours = []
    measured = not self._answers.in_turn  # of the run itself, not of what is sent before it
    for row, reply in replies:  # of batches of one: the ticket is the row
        sample = int(self._answers.sample_index[row])
        values = values_of(sample)
        for value in values[:1]:
            flat.append(row, value)
        flat.extend(row, values[1:])
        ours.append((row, Failure("not this sample") if measured and fails(sample) else reply))
    deliver(self, link, ours)


def changed_command(module: str) -> list[str]:
    return [sys.executable, str(Path(__file__).resolve()), GENERATOR] if module == GENERATOR else command(module)


if __name__ == "__main__":
    RemoteSystem.columns = {**RemoteSystem.columns, "marks": Flat(np.int64, WIDTH)}
    RemoteSystem._deliver = record_and_deliver
    module_process.command = changed_command
    sys.exit(generator.main() if sys.argv[1:] == [GENERATOR] else program())
