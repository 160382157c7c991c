"""A model in a precision: a bare loop, the four scenarios in process, and the four served over gRPC.

Runs as a program: see ``child``.  In process, the model has a process of its own, as a Server or Offline run of the
command line has it; served, ``drumfire serve`` and ``drumfire run triton`` are programs.  The bare loop, the model and
the server are loaded side by side, and measured one after the other.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from drumfire.bench.assemble.local import spare_cores
from drumfire.bench.peers.bare_loop import Loops
from drumfire.bench.peers.goal import number
from drumfire.bench.peers.gpu import bare
from drumfire.bench.peers.gpu.cells import Kinds, block, ratio, share, si
from drumfire.bench.peers.gpu.child import Case, Found, carry_out
from drumfire.bench.peers.gpu.meters import NAMES
from drumfire.bench.peers.gpu.parts import BACKEND
from drumfire.bench.peers.gpu.plan import Figure, Missing
from drumfire.bench.peers.hosted import Hosted, weights
from drumfire.bench.peers.process import MeasurementError
from drumfire.bench.peers.program import carry_out as run_program
from drumfire.bench.peers.program import without_errors
from drumfire.bench.peers.server import Running, get
from drumfire.bench.peers.serving import servers
from drumfire.loadgen.directory import document
from drumfire.loadgen.settings import Scenario, TestSettings
from drumfire.sut.local.batching import batching
from drumfire.sut.models.model import MissingExtra

SCENARIOS = ("Offline", "Server", "SingleStream", "MultiStream")
WAYS = ("in process", "served")
SAMPLES_PER_QUERY = 8
"""In MultiStream."""
SERVER_SHARE = 0.6
"""The rate of a Server run as a share of the Offline run's before it."""
_MOST_SIZES = 4
"""Batch sizes that the table shows, those with the most samples."""
_START_S = 4.0
"""What a run takes beside its own time: the client's start, and the last queries."""


def measure(case: Case) -> Iterator[Found]:
    """Figures of kind ``bare`` and ``run``."""
    model, precision = case["model"], case["precision"]
    try:
        weights(model, BACKEND)
    except MissingExtra as error:
        yield Missing(f"{model} in {precision}", str(error))
        return
    with ExitStack() as stack:
        folder = Path(stack.enter_context(TemporaryDirectory()))
        loop, hosted, server = _started(case, stack)
        seconds = case["run_s"]
        device_rate = loop.rate(seconds / 2, "alone")
        about = {"model": model, "precision": precision}
        bare_rate = loop.rate(seconds / 2)
        yield {
            "of": "bare", **about, "batch_size": case["batch_size"], **loop.facts,
            "samples_per_s": bare_rate, "computing_per_s": device_rate, "description": hosted.description,
        }  # fmt: skip
        rates: dict[str, float] = {"Offline": bare_rate}
        for way, run in zip(WAYS, (_in_process(case, hosted), _served(case, server, folder)), strict=True):
            for scenario in SCENARIOS:
                what = {"of": "run", **about, "way": way, "scenario": scenario}
                if case.left_s < seconds + _START_S:
                    yield Missing(f"{model} in {precision}, {way}, {scenario}", "no time was left in its part")
                    continue
                figure = what | run(scenario, rates)
                rates[scenario] = figure["samples_per_s"]
                if scenario == "Offline":
                    # The loop again, as the machine's own speed changes.
                    after = loop.rate(seconds / 2)
                    figure |= {
                        "over_bare": rates["Offline"] / ((bare_rate + after) / 2),
                        "beside_computing": 1 - rates["Offline"] / device_rate,
                    }
                    bare_rate = after
                yield figure
        yield from _metrics(case, server)


def _started(case: Case, stack: ExitStack) -> tuple[Loops, Hosted, Running]:
    """All three, loaded side by side."""
    model, device, precision = case["model"], case["device"], case["precision"]
    sizes, threads = {name: case[name] for name in ("batch_size", "in_memory")}, spare_cores()
    file = weights(model, BACKEND)
    loop = partial(bare.Loop, model, file, device, precision, threads=threads, **sizes)
    serving = servers.drumfire(
        BACKEND, model, device, "--precision", precision,
        "--max-batchsize", str(case["batch_size"]), "--threads", str(threads),
    )  # fmt: skip
    with ThreadPoolExecutor(3) as starting:
        loops = starting.submit(Loops, loop)
        hosted = starting.submit(Hosted, BACKEND, model, device, threads=threads, precision=precision, **sizes)
        server = starting.submit(serving.__enter__)
    # Whatever has started is closed, also where another has not.
    if server.exception() is None:
        stack.push(serving.__exit__)
    for started in (hosted, loops):
        if started.exception() is None:
            stack.callback(started.result().close)
    return loops.result(), hosted.result(), server.result()


_Run = Callable[[str, Mapping[str, float]], Figure]
"""Runs a scenario and returns its figures.  Takes the rates so far, samples a second, by scenario: those of the bare
loop or of the model in process where this way has none yet."""


def _in_process(case: Case, hosted: Hosted) -> _Run:
    def run(scenario: str, rates: Mapping[str, float]) -> Figure:
        settings = TestSettings(scenario=Scenario[scenario], min_duration_ms=round(case["run_s"] * 1000))
        settings.min_query_count = 1
        settings.multi_stream_samples_per_query = SAMPLES_PER_QUERY
        settings.offline_expected_qps = rates["Offline"]
        settings.server_target_qps = SERVER_SHARE * rates["Offline"]
        test = hosted.run(settings)
        return _figures(document(test, {}, [])) | {"batch_sizes": batching(test.columns)["batch_sizes"]}

    return run


def _served(case: Case, server: Running, folder: Path) -> _Run:
    model, conf = case["model"], folder / "user.conf"
    # The rules' least number of queries may take minutes.
    conf.write_text("".join(f"*.{scenario}.min_query_count = 1\n" for scenario in SCENARIOS), encoding="utf-8")

    def run(scenario: str, rates: Mapping[str, float]) -> Figure:
        share = {"Offline": 1.0, "Server": SERVER_SHARE}.get(scenario)
        before = _batches(server, model)
        done = run_program(
            [
                *("run", "triton", model, "--url", server.url("grpc"), "--scenario", scenario),
                *("--time", f"{case['run_s']:g}", "--user-conf", str(conf)),
                *(() if share is None else ("--qps", f"{share * rates['Offline']:.9g}")),
                *("--input-data", model, "--performance-sample-count", str(case["in_memory"])),
            ]
        )
        sizes = _batches(server, model) - before
        return _figures(done.result) | {"batch_sizes": {str(size): count for size, count in sorted(sizes.items())}}

    return run


def _figures(result: Mapping[str, Any]) -> Figure:
    """Of a run's result.  Raises ``MeasurementError`` where a sample failed."""
    delivered, latency = without_errors(result)["delivered"], result["latency_ns"]
    return {
        "samples_per_s": delivered["samples_per_second"],
        "samples": delivered["samples"],
        "p50_ns": latency["p50"],
        "p99_ns": latency["p99"],
    }


def _batches(server: Running, model: str) -> Counter[int]:
    """The batches that the server has computed, by size.  Raises ``MeasurementError``."""
    status, text = get(server.http, f"/v2/models/{model}/stats")
    if status != 200:
        raise MeasurementError(f"the server's statistics cannot be read: HTTP {status}")
    (stats,) = json.loads(text)["model_stats"]
    return Counter({one["batch_size"]: one["compute_infer"]["count"] for one in stats["batch_stats"]})


def _metrics(case: Case, server: Running) -> Iterator[Found]:
    """Whether the server's metrics have the GPU's figures."""
    if case["device"] != "gpu":
        return
    lines = get(server.metrics, "/metrics")[1].splitlines()
    absent = [name for name in NAMES if not any(line.startswith(f"{name}{{") for line in lines)]
    if absent:
        yield Missing("the GPU's figures in the server's metrics", f"{', '.join(absent)} are not there")
    else:
        yield {"of": "metrics", "names": list(NAMES)}


def tables(of: Kinds) -> Sequence[str]:
    """What ``measure`` found, in Markdown."""
    has_metrics = "* the server's metrics have the GPU's use, power and memory" if of["metrics"] else ""
    return [_runs(of["run"]), _bare(of["bare"]), has_metrics]


def _runs(runs: Sequence[Figure]) -> str:
    head = ("model", "precision", "way", "scenario", "samples/s", "over the bare loop", "of the ceiling", "p99, ms",
            "beside computing", "batches: size x number")  # fmt: skip
    rows = [
        (
            one["model"], one["precision"], one["way"], one["scenario"], number(one["samples_per_s"]),
            ratio(one.get("over_bare")), share(one.get("of_ceiling")), number(one["p99_ns"] * 1e-6),
            share(one.get("beside_computing")), _sizes(one["batch_sizes"]),
        )
        for one in runs
    ]  # fmt: skip
    return block(head, rows)


def _bare(loops: Sequence[Figure]) -> str:
    head = ("bare loop", "precision", "batches of", "samples/s", "computing alone", "FLOP a sample", "backend")
    rows = [
        (
            one["model"], one["precision"], str(one["batch_size"]), number(one["samples_per_s"]),
            number(one["computing_per_s"]), si(one["flops_per_sample"], ""), one["description"],
        )
        for one in loops
    ]  # fmt: skip
    return block(head, rows)


def _sizes(sizes: Mapping[str, int]) -> str:
    most = sorted(sizes, key=lambda size: -int(size) * sizes[size])
    shown = ", ".join(f"{size} x {sizes[size]:,}" for size in sorted(most[:_MOST_SIZES], key=int))
    others = sum(sizes[size] for size in most[_MOST_SIZES:])
    return shown + (f", {others:,} of other sizes" if others else "")


if __name__ == "__main__":
    sys.exit(carry_out(measure))
