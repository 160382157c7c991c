"""Assembles a run of a model in this process: from options to a system, a library and settings.

Here backends, models and scenarios meet.  ``remote`` does the same for servers.
"""

from __future__ import annotations

import os
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from drumfire.bench.assemble.options import RunOptions, TrafficOptions
from drumfire.bench.assemble.probe import CLOSED_LOOP_MARGIN, Probe
from drumfire.bench.assemble.sizing import Service, size_traffic
from drumfire.loadgen.advice import OPTIONS, Knobs
from drumfire.loadgen.config import ConfigError, ConfigReader
from drumfire.loadgen.errors import UserError, nearest, one_line
from drumfire.loadgen.limits import usable_cores
from drumfire.loadgen.responses import Responses
from drumfire.loadgen.settings import Mode, Scenario, TestSettings
from drumfire.loadgen.system import Batch, IndexArray, SampleLibrary, SystemUnderTest
from drumfire.loadgen.unread import unread
from drumfire.sut import models
from drumfire.sut.cache import cache_folder
from drumfire.sut.data import coco
from drumfire.sut.data.library import ArrayLibrary, NamedLibrary, with_names
from drumfire.sut.local import backends
from drumfire.sut.local.backends import MAX_BATCH_SIZE
from drumfire.sut.local.backends.buckets import Buckets, count_of
from drumfire.sut.local.batcher import BatchedSystem, RunBatch, service_times
from drumfire.sut.local.null import NullSystem
from drumfire.sut.local.responses import OutputError, check_outputs
from drumfire.sut.models.detector import DetectionJudge
from drumfire.sut.models.file import FileModel
from drumfire.sut.models.model import Accuracy, Form, Model
from drumfire.sut.models.tensors import arrangement
from drumfire.sut.remote.endpoint import Endpoint
from drumfire.sut.remote.watch import MeasuredWindow
from drumfire.sut.sampler import MeterPlan, Sampler

_LONGEST_BATCH_S = 4.0
"""Batches that are measured before a run take at most this long."""
_PROBED_SAMPLES = 256
"""A measurement of a whole run loads at most this many samples, as loading pictures takes long."""


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
    check_judge: Callable[[str], None] = lambda asked: None
    """Raises ``UserError`` where ``accuracy`` cannot judge; takes what asks for it, such as ``--accuracy``."""
    logged: Callable[[IndexArray, Responses], Responses] = lambda indices, responses: responses
    """Puts responses in the form of MLPerf's accuracy logs."""
    distributions: Sequence[str] = ()
    """The packages whose versions belong in the result."""
    knobs: Knobs = OPTIONS
    """What the user can set, which advice names."""
    config_errors: tuple[str, ...] = ()
    config_warnings: tuple[str, ...] = ()
    meters: Sequence[MeterPlan] = ()
    """What is read again and again while the run goes."""
    sampler: Sampler | None = None
    """Of the last run; it reads the meters."""
    window: MeasuredWindow = field(default_factory=MeasuredWindow)
    """Reports the result's ``server`` section; a local system's never begins."""
    counted: Callable[[], tuple[Mapping[Endpoint, int], Mapping[str, int]]] = lambda: ({}, {})
    """Requests that each server answered with outputs, and counts of connection events."""
    digests: Callable[[], dict[str, str]] = dict
    """Hashes of the model's description and of the data, to compare between processes."""
    notes: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    """What of the request has no effect; kept with the result."""
    """Shown to the user before the run."""
    _loaded: list[backends.Backend] = field(default_factory=list)

    def close(self) -> None:
        for backend in self._loaded:
            backend.close()


def assemble(options: RunOptions) -> Assembly:
    """Load the backend, model and data that the options name.  Raises ``UserError``."""
    traffic, model = options.traffic, _model(options)
    if options.backend == "null" and options.device != "cpu":
        raise UserError(f"null has no DEVICE, as it computes nothing: leave {options.device} out")
    max_batch_size, threads, instances = MAX_BATCH_SIZE, 1, 1
    loaded: list[backends.Backend] = []
    if options.backend != "null":
        batching, own = options.system.batching, options.system.backend
        max_batch_size, instances = batching.max_batchsize, own.instances
        threads = own.threads or spare_cores(instances)
        own = replace(own, max_batch_size=max_batch_size)
        # Report errors that need no weights before making weights, which takes long.
        backends.check(options.backend, options.device, own)
        backends.check_installed(options.backend, options.device)
        if options.system.weights is not None:
            backends.check_model(options.system.weights)
        weights = model.weights(cache_folder(), options.system.weights, backends.form(options.backend))
        for _ in range(instances):
            loaded.append(backends.load(options.backend, weights, options.device, threads, own))
        if isinstance(model, FileModel):
            model.tensors_from(loaded[0])
    if traffic.accuracy or traffic.submission:
        _check_judge(model, "--accuracy" if traffic.accuracy else "--submission")
    library = model.library(traffic.dataset_path, traffic.count, traffic.performance_sample_count)
    for backend in loaded[:1]:
        library = fit(library, backend, model)
        max_batch_size = backend.tensors.batch_size or max_batch_size

    settings, errors = read_settings(traffic, model.name)
    system: SystemUnderTest
    service: Service
    if options.backend == "null":
        system = NullSystem(settings.mode)
        service = Probe(system, library)
        computes = "answers at once, computes nothing"
    else:
        runs = [_run_batch(backend, model) for backend in loaded]
        system = BatchedSystem(
            f"{options.backend} {model.name} {options.device}",
            runs,
            library,
            max_batch_size=max_batch_size,
            max_queue_delay_s=batching.max_queue_delay / 1e3,
        )
        probe = Probe(system, library, samples=_PROBED_SAMPLES)
        service = _Service(_run_batch(loaded[0], model, checked=True), library, max_batch_size, len(runs), probe)
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
            "instances": instances if loaded else None,
            "max_batch_size": max_batch_size if loaded else None,
            "max_queue_delay_ms": batching.max_queue_delay if loaded else None,
            "weights": str(weights) if loaded else None,
            "reservations": list(model.reservations),
        },
        logged=model.logged,
        knobs=replace(OPTIONS, threads="--threads" if threads > 1 else "--instances" if instances > 1 else ""),
        distributions=() if options.backend == "null" else backends.distributions(options.backend),
        config_errors=errors,
        notes=list(model.reservations),
        check_judge=partial(_check_judge, model),
        _loaded=loaded,
    )
    assembly.description["qps_source"] = size_traffic(
        settings, model.name, traffic, service, assembly.notes, null=not loaded
    )
    return assembly


def spare_cores(instances: int = 1) -> int:
    """Cores for each of ``instances`` copies of a model; one core is left for the generator."""
    return max(1, (usable_cores() - 1) // instances)


def _model(options: RunOptions) -> Model:
    suffixes = tuple(form.value for form in Form)
    if options.model not in models.MODELS and (options.model.endswith(suffixes) or os.sep in options.model):
        if options.backend == "null":
            raise UserError("the null backend needs a named model for its data: drumfire run null digits")
        backends.check_model(Path(options.model))
        return FileModel(Path(options.model))
    try:
        return models.get(options.model)
    except models.UnknownModel as error:
        raise UserError(f"{error}{nearest(options.model, models.MODELS)}") from None


def fit(library: SampleLibrary, backend: backends.Backend, model: Model) -> ArrayLibrary | NamedLibrary:
    """Check that the backend takes the model's data; returns the data as it wants it.  Raises ``BackendError``.

    An ``ArrayLibrary`` is changed itself, from its next load on.
    """
    feeds = backend.tensors.feeds(model.tensors)
    if feeds is None:
        raise backends.BackendError(
            f"the file takes {backend.tensors}, and {model.name}'s data is {model.tensors}: give another file with "
            "--weights"
        )
    return with_names(library, arrangement(feeds))


def _check_judge(model: Model, asked: str) -> None:
    """Find out before the run what would fail after it."""
    if isinstance(model, FileModel):
        raise UserError(f"{model.name} is a bare file without labels: run it without {asked}")
    if isinstance(model, DetectionJudge):
        coco.check_evaluator()


def _run_batch(backend: backends.Backend, model: Model, *, checked: bool = False) -> RunBatch:
    """``checked``: raises ``OutputError`` for outputs that are not a row for each sample."""
    size, run, names = backend.tensors.batch_size, backend.run, backend.tensors.outputs
    if size is not None:
        run = Buckets({size: run}, names).run
    if not checked:
        return lambda batch: model.respond(run(batch))

    def respond(batch: Batch) -> Responses:
        outputs = run(batch)
        check_outputs(outputs, names, count_of(batch))
        return model.respond(outputs)

    return respond


def read_settings(options: TrafficOptions, model_name: str) -> tuple[TestSettings, tuple[str, ...]]:
    """The settings, and the errors in user.conf that do not stop the run.  Raises ``UserError`` for those that do.

    The rules' values come first, then user.conf, then the command line; later ones override earlier ones.
    """
    settings, reader = TestSettings(), ConfigReader(options.round, models.target_latencies(model_name))
    reader.from_config(settings, options.user_conf, model_name, options.scenario)
    if reader.refused is not None:
        raise reader.refused
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


def unread_lines(options: TrafficOptions, model_name: str) -> list[str]:
    """A warning for each line of the configuration files that sets nothing.  Raises ``UserError``."""
    found: list[str] = []
    try:
        if options.user_conf is not None:
            found += unread(options.user_conf, model_name, "--user-conf")
        if options.audit_conf is not None:
            found += unread(options.audit_conf, "*", "--audit-conf", mode=True)
    except (OSError, ConfigError) as error:
        raise UserError(one_line(error)) from None
    return found


class _Service:
    """How fast the model answers, measured before the run on real samples; this also warms the model up.

    Where the result sizes the traffic, the best times count, so that the traffic lasts for the run.
    """

    def __init__(
        self, run: RunBatch, library: SampleLibrary, max_batch_size: int, instances: int, probe: Probe
    ) -> None:
        self._run, self._library, self._probe = run, with_names(library), probe
        self._max_batch_size, self._instances = max_batch_size, instances
        self._known: dict[int, list[float]] = {}

    def _times(self, batch_size: int) -> list[float]:
        """Seconds that batches of this size took.  Raises ``BackendError`` if the model refuses the data."""
        if batch_size not in self._known:
            self._known[batch_size] = self._measured(batch_size)
        return self._known[batch_size]

    def _measured(self, batch_size: int, seconds: float = 0.2, least: int = 2) -> list[float]:
        indices = np.arange(batch_size) % min(self._library.performance_count, self._library.total_count)
        self._library.load(indices)
        try:
            batch = self._library.batch(indices)
            return service_times(lambda: self._run(batch), seconds, least)  # the first may still be warming up
        except OutputError:
            raise
        except Exception as error:  # whatever a model may raise on the data
            text = " ".join(str(error).split())[:300]
            raise backends.BackendError(f"the model does not run on its data: {text}") from None
        finally:
            self._library.unload(indices)

    def check(self) -> None:
        self._times(1)
        if self._max_batch_size > 1:
            self._measured(2, 0.0, 1)  # an output without a batch may look like a batch of one

    def query_seconds(self, samples: int) -> tuple[float, float]:
        """Seconds for a query of ``samples``, run batch after batch: as a rule, and the least to expect."""
        size = self._affordable(samples)
        seconds = samples / size * min(self._times(size))
        return seconds, CLOSED_LOOP_MARGIN * seconds

    def samples_per_second(self, *, together: bool) -> float:
        if together:
            return self._probe.offline_rate(self._instances / min(self._times(1)))
        return self._instances / statistics.median(self._times(1))

    def _affordable(self, samples: int) -> int:
        """The largest batch for ``samples`` samples that is quick enough to measure."""
        return max(1, min(samples, self._max_batch_size, int(_LONGEST_BATCH_S / min(self._times(1)))))
