"""``drumfire serve``: models of this process behind the KServe v2 protocol, until Ctrl-C or SIGTERM.

Knows the options, signals and the screen; serving is ``drumfire.sut.serving``'s.
"""

from __future__ import annotations

import argparse
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
from pathlib import Path

from rich.console import Console

from drumfire.bench.assemble.local import UsageError
from drumfire.bench.view.serving import Look, Watch, plain_line
from drumfire.loadgen import run_on_fast_loop
from drumfire.sut import models, module_process
from drumfire.sut.cache import cache_folder
from drumfire.sut.local import backends
from drumfire.sut.local.batcher import MAX_BATCH_SIZE
from drumfire.sut.models.model import Form, Model
from drumfire.sut.serving import model as serving
from drumfire.sut.serving.model import IDENTITY, Batching, ServedModel, Source
from drumfire.sut.serving.server import Addresses, ServeError, Server, Settings

_MAX_BATCH_SIZE = 32
_INTERRUPTED = 130
_LOOK_S = 0.5
_LINE_S = 30.0
_END_PATIENCE_S = 2.0
_SUFFIXES = tuple(form.value for form in Form)


def serve(options: argparse.Namespace) -> int:
    """0 after a first signal, when all that was taken is answered; 1 when some of it was not; 130 after a second.

    Raises ``UsageError`` and the errors of the parts, each one clear line.
    """
    console = Console(stderr=True, highlight=False, markup=False, soft_wrap=True)
    # Contents of requests are read-only, and torch warns of every array that is.
    warnings.filterwarnings("ignore", message=".*not writable.*")
    settings = Settings(
        host=options.host,
        http_port=options.http_port,
        grpc_port=options.grpc_port,
        metrics_port=options.metrics_port,
        tls_cert=options.tls_cert,
        tls_key=options.tls_key,
        token_file=options.token_file,
        most_waiting=options.max_queue,
        drain_s=options.drain_timeout,
    )
    wanted = _wanted(options)
    reporter = _Reporter(console)
    try:
        # What can be told before any model is loaded is told first.
        Server([], settings, reporter.say)
        server = Server(load(options, wanted, console), settings, reporter.say)
        status = run_on_fast_loop(_run(server, options, reporter))
    except ServeError as error:
        raise UsageError(str(error)) from None
    sys.stdout.flush()
    sys.stderr.flush()
    if not server.stopped:
        # A thread is still within a model: an orderly end of Python would pull the memory from under it.
        os._exit(status)
    return status


# Models.


def _wanted(options: argparse.Namespace) -> list[tuple[str, str]]:
    """Name and file of each model, the file empty for a named one; takes the device off the end of the names.

    Raises ``UsageError``.
    """
    names = list(options.models)
    if len(names) > 1 and names[-1] in backends.DEVICES:
        options.device = names.pop()
    if options.backend != "null" and options.backend not in backends.BACKENDS:
        raise UsageError(f"unknown backend {options.backend!r}; available: {', '.join(backends.BACKENDS)}, null")
    wanted = []
    for given in names:
        name, separator, file = given.partition("=")
        if separator and not (name and file):
            raise UsageError(f"{given!r}: NAME=FILE is wanted")
        if not separator and name not in (*models.MODELS, IDENTITY):
            if not name.endswith(_SUFFIXES) and os.sep not in name:
                raise UsageError(
                    f"model {name!r} is not known: give one of {', '.join((*models.MODELS, IDENTITY))}, a file, or "
                    "NAME=FILE"
                )
            name, file = Path(name).stem, name
        if file and not Path(file).exists():
            raise UsageError(f"no such model file: {file}")
        if options.backend == "null" and (name != IDENTITY or file):
            raise UsageError(f"the backend null serves {IDENTITY} alone, not {given}: name a backend that computes it")
        wanted.append((name, file))
    return wanted


def load(options: argparse.Namespace, wanted: Sequence[tuple[str, str]], console: Console) -> list[ServedModel]:
    """The models, those of one name as its versions 1, 2, ….  Raises ``UsageError``, ``BackendError`` and others."""
    max_size = options.max_batchsize or _MAX_BATCH_SIZE
    preferred = tuple(sorted(options.preferred_batchsize or ()))
    if max_size > MAX_BATCH_SIZE:
        raise UsageError(f"--max-batchsize must be at most {MAX_BATCH_SIZE}, not {max_size}")
    if preferred and preferred[-1] > max_size:
        raise UsageError(f"--preferred-batchsize {preferred[-1]} is above --max-batchsize {max_size}")
    batching = Batching(max_size, round(options.max_queue_delay * 1e6), preferred)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    threads = options.threads or max(1, (cores - 1) // options.instances)
    tuning = backends.Tuning(max_size, options.precision or "fp32", options.compile)
    if options.backend != "null":
        backends.check(options.backend, options.device, tuning)
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
        given = Path(file) if file else None
        if model is not None:
            weights = model.weights(cache_folder(), given, backends.form(options.backend))
        else:
            assert given is not None
            weights = given
        source = Source(name, version, weights, model)
        served.append(
            serving.load(
                source, options.backend, options.device, threads=threads, instances=options.instances, tuning=tuning,
                batching=batching,
            )
        )  # fmt: skip
    return served


# Serving.


async def _run(server: Server, options: argparse.Namespace, reporter: _Reporter) -> int:
    loop = asyncio.get_running_loop()
    asked, hurry = asyncio.Event(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, lambda: (hurry if asked.is_set() else asked).set())
    loop.add_signal_handler(signal.SIGHUP, server.reload_tokens)
    addresses = await server.start()
    gc.collect()
    gc.freeze()  # what is loaded stays, and need not be looked at again and again
    _announce(server, addresses, options)
    plain = options.no_dashboard or options.json or not sys.stdout.isatty()
    watching = loop.create_task(reporter.lines(server) if plain else reporter.screen(server))
    await asked.wait()
    watching.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await watching
    left = server.service.open_requests
    reporter.say(
        f"draining: {left:,} requests are under way, at most {options.drain_timeout:g} s (again to end at once)"
    )
    draining, hurrying = loop.create_task(server.drain()), loop.create_task(hurry.wait())
    await asyncio.wait({draining, hurrying}, return_when=asyncio.FIRST_COMPLETED)
    if not draining.done():
        draining.cancel()
        await server.close()
        reporter.say("ended at once")
        return _INTERRUPTED
    hurrying.cancel()
    answered = await draining
    view = Watch().see(look(server, ""))
    for model in view.models:
        reporter.say(f"{model.name}: {model.answered:,} requests answered, {model.failed:,} failed")
    if not answered:
        reporter.say(f"not all were answered within {options.drain_timeout:g} s: see --drain-timeout")
    return 0 if answered else 1


def _announce(server: Server, addresses: Addresses, options: argparse.Namespace) -> None:
    secure = "s" if options.tls_cert else ""
    ready = {
        "http": f"http{secure}://{addresses.http}",
        "grpc": f"grpc{secure}://{addresses.grpc}",
        "metrics": f"http://{addresses.metrics}/metrics",
    }
    names = [f"{one.model.name}" for one in server.service.schedulers]
    if options.json:
        print(json.dumps({**ready, "pid": os.getpid(), "models": sorted(set(names))}), flush=True)
        return
    for scheduler in server.service.schedulers:
        model = scheduler.model
        takes, gives = (
            ", ".join(map(str, specs)) for specs in (model.interface.inputs, model.interface.outputs)
        )  # fmt: skip
        print(f"{model.name} version {model.version}: {takes} -> {gives}, batches of {model.rule.max_size}")
        print(f"    {model.description}")
    print(f"ready (Ctrl-C ends it): {ready['http']} {ready['grpc']} {ready['metrics']}", flush=True)


def look(server: Server, note: str) -> Look:
    """The counters now."""
    return {
        "at_ns": time.monotonic_ns(),
        "connections": len(server.connections.open),
        "note": note,
        "gpus": dict(server.gpus.figures),
        "models": [
            {
                "told": one.statistics.model_stats(one.model.name, one.model.version),
                "waiting": one.pending,
                "under_way": one.under_way,
            }
            for one in server.service.schedulers
        ],
    }


class _Reporter:
    """What the user is told: lines on stderr, and a screen where there is one."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._note = ""
        self._has_screen = False

    def say(self, text: str) -> None:
        self._note = text
        if not self._has_screen:
            self._console.print(f"drumfire: {text}")

    async def lines(self, server: Server) -> None:
        """One now and then, while something happens."""
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
        """Another process draws; a view that fails never hurts the server."""
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
                with contextlib.suppress(BlockingIOError):  # it is busy, and will see the next one
                    process.stdin.write(json.dumps(look(server, self._note)).encode() + b"\n")
                await asyncio.sleep(_LOOK_S)
        except OSError:
            pass  # it has ended, and has told why
        finally:
            self._has_screen = False
            module_process.end(process, _END_PATIENCE_S)
