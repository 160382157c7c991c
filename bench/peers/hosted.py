"""A named model in processes of its own, as a run of the command line has it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from drumfire.loadgen.directory import document
from drumfire.loadgen.interpreter import run_on_fast_loop
from drumfire.loadgen.run import Test
from drumfire.loadgen.settings import TestSettings
from drumfire.sut import models
from drumfire.sut.cache import cache_folder
from drumfire.sut.local import backends, devices
from drumfire.sut.local.loaded import LoadedElsewhere, Source

_LEAST_TIMES = 5
"""Batches of a size that are measured."""


def weights(model: str, backend: str) -> Path:
    """The file that the backend takes, made where it is not there.  Raises ``UserError``."""
    return models.get(model).weights(cache_folder(), None, backends.form(backend))


class Hosted:
    """The model, loaded and warm."""

    def __init__(
        self,
        backend: str,
        model: str,
        device: str = "cpu",
        *,
        batch_size: int,
        threads: int = 1,
        processes: int = 1,
        in_memory: int | None = None,
        **options: Any,
    ) -> None:
        """``threads``: of each process.  ``in_memory``: samples that are loaded before a run; by default, the model's
        number.  ``options``: the backend's own.
        """
        self._loaded = LoadedElsewhere(
            Source(
                backend=backend, model=model, weights=weights(model, backend), device=device, threads=threads,
                options=backends.kinds()[backend](max_batch_size=batch_size, **options),
                max_queue_delay_s=0.0, dataset_path=None, count=None, performance_count=in_memory,
            ),
            devices.pinned(processes, threads),
        )  # fmt: skip
        self.description: str = self._loaded.facts()["description"]
        self.times(batch_size, 0.2)  # warm

    def times(self, batch_size: int, seconds: float) -> list[int]:
        """What batches take, ns."""
        return [round(s * 1e9) for s in self._loaded.times(batch_size, seconds, _LEAST_TIMES)]

    def test(self, settings: TestSettings) -> Test:
        return Test(self._loaded.system, self._loaded.library, settings)

    def run(self, settings: TestSettings) -> Test:
        test = self.test(settings)
        run_on_fast_loop(test.run())
        return test

    def result(self, test: Test) -> dict[str, Any]:
        """Of a run that has just ended, as its JSON is, with the processes that computed."""
        return document(test, {"system": {"processes": self._loaded.system.report(test.columns)}}, [])

    def close(self) -> None:
        self._loaded.close()
