"""A text model Offline in a process of its own, and the bare loop on the very same padded batches, in turns.

Runs as a program: the case is JSON on standard input, the figures are JSON on standard output.  The bare loop calls the
framework in this process, which does nothing else meanwhile; it does not depend on Drumfire's backends.
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from drumfire.bench.peers.backends.bare import onnx_session, torch_program
from drumfire.bench.peers.hosted import Hosted, weights
from drumfire.bench.peers.process import MeasurementError
from drumfire.bench.peers.program import run_figures
from drumfire.loadgen.record import Column
from drumfire.loadgen.settings import Scenario, TestSettings
from drumfire.loadgen.system import Batch
from drumfire.sut import models
from drumfire.sut.data.ragged import RaggedLibrary

_RUNS = 2
_WARM = 4
"""Batches that the bare loop computes before it is measured."""
_THREADS = 1


class _Turn(NamedTuple):
    """What a side did: samples a second, and CPU."""

    rate_per_s: float
    cpu_ns_per_sample: float


def _onnxruntime(file: Path) -> Callable[[Batch], object]:
    session = onnx_session(file, _THREADS)
    return lambda batch: session.run(None, batch)


def _pytorch(file: Path) -> Callable[[Batch], object]:
    network = torch_program(file, _THREADS)
    import torch

    def call(batch: Batch) -> object:
        with torch.inference_mode():
            return network(*map(torch.from_numpy, batch.values()))

    return call


LOOPS: Mapping[str, Callable[[Path], Callable[[Batch], object]]] = {"onnxruntime": _onnxruntime, "pytorch": _pytorch}
"""By the backend's name: made from a file, it computes a batch and leaves the outputs in memory."""


def padded_batches(data: RaggedLibrary, columns: Mapping[str, Column]) -> list[Batch]:
    """The batches of a run, made again from its ``columns``, each of shape (rows,).

    Raises ``MeasurementError`` where they are not padded as they were in the run.
    """
    _, batch_of = np.unique(columns["begun"], return_inverse=True)
    order = np.argsort(batch_of, kind="stable")
    rows = np.split(order, np.flatnonzero(np.diff(batch_of[order])) + 1)
    batches = [data.batch(columns["sample_index"][one]) for one in rows]
    computed = sum(next(iter(batch.values())).size for batch in batches)
    if computed != (in_run := int(columns["padded_size"].sum(dtype=np.int64))):
        raise MeasurementError(f"the batches have {computed} tokens with the padding, and {in_run} in the run")
    return batches


def _loop(call: Callable[[Batch], object], batches: Sequence[Batch]) -> _Turn:
    began, cpu = time.perf_counter(), time.process_time()
    for batch in batches:
        call(batch)
    samples = sum(len(next(iter(batch.values()))) for batch in batches)
    spent, lasted = time.process_time() - cpu, time.perf_counter() - began
    return _Turn(samples / lasted, spent / samples * 1e9)


def _mean(turns: Sequence[_Turn]) -> _Turn:
    return _Turn(*map(statistics.mean, zip(*turns, strict=True)))


def _offline(hosted: Hosted, samples: int) -> tuple[_Turn, Mapping[str, Column]]:
    """A run of so many samples, and its columns."""
    settings = TestSettings(scenario=Scenario.Offline, min_duration_ms=1, min_query_count=samples)
    settings.offline_expected_qps = 1.0
    test = hosted.run(settings)
    figures = run_figures(hosted.result(test))
    issued = test.reports[0].issued_rows
    columns: dict[str, Column] = {
        "sample_index": test.record.sample_index[:issued],
        **{name: test.record.columns[name][:issued] for name in ("begun", "size", "padded_size")},
    }
    return _Turn(figures["rate_per_s"], figures["cpu_ns_per_sample"]), columns


def offline(case: Mapping[str, Any]) -> dict[str, dict[str, float]]:
    """Offline and the bare loop in turns, the loop first and last.

    A turn has ``samples_per_s`` samples for each of ``seconds``, however long they take.
    """
    backend, name, batch_size = (case[one] for one in ("backend", "model", "batch_size"))
    samples = round(case["samples_per_s"] * case["seconds"])
    model = models.get(name)
    data = model.library()
    assert isinstance(data, RaggedLibrary)
    data.pad(model.tensors.open_inputs)
    data.load(np.arange(data.performance_count))
    with closing(Hosted(backend, name, batch_size=batch_size, threads=_THREADS)) as hosted:
        call = LOOPS[backend](weights(name, backend))
        ours, bare = [], []
        for at in range(1 + _RUNS):
            turn, columns = _offline(hosted, samples)
            batches = padded_batches(data, columns)
            if not at:
                _loop(call, batches[:_WARM])
            ours.append(turn)
            bare.append(_loop(call, batches))
    # The first run is to warm up.  Each other is beside the loops before and after it: the batches of all runs are the
    # same, as the seed draws the same samples.
    around = [_mean(pair) for pair in pairwise(bare)]
    own, computed = (int(columns[name].sum(dtype=np.int64)) for name in ("size", "padded_size"))
    about = {"padding": 1 - own / computed, "samples": float(samples)}
    return {"ours": {**_mean(ours[1:])._asdict(), **about}, "bare": _mean(around)._asdict()}


if __name__ == "__main__":
    print(json.dumps(offline(json.load(sys.stdin))))
