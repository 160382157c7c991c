"""Runs a module of this program in a separate process: how it starts, ends and reports a failure.

Works from any folder and without an installed package.  Does not depend on what the module does.
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
from drumfire.loadgen.streams import GONE


def command(module: str) -> list[str]:
    # -P: Python does not search the current folder, which may hold another package of this name.
    return [sys.executable, "-P", "-m", module]


def environment() -> dict[str, str]:
    """This process's variables, with PYTHONPATH extended so that our code is found if it is not installed."""
    search = os.environ.get("PYTHONPATH")
    return os.environ | {"PYTHONPATH": str(ROOT) + (os.pathsep + search if search else "")}


def start(module: str, **options: Any) -> subprocess.Popen[bytes]:
    """Start the module; ``options`` go to ``Popen``.  By default, its input is an unbuffered pipe, and ``env`` is
    ``environment()``.

    Raises ``OSError``.

    A terminal sends Ctrl-C, and SIGHUP when it closes, to all its processes.  The new one starts with both blocked, so
    that it is this process that decides what becomes of it.
    """
    options.setdefault("stdin", subprocess.PIPE)
    options.setdefault("env", environment())
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGHUP})
    try:
        return subprocess.Popen(command(module), bufsize=0, **options)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end(process: subprocess.Popen[bytes], patience_s: float) -> None:
    """Close the process's input, which should end it; terminate, then kill it if it lasts ``patience_s`` more each."""
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
    """Run ``main`` as the whole process; an exception becomes one line on standard error and exit status 1."""
    try:
        main()
    except Exception as error:
        gone = isinstance(error, OSError) and error.errno in GONE
        with contextlib.suppress(OSError):
            if not gone:
                print(f"{name} ended: {type(error).__name__}: {error}", file=sys.stderr)
        # A normal exit would flush a closed stream and report it a second time.
        os._exit(1)
