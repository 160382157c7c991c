"""How Python runs a test: on a fast event loop, without garbage collection, with quick turns between threads."""

from __future__ import annotations

import asyncio
import gc
import sys
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from drumfire.loadgen.errors import UserError
from drumfire.loadgen.limits import check_files

_SWITCH_INTERVAL_S = 2e-4
"""How long a thread may hold the interpreter while another waits for it.  Python's own 5 ms would show as latency."""

T = TypeVar("T")


def run_on_fast_loop(main: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine on uvloop, or on the standard loop where uvloop is not installed.

    Raises ``UserError`` where a loop runs already, and where the files of a run cannot be opened, and
    ``KeyboardInterrupt`` where a signal cancelled its task.
    """
    try:
        return _run(main)
    finally:
        main.close()  # else Python warns that nobody awaited it, where it did not begin


def _run(main: Coroutine[Any, Any, T]) -> T:
    if asyncio._get_running_loop() is not None:
        raise UserError("a loop runs here already: await the coroutine instead of calling run_on_fast_loop")
    check_files()
    factory: Callable[[], asyncio.AbstractEventLoop] | None
    try:
        import uvloop

        factory = uvloop.new_event_loop
    except ImportError:
        factory = None
    with asyncio.Runner(loop_factory=factory) as runner:
        try:
            return runner.run(main)
        except asyncio.CancelledError:  # nobody else knows of its task
            raise KeyboardInterrupt from None


@contextmanager
def quiet() -> Iterator[None]:
    """No garbage collection, which would stall the hot paths (they make no cycles), and quick turns between threads.

    What the caller has frozen stays frozen.
    """
    was_enabled, interval_s, was_frozen = gc.isenabled(), sys.getswitchinterval(), gc.get_freeze_count() > 0
    gc.collect()
    if not was_frozen:
        gc.freeze()
    gc.disable()
    sys.setswitchinterval(_SWITCH_INTERVAL_S)
    try:
        yield
    finally:
        sys.setswitchinterval(interval_s)
        if not was_frozen:
            gc.unfreeze()
        if was_enabled:
            gc.enable()
