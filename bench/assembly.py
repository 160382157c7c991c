"""Assembling a run: from the command's options to a system, a library and settings.

The one place that knows backends, models and scenarios together.  What it measures here (how fast the model is,
where the rate was not given) only sizes the traffic; no figure of a result comes from it.
"""

from __future__ import annotations

import argparse
import os
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from loadgen import Mode, SampleLibrary, Scenario, SystemUnderTest, TestSettings
from loadgen.config import ConfigReader
from sut import backends, models
from sut.batcher import MAX_BATCH_SIZE, BatchedSystem, RunBatch, service_times
from sut.models.file import FileModel
from sut.models.model import Model
from sut.null import NullSystem

_NULL_RATE = 1000.0
"""Queries a second where neither the user nor a measurement tells: only for the null system."""
_SERVER_SHARE = 0.25
"""Part of what the model answers one by one that a Server run asks for when no rate is given: far from saturation,
as the issuing thread and the machine's other work need their share as well."""
_OFFLINE_MARGIN = 1.3
_CLOSED_LOOP_MARGIN = 0.7
"""Assume somewhat faster than measured, so that the pre-drawn queries last for the run."""


class UsageError(ValueError):
    """Options that can not be.  The text is one line and names the mend."""


@dataclass
class Assembly:
    """A run, ready to be driven."""

    system: SystemUnderTest
    library: SampleLibrary
    settings: TestSettings
    model: Model
    title: str
    description: dict[str, Any]
    """The result's ``system`` section."""
    config_errors: tuple[str, ...] = ()
    notes: list[str] = field(default_factory=list)
    """What the user should know before the run."""
    _loaded: list[backends.Backend] = field(default_factory=list)

    def close(self) -> None:
        for backend in self._loaded:
            backend.close()


def assemble(options: argparse.Namespace) -> Assembly:
    """Load what the options name.  Raises ``UsageError`` and the errors of the parts, each one clear line."""
    if options.max_batchsize > MAX_BATCH_SIZE:
        raise UsageError(f"--max-batchsize must be at most {MAX_BATCH_SIZE}, not {options.max_batchsize}")
    scenario = Scenario[options.scenario]
    mode = Mode.AccuracyOnly if options.accuracy else Mode.PerformanceOnly
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = options.threads or max(1, (cores - 1) // options.instances)

    model = _model(options)
    loaded: list[backends.Backend] = []
    if options.backend != "null":
        backends.distributions(options.backend)  # an unknown backend is told before any weights are made
        weights = options.weights or model.weights(_cache())
        loaded = [backends.load(options.backend, weights, options.device, threads) for _ in range(options.instances)]
        if isinstance(model, FileModel):
            model.shape_from(loaded[0])
    if options.accuracy and isinstance(model, FileModel):
        raise UsageError(f"{model.name} is a bare file without labels: run it without --accuracy")
    try:
        library = model.library(options.dataset_path, options.count, options.performance_sample_count)
    except ValueError as error:
        raise UsageError(str(error)) from None
    max_batch_size = options.max_batchsize
    if loaded and loaded[0].fixed_batch_size is not None:
        max_batch_size = loaded[0].fixed_batch_size

    settings, errors = _settings(options, model, scenario, mode)
    system: SystemUnderTest
    if options.backend == "null":
        system = NullSystem(mode)
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
        model,
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
        },
        config_errors=errors,
        _loaded=loaded,
    )
    assembly.description["qps_source"] = _size_traffic(assembly, options, scenario, service)
    return assembly


def _model(options: argparse.Namespace) -> Model:
    if options.model not in models.MODELS and (options.model.endswith(".onnx") or os.sep in options.model):
        if options.backend == "null":
            raise UsageError("the null backend needs a named model for its data: drumfire run null digits")
        if not Path(options.model).is_file():
            raise UsageError(f"no such model file: {options.model}")
        return FileModel(Path(options.model))
    return models.get(options.model)


def _cache() -> Path:
    """Where made files are kept: $MODEL_DIR, else the user's cache folder."""
    if "MODEL_DIR" in os.environ:
        return Path(os.environ["MODEL_DIR"])
    return Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "drumfire"


def _run_batch(backend: backends.Backend, model: Model) -> RunBatch:
    return lambda batch: model.respond(backend.run(batch))


def _settings(
    options: argparse.Namespace, model: Model, scenario: Scenario, mode: Mode
) -> tuple[TestSettings, tuple[str, ...]]:
    """The rules' values, then user.conf, then the command line: each overrides the one before."""
    settings, reader = TestSettings(), ConfigReader(options.round)
    if reader.from_config(settings, options.user_conf, model.name, scenario.name) != 0:
        raise UsageError(reader.errors[-1])
    settings.scenario, settings.mode = scenario, mode
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

    def query_seconds(self, samples: int) -> float:
        """One query of a closed loop, run batch after batch."""
        whole, rest = divmod(samples, self._max_batch_size)
        seconds = whole * self.seconds(self._max_batch_size) if whole else 0.0
        return seconds + (self.seconds(rest) if rest else 0.0)

    def samples_per_second(self, batch_size: int) -> float:
        return self._instances * batch_size / self.seconds(batch_size)


def _size_traffic(
    assembly: Assembly, options: argparse.Namespace, scenario: Scenario, service: _Service | None
) -> str | None:
    """Set the rates that nobody gave, from a measurement; returns where the scenario's rate came from."""
    settings = assembly.settings
    built_in = TestSettings()
    ConfigReader(options.round).from_config(built_in, None, assembly.model.name, scenario.name)

    def given(name: str) -> bool:
        return bool(getattr(settings, name) != getattr(built_in, name))

    if service is not None:
        service.seconds(1)  # warm up, and see that the model takes the data, whatever else was given
    if scenario in (Scenario.SingleStream, Scenario.MultiStream):
        if options.qps is not None:
            assembly.notes.append(f"--qps has no effect in {scenario.name}: a query follows when the last is answered")
        single = scenario == Scenario.SingleStream
        name = "single_stream_expected_latency_ns" if single else "multi_stream_expected_latency_ns"
        if given(name):
            return "user.conf"
        samples = 1 if single else settings.multi_stream_samples_per_query
        seconds = service.query_seconds(samples) if service is not None else 1e-6
        setattr(settings, name, max(seconds * _CLOSED_LOOP_MARGIN * 1e9, 500.0))
        return "measured"
    name = "server_target_qps" if scenario == Scenario.Server else "offline_expected_qps"
    batch_size = 1 if scenario == Scenario.Server else assembly.description["max_batch_size"]
    capacity = service.samples_per_second(batch_size) if service is not None else _NULL_RATE
    if options.qps is not None or given(name):
        if scenario == Scenario.Offline and settings.offline_expected_qps * 2 < capacity:
            assembly.notes.append(
                f"--qps {settings.offline_expected_qps:g} sizes the one query of Offline, and {capacity:.0f} samples a "
                "second were measured: the run may well be over before its least duration; raise --qps"
            )
        return "user.conf" if options.qps is None else "--qps"
    share = _SERVER_SHARE if scenario == Scenario.Server else _OFFLINE_MARGIN
    rate = _round_to_three_digits(capacity * share)
    setattr(settings, name, rate)
    assembly.notes.append(
        f"no --qps given: asking for {rate:g} a second, from a measurement of {capacity:.0f} a second"
    )
    return "measured"


def _round_to_three_digits(value: float) -> float:
    return float(f"{value:.3g}")
