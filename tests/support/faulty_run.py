"""``drumfire`` with one thing broken: python faulty_run.py FAULT WORD...

The fault, a function of that name, takes the place of ``BatchedSystem._run``, through which each batch then goes; all
else is the product's own.
"""

import sys
import time

from drumfire.bench.cli import program
from drumfire.sut.local import batcher
from drumfire.sut.local.batcher import BatchedSystem

batch_of = BatchedSystem._run


def fail_one_in_a_thousand(self, run, first, last):
    if first // 1000 != last // 1000:
        self._answers.fail(first, last, "the thousandth sample")
    else:
        batch_of(self, run, first, last)


def raise_in_a_worker(self, run, first, last):
    def broken(batch):
        raise RuntimeError("the device\nis gone")

    batch_of(self, broken if first <= 50 < last else run, first, last)


def never_answer_some(self, run, first, last):
    if not first <= 50 < last:
        batch_of(self, run, first, last)


def answer_twice(self, run, first, last):
    batch_of(self, run, first, last)
    if first <= 50 < last:
        self._answers.complete(first, last)


def answer_what_was_never_issued(self, run, first, last):
    batch_of(self, run, first, last)
    if first <= 50 < last:
        self._answers.complete(self._answers.record.rows - 1, self._answers.record.rows)


def hang_a_worker(self, run, first, last):
    if first <= 50 < last:
        time.sleep(3600)
    batch_of(self, run, first, last)


def slow(self, run, first, last):
    """At most some 200 samples a second, whatever the machine."""
    time.sleep(0.005 * (last - first))
    batch_of(self, run, first, last)


if __name__ == "__main__":
    BatchedSystem._run = globals()[sys.argv.pop(1)]
    batcher._MOST_BATCHES = 1
    program()
