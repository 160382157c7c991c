"""The options of a run: its traffic, its system, and what becomes of its result.

Those of a kind of system stand with the kind; here they are put together.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from drumfire.bench.fleet.options import FleetOptions
from drumfire.bench.gates import ExpectOptions
from drumfire.bench.view import port
from drumfire.loadgen import loggers, schedules
from drumfire.loadgen.options import choice, option
from drumfire.loadgen.pacer import Spin
from drumfire.loadgen.rounds import DEFAULT_ROUND, ROUNDS
from drumfire.loadgen.run import DEFAULT_PATIENCE_S
from drumfire.loadgen.settings import Loop, Scenario
from drumfire.loadgen.warm_up import WarmUp
from drumfire.sut import models, remote
from drumfire.sut.data.options import InputOptions
from drumfire.sut.data.ragged import Padding
from drumfire.sut.local import backends, devices
from drumfire.sut.local.backends import MAX_BATCH_SIZE
from drumfire.sut.local.rows import MAX_BATCH_SIZE as LARGEST_BATCH_SIZE
from drumfire.sut.models.metrics import LabelOptions

_SINGLE, _MULTI, _SERVER, _OFFLINE = Scenario.__members__


def _unbound(values: Mapping[str, Any]) -> str:
    if values["accuracy"]:
        return "with --accuracy"
    searched = values["scenario"] == _SERVER or values["find_peak_performance"]
    return "" if searched else "in MultiStream without --find-peak-performance"


def _is_closed(values: Mapping[str, Any]) -> bool:
    return bool(values.get("loop") == Loop.CLOSED.value)


def _not_closed(values: Mapping[str, Any]) -> str:
    return "" if _is_closed(values) else "with --loop open"


def _alone(values: Mapping[str, Any]) -> str:
    return "in SingleStream" if values["scenario"] == _SINGLE and not _is_closed(values) else ""


def _undelayed(values: Mapping[str, Any]) -> str:
    if values["scenario"] in (_SINGLE, _MULTI) and not _is_closed(values):
        return f"in {values['scenario']}"
    return "with --max-batchsize 1" if values["max_batchsize"] == 1 else ""


@dataclass(frozen=True)
class TrafficOptions:
    """What is sent, and for how long."""

    TITLE: ClassVar = "traffic"

    scenario: str = option(
        _SINGLE, choices=tuple(Scenario.__members__), help="SingleStream (default), MultiStream, Server or Offline"
    )
    accuracy: bool = option(False, help="send every sample once and judge the answers instead")
    submission: bool = option(False, help="the accuracy run and then the performance run, in one set of logs")
    find_peak_performance: bool = option(
        False,
        help="search for the highest load that is VALID: queries a second in Server, samples a query in MultiStream "
        "(with --max-latency); to resume a search that was interrupted, give its --output again",
    )
    until_confident: float | None = option(
        None,
        metavar="S",
        least=1e-3,
        alone=0.0,
        help="Server: continue beyond --time until early stopping is decided, S seconds at most (default: 4 x --time)",
    )
    loop: str | None = option(
        None,
        choices=tuple(one.value for one in Loop),
        help="closed: SingleStream's queries with --concurrency of them under way, where the answer to any makes the "
        "next due; not an MLPerf scenario.  open: a schedule, as in Server and Offline (default: the scenario's own)",
    )
    think_time: float = option(
        0.0,
        metavar="MS",
        least=0,
        most=1e9,
        needs=("loop",),
        idle=_not_closed,
        help="--loop closed: from an answer until the next query is due, ms (default: 0)",
    )
    qps: float | None = option(
        None,
        least=1e-6,
        scenarios=(_SERVER, _OFFLINE),
        idle=lambda values: "in Offline with --accuracy" * (values["accuracy"] and values["scenario"] == _OFFLINE),
        help="Server: queries a second to send; Offline: expected samples a second, which sizes the one query "
        "(default: from a short measurement before the run)",
    )
    schedule: str = option(
        schedules.DEFAULT.name,
        choices=lambda: tuple(schedules.SCHEDULES),
        scenarios=(_SERVER,),
        help="Server: the arrival process (default: poisson, which is MLPerf's)",
    )
    spin: str = option(
        Spin.ADAPTIVE.value,
        choices=tuple(one.value for one in Spin),
        scenarios=(_SERVER,),
        help="Server: how the wait for the next query ends: off sleeps (least CPU, some 50 us late), adaptive sleeps "
        "and spins at the end (default), full never sleeps (takes a core, least late)",
    )
    warmup: str = option(
        "0",
        metavar="N|Ss",
        check=WarmUp.of,
        help="unmeasured queries before the run, through the same system: their number, such as 200 (in Offline: "
        "samples), or their time in seconds, such as 5s (default: 0)",
    )
    time: float | None = option(
        None,
        metavar="S",
        least=1e-3,
        idle=lambda values: "with --accuracy" if values["accuracy"] else "",
        help="least duration of the run in seconds (default: 600, as the MLPerf rules ask)",
    )
    count: int | None = option(
        None,
        help="issue exactly N queries (Offline: one query, as ever, of N samples or more), and use only the first N "
        "samples of the data set",
    )
    max_latency: float | None = option(
        None,
        metavar="S",
        least=1e-9,
        scenarios=(_SERVER, _MULTI),
        idle=_unbound,
        help="Server: latency bound of a query in seconds (default: the rules' for the model, 0.01 where they have "
        "none); MultiStream: that of --find-peak-performance",
    )
    samples_per_query: int | None = option(
        None, scenarios=(_MULTI,), help="MultiStream: samples in a query (default: 8)"
    )
    performance_sample_count: int | None = option(None, help="samples that a performance run keeps in memory and sends")
    dataset_path: Path | None = option(None, metavar="D", help="folder of the model's data set")
    user_conf: Path | None = option(None, help="a user.conf file, as the reference reads it")
    audit_conf: Path | None = option(None, help="an audit.config file, which overrides all other settings")
    round: str = option(
        DEFAULT_ROUND, choices=tuple(ROUNDS), help=f"MLPerf round whose seeds draw the traffic: {', '.join(ROUNDS)}"
    )

    @property
    def is_closed(self) -> bool:
        """Whether several queries are kept under way, as ``EffectiveSettings.is_closed``."""
        return _is_closed(vars(self))


@dataclass(frozen=True)
class ConcurrencyOptions:
    """How many queries are under way; of remote servers, the target has this option."""

    TITLE: ClassVar = TrafficOptions.TITLE

    concurrency: int | None = option(
        None, most=1e6, needs=("loop",), idle=_not_closed, help="--loop closed: queries under way (default: 1)"
    )


@dataclass(frozen=True)
class ResultOptions:
    """How a run is watched and shown, and where its result goes."""

    TITLE: ClassVar = "result"

    output: Path | None = option(None, metavar="D", help="folder of the run (default: a new one in ./runs)")
    json: bool = option(False, help="print only the result, as one JSON object")
    report: bool = option(False, help="write report.html too, a page of the run over time (see drumfire report)")
    trace: bool = option(False, help="write mlperf_log_trace.json too, for Perfetto or Chrome")
    no_dashboard: bool = option(False, help="show no live view")
    expose: str | None = option(
        None,
        metavar="PORT",
        check=port.address,
        help="serve the run's figures for Prometheus while it goes, at http://127.0.0.1:PORT/metrics; an address "
        "before the port, as in 0.0.0.0:9400, opens it to others (0: any free port)",
    )
    log_level: str | None = option(
        None,
        metavar="LEVEL",
        choices=loggers.LEVELS,
        help="show on stderr what happens beside the measuring, such as reconnects: debug, info, warning or error",
    )
    patience: float = option(DEFAULT_PATIENCE_S, metavar="S", help="end the run after S seconds without a good answer")


@dataclass(frozen=True)
class BatchingOptions:
    """How samples become batches."""

    TITLE: ClassVar = "batching"

    max_batchsize: int = option(
        MAX_BATCH_SIZE,
        most=LARGEST_BATCH_SIZE,
        idle=_alone,
        help="largest batch",
    )
    max_queue_delay: float = option(
        0.0,
        metavar="MS",
        least=0,
        most=1e6,
        idle=_undelayed,
        help="how long a sample may wait for a fuller batch, ms (default: 0: a free worker takes what is waiting)",
    )


@dataclass(frozen=True)
class PaddingOptions:
    """How samples of different sizes become batches."""

    TITLE: ClassVar = "samples of different sizes"

    pad: str | None = option(
        None,
        metavar="longest|N|buckets:N,N",
        check=Padding.of,
        help="pad the samples of a batch to the longest of them, to the size N, or to the next of "
        "several sizes (default: longest for a named model that says with what; else, as for a model's file, only "
        "samples of equal size share a batch)",
    )
    no_sort: bool = option(
        False,
        idle=_alone,
        help="batch padded samples in their order; else those that wait are sorted by size, so that less is padded "
        "(samples that are not padded are grouped by size in any case)",
    )


@dataclass(frozen=True)
class LocalOptions:
    """The options of a model on this machine."""

    TITLE: ClassVar = "model on this machine"

    weights: Path | None = option(None, help="a local file of weights instead of the model's own")
    processes: int | None = option(
        None,
        least=0,
        most=64,
        idle=_alone,
        help="processes that the model runs in, each with --instances; 0: threads of this one (default: 1 in Server "
        "and Offline if there is a core for it, else 0); several divide each query of MultiStream",
    )
    under_way: ConcurrencyOptions = field(default_factory=ConcurrencyOptions)
    backend: Any = choice("backend", backends.kinds)
    labelled: LabelOptions = field(default_factory=LabelOptions)
    inputs: InputOptions = field(default_factory=InputOptions)
    batching: BatchingOptions = field(default_factory=BatchingOptions)
    padding: PaddingOptions = field(default_factory=PaddingOptions)

    @property
    def concurrency(self) -> int | None:
        return self.under_way.concurrency


@dataclass(frozen=True)
class RemoteOptions:
    """The options of a model on servers."""

    target: Any = choice("backend", remote.kinds)
    fleet: FleetOptions = field(default_factory=FleetOptions)

    @property
    def concurrency(self) -> int | None:
        found: int | None = self.target.concurrency
        return found


def systems() -> Mapping[str, type]:
    """The options of each kind of system, by its word on the command line."""
    of_backends = dict.fromkeys(backends.BACKENDS, LocalOptions)
    return {**of_backends, "null": ConcurrencyOptions, **dict.fromkeys(remote.TARGETS, RemoteOptions)}


@dataclass(frozen=True)
class RunOptions:
    """All options of a run."""

    backend: str = option(
        metavar="BACKEND",
        position=True,
        choices=lambda: tuple(systems()),
        help=f"what computes: {', '.join((*backends.BACKENDS, *remote.TARGETS, 'null'))}",
    )
    model: str = option(
        metavar="MODEL",
        position=True,
        known=lambda: tuple(models.MODELS),
        help=f"what is computed: {', '.join(models.MODELS)}, a model's file, or a name on the server",
    )
    device: str = option(
        "cpu",
        metavar="DEVICE",
        position=True,
        choices=backends.DEVICES,
        aliases=backends.DEVICE_ALIASES,
        detail=devices.NUMBERS,
        forms=devices.FORMS,
        help="cpu (default) or gpu, which may be called cuda: gpu:1 is one of them, gpu:0,1 and gpu:all several, each "
        "with a process of its own; servers and null have none",
    )
    traffic: TrafficOptions = field(default_factory=TrafficOptions)
    system: Any = choice("backend", systems)
    result: ResultOptions = field(default_factory=ResultOptions)
    expectations: ExpectOptions = field(default_factory=ExpectOptions)
    given: frozenset[str] = frozenset()
    """The names of the options that were given."""
    words: tuple[str, ...] = ()
    """The command line, which a result names."""
