"""``run_local.sh``: a run by the words of MLPerf's reference harness, in any order, and then its options.

Knows which word is what and how what lacks is installed; the run itself is the command line's.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, requires, version
from typing import NoReturn

from drumfire.bench.cli import USAGE
from drumfire.bench.commands.models import extras
from drumfire.loadgen.installation import ROOT
from drumfire.sut import models
from drumfire.sut.local import backends
from drumfire.sut.models.detector import DetectionJudge

_BACKENDS = (*backends.BACKENDS, "triton", "null")
_MODE_OPTIONS = {"--accuracy", "--submission"}
_USAGE = "usage: ./run_local.sh BACKEND MODEL [DEVICE] [OPTIONS], the words in any order"


def main(words: Sequence[str]) -> NoReturn:
    """Become the run that the words tell; where that can not be, end with one line."""
    try:
        backend, model, device, options = understood(words)
        needed = [] if backend not in backends.BACKENDS else extras(backend, model, device)
    except (ValueError, backends.BackendError) as error:
        _refuse(str(error))
    if isinstance(models.MODELS.get(model), DetectionJudge) and _MODE_OPTIONS.intersection(options):
        needed.append("coco")
    lacking = [extra for extra in needed if missing(extra) and not _stands_in(backend, extra)]
    if lacking:
        _install(lacking)
    if "OUTPUT_DIR" in os.environ and "--output" not in options:
        options += ["--output", os.environ["OUTPUT_DIR"]]
    command = [sys.executable, "-P", "-m", "drumfire", "run", backend, model, device, *options]
    os.execv(sys.executable, command)


def understood(words: Sequence[str]) -> tuple[str, str, str, list[str]]:
    """Backend, model, device and options: whichever comes first among the words before the first option.

    Raises ``ValueError`` for a word too many or too few.
    """
    first = next((at for at, word in enumerate(words) if word.startswith("-")), len(words))
    leading, options = list(words[:first]), list(words[first:])
    found: dict[str, str] = {}
    for word in leading:
        kind = "backend" if word in _BACKENDS else "device" if word in backends.DEVICES else "model"
        if kind in found:
            raise ValueError(f"two words for the {kind}, {found[kind]} and {word}; {_USAGE}")
        found[kind] = word
    for kind, known in (("backend", _BACKENDS), ("model", models.MODELS)):
        if kind not in found:
            raise ValueError(f"no {kind} among the words: one of {', '.join(known)}; {_USAGE}")
    return found["backend"], found["model"], found.get("device", "cpu"), options


def missing(extra: str) -> list[str]:
    """The packages of an extra that are not installed."""
    wanted = re.compile(rf"""([\w.-]+).*;.*extra == ["']{re.escape(extra)}["']""")
    packages = [match[1] for line in requires("drumfire") or () if (match := wanted.match(line))]
    return [package for package in packages if not _installed(package)]


def _stands_in(backend: str, extra: str) -> bool:
    """Whether what another device's extra brought is there: both would write the same files."""
    own = {backends.extra(backend, device) for device in backends.devices(backend)}
    return extra in own and len(own) > 1 and any(map(_installed, backends.distributions(backend)))


def _installed(package: str) -> bool:
    try:
        version(package)
    except PackageNotFoundError:
        return False
    return True


def _install(lacking: Sequence[str]) -> None:
    """Into this environment, at the versions that were tested together."""
    what = f"{ROOT}[{','.join(lacking)}]"
    print(f"installing the extras {', '.join(lacking)} (once; some are large)", file=sys.stderr, flush=True)
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    done = subprocess.run([*pip, "--constraint", str(ROOT / "constraints.txt"), "--editable", what], check=False)
    if done.returncode:
        _refuse(f"pip can not install {what}: mend the network or pip's settings")


def _refuse(why: str) -> NoReturn:
    print(f"run_local.sh: {why}", file=sys.stderr)
    sys.exit(USAGE)


if __name__ == "__main__":
    main(sys.argv[1:])
