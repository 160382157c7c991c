"""Assembles a run against remote servers: from options to a system, a library and settings.

``local`` does the same for models on this machine.  All that depends on the servers' protocol is the target's
(``drumfire.sut.remote.target``).  All queries to the servers here come before the run.
"""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import Any, NoReturn

from drumfire.bench.assemble.local import Assembly, read_settings
from drumfire.bench.assemble.options import RunOptions
from drumfire.bench.assemble.probe import Probe
from drumfire.bench.assemble.sizing import size_traffic
from drumfire.loadgen.advice import OPTIONS
from drumfire.loadgen.errors import UserError
from drumfire.loadgen.responses import Responses
from drumfire.loadgen.settings import Mode, Scenario, TestSettings
from drumfire.loadgen.system import IndexArray
from drumfire.sut import remote
from drumfire.sut.models.metrics import Metric
from drumfire.sut.remote.target import Amounts, Target
from drumfire.sut.remote.watch import MeasuredWindow, WatchedSystem


def assemble(options: RunOptions, drawn: TestSettings | None = None) -> Assembly:
    """Connect what the options name.  Raises ``UserError``.

    ``drawn`` are the settings of a run of which this process sends a part: then nothing is measured to size the
    traffic, and the process in charge of the whole run reads the servers' statistics.
    """
    traffic = options.traffic
    check(options)
    kind = remote.TARGETS[options.backend]
    if kind.never_judges and (traffic.accuracy or traffic.submission):
        raise _unjudged(kind, "--accuracy" if traffic.accuracy else "--submission")
    amounts = Amounts(traffic.dataset_path, traffic.count, traffic.performance_sample_count)
    target: Target[Any] = kind(options.backend, options.model, options.system.target, amounts)
    name = options.model if target.named is None else target.named.name
    settings, errors = read_settings(traffic, name, options.system.concurrency)
    settings = drawn or settings
    if drawn is None and isinstance(target.judge, Metric):
        target.judge.prepare()
    if settings.mode.has_accuracy:
        _check_judge(target, "--accuracy" if traffic.accuracy else "--submission")
    computes = target.describe()
    library = target.library(settings)
    if drawn is None and isinstance(target.judge, Metric):
        target.judge.check(library.total_count, traffic.count)
    system = target.system(settings, library)
    window = MeasuredWindow(target.watch() if drawn is None else None, target.batch_size)
    assembly = Assembly(
        WatchedSystem(system, window, target.elements(library)),
        library,
        settings,
        title=f"{target.name} {', '.join(target.urls)}",
        description={
            "backend": options.backend,
            "model": options.model,
            "device": None,
            "description": computes,
            "threads": None,
            "instances": None,
            "max_batch_size": target.batch_size,
            "max_queue_delay_ms": None,
            "weights": None,
            "reservations": [] if target.named is None else list(target.named.reservations),
            "remote": {
                "urls": list(target.urls),
                "connections": target.connections(settings) * len(target.endpoints),
                "concurrency": target.concurrency(settings),
                "client": "drumfire",
                "input_data": library.inputs.description,
                "shared_memory": "none",
                "dynamic_batching": None,
                "response_cache": False,
                **target.facts(),
            },
        },
        accuracy=_no_accuracy,
        check_judge=partial(_check_judge, target),
        knobs=replace(OPTIONS, workers="--workers", sending=target.bound(settings)),
        distributions=target.distributions,
        config_errors=errors,
        meters=target.meters(),
        window=window,
        counted=lambda: (window.served, system.happened),
        digests=target.digests,
        notes=target.notes,
    )
    if target.judge is not None:
        assembly.accuracy, assembly.logged = target.judge.accuracy, target.judge.logged
    service = Probe(
        system,
        library,
        f"{', '.join(target.urls)} ({computes})",
        patience_s=target.patience_s,
        remote=True,
        most=_sent(settings, traffic.count, library.total_count),
        advice=target.advice,
        place=library.inputs.place,
    )
    if drawn is not None:
        service.check()
    else:
        assembly.description["qps_source"] = size_traffic(settings, name, traffic, service, assembly.notes, null=False)
    return assembly


def check(options: RunOptions) -> None:
    """Report what no server has to be asked for.  Raises ``UserError``."""
    if "device" in options.given:
        raise UserError(f"{options.backend} has no DEVICE, as the server chooses it: leave {options.device} out")


def _sent(settings: TestSettings, count: int | None, total_count: int) -> int | None:
    """Samples that a run sends where this is known before anything is measured, else None."""
    if settings.mode == Mode.AccuracyOnly:
        return total_count
    if count is None or settings.mode.has_accuracy or settings.scenario == Scenario.Offline:
        return None  # Offline's count is the least, and its time may ask for more
    return count * (settings.multi_stream_samples_per_query if settings.scenario == Scenario.MultiStream else 1)


def _check_judge(target: Target[Any], asked: str) -> None:
    if target.judge is None:
        raise _unjudged(target, asked)


def _unjudged(target: Target[Any] | type[Target[Any]], asked: str) -> UserError:
    return UserError(f"{asked} needs labels: {target.unjudged}")


def _no_accuracy(indices: IndexArray, responses: Responses) -> NoReturn:
    raise ValueError("this data has no labels to judge by")
