"""What a query costs the issuing thread, step by step: ``python -m drumfire.bench.peers.loadgen.costs``.

The profile behind the CPU figures: each step alone in a loop, less the cost of the loop.  It takes the best of several
rounds, as other processes can only add to it.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable

from drumfire.loadgen.interpreter import run_on_fast_loop
from drumfire.loadgen.pacer import LAST_SPIN_NS, Pacer
from drumfire.loadgen.run import Test
from drumfire.loadgen.settings import Mode, Scenario, TestSettings
from drumfire.sut.local.null import NullSystem, null_library

_ROUNDS = 5
_TIMES = 100_000


def _test() -> Test:
    settings = TestSettings(
        scenario=Scenario.Server, server_target_qps=1e6, min_duration_ms=1000, min_query_count=2 * _ROUNDS * _TIMES
    )
    return Test(NullSystem(Mode.PerformanceOnly), null_library(), settings)


def _best(loop: Callable[[], object]) -> float:
    """The least ns for a turn of a loop of ``_TIMES``."""
    took = []
    for _ in range(_ROUNDS):
        began = time.monotonic_ns()
        loop()
        took.append((time.monotonic_ns() - began) / _TIMES)
    return min(took)


async def _measure() -> dict[str, float]:
    test = _test()
    answers, clock, lock = test.answers, time.monotonic_ns, threading.Lock()
    answers.begin(test.phases[0])
    answers.issued = test.record.rows
    view = test.record.view("issued")
    rows = iter(range(test.record.rows))

    def nothing() -> None:
        for _ in range(_TIMES):
            pass

    def read_clock() -> None:
        for _ in range(_TIMES):
            clock()

    def take_lock() -> None:
        acquire, release = lock.acquire, lock.release
        for _ in range(_TIMES):
            acquire()
            release()

    def write_number() -> None:
        for row in range(_TIMES):
            view[row] = 1

    def read_number() -> None:
        for row in range(_TIMES):
            view[row]

    def complete() -> None:
        done = answers.complete
        for _, row in zip(range(_TIMES), rows, strict=False):
            done(row, row + 1)

    def read_thread_clock() -> None:
        for _ in range(_TIMES):
            time.thread_time_ns()

    idle = _best(nothing)
    steps = {
        "read the clock": read_clock,
        "take and release a lock": take_lock,
        "write a number of a column": write_number,
        "read a number of a column": read_number,
        "Answers.complete of one row, in all": complete,
        "read the thread's CPU clock": read_thread_clock,
    }
    costs = {name: _best(step) - idle for name, step in steps.items()}
    with Pacer() as pacer:
        for wait, ns, times in (("30 us", LAST_SPIN_NS * 3 // 2, 2000), ("1 ms", 1_000_000, 300)):
            began, spun = time.thread_time_ns(), pacer.spun_ns
            for _ in range(times):
                await pacer.until(clock() + ns)
            busy = time.thread_time_ns() - began - (pacer.spun_ns - spun)
            costs[f"a wait of {wait}, without its polling"] = busy / times
        await asyncio.sleep(0)
    return costs


def main() -> None:
    print("| step | ns |\n| --- | ---: |")
    for name, ns in run_on_fast_loop(_measure()).items():
        print(f"| {name} | {ns:,.0f} |")


if __name__ == "__main__":
    main()
