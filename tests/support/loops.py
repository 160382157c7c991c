"""The event loops that asyncio code must run on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any

import pytest

try:
    import uvloop
except ImportError:
    uvloop = None

LOOPS: dict[str, Callable[[], asyncio.AbstractEventLoop]] = {"asyncio": asyncio.SelectorEventLoop}
if uvloop is not None:
    LOOPS["uvloop"] = uvloop.new_event_loop
FAST = next(reversed(LOOPS))
on_both_loops = pytest.mark.parametrize(
    "loop", [pytest.param(name, marks=() if name == FAST else pytest.mark.slow) for name in LOOPS]
)
"""The fast tier has the loop that runs use."""


def on(loop: str, coroutine: Coroutine[Any, Any, Any]) -> Any:
    with asyncio.Runner(loop_factory=LOOPS[loop]) as runner:
        return runner.run(coroutine)
