"""Assembling a run: from the command's options to a system, a library and settings.

The one place that knows backends, models and scenarios together; ``remote`` does the same for servers.
"""

from __future__ import annotations

import argparse
import os
import statistics
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bench.servers import ServerView
from bench.sizing import Service, size_traffic
from loadgen import Mode, Responses, SampleLibrary, Scenario, SystemUnderTest, TestSettings
from loadgen.config import ConfigReader
from loadgen.system import IndexArray
from sut import backends, models
from sut.batcher import MAX_BATCH_SIZE, BatchedSystem, RunBatch, service_times
from sut.cache import cache_folder
from sut.datasets import coco
from sut.library import ArrayLibrary
from sut.models.detector import DetectionJudge
from sut.models.file import FileModel
from sut.models.model import Accuracy, Form, Model
from sut.null import NullSystem

_MAX_BATCH_SIZE = 32
"""The largest batch of a model in this process unless the user says otherwise."""


class UsageError(ValueError):
    """Options that can not be.  The text is one line and names the mend."""


@dataclass
class Assembly:
    """A run, ready to be driven."""

    system: SystemUnderTest
    library: SampleLibrary
    settings: TestSettings
    accuracy: Callable[[IndexArray, Responses], Accuracy]
    """Judges the answers of an accuracy run."""
    title: str
    description: dict[str, Any]
    """The result's ``system`` section."""
    logged: Callable[[IndexArray, Responses], Responses] = lambda indices, responses: responses
    """Puts responses in the form of MLPerf's accuracy logs."""
    config_errors: tuple[str, ...] = ()
    config_warnings: tuple[str, ...] = ()
    servers: ServerView | None = None
    """The servers that the live view asks, where the system is remote."""
    told: Callable[[list[slice]], dict[str, Any] | None] = lambda phases: None
    """What the servers say they did, for the result: from the rows that each phase issued."""
    notes: list[str] = field(default_factory=list)
    """What the user should know before the run."""
    _loaded: list[backends.Backend] = field(default_factory=list)

    def close(self) -> None:
        for backend in self._loaded:
            backend.close()


def assemble(options: argparse.Namespace) -> Assembly:
    """Load what the options name.  Raises ``UsageError`` and the errors of the parts, each one clear line."""
    max_batch_size = options.max_batchsize or _MAX_BATCH_SIZE
    if max_batch_size > MAX_BATCH_SIZE:
        raise UsageError(f"--max-batchsize must be at most {MAX_BATCH_SIZE}, not {max_batch_size}")
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = options.threads or max(1, (cores - 1) // options.instances)

    model = _model(options)
    loaded: list[backends.Backend] = []
    if options.backend != "null":
        tuning = backends.Tuning(max_batch_size, options.precision or "fp32", options.compile)
        # What can be told before any weights are made is told first.
        backends.check_tuning(options.backend, tuning)
        weights = model.weights(cache_folder(), options.weights, backends.form(options.backend))
        for _ in range(options.instances):
            loaded.append(backends.load(options.backend, weights, options.device, threads, tuning))
        if isinstance(model, FileModel):
            model.shape_from(loaded[0])
    if (options.accuracy or options.submission) and isinstance(model, FileModel):
        given = "--accuracy" if options.accuracy else "--submission"
        raise UsageError(f"{model.name} is a bare file without labels: run it without {given}")
    if (options.accuracy or options.submission) and isinstance(model, DetectionJudge):
        coco.check_evaluator()  # rather than after the run
    try:
        library = model.library(options.dataset_path, options.count, options.performance_sample_count)
    except ValueError as error:
        raise UsageError(str(error)) from None
    for backend in loaded[:1]:
        _fit(library, backend, model)
    if loaded and loaded[0].fixed_batch_size is not None:
        max_batch_size = loaded[0].fixed_batch_size

    settings, errors = read_settings(options, model.name)
    system: SystemUnderTest
    service: Service | None
    if options.backend == "null":
        system = NullSystem(settings.mode)
        service = None
        computes = "answers at once, computes nothing"
    else:
        runs = [_run_batch(backend, model) for backend in loaded]
        service = _Service(runs[0], library, max_batch_size, len(runs))
        system = BatchedSystem(
            f"{options.backend} {model.name} {options.device}",
            runs,
            library,
            max_batch_size=max_batch_size,
            max_queue_delay_s=options.max_queue_delay / 1e3,
        )
        computes = loaded[0].description
    assembly = Assembly(
        system,
        library,
        settings,
        model.accuracy,
        title=f"{options.backend} {model.name} {options.device}",
        description={
            "backend": options.backend,
            "model": model.name,
            "device": options.device,
            "description": computes,
            "threads": threads if loaded else None,
            "instances": options.instances if loaded else None,
            "max_batch_size": max_batch_size if loaded else None,
            "max_queue_delay_ms": options.max_queue_delay if loaded else None,
            "weights": str(weights) if loaded else None,
            "reservations": list(model.reservations),
        },
        logged=model.logged,
        config_errors=errors,
        notes=list(model.reservations),
        _loaded=loaded,
    )
    assembly.description["qps_source"] = size_traffic(settings, model.name, options, service, assembly.notes)
    return assembly


def _model(options: argparse.Namespace) -> Model:
    suffixes = tuple(form.value for form in Form)
    if options.model not in models.MODELS and (options.model.endswith(suffixes) or os.sep in options.model):
        if options.backend == "null":
            raise UsageError("the null backend needs a named model for its data: drumfire run null digits")
        if not Path(options.model).exists():
            raise UsageError(f"no such model file: {options.model}")
        return FileModel(Path(options.model))
    return models.get(options.model)


def _fit(library: SampleLibrary, backend: backends.Backend, model: Model) -> None:
    """See that the backend takes what the model's data is, before anything is computed, and lay the data out for it."""
    takes, gives = backend.sample_shape, model.input_shape

    def taken(shape: tuple[int, ...]) -> bool:
        return len(takes) == len(shape) and all(one in (None, other) for one, other in zip(takes, shape, strict=True))

    if np.dtype(backend.sample_dtype) == model.input_dtype:
        if taken(gives):
            return
        if isinstance(library, ArrayLibrary) and len(gives) == 3 and taken((*gives[1:], gives[0])):
            library.lay_channels_last()
            return
    raise backends.BackendError(
        f"the file takes {np.dtype(backend.sample_dtype)} of shape {list(takes)}, and {model.name}'s data is "
        f"{model.input_dtype} of shape {list(gives)}: give another file with --weights"
    )


def _run_batch(backend: backends.Backend, model: Model) -> RunBatch:
    return lambda batch: model.respond(backend.run(batch))


def read_settings(options: argparse.Namespace, model_name: str) -> tuple[TestSettings, tuple[str, ...]]:
    """The rules' values, then user.conf, then the command line: each overrides the one before."""
    settings, reader = TestSettings(), ConfigReader(options.round)
    if reader.from_config(settings, options.user_conf, model_name, options.scenario) != 0:
        raise UsageError(reader.errors[-1])
    settings.scenario = Scenario[options.scenario]
    settings.mode = Mode.AccuracyOnly if options.accuracy else Mode.PerformanceOnly
    if options.submission:
        settings.mode = Mode.SubmissionRun
    if options.time is not None:
        settings.min_duration_ms = round(options.time * 1000)
    if options.count is not None:
        settings.min_query_count = settings.max_query_count = options.count
    if options.max_latency is not None:
        settings.server_target_latency_ns = round(options.max_latency * 1e9)
    if options.samples_per_query is not None:
        settings.multi_stream_samples_per_query = options.samples_per_query
    if options.qps is not None:
        settings.server_target_qps = settings.offline_expected_qps = options.qps
    return settings, tuple(reader.errors)


class _Service:
    """How fast the model answers, measured before the run on real samples; it warms the model up as well."""

    def __init__(self, run: RunBatch, library: SampleLibrary, max_batch_size: int, instances: int) -> None:
        self._run, self._library = run, library
        self._max_batch_size, self._instances = max_batch_size, instances

    def seconds(self, batch_size: int) -> float:
        """The median time of one batch.  Raises ``BackendError`` when the model refuses it."""
        indices = np.arange(batch_size) % min(self._library.performance_count, self._library.total_count)
        self._library.load(indices)
        try:
            batch = self._library.batch(indices)
            return statistics.median(service_times(lambda: self._run(batch)))
        except Exception as error:  # whatever a model may raise on the data
            text = " ".join(str(error).split())[:300]
            raise backends.BackendError(f"the model does not run on its data: {text}") from None
        finally:
            self._library.unload(indices)

    def check(self) -> None:
        self.seconds(1)

    def query_seconds(self, samples: int) -> float:
        """Run batch after batch."""
        whole, rest = divmod(samples, self._max_batch_size)
        seconds = whole * self.seconds(self._max_batch_size) if whole else 0.0
        return seconds + (self.seconds(rest) if rest else 0.0)

    def samples_per_second(self, *, together: bool) -> float:
        batch_size = self._max_batch_size if together else 1
        return self._instances * batch_size / self.seconds(batch_size)
