"""A process that keeps one local server: it starts it and, whatever becomes of the parent, ends it and tidies up.

Run as a script by ``local``, with the standard library alone; knows process ids and paths, and nothing of Triton.
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
"""How long the server may take to end when asked; then it is killed."""
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h


def sweep(folder: Path, prefix: str) -> None:
    """Delete the folder and all shared memory whose name begins with the prefix."""
    for region in Path("/dev/shm").glob(f"{prefix}*"):
        region.unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def end(keeper: subprocess.Popen[bytes], folder: Path, prefix: str) -> None:
    """From the parent: end a keeper with its server and wait for both, then tidy up as it may not have done."""
    keeper.terminate()
    try:
        keeper.wait(2 * GRACE_S)
    except subprocess.TimeoutExpired:
        keeper.kill()  # which kills the server
        keeper.wait()
    sweep(folder, prefix)


def keep(parent: int, command: Sequence[str]) -> None:
    """Start the command, print its process id, and return after it has ended with all that it started.

    It is ended when ``parent`` ends or when this process gets SIGTERM.
    """
    asked, wake = socket.socketpair()
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
    # What the server leaves behind becomes a child of this process, which can then wait for it.
    libc.prctl(_PR_SET_CHILD_SUBREAPER, 1)
    server = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=sys.stderr,
        stderr=sys.stderr,
        start_new_session=True,
        # Safe here, as this process has one thread: the server does not outlive it.
        preexec_fn=lambda: libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL),
    )
    print(server.pid, flush=True)
    server_end = os.pidfd_open(server.pid)
    _first_of([asked.fileno(), parent_end, server_end])
    server.terminate()
    _first_of([server_end], GRACE_S)
    # Before the server is waited for, so that the group can not be another's by now.
    with contextlib.suppress(ProcessLookupError):  # it has ended by itself, and nobody of its group is left
        os.killpg(server.pid, signal.SIGKILL)
    server.wait()
    while True:
        try:
            os.waitpid(-1, 0)
        except ChildProcessError:
            return


def _first_of(descriptors: Sequence[int], within_s: float | None = None) -> None:
    """Wait until one of them is readable: a process id's is when the process has ended."""
    waiting = select.poll()
    for descriptor in descriptors:
        waiting.register(descriptor, select.POLLIN)
    waiting.poll(None if within_s is None else within_s * 1e3)


def main(parent: str, folder: str, prefix: str, *command: str) -> None:
    try:
        keep(int(parent), command)
    finally:
        sweep(Path(folder), prefix)


if __name__ == "__main__":
    main(*sys.argv[1:])
