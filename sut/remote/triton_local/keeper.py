"""A process that starts one local server and, however the parent ends, ends the server and cleans up after it.

``server`` runs it as a script, so it uses only the standard library.  Does not depend on Triton.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

GRACE_S = 6.0
"""How long the server may take to end after SIGTERM; then we kill it."""
_MOST_LOG_BYTES = 64 << 20
"""Of the log that this process's stderr is: a server that cannot accept a connection may write gigabytes of errors."""
_LOOK_S = 1.0
"""How often it is measured."""
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h


def sweep(folder: Path, prefix: str) -> None:
    """Delete the folder and all shared memory whose name begins with the prefix."""
    for region in Path("/dev/shm").glob(f"{prefix}*"):
        region.unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def command(folder: Path, prefix: str) -> list[str]:
    """In the parent: the words that start a keeper, before those that start its server."""
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), str(folder), prefix]


def end(keeper: subprocess.Popen[bytes], folder: Path, prefix: str) -> None:
    """In the parent: end a keeper and its server, wait for both, and clean up in case the keeper could not."""
    keeper.terminate()
    try:
        keeper.wait(2 * GRACE_S)
    except subprocess.TimeoutExpired:
        keeper.kill()  # the kernel then kills the server: PR_SET_PDEATHSIG
        keeper.wait()
    sweep(folder, prefix)


def keep(parent: int, command: Sequence[str]) -> None:
    """Start the command, print its process id, and return when it and all processes that it started have ended.

    Ends the command when ``parent`` ends or this process receives SIGTERM.
    """
    terminated, wake = socket.socketpair()
    wake.setblocking(False)
    signal.set_wakeup_fd(wake.fileno())
    signal.signal(signal.SIGTERM, lambda *_: None)
    try:
        parent_end = os.pidfd_open(parent)
    except ProcessLookupError:
        return
    if os.getppid() != parent:
        return
    libc = ctypes.CDLL(None)
    # Processes that the server leaves behind become children of this process, which can then wait for them.
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1)
    server = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,
        stderr=sys.stderr,
        start_new_session=True,
        # The server must not outlive this process.  preexec_fn is safe here, as there is only one thread.
        preexec_fn=lambda: libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL),
    )
    print(server.pid, flush=True)
    server_end = os.pidfd_open(server.pid)
    while not _first_of([terminated.fileno(), parent_end, server_end], _LOOK_S):
        if os.fstat(sys.stderr.fileno()).st_size > _MOST_LOG_BYTES:
            os.ftruncate(sys.stderr.fileno(), 0)
    server.terminate()
    _first_of([server_end], GRACE_S)
    # Before the server is reaped, as its process group's number may be used again afterwards.
    with contextlib.suppress(ProcessLookupError):  # the whole group has ended by itself
        os.killpg(server.pid, signal.SIGKILL)
    server.wait()
    while True:
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def _first_of(descriptors: Sequence[int], within_s: float) -> bool:
    """Wait until one of them is readable, and return whether one is: a pidfd is when its process has ended."""
    waiting = select.poll()
    for descriptor in descriptors:
        waiting.register(descriptor, select.POLLIN)
    return bool(waiting.poll(within_s * 1e3))


def main(parent: str, folder: str, prefix: str, *command: str) -> None:
    try:
        keep(int(parent), command)
    finally:
        sweep(Path(folder), prefix)


if __name__ == "__main__":
    main(*sys.argv[1:])
