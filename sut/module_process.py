"""A module of this program as a process of its own, wherever the user stands: how it is started, guarded and ended.

Knows processes and signals; must not know what the module does.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from typing import Any

from drumfire.loadgen.installation import ROOT


def command(module: str) -> list[str]:
    # -P: a folder of the same name where the user stands is not taken for ours.
    return [sys.executable, "-P", "-m", module]


def environment() -> dict[str, str]:
    """This process's, with our code to be found also where it is not installed."""
    search = os.environ.get("PYTHONPATH")
    return os.environ | {"PYTHONPATH": str(ROOT) + (os.pathsep + search if search else "")}


def start(module: str, **options: Any) -> subprocess.Popen[bytes]:
    """Start it with a pipe as its input, unbuffered; ``options`` are ``Popen``'s.  Raises ``OSError``.

    The terminal sends Ctrl-C to all processes: it is blocked in the new one, also while that is still starting up.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        return subprocess.Popen(command(module), stdin=subprocess.PIPE, env=environment(), bufsize=0, **options)
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})


def end(process: subprocess.Popen[bytes], patience_s: float) -> None:
    """Close its input, which ends it; one that does not is terminated, then killed, each after ``patience_s``."""
    assert process.stdin is not None
    with contextlib.suppress(OSError):
        process.stdin.close()
    for harder in (process.terminate, process.kill, lambda: None):
        try:
            process.wait(patience_s)
            return
        except subprocess.TimeoutExpired:
            harder()


def run(main: Callable[[], None], name: str) -> None:
    """The whole of a process that others go on without: whatever it ends by is one line, and status 1."""
    try:
        main()
    except Exception as error:
        with contextlib.suppress(OSError):
            print(f"{name} ended: {type(error).__name__}: {error}", file=sys.stderr)
        # Without the exit's flush, which would tell of a closed stream a second time.
        os._exit(1)
