"""A real Triton on this machine, for tests and for trying things: started on loopback, stopped cleanly.

Handles the server's options, its readiness and the models in ``repository``.  ``environment`` installs the server, and
``keeper`` ensures that it does not outlive this process.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO

from drumfire.sut.cache import cache_folder
from drumfire.sut.environments import Say
from drumfire.sut.models import digits
from drumfire.sut.remote.triton_local import keeper
from drumfire.sut.remote.triton_local.environment import Environment, LocalTritonError, environment

__all__ = ["MODELS", "LocalTriton", "LocalTritonError"]

REPOSITORY = Path(__file__).parent / "repository"
MODELS = ("digits", "identity", "identity_bytes", "identity_cached")
HOST = "127.0.0.1"
USUAL_PORTS = (8001, 8000, 8002)
"""Triton's own: gRPC, HTTP, metrics."""

_START_S = 60.0
_POLL_S = 0.02
_ATTEMPTS = 5
"""Number of starts, in case another program takes a free port before the server does."""
_EXIT_TIMEOUT_S = 3
"""How long the server waits at its end for requests under way, and as long for idle HTTP connections."""
_CACHE_BYTES = 64 << 20
_PORT_TAKEN = "already in use"
_HARMLESS = "CudaDriverHelper has not been initialized"
"""The server logs this error at every start without a GPU."""


class LocalTriton:
    """One server.  Use ``with``, or ``start`` and ``stop``; starting raises ``LocalTritonError``.

    ``log``: where the server's own words go (default: nowhere, but errors show the last of them).  ``cache``: where
    the server's environment is kept (default: the user's cache folder).  ``say`` is told what takes long.
    ``ports``: for gRPC, HTTP and metrics; 0, as is the default, or one that is taken means any free port.
    """

    grpc: str
    """Addresses, as host:port."""
    http: str
    metrics: str
    pid: int

    def __init__(
        self,
        *,
        log: Path | None = None,
        cache: Path | None = None,
        say: Say = lambda _: None,
        ports: Sequence[int] = (0, 0, 0),
    ) -> None:
        self._log_path, self._cache, self._say, self._ports = log, cache or cache_folder(), say, ports
        self._keeper: subprocess.Popen[bytes] | None = None
        self._output: IO[bytes] | None = None
        self._folder: Path
        self._mark: str
        """The unique prefix of the names of the server's shared memory."""

    def __enter__(self) -> LocalTriton:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start the server; returns when all models are ready and all three ports answer."""
        made = environment(self._cache, self._say)
        for left in reversed(range(_ATTEMPTS)):
            try:
                self._launch(made)
                self._await_ready()
            except BaseException as error:
                port_taken = isinstance(error, LocalTritonError) and _PORT_TAKEN in self._log_end()
                self.stop()
                if not (left and port_taken):
                    raise
            else:
                return

    def stop(self) -> None:
        """End the server and wait for it: about 3 s, at most a little over 6 s.  Does nothing if it is not running."""
        process, self._keeper = self._keeper, None
        if process is None:
            return
        keeper.end(process, self._folder, self._mark)
        if self._output is not None:
            self._output.close()

    def wait(self, seconds: float | None = None) -> bool:
        """Wait until the server ends by itself; False if it does not within ``seconds``."""
        assert self._keeper is not None, "not started"
        try:
            self._keeper.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def last_line(self) -> str:
        """The last error in the server's log, else its last line."""
        lines = [line for line in self._log_end().splitlines() if line.strip()]
        errors = [line for line in lines if line.startswith("E") and _HARMLESS not in line]
        return (errors or lines or ["it logged nothing"])[-1].strip()

    def _launch(self, made: Environment) -> None:
        self._mark = f"drumfire-{secrets.token_hex(6)}-"
        self._folder = Path(tempfile.mkdtemp(prefix="drumfire-triton-"))
        try:
            models = _repository(self._folder)
            self._output = _open_log(self._log_path)
            self.grpc, self.http, self.metrics = (f"{HOST}:{port}" for port in _free_ports(self._ports))
            self._keeper = subprocess.Popen(
                [*keeper.command(self._folder, self._mark), *self._command(made, models)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=self._output,
                env=made.variables(),
                start_new_session=True,  # Ctrl-C goes only to this process, which decides when the server ends
            )
        except BaseException:
            keeper.sweep(self._folder, self._mark)
            raise
        assert self._keeper.stdout is not None
        with self._keeper.stdout as output:
            pid = output.readline()
        if not pid:
            raise LocalTritonError(f"cannot start Triton: {self.last_line()}")
        self.pid = int(pid)

    def _command(self, made: Environment, models: Path) -> list[str]:
        # By default the server listens on all addresses of the machine.
        listen = [
            f"--{service}-{what}={value}"
            for service, address in (("grpc", self.grpc), ("http", self.http), ("metrics", self.metrics))
            for what, value in zip(("address", "port"), address.split(":"), strict=True)
        ]
        return [
            str(made.server),
            *listen,
            f"--model-repository={models}",
            f"--backend-directory={made.backends}",
            f"--cache-directory={made.caches}",
            f"--cache-config=local,size={_CACHE_BYTES}",
            f"--backend-config=python,shm-region-prefix-name={self._mark}",
            f"--exit-timeout-secs={_EXIT_TIMEOUT_S}",
            "--disable-auto-complete-config",  # auto-completion would start each model an extra time
            "--allow-gpu-metrics=false",
        ]

    def _await_ready(self) -> None:
        deadline = time.monotonic() + _START_S
        while not self._ready():
            if self.wait(_POLL_S):
                raise LocalTritonError(f"Triton ended during its start: {self.last_line()}")
            if time.monotonic() > deadline:
                raise LocalTritonError(
                    f"Triton is not ready after {_START_S:g} s (overloaded machine?): {self.last_line()}"
                )

    def _ready(self) -> bool:
        # The log must name the last service, as another program may answer on a port that it took first.  The server
        # logs this a moment too early, so the service must also answer.
        return (
            f"Started Metrics Service at {self.metrics}" in self._log_end()
            and _answers(self.metrics, "/metrics")
            and _answers(self.http, "/v2/health/ready")
            and _PORT_TAKEN not in self._log_end()
        )

    def _log_end(self) -> str:
        if self._output is None or self._output.closed:
            return ""
        # pread, because seek would move the position at which the server writes.
        size = os.fstat(self._output.fileno()).st_size
        return os.pread(self._output.fileno(), 4096, max(0, size - 4096)).decode(errors="replace")


def _repository(folder: Path) -> Path:
    """Make the server's model repository in ``folder``: the models, the weights, and the code that several share."""
    models = folder / "models"
    shutil.copytree(REPOSITORY, models, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(digits.WEIGHTS, models / "digits" / "1" / "model.onnx")
    for name in MODELS:
        if not (models / name / "1").exists():
            shutil.copytree(models / "identity" / "1", models / name / "1")
    return models


def _open_log(path: Path | None) -> IO[bytes]:
    """Appended to, so that what the keeper cuts off is not written again as zeros.  Raises ``LocalTritonError``."""
    try:
        if path is None:
            return tempfile.TemporaryFile("a+b")
        path.write_bytes(b"")
        return open(path, "a+b")
    except OSError as error:
        raise LocalTritonError(f"cannot write the server's log {path}: {error.strerror}") from None


def _free_ports(wanted: Sequence[int]) -> Iterator[int]:
    """Ports that were free a moment ago, all different: the wanted one each, or any where that is 0 or taken."""
    with contextlib.ExitStack() as held:
        for port in wanted:
            taken = held.enter_context(socket.socket())
            # Else a port would count as taken for a minute after a server's end.
            taken.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                taken.bind((HOST, port))
            except OSError:
                taken.bind((HOST, 0))
            yield taken.getsockname()[1]


def _answers(address: str, path: str) -> bool:
    # "Connection: close", as an open connection would delay the server's end.
    with contextlib.closing(http.client.HTTPConnection(address, timeout=5)) as connection:
        try:
            connection.request("GET", path, headers={"Connection": "close"})
            return connection.getresponse().status == 200
        except (OSError, http.client.HTTPException):
            return False
