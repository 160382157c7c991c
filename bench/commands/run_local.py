"""``run_local.sh``: starts a run from the words of MLPerf's reference harness, in any order, and then options.

Sorts the words and installs missing extras; the command line does the run.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, requires, version
from typing import NoReturn

from drumfire.bench import statuses
from drumfire.bench.commands.models import extras
from drumfire.loadgen.errors import UserError
from drumfire.loadgen.installation import ROOT, packages_of
from drumfire.sut import models, remote
from drumfire.sut.local import backends
from drumfire.sut.models.detector import DetectionJudge

_BACKENDS = (*backends.BACKENDS, *remote.TARGETS, "null")
_MODE_OPTIONS = {"--accuracy", "--submission"}
_USAGE = "usage: ./run_local.sh BACKEND MODEL [DEVICE] [OPTIONS], the words in any order"


def main(words: Sequence[str]) -> NoReturn:
    """Replace this process by the run that the words describe, or end with one line on stderr."""
    try:
        backend, model, device, options = parsed(words)
        needed = [] if backend not in backends.BACKENDS else extras(backend, model, device or "cpu")
    except (ValueError, UserError) as error:
        _refuse(str(error))
    if isinstance(models.MODELS.get(model), DetectionJudge) and _MODE_OPTIONS.intersection(options):
        needed.append("coco")
    lacking = [extra for extra in needed if missing(extra) and not _replaced(backend, extra)]
    if lacking:
        _install(lacking)
    if "OUTPUT_DIR" in os.environ and "--output" not in options:
        options += ["--output", os.environ["OUTPUT_DIR"]]
    command = [sys.executable, "-P", "-m", "drumfire", "run", backend, model, *filter(None, [device]), *options]
    os.execv(sys.executable, command)


def parsed(words: Sequence[str]) -> tuple[str, str, str, list[str]]:
    """Backend, model, device ("" where none is named) and options; the words before the first option come in any order.

    Raises ``ValueError`` if a word is missing or there are two of a kind.
    """
    first = next((at for at, word in enumerate(words) if word.startswith("-")), len(words))
    leading, options = list(words[:first]), list(words[first:])
    by_kind: dict[str, str] = {}
    for word in leading:
        kind = "backend" if word in _BACKENDS else "device" if word in backends.DEVICES else "model"
        if kind in by_kind:
            raise ValueError(f"two words for the {kind}, {by_kind[kind]} and {word}; {_USAGE}")
        by_kind[kind] = word
    for kind, known in (("backend", _BACKENDS), ("model", models.MODELS)):
        if kind not in by_kind:
            raise ValueError(f"no {kind} among the words: one of {', '.join(known)}; {_USAGE}")
    return by_kind["backend"], by_kind["model"], by_kind.get("device", ""), options


def missing(extra: str) -> list[str]:
    """The packages of an extra that are not installed."""
    return [package for package in packages_of(extra, requires("drumfire") or []) if not _installed(package)]


def _replaced(backend: str, extra: str) -> bool:
    """Whether another device's extra is installed in its place: both would write the same files."""
    own = {backends.extra(backend, device) for device in backends.devices(backend)}
    return extra in own and len(own) > 1 and any(map(_installed, backends.distributions(backend)))


def _installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True


def _install(lacking: Sequence[str]) -> None:
    """Install extras into this environment, at the versions that were tested together."""
    what = f"{ROOT}[{','.join(lacking)}]"
    print(f"installing the extras {', '.join(lacking)} (once; some are large)", file=sys.stderr, flush=True)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run([*pip, "--constraint", str(ROOT / "constraints.txt"), "--editable", what], check=False)
    if done.returncode:
        _refuse(f"pip cannot install {what}: check the network and pip's settings")


def _refuse(why: str) -> NoReturn:
    print(f"run_local.sh: {why}", file=sys.stderr)
    sys.exit(statuses.USAGE)


if __name__ == "__main__":
    main(sys.argv[1:])
