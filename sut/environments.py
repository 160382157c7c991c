"""Virtual environments for the programs of others, kept in the cache folder: made once, and never seen half made.

Knows venv, pip and how processes keep out of each other's way; must not know what the packages are for.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

Say = Callable[[str], None]


class EnvironmentFailed(RuntimeError):
    """An environment can not be made.  The text is one line and names the mend."""


def made(
    cache: Path,
    name: str,
    requirements: Sequence[str],
    say: Say,
    *,
    options: Sequence[str] = (),
    finish: Callable[[Path], None] = lambda folder: None,
) -> Path:
    """The folder of an environment with these packages, made when it is missing; ``finish`` does what pip does not.

    Several processes may ask at once: one makes it, the others wait.  Other requirements or another interpreter make
    another one.  Raises ``EnvironmentFailed``, ``OSError`` and what ``finish`` raises.
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
        shutil.rmtree(unfinished, ignore_errors=True)  # of a process that was killed; a living one has the lock
        say(f"making the environment of {name}, once: {folder}")
        try:
            _run(
                [sys.executable, "-m", "venv", str(unfinished)],
                "can not make a virtual environment",
                "install venv (apt install python3-venv)",
            )
            say(f"installing {', '.join(requirements)}")
            pip = [
                str(unfinished / "bin" / "python"),
                "-m",
                "pip",
                "--quiet",
                "--no-input",
                "--disable-pip-version-check",
            ]
            _run(
                [*pip, "install", *options, *requirements],
                f"pip can not install {', '.join(requirements)}",
                "mend the network or pip's settings",
            )
            finish(unfinished)
            unfinished.rename(folder)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
    return folder


def _run(command: Sequence[str], what: str, mend: str) -> None:
    # pip must see neither this process's modules nor, where this runs under a test, its options.
    variables = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, env=variables, check=False)
    if done.returncode != 0:
        raise EnvironmentFailed(f"{what}: {_reason(done.stderr, done.stdout)}; {mend} and try again")


def _reason(*outputs: str) -> str:
    """The line that tells most: the last error, else the last line that is no warning."""
    lines = [line.strip() for output in outputs for line in output.splitlines() if line.strip()]
    errors = [line.removeprefix("ERROR:").strip() for line in lines if line.startswith("ERROR:")]
    others = [line for line in lines if not line.startswith("WARNING:")]
    return (errors or others or ["no reason was given"])[-1].rstrip(".")
