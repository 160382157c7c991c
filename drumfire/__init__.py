"""Drumfire: an MLPerf-style benchmark for inference and training.

The names below are what programs use.  Each is imported on first use, so ``import drumfire`` costs nothing.
The code is in ``loadgen``, ``sut``, ``bench`` and ``training``: links in a checkout, real folders in a wheel.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from drumfire.loadgen import (
        Mode,
        Responses,
        SampleLibrary,
        Scenario,
        SettingsError,
        SystemUnderTest,
        Test,
        TestSettings,
        run_on_fast_loop,
    )
    from drumfire.loadgen.version import VERSION as __version__  # noqa: N811
    from drumfire.sut.data.library import ArrayLibrary
    from drumfire.sut.local.coroutine import CoroutineSystem

__all__ = [
    "ArrayLibrary",
    "CoroutineSystem",
    "Mode",
    "Responses",
    "SampleLibrary",
    "Scenario",
    "SettingsError",
    "SystemUnderTest",
    "Test",
    "TestSettings",
    "__version__",
    "run_on_fast_loop",
]

_ELSEWHERE = {
    "ArrayLibrary": ("drumfire.sut.data.library", "ArrayLibrary"),
    "CoroutineSystem": ("drumfire.sut.local.coroutine", "CoroutineSystem"),
    "__version__": ("drumfire.loadgen.version", "VERSION"),
}


def __getattr__(name: str) -> Any:
    if name not in __all__:
        raise AttributeError(f"module 'drumfire' has no attribute {name!r}")
    module, attribute = _ELSEWHERE.get(name, ("drumfire.loadgen", name))
    return getattr(importlib.import_module(module), attribute)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
