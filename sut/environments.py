"""Virtual environments for programs with their own requirements, made once in the cache folder.

An environment appears under its name only when it is complete.  Does not depend on what the packages are for.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from drumfire.loadgen.errors import UserError

Say = Callable[[str], None]


class EnvironmentFailed(UserError, RuntimeError):
    """An environment cannot be made.  The text is one line and names the fix."""


def made(
    cache: Path,
    name: str,
    requirements: Sequence[str],
    say: Say,
    *,
    options: Sequence[str] = (),
    finish: Callable[[Path], None] = lambda folder: None,
) -> Path:
    """Return the folder of an environment with these packages; make the environment if it is missing.

    ``finish`` does the work that pip does not.  When several processes call this at once, one makes the environment and
    the others wait.  The folder's name depends on the requirements and on the interpreter.  Raises
    ``EnvironmentFailed``, ``OSError`` and what ``finish`` raises.
    """
    identity = "\n".join([*requirements, sys.version, sys.base_prefix])
    folder = cache.absolute() / f"{name}-{hashlib.sha256(identity.encode()).hexdigest()[:12]}"
    if folder.is_dir():
        return folder
    import fcntl  # not on Windows

    cache.mkdir(parents=True, exist_ok=True)
    with open(folder.with_name(f"{folder.name}.lock"), "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"another process is making the environment of {name}: waiting for it")
            fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.is_dir():
            return folder
        unfinished = folder.with_name(f"{folder.name}.unfinished")
        shutil.rmtree(unfinished, ignore_errors=True)  # left by a process that was killed: a living one holds the lock
        say(f"making the environment of {name}, once: {folder}")
        try:
            _run(
                [sys.executable, "-m", "venv", str(unfinished)],
                "cannot make a virtual environment",
                "install venv (apt install python3-venv)",
            )
            say(f"installing {', '.join(requirements)}")
            python = str(unfinished / "bin" / "python")
            pip = [python, "-m", "pip", "--quiet", "--no-input", "--disable-pip-version-check"]
            _run(
                [*pip, "install", *options, *requirements],
                f"pip cannot install {', '.join(requirements)}",
                "check the network and pip's settings",
            )
            finish(unfinished)
            unfinished.rename(folder)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def _run(command: Sequence[str], failure: str, fix: str) -> None:
    # Variables such as PYTHONPATH would let pip see this process's modules.
    variables = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=variables, check=False)
    if done.returncode != 0:
        raise EnvironmentFailed(f"{failure}: {_reason(done.stderr, done.stdout)}; {fix} and try again")


def _reason(*outputs: str) -> str:
    """The most useful line: the last error, else the last line that is not a warning."""
    lines = [line.strip() for output in outputs for line in output.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR:").strip() for line in lines if line.startswith("ERROR:")]
    others = [line for line in lines if not line.startswith("WARNING:")]
    return (errors or others or ["no reason was given"])[-1].rstrip(".")
