"""Drumfire: an MLPerf-style benchmark for inference and training.

The names below are what programs use.  Each is imported on first use, so ``import drumfire`` costs nothing.
The code is in ``loadgen``, ``sut``, ``bench`` and ``training``: links in a checkout, real folders in a wheel.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from drumfire.bench.compare.comparison import compare as compare
    from drumfire.bench.interface import run as run
    from drumfire.bench.interface import save as save
    from drumfire.loadgen.errors import UserError as UserError
    from drumfire.loadgen.interpreter import run_on_fast_loop as run_on_fast_loop
    from drumfire.loadgen.responses import Responses as Responses
    from drumfire.loadgen.run import Test as Test
    from drumfire.loadgen.saved import SavedRun as SavedRun
    from drumfire.loadgen.saved import load as load
    from drumfire.loadgen.settings import Mode as Mode
    from drumfire.loadgen.settings import Scenario as Scenario
    from drumfire.loadgen.settings import SettingsError as SettingsError
    from drumfire.loadgen.settings import TestSettings as TestSettings
    from drumfire.loadgen.system import SampleLibrary as SampleLibrary
    from drumfire.loadgen.system import SystemUnderTest as SystemUnderTest
    from drumfire.loadgen.version import VERSION as __version__  # noqa: N811
    from drumfire.sut.data.library import ArrayLibrary as ArrayLibrary
    from drumfire.sut.data.ragged import OpenSizes as OpenSizes
    from drumfire.sut.data.ragged import Ragged as Ragged
    from drumfire.sut.data.ragged import RaggedLibrary as RaggedLibrary
    from drumfire.sut.local.batcher import BatchedSystem as BatchedSystem
    from drumfire.sut.local.coroutine import CoroutineSystem as CoroutineSystem
    from drumfire.sut.local.process import OwnProcess as OwnProcess

_HOMES = {
    "ArrayLibrary": "sut.data.library",
    "BatchedSystem": "sut.local.batcher",
    "CoroutineSystem": "sut.local.coroutine",
    "Mode": "loadgen.settings",
    "OpenSizes": "sut.data.ragged",
    "OwnProcess": "sut.local.process",
    "Ragged": "sut.data.ragged",
    "RaggedLibrary": "sut.data.ragged",
    "Responses": "loadgen.responses",
    "SampleLibrary": "loadgen.system",
    "SavedRun": "loadgen.saved",
    "Scenario": "loadgen.settings",
    "SettingsError": "loadgen.settings",
    "SystemUnderTest": "loadgen.system",
    "Test": "loadgen.run",
    "TestSettings": "loadgen.settings",
    "UserError": "loadgen.errors",
    "compare": "bench.compare.comparison",
    "load": "loadgen.saved",
    "run": "bench.interface",
    "run_on_fast_loop": "loadgen.interpreter",
    "save": "bench.interface",
}
__all__ = ["__version__", *_HOMES]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return importlib.import_module("drumfire.loadgen.version").VERSION
    if name not in _HOMES:
        raise AttributeError(f"module 'drumfire' has no attribute {name!r}")
    return getattr(importlib.import_module(f"drumfire.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return [*globals(), *__all__]
