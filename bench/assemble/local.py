"""Assembles a run of a model on this machine: from options to a system, a library and settings.

Here backends, models and scenarios meet.  ``remote`` does the same for servers.
"""

from __future__ import annotations

import socket
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Any

from drumfire.bench.assemble import loop
from drumfire.bench.assemble.model import check_judged, chosen
from drumfire.bench.assemble.options import RemoteOptions, RunOptions, TrafficOptions
from drumfire.bench.assemble.probe import CLOSED_LOOP_MARGIN, Probe
from drumfire.bench.assemble.sizing import size_traffic
from drumfire.loadgen.advice import OPTIONS, Knobs
from drumfire.loadgen.config import ConfigError, ConfigReader
from drumfire.loadgen.errors import UserError, one_line
from drumfire.loadgen.limits import usable_cores
from drumfire.loadgen.options import flag
from drumfire.loadgen.pacer import Spin
from drumfire.loadgen.record import Column
from drumfire.loadgen.responses import Responses
from drumfire.loadgen.settings import Loop, Mode, Scenario, TestSettings
from drumfire.loadgen.system import IndexArray, SampleLibrary, SystemUnderTest, processes_of
from drumfire.loadgen.unread import unread
from drumfire.sut import models
from drumfire.sut.cache import cache_folder
from drumfire.sut.data.ragged import Padding
from drumfire.sut.local import backends, devices
from drumfire.sut.local.devices import Placement
from drumfire.sut.local.loaded import Loaded, LoadedElsewhere, Source
from drumfire.sut.local.null import NullSystem
from drumfire.sut.models.benchmarks import configured_as
from drumfire.sut.models.file import FileModel
from drumfire.sut.models.model import Accuracy, Model
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
    listening: socket.socket | None = None
    """Where the runs' figures are served, with ``--expose``."""
    window: MeasuredWindow = field(default_factory=MeasuredWindow)
    """Reports the result's ``server`` section; a local system's never begins."""
    counted: Callable[[], tuple[Mapping[Endpoint, int], Mapping[str, int]]] = lambda: ({}, {})
    """Requests that each server answered with outputs, and counts of connection events."""
    digests: Callable[[], dict[str, str]] = dict
    """Hashes of the model's description and of the data, to compare between processes."""
    close: Callable[[], None] = lambda: None
    """Releases what was loaded."""
    notes: list[str] = field(default_factory=list)
    """Shown to the user before the run."""
    warnings: list[str] = field(default_factory=list)
    """What of the request has no effect; kept with the result."""

    def processes(self, columns: Mapping[str, Column] | None = None) -> list[dict[str, Any]]:
        """What each process that computes took and did, of a run's issued rows; none: this one computes."""
        return processes_of(self.system, columns)


def assemble(options: RunOptions) -> Assembly:
    """Load the backend, model and data that the options name.  Raises ``UserError``."""
    traffic, model = options.traffic, chosen(options)
    settings, errors = read_settings(traffic, model.name, options.system.concurrency)
    if options.backend == "null":
        return _null(options, model, settings, errors)
    source, places, notes = _planned(options, model, settings.scenario)
    loaded = LoadedElsewhere(source, places) if places else Loaded(source)
    try:
        model = loaded.for_file(model)

        @cache
        def read_labels() -> None:
            if places and not isinstance(model, FileModel):  # a model knows what the last library that it made is of
                model.library(traffic.dataset_path, traffic.count, traffic.performance_sample_count)

        def check_judge(asked: str) -> None:
            check_judged(model, asked)
            read_labels()

        def logged(indices: IndexArray, responses: Responses) -> Responses:
            read_labels()
            return model.logged(indices, responses)

        if traffic.accuracy or traffic.submission:
            check_judge("--accuracy" if traffic.accuracy else "--submission")
        system, library, facts = loaded.system, loaded.library, loaded.facts()
        if isinstance(model, FileModel) and model.judge is not None:
            names, shapes = loaded.outputs()
            model.judge.of_outputs(names, shapes=shapes)
            model.judge.check(library.total_count, traffic.count)
        reservations = list(dict.fromkeys([*model.reservations, *facts["reservations"]]))
        notes += [one for one in reservations if one not in notes]  # those of the data are known only now
        instances = source.options.instances * max(len(places), 1)
        probe = Probe(system, library, samples=_PROBED_SAMPLES)
        service = _Service(loaded.times, facts["max_batch_size"], instances, probe)
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
                "threads": source.threads,
                "instances": source.options.instances,
                "max_queue_delay_ms": options.system.batching.max_queue_delay,
                "weights": str(source.weights),
                **facts,
                "reservations": reservations,
                "processes": processes_of(system),
            },
            logged=logged,
            knobs=replace(OPTIONS, threads=_takes_cores(source, len(places))),
            distributions=backends.distributions(options.backend),
            config_errors=errors,
            notes=notes,
            check_judge=check_judge,
            close=loaded.close,
        )
        assembly.description["qps_source"] = size_traffic(
            settings, model.name, traffic, service, assembly.notes, null=False
        )
    except BaseException:
        loaded.close()
        raise
    return assembly


def _null(options: RunOptions, model: Model, settings: TestSettings, errors: tuple[str, ...]) -> Assembly:
    traffic = options.traffic
    check(options, model)
    if traffic.accuracy or traffic.submission:
        check_judged(model, "--accuracy" if traffic.accuracy else "--submission")
    library = model.library(traffic.dataset_path, traffic.count, traffic.performance_sample_count)
    system = NullSystem(settings.mode)
    assembly = Assembly(
        system,
        library,
        settings,
        model.accuracy,
        title=f"null {model.name} cpu",
        description={
            "backend": "null",
            "model": model.name,
            "device": "cpu",
            "description": "answers at once, computes nothing",
            **dict.fromkeys(("threads", "instances", "max_batch_size", "max_queue_delay_ms", "weights")),
            "reservations": list(model.reservations),
        },
        logged=model.logged,
        config_errors=errors,
        notes=list(model.reservations),
        check_judge=partial(check_judged, model),
    )
    assembly.description["qps_source"] = size_traffic(
        settings, model.name, traffic, Probe(system, library), assembly.notes, null=True
    )
    return assembly


def _planned(options: RunOptions, model: Model, scenario: Scenario) -> tuple[Source, list[Placement], list[str]]:
    """What to load, in which processes (none: in this one), and notes.  Raises ``UserError``."""
    traffic, batching, own = options.traffic, options.system.batching, options.system.backend
    padding = options.system.padding
    device, gpus, notes = devices.kind(options.device), devices.numbers(options.device), list(model.reservations)
    processes = _processes(options, scenario, len(gpus))
    threads = own.threads or spare_cores(own.instances * max(processes, 1))
    own = replace(own, max_batch_size=batching.max_batchsize)
    check(options, model)
    source = Source(
        backend=options.backend,
        model=options.model,
        weights=model.weights(cache_folder(), options.system.weights, backends.form(options.backend)),
        device=device,
        threads=threads,
        options=own,
        max_queue_delay_s=batching.max_queue_delay / 1e3,
        dataset_path=traffic.dataset_path,
        count=traffic.count,
        performance_count=traffic.performance_sample_count,
        padding=None if padding.pad is None else Padding.of(padding.pad),
        in_order=padding.no_sort,
        metric=options.system.labelled.metric if options.system.labelled.labels else "",
        inputs=options.system.inputs,
    )
    if gpus and not processes:
        devices.bind(gpus[0])
    if processes > 1 and scenario == Scenario.MultiStream:
        notes.append(f"each query is divided among {processes} processes")
    if not processes:
        placements = []
    elif gpus:
        placements = [devices.only_gpu(gpu) for gpu in gpus]
    else:
        placements = devices.pinned(processes, threads * own.instances)
    return source, placements, notes


def check(options: RunOptions, model: Model) -> None:
    """Report errors that need no weights before making weights, which takes long.  Raises ``UserError``."""
    if options.backend == "null":
        if options.device != "cpu":
            raise UserError(f"null has no DEVICE, as it computes nothing: leave {options.device} out")
        return
    device, own = devices.kind(options.device), options.system.backend
    backends.check(options.backend, device, replace(own, max_batch_size=options.system.batching.max_batchsize))
    if options.system.weights is None:
        backends.check_takes(options.backend, model)
    backends.check_installed(options.backend, device)
    if options.system.weights is not None:
        backends.check_model(options.system.weights)


def _processes(options: RunOptions, scenario: Scenario, gpus: int) -> int:
    """How many processes compute; 0: this one does.  Raises ``UserError``.

    In a closed loop this process is idle while a model computes, so it may as well do that itself.
    """
    wanted: int | None = options.system.processes
    in_turn = scenario.loop is Loop.CLOSED and not options.traffic.is_closed
    if gpus > 1 and in_turn and scenario == Scenario.SingleStream:
        raise UserError(
            f"SingleStream sends one query at a time, which one GPU answers: name one of {options.device}, or choose "
            "another scenario"
        )
    if gpus and wanted not in ((None, 0, 1) if gpus == 1 else (None, gpus)):
        raise UserError(f"each GPU of {options.device} has one process: leave --processes {wanted} out")
    if gpus > 1:
        return gpus
    if in_turn:
        return wanted or 0 if scenario == Scenario.MultiStream else 0
    return wanted if wanted is not None else int(usable_cores() > 1)


def foreseen(options: RunOptions, assembly: Assembly) -> list[str]:
    """What the options will not have done, or do at a price, of any run.  Raises ``UserError``."""
    processes = len(assembly.processes())
    return [*unread_lines(options.traffic, assembly.description["model"]), *crowded(options, processes)]


def unjudged(options: RunOptions, mode: Mode) -> list[str]:
    """A line for each given option of labels, where a run judges no answers.  Audits do in any mode."""
    judging = [] if mode.has_accuracy else [name for name in ("labels", "metric", "quality") if name in options.given]
    return [f"{flag(name)} has no effect without --accuracy or --submission" for name in judging]


def crowded(options: RunOptions, processes: int) -> list[str]:
    """A warning where what never sleeps leaves no core of this machine for anything else.

    ``processes``: in which a model computes; each with a single worker, which waits as the generator does.
    """
    if options.traffic.spin != Spin.FULL or options.traffic.scenario != Scenario.Server.name:
        return []
    fleet = options.system.fleet if isinstance(options.system, RemoteOptions) else None
    busy = 1 if fleet is None or fleet.hosts is not None else fleet.workers or 1
    if processes and options.system.backend.instances == 1:
        busy += processes
    if (cores := usable_cores()) > busy:
        return []
    return [
        f"--spin full takes a core for each generator and for each process of the model, here {busy} in all, and "
        f"{cores} can be used, so that none is left for other work: queries go out late, or the system under test "
        "waits for a core (--spin adaptive shares them)"
    ]


def spare_cores(instances: int = 1) -> int:
    """Cores for each of ``instances`` copies of a model; one core is left for the generator."""
    return max(1, (usable_cores() - 1) // instances)


def _takes_cores(source: Source, processes: int) -> str:
    """The option by which the model takes fewer cores; empty where it takes one."""
    counts = {"--threads": source.threads, "--instances": source.options.instances, "--processes": processes}
    return next((option for option, count in counts.items() if count > 1), "")


def read_settings(
    options: TrafficOptions, model_name: str, concurrency: int | None
) -> tuple[TestSettings, tuple[str, ...]]:
    """The settings, and the errors in user.conf that do not stop the run.  Raises ``UserError`` for those that do.

    The rules' values come first, then user.conf, then the command line; later ones override earlier ones.
    """
    loop.check(options)
    settings, reader = TestSettings(), ConfigReader(options.round, models.target_latencies(model_name))
    reader.from_config(settings, options.user_conf, configured_as(model_name), options.scenario)
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
    if options.is_closed:
        settings.concurrency, settings.think_time_ns = concurrency or 1, round(options.think_time * 1e6)
    return settings, tuple(reader.errors)


def unread_lines(options: TrafficOptions, model_name: str) -> list[str]:
    """A warning for each line of the configuration files that sets nothing.  Raises ``UserError``."""
    found: list[str] = []
    try:
        if options.user_conf is not None:
            found += unread(options.user_conf, configured_as(model_name), "--user-conf")
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
        self,
        measure: Callable[[int, float, int], list[float]],
        max_batch_size: int,
        instances: int,
        probe: Probe,
    ) -> None:
        """``measure``: see ``Loaded.times``."""
        self._measure, self._probe = measure, probe
        self._max_batch_size, self._instances = max_batch_size, instances
        self._known: dict[int, list[float]] = {}

    def _times(self, batch_size: int) -> list[float]:
        """Seconds that batches of this size took.  Raises ``BackendError`` if the model refuses the data."""
        if batch_size not in self._known:
            self._known[batch_size] = self._measure(batch_size, 0.2, 2)
        return self._known[batch_size]

    def check(self) -> None:
        self._times(1)
        if self._max_batch_size > 1:
            self._measure(2, 0.0, 1)  # an output without a batch may look like a batch of one

    def query_seconds(self, samples: int) -> tuple[float, float]:
        """Seconds for a query of ``samples``, run batch after batch: as a rule, and the least to expect."""
        size = self._affordable(samples)
        seconds = samples / size * min(self._times(size))
        return seconds, CLOSED_LOOP_MARGIN * seconds

    def loop_rate(self, concurrency: int, think_ns: int) -> tuple[float, float]:
        return self._probe.loop_rate(concurrency, think_ns)

    def samples_per_second(self, *, together: bool) -> float:
        if together:
            return self._probe.offline_rate(self._instances / min(self._times(1)))
        return self._instances / statistics.median(self._times(1))

    def _affordable(self, samples: int) -> int:
        """The largest batch for ``samples`` samples that is quick enough to measure."""
        return max(1, min(samples, self._max_batch_size, int(_LONGEST_BATCH_S / min(self._times(1)))))
