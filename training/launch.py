"""``python -m drumfire.training.launch --ranks N TASK``: one run of N ranks on this host, without torchrun.

The ranks reach each other over the loopback interface only, so that nothing listens which another host can reach; the
rendezvous of torchrun listens on all interfaces.  Ctrl-C, SIGTERM and a terminal that closes end all ranks.  Options
that are not listed here are the run's own (see ``python -m drumfire.training --help``), and so is the exit status: that
of the first rank that failed.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from drumfire.loadgen import streams
from drumfire.loadgen.options import option
from drumfire.loadgen.signals import on_ending
from drumfire.training.faults import INTERRUPTED, USAGE, InputError
from drumfire.training.options import parse_some
from drumfire.training.ranks import LISTENER

_PROGRAM = "drumfire.training.launch"
_LOOPBACK = "127.0.0.1"
_POLL_S = 0.1
_GRACE_S = 20.0
"""How long the other ranks have to end by themselves once one has failed; they notice at their next exchange."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """The options of the launcher."""

    ranks: int = option(help="processes of the run")


def main(arguments: Sequence[str] | None = None) -> int:
    try:
        options, words = parse_some(_PROGRAM, __doc__, Options, arguments)
    except InputError as error:
        print(f"training: {error}", file=sys.stderr)
        return USAGE
    on_ending(signal.default_int_handler)
    try:
        with _started(options.ranks, words) as processes:
            return _status(processes)
    except KeyboardInterrupt:
        return INTERRUPTED


@contextmanager
def _started(ranks: int, words: Sequence[str]) -> Iterator[list[subprocess.Popen[bytes]]]:
    """The processes of the ranks, all of which have ended afterwards; ``KeyboardInterrupt`` lets them end first."""
    with socket.create_server((_LOOPBACK, 0), backlog=max(ranks, 64)) as listener:
        shared = {
            "WORLD_SIZE": ranks,
            "LOCAL_WORLD_SIZE": ranks,
            "MASTER_ADDR": _LOOPBACK,
            "MASTER_PORT": listener.getsockname()[1],
            LISTENER: listener.fileno(),
            "GLOO_SOCKET_IFNAME": os.environ.get("GLOO_SOCKET_IFNAME", "lo" if sys.platform == "linux" else "lo0"),
            # A second thread per rank would compete with the processes that read images.
            "OMP_NUM_THREADS": os.environ.get("OMP_NUM_THREADS", "1"),
        }
        processes = []
        try:
            for rank in range(ranks):
                own = {name: str(value) for name, value in {**shared, "RANK": rank, "LOCAL_RANK": rank}.items()}
                command = [sys.executable, "-m", "drumfire.training", *words]
                # Only rank 0 listens.
                kept = [listener.fileno()] if rank == 0 else []
                processes.append(subprocess.Popen(command, env=os.environ | own, pass_fds=kept))
            listener.close()
            yield processes
        except KeyboardInterrupt:
            on_ending(signal.SIG_IGN)
            for process in processes:
                process.terminate()
            _await(processes)
            raise
        finally:
            for process in processes:
                process.kill()
                process.wait()


def _status(processes: Sequence[subprocess.Popen[bytes]]) -> int:
    """Wait for all ranks; once one has failed, the others have little time left."""
    while True:
        statuses = [process.poll() for process in processes]
        failed = next((status for status in statuses if status), None)
        if failed is not None:
            _await(processes)
            return failed if failed > 0 else 128 - failed
        if None not in statuses:
            return 0
        time.sleep(_POLL_S)


def _await(processes: Sequence[subprocess.Popen[bytes]]) -> None:
    until = time.monotonic() + _GRACE_S
    while time.monotonic() < until and any(process.poll() is None for process in processes):
        time.sleep(_POLL_S)


if __name__ == "__main__":
    streams.install()
    sys.exit(main())
