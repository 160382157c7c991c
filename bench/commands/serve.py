"""``drumfire serve``: serves models of this process by the KServe v2 protocol, until Ctrl-C or SIGTERM.

Handles options, signals and the screen; ``drumfire.sut.serving`` does the serving.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import json
import os
import signal
import sys
import time
import warnings
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

from rich.console import Console

from drumfire.bench import interrupts, statuses
from drumfire.bench.assemble.local import spare_cores
from drumfire.bench.assemble.options import BatchingOptions
from drumfire.bench.options.parser import Command
from drumfire.bench.report import figures
from drumfire.bench.view.serving import Look, Watch, plain_line
from drumfire.loadgen import loggers
from drumfire.loadgen.errors import UserError
from drumfire.loadgen.interpreter import run_on_fast_loop
from drumfire.loadgen.options import choice, option
from drumfire.loadgen.wording import counted, each_is
from drumfire.sut import models, module_process
from drumfire.sut.cache import cache_folder
from drumfire.sut.data.options import InputOptions
from drumfire.sut.data.ragged import Padding
from drumfire.sut.local import backends
from drumfire.sut.local.null import NullOptions
from drumfire.sut.models.model import Form, Model
from drumfire.sut.serving import model as serving
from drumfire.sut.serving.connection import Bounds
from drumfire.sut.serving.model import IDENTITY, Batching, ServedModel, Source
from drumfire.sut.serving.server import Addresses, Server, Settings
from drumfire.sut.serving.sizes import SizeOptions

_LOOK_S = 0.5
"""Between two updates of the status view."""
_LINE_S = 30.0
_END_PATIENCE_S = 2.0
_SUFFIXES = tuple(form.value for form in Form)


@dataclass(frozen=True)
class PortOptions:
    """Where the server listens, and who may use it."""

    TITLE: ClassVar = "ports (0: any free port)"

    host: str = option("127.0.0.1", metavar="H", help="address to listen on")
    http_port: int = option(8000, least=0, most=65535, help="KServe v2 over HTTP")
    grpc_port: int = option(8001, least=0, most=65535, help="KServe v2 over gRPC")
    metrics_port: int = option(8002, least=0, most=65535, help="Prometheus metrics")
    max_json_size: int = option(
        1, metavar="MB", most=64, help="largest JSON of a request, MiB; while one is read, all others wait"
    )
    tls_cert: Path | None = option(None, help="serve over TLS, on all ports, with this certificate")
    tls_key: Path | None = option(None, help="the key of --tls-cert")
    token_file: Path | None = option(
        None,
        help="bearer tokens, one on each line: every request but health needs one, metrics too; read again when it "
        "changes, or on SIGHUP",
    )


@dataclass(frozen=True)
class QueueOptions(BatchingOptions):
    """How requests become batches."""

    TITLE: ClassVar = "batching"

    preferred_batchsize: tuple[int, ...] = option(
        (), metavar="N,N", separator=",", help="batches of these sizes do not wait"
    )
    max_queue: int = option(8192, help="most requests that may wait for a model; more are refused")


@dataclass(frozen=True)
class Options:
    """The options of ``drumfire serve``."""

    backend: str = option(
        metavar="BACKEND",
        position=True,
        choices=(*backends.BACKENDS, "null"),
        help=f"what computes: {', '.join((*backends.BACKENDS, 'null'))}",
    )
    models: tuple[str, ...] = option(
        metavar="MODEL",
        position=True,
        help=f"{', '.join(models.MODELS)}, identity (built in, needs no backend: null identity), a file, or NAME=FILE; "
        "repeat a name for its next version; as the last word, the device: cpu (default) or gpu",
    )
    ports: PortOptions = field(default_factory=PortOptions)
    batching: QueueOptions = field(default_factory=QueueOptions)
    system: Any = choice("backend", lambda: {**backends.kinds(), "null": NullOptions})
    inputs: SizeOptions = field(default_factory=SizeOptions)
    drain_timeout: float = option(
        30.0, metavar="S", least=0, help="how long to wait at the end for requests under way, s"
    )
    json: bool = option(False, help="print one JSON object when it is ready")
    no_dashboard: bool = option(False, help="show no status view")
    log_level: str | None = option(
        None,
        metavar="LEVEL",
        choices=loggers.LEVELS,
        help="show on stderr connections that are turned away, broken protocols and what is loaded: debug, info, "
        "warning or error",
    )


def serve(options: Options) -> int:
    """Serve until a signal, and return the exit status.  Raises ``UserError``.

    The status is DONE if all accepted requests were answered, FAILED if not, INTERRUPTED after a second signal.
    """
    loggers.show(options.log_level)
    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    # The contents of requests are read-only arrays, and torch warns about each.
    warnings.filterwarnings("ignore", message=".*not writable.*")
    settings = Settings(
        host=options.ports.host,
        http_port=options.ports.http_port,
        grpc_port=options.ports.grpc_port,
        metrics_port=options.ports.metrics_port,
        tls_cert=options.ports.tls_cert,
        tls_key=options.ports.tls_key,
        token_file=options.ports.token_file,
        most_waiting=options.batching.max_queue,
        drain_s=options.drain_timeout,
        bounds=Bounds(most_json_bytes=options.ports.max_json_size << 20),
    )
    wanted, device = _wanted(options)
    reporter = _Reporter(console)
    Server([], settings, reporter.say)  # checks the settings before any model is loaded
    server = Server(load(options, wanted, device, console), settings, reporter.say)
    status = run_on_fast_loop(_run(server, options, reporter))
    sys.stdout.flush()
    sys.stderr.flush()
    if not server.stopped:
        # A thread is still computing: Python's shutdown would free the memory that it uses.
        os._exit(status)
    return status


COMMAND = Command(
    Options,
    serve,
    "Serve models of this process by the KServe v2 protocol over HTTP and gRPC, with dynamic batching over all "
    "connections, until Ctrl-C, SIGTERM or the end of its terminal: then requests under way are answered first. The "
    "exit status is 0 if all were, 1 if not within --drain-timeout, and 130 after a second signal.",
    "drumfire serve onnxruntime digits",
)


# Models.


def _wanted(options: Options) -> tuple[list[tuple[str, str]], str]:
    """Name and file of each model, and the device; a named model's file is empty.  Raises ``UserError``."""
    names, device = list(options.models), "cpu"
    last = names[-1].casefold()
    last = backends.DEVICE_ALIASES.get(last, last)
    if len(names) > 1 and last in backends.DEVICES:
        device = last
        names.pop()
    wanted = []
    for word in names:
        name, separator, file = word.partition("=")
        if separator and not (name and file):
            raise UserError(f"{word!r}: give NAME=FILE")
        if not separator and name not in (*models.MODELS, IDENTITY):
            if not name.endswith(_SUFFIXES) and os.sep not in name:
                raise UserError(
                    f"unknown model {name!r}: give one of {', '.join((*models.MODELS, IDENTITY))}, a file, or NAME=FILE"
                )
            name, file = Path(name).stem, name
        if file:
            backends.check_model(Path(file))
        if options.backend == "null" and (name != IDENTITY or file):
            raise UserError(f"the backend null serves only {IDENTITY}, not {word}: name a backend that computes it")
        wanted.append((name, file))
    return wanted, device


def load(options: Options, wanted: Sequence[tuple[str, str]], device: str, console: Console) -> list[ServedModel]:
    """The models; a repeated name gets versions 1, 2, ….  Raises ``UserError``."""
    max_size = options.batching.max_batchsize
    preferred = tuple(sorted(options.batching.preferred_batchsize))
    if preferred and preferred[-1] > max_size:
        raise UserError(f"--preferred-batchsize {preferred[-1]} is above --max-batchsize {max_size}")
    padding = None if options.inputs.pad is None else Padding.of(options.inputs.pad)
    batching = Batching(max_size, round(options.batching.max_queue_delay * 1e6), preferred, padding)
    own, threads = options.system, 1
    if options.backend != "null":
        own = replace(own, max_batch_size=max_size)
        threads = own.threads or spare_cores(own.instances)
        backends.check(options.backend, device, own)
        for name, file in wanted:
            if name in models.MODELS and not file:
                backends.check_takes(options.backend, models.get(name))
        backends.check_installed(options.backend, device)
    sizes = InputOptions(dim=options.inputs.dim, shape=options.inputs.shape)
    if sizes.said and (len(wanted) > 1 or wanted[0][0] in (*models.MODELS, IDENTITY)):
        raise UserError(
            f"{' and '.join(f'--{name}' for name in sizes.said)}: these are sizes of one model's file: serve it alone, "
            "under a name of its own"
        )
    served: list[ServedModel] = []
    versions: Counter[str] = Counter()
    for name, file in wanted:
        versions[name] += 1
        version = str(versions[name])
        if name == IDENTITY and not file:
            served.append(serving.identity(name, version, batching))
            continue
        if not options.json:
            console.print(f"loading {name}{f' from {file}' if file else ''}")
        model: Model | None = models.get(name) if name in models.MODELS else None
        weights = Path(file)
        if model is not None:
            weights = model.weights(cache_folder(), weights if file else None, backends.form(options.backend))
        source = Source(name, version, weights, model, sizes)
        served.append(serving.load(source, options.backend, device, threads=threads, options=own, batching=batching))
    return served


# Serving.


async def _run(server: Server, options: Options, reporter: _Reporter) -> int:
    loop = asyncio.get_running_loop()
    stop, hurry = asyncio.Event(), asyncio.Event()
    had_terminal, ignored = interrupts.has_terminal(), signal.getsignal(signal.SIGHUP) is signal.SIG_IGN

    def end() -> None:
        (hurry if stop.is_set() else stop).set()

    def hang_up() -> None:
        """Read the tokens again; without any, or with the terminal gone, end as on SIGTERM, unless under nohup."""
        gone = had_terminal and not interrupts.has_terminal()
        if options.ports.token_file is not None and not gone:
            server.reload_tokens()
        elif not ignored:
            end()

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, end)
    loop.add_signal_handler(signal.SIGHUP, hang_up)
    addresses = await server.start()
    gc.collect()
    gc.freeze()  # loaded models stay, so later collections can skip them
    _announce(server, addresses, options)
    plain = options.no_dashboard or options.json or not sys.stdout.isatty()
    watching = loop.create_task(reporter.lines(server) if plain else reporter.screen(server))
    await stop.wait()
    watching.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await watching
    left = server.service.open_requests
    reporter.say(
        f"draining: {counted(left, 'request')} {each_is(left)} under way, at most {options.drain_timeout:g} s "
        "(signal again to end at once)"
    )
    draining, hurrying = loop.create_task(server.drain()), loop.create_task(hurry.wait())
    await asyncio.wait({draining, hurrying}, return_when=asyncio.FIRST_COMPLETED)
    if not draining.done():
        draining.cancel()
        await server.close()
        reporter.say("ended at once")
        return statuses.INTERRUPTED
    hurrying.cancel()
    answered = await draining
    view = Watch().see(look(server, ""))
    for model in view.models:
        padded = "" if model.padding is None else f"; {figures.share(model.padding)} of what was computed is padding"
        reporter.say(f"{model.name}: {counted(model.answered, 'request')} answered, {model.failed:,} failed{padded}")
    if not answered:
        reporter.say(f"not all were answered within {options.drain_timeout:g} s: see --drain-timeout")
    return statuses.DONE if answered else statuses.FAILED


def _announce(server: Server, addresses: Addresses, options: Options) -> None:
    secure = "s" if options.ports.tls_cert else ""
    ready = {
        "http": f"http{secure}://{addresses.http}",
        "grpc": f"grpc{secure}://{addresses.grpc}",
        "metrics": f"http://{addresses.metrics}/metrics",
    }
    if options.json:
        names = sorted({scheduler.model.name for scheduler in server.service.schedulers})
        print(json.dumps({**ready, "pid": os.getpid(), "models": names}), flush=True)
        return
    for scheduler in server.service.schedulers:
        model = scheduler.model
        takes = ", ".join(f"{spec}{' (optional)' if spec.optional else ''}" for spec in model.interface.inputs)
        gives = ", ".join(map(str, model.interface.outputs))
        print(f"{model.name} version {model.version}: {takes} -> {gives}, batches of {model.rule.max_size}")
        print(f"    {model.description}")
    print(f"ready (Ctrl-C ends it): {ready['http']} {ready['grpc']} {ready['metrics']}", flush=True)


def look(server: Server, note: str) -> Look:
    """The server's counters now, for the status view."""
    return {
        "at_ns": time.monotonic_ns(),
        "connections": len(server.connections.open),
        "note": note,
        "gpus": dict(server.gpus.figures),
        "models": [
            {
                "statistics": scheduler.statistics.model_stats(scheduler.model.name, scheduler.model.version),
                "waiting": scheduler.pending,
                "under_way": scheduler.under_way,
                "padding": scheduler.statistics.padding,
            }
            for scheduler in server.service.schedulers
        ],
    }


class _Reporter:
    """Messages to the user: lines on stderr, and a status view on a terminal."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._note = ""
        self._has_screen = False

    def say(self, text: str) -> None:
        self._note = text
        if not self._has_screen:
            self._console.print(f"drumfire: {text}")

    async def lines(self, server: Server) -> None:
        """Print a line every ``_LINE_S`` if requests were answered since the last."""
        watch, last = Watch(), -1
        while True:
            watch.see(look(server, ""))
            await asyncio.sleep(_LINE_S)
            view = watch.see(look(server, ""))
            done = sum(model.answered + model.failed for model in view.models)
            if done != last and done:
                self._console.print(plain_line(view))
            last = done

    async def screen(self, server: Server) -> None:
        """Show the status view, which another process draws, so that a failure there cannot harm the server."""
        try:
            process = module_process.start("drumfire.bench.view.serving")
        except OSError as error:
            self.say(f"no status view: {error}")
            return
        assert process.stdin is not None
        os.set_blocking(process.stdin.fileno(), False)
        self._has_screen = True
        try:
            while process.poll() is None:
                with contextlib.suppress(BlockingIOError):  # the view is busy: it gets the next update
                    process.stdin.write(json.dumps(look(server, self._note)).encode() + b"\n")
                await asyncio.sleep(_LOOK_S)
        except OSError:
            pass  # the view has ended, and has printed why
        finally:
            self._has_screen = False
            module_process.end(process, _END_PATIENCE_S)
