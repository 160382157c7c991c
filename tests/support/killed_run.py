"""``drumfire`` that kills itself, as the OOM killer would: python killed_run.py WHEN COPY WORD...

WHEN is ``running``, with a thousand rows of a table answered, ``everyone``, likewise with the generators of the run, or
``saving``, with half a column written.  Witnesses, forked when the keeper gets a table, write it to COPY0.npz (a
generator's to COPY1.npz and so on) when their parent is dead.
"""

import os
import signal
import sys
import threading
import time

import numpy as np

from drumfire.bench.cli import program
from drumfire.bench.keeper import Keeper
from drumfire.loadgen import record as tables

ROWS = 1000
entered, taken, in_one_step = Keeper.__enter__, Keeper.take, tables.in_one_step
when, copy = sys.argv.pop(1), sys.argv.pop(1)
generators = []


def die():
    for pid in [*generators, os.getpid()] if when == "everyone" else [os.getpid()]:
        os.kill(pid, signal.SIGKILL)


def watch(record):
    while np.count_nonzero(record.status) < ROWS:
        time.sleep(0.001)
    die()


def witness(record):
    parent = os.getpid()
    if os.fork():
        if when != "saving":
            threading.Thread(target=watch, args=(record,), daemon=True).start()
        return
    while os.getppid() == parent:
        time.sleep(0.005)
    # The status first: a generator goes on for a moment, and what has been answered does not change.
    names = ["status", *(name for name in record.columns if name != "status")]
    np.savez(f"{copy}{len(generators)}.partial.npz", **{name: record.columns[name].copy() for name in names})
    os.rename(f"{copy}{len(generators)}.partial.npz", f"{copy}{len(generators)}.npz")
    os._exit(0)


def enter(keeper):
    witness(keeper._record)
    return entered(keeper)


def take(keeper, child):
    generators.append(child.pid)
    witness(child.record)
    taken(keeper, child)


def half(path):
    if path.name == "completed.npy":
        path.with_name(f"{path.name}.partial").write_bytes(b"half")
        die()
    return in_one_step(path)


if __name__ == "__main__":
    Keeper.__enter__, Keeper.take = enter, take
    if when == "saving":
        tables.in_one_step = half
    program()
