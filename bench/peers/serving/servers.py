"""The compared servers: each is a fresh process on loopback, and ends with all processes that it started.

Handles how each server starts and where it counts its answers.  Does not depend on the clients.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import IO

from prometheus_client.parser import text_string_to_metric_families

from drumfire.bench.peers.process import PROGRAM, MeasurementError
from drumfire.bench.peers.server import ANSWER_S, Running, get, statistics_counts
from drumfire.loadgen.installation import ROOT
from drumfire.sut import models
from drumfire.sut.cache import cache_folder
from drumfire.sut.environments import Say
from drumfire.sut.local import backends
from drumfire.sut.models.model import Form
from drumfire.sut.remote.triton_local import keeper
from drumfire.sut.remote.triton_local.environment import Environment
from drumfire.sut.remote.triton_local.server import REPOSITORY, LocalTriton, LocalTritonError

HOST = "127.0.0.1"
IDENTITY = "identity"
_KSERVE, _MLSERVER = (Path(__file__).with_name(f"{name}_identity.py") for name in ("kserve", "mlserver"))
_START_S = 60.0
_POLL_S = 0.02


Start = Callable[[], AbstractContextManager[Running]]
"""Starts a server.  Raises ``MeasurementError`` where that fails."""


# Each server.


@contextmanager
def drumfire(backend: str, model: str, *options: str, program: Sequence[str] = PROGRAM) -> Iterator[Running]:
    """``drumfire serve`` with a model, of this checkout unless ``program`` is another."""
    ports = [word for name in ("http", "grpc", "metrics") for word in (f"--{name}-port", "0")]
    words = [*program, "serve", backend, model, *options, *ports, "--json", "--no-dashboard"]
    with _started(words) as process:
        addresses = json.loads(process.wait_for(process.json_line))
        grpc, http, metrics = (addresses[name].partition("://")[2] for name in ("grpc", "http", "metrics"))
        yield Running(grpc, http, process.pid, partial(statistics_counts, http), metrics.partition("/")[0])


@contextmanager
def triton(repository: Path | None, say: Say) -> Iterator[Running]:
    """The real Triton with its Python backend, with its own repository and ``repository``."""
    try:
        with _Triton(repository, say) as server:
            http = server.http
            yield Running(server.grpc, http, server.pid, partial(statistics_counts, http))
    except LocalTritonError as error:
        raise MeasurementError(str(error)) from None


@contextmanager
def kserve(python: Path) -> Iterator[Running]:
    """kserve's server with the identity model."""
    ports = _free_ports(2)
    words = [str(python), "-I", str(_KSERVE), "--http_port", str(ports[0]), "--grpc_port", str(ports[1])]
    with _listening(words, *ports) as (pid, http, grpc):
        counter = ("request_predict_seconds_count", {"model_name": IDENTITY})
        yield Running(grpc, http, pid, lambda model: (_counted(http, *counter), 0))


@contextmanager
def mlserver(python: Path) -> Iterator[Running]:
    """mlserver with the identity model, without parallel workers, which make it slower here."""
    http_port, grpc_port, metrics_port = ports = _free_ports(3)
    with tempfile.TemporaryDirectory(prefix="drumfire-mlserver-") as made:
        folder = Path(made) / IDENTITY
        folder.mkdir()
        shutil.copy(_MLSERVER, folder)
        settings = {
            "host": HOST,
            "http_port": http_port,
            "grpc_port": grpc_port,
            "metrics_port": metrics_port,
            "parallel_workers": 0,
            "debug": False,
            "metrics_dir": str(Path(made) / "metrics"),
        }
        tensors = {
            where: [{"name": name, "datatype": "FP32", "shape": [-1, -1]}]
            for where, name in (("inputs", "INPUT0"), ("outputs", "OUTPUT0"))
        }
        about = {"name": IDENTITY, "implementation": f"{_MLSERVER.stem}.Identity", **tensors}
        (folder / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
        (folder / "model-settings.json").write_text(json.dumps(about), encoding="utf-8")
        # Its script has the path in which the environment was made, before the environment was moved.
        words = [str(python), "-I", "-c", "from mlserver.cli.main import main; main()", "start", str(folder)]
        with _listening(words, *ports) as (pid, http, grpc):
            metrics = f"{HOST}:{metrics_port}"
            counter = ("model_infer_request_success_total", {"model": IDENTITY})
            yield Running(grpc, http, pid, lambda model: (_counted(metrics, *counter), 0))


@contextmanager
def onnx_repository(name: str, outputs: int, max_batch_size: int) -> Iterator[Path]:
    """A Triton repository with a named model's ONNX file, which the code of Triton's digits runs with one thread."""
    model = models.get(name)
    weights = model.weights(cache_folder(), None, Form.ONNX)
    tensors = backends.load("onnxruntime", weights, "cpu", 1).tensors
    (takes,) = tensors.inputs
    dims = ", ".join(map(str, takes.sample_shape))
    with tempfile.TemporaryDirectory(prefix="drumfire-repository-") as made:
        version = Path(made) / name / "1"
        version.mkdir(parents=True)
        (version.parent / "config.pbtxt").write_text(
            f'name: "{name}"\nbackend: "python"\nmax_batch_size: {max_batch_size}\n'
            f'input [ {{ name: "{takes.name}", data_type: TYPE_FP32, dims: [ {dims} ] }} ]\n'
            f'output [ {{ name: "{tensors.outputs[0]}", data_type: TYPE_FP32, dims: [ {outputs} ] }} ]\n'
            "dynamic_batching { }\ninstance_group [ { kind: KIND_CPU, count: 1 } ]\n",
            encoding="utf-8",
        )
        shutil.copy(REPOSITORY / "digits" / "1" / "model.py", version)
        (version / "model.onnx").symlink_to(weights)
        yield Path(made)


class _Triton(LocalTriton):
    """A local Triton with a second repository."""

    def __init__(self, repository: Path | None, say: Say) -> None:
        super().__init__(say=say)
        self._second = repository

    def _command(self, made: Environment, models: Path) -> list[str]:
        second = [] if self._second is None else [f"--model-repository={self._second}"]
        return [*super()._command(made, models), *second]


# Their counts.


def _counted(address: str, counter: str, labels: Mapping[str, str]) -> int:
    """The sum of a Prometheus counter over all other labels; 0 before it exists."""
    status, text = get(address, "/metrics")
    if status != 200:
        raise MeasurementError(f"the server's metrics cannot be read: HTTP {status}")
    return read_counter(text, counter, labels)


def read_counter(text: str, counter: str, labels: Mapping[str, str]) -> int:
    """As ``_counted``, from Prometheus text."""
    samples = [one for family in text_string_to_metric_families(text) for one in family.samples]
    return round(sum(one.value for one in samples if one.name == counter and labels.items() <= one.labels.items()))


# Processes.


class _Process:
    """A server and its output, under a keeper that ends it even if this process dies."""

    def __init__(self, process: subprocess.Popen[bytes], output: IO[bytes]) -> None:
        self._keeper, self._output = process, output
        assert process.stdout is not None
        with process.stdout as stdout:
            pid = stdout.readline()
        if not pid:
            raise MeasurementError(f"the server cannot be started: {self._last_line()}")
        self.pid = int(pid)

    def wait_for(self, look: Callable[[], str | None]) -> str:
        """The first result of ``look`` that is not None.

        Raises ``MeasurementError`` when the server has ended, or after ``_START_S``.
        """
        until = time.monotonic() + _START_S
        while (result := look()) is None:
            if self._keeper.poll() is not None:
                raise MeasurementError(f"the server ended while it started: {self._last_line()}")
            if time.monotonic() > until:
                raise MeasurementError(f"the server is not ready after {_START_S:g} s: {self._last_line()}")
            time.sleep(_POLL_S)
        return result

    def json_line(self) -> str | None:
        """The first whole line that is a JSON object."""
        lines = self._text().splitlines(keepends=True)
        return next((line for line in lines if line.startswith("{") and line.endswith("\n")), None)

    def _text(self) -> str:
        # Without seeking: the server writes at the position of the same open file.
        size = os.fstat(self._output.fileno()).st_size
        return os.pread(self._output.fileno(), size, 0).decode(errors="replace")

    def _last_line(self) -> str:
        # After the server's output there may be a traceback of the keeper, which had no process left to end.
        text, _, behind = self._text().rpartition("Traceback (most recent call last):")
        text = text if keeper.__file__ in behind else self._text()
        return (text.strip() or "it said nothing").splitlines()[-1].strip()


@contextmanager
def _started(command: Sequence[str]) -> Iterator[_Process]:
    mark = f"drumfire-{secrets.token_hex(6)}-"
    folder = Path(tempfile.mkdtemp(prefix="drumfire-serving-"))
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            [*keeper.command(folder, mark), *command],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=output,
            cwd=ROOT,
            start_new_session=True,  # only this process handles Ctrl-C, and ends the server
        )
        try:
            yield _Process(process, output)
        finally:
            keeper.end(process, folder, mark)


@contextmanager
def _listening(command: Sequence[str], http_port: int, grpc_port: int, *_: int) -> Iterator[tuple[int, str, str]]:
    """Start a server on these ports; yields its process and its addresses for HTTP and gRPC."""
    over_http, over_grpc = f"{HOST}:{http_port}", f"{HOST}:{grpc_port}"

    def ready() -> str | None:
        with contextlib.suppress(OSError, http.client.HTTPException):
            if get(over_http, "/v2/health/ready")[0] == 200:
                socket.create_connection((HOST, grpc_port), ANSWER_S).close()
                return over_http
        return None

    with _started(command) as process:
        process.wait_for(ready)
        yield process.pid, over_http, over_grpc


def _free_ports(count: int) -> list[int]:
    """Different ports that were free a moment ago."""
    with contextlib.ExitStack() as held:
        taken = [held.enter_context(socket.socket()) for _ in range(count)]
        for one in taken:
            one.bind((HOST, 0))
        return [one.getsockname()[1] for one in taken]
