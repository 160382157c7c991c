"""``python -m drumfire.bench.peers.gpu``, which ``make gpu-proof`` calls: the parts within a time, a document, tables.

Nothing is fetched.  The packages are those of this Python; what is missing is named, and what needs it is left out.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from drumfire.bench import statuses
from drumfire.bench.peers.gpu import child, parts, plan
from drumfire.bench.peers.gpu.plan import Ended, Missing, Part
from drumfire.bench.peers.process import say
from drumfire.loadgen import installation
from drumfire.loadgen.errors import UserError, one_line
from drumfire.loadgen.signals import on_ending
from drumfire.sut import module_process

DOCUMENT, TABLES = "gpu-proof.json", "gpu-proof.md"
_LEAST_TORCH = (2, 11)
_REPORT_S = 8.0
"""What the end of the last part and the report may take."""
_LOOK_S = 120.0
_LOOK = (
    "import torch; assert torch.cuda.is_available(); torch.cuda.init()\n"
    "print(*{line.split()[-1] for line in open('/proc/self/maps') if 'libcudart' in line}, sep='\\n')"
)
"""Prints the files of the CUDA runtime that torch brings, as ctypes does not look there."""


def main(arguments: Sequence[str] | None = None) -> int:
    options = _options(arguments)
    try:
        if options.record is not None:
            _record(options.record)
            return statuses.DONE
        check_packages()
        variables = _variables(options.device)
        _make(options.output)
    except UserError as error:
        say(f"gpu-proof: {error}")
        return statuses.USAGE
    return _prove(options, variables)


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m drumfire.bench.peers.gpu", description=__doc__)
    parser.add_argument("--device", choices=("gpu", "cpu"), default="gpu", help="cpu: the same with small sizes")
    parser.add_argument("--minutes", type=float, metavar="F", help="how long all may take (default: 8, on the cpu 5)")
    parser.add_argument(
        "--output", type=Path, default=Path("runs/gpu-proof"), metavar="D", help="default: runs/gpu-proof"
    )
    parser.add_argument("--only", nargs="+", metavar="PART", help="these parts only")
    parser.add_argument(
        "--record", type=Path, metavar="F", help=f"measure nothing: put a {DOCUMENT} into bench/peers/RESULTS.md"
    )
    words = sys.argv[1:] if arguments is None else arguments
    options = parser.parse_args(words)
    options.minutes = parts.MINUTES[options.device] if options.minutes is None else options.minutes
    if not 0 < options.minutes < float("inf"):
        parser.error("--minutes must be above 0")
    names = [part.name for part in parts.of(options.device)[0]]
    if unknown := sorted(set(options.only or ()) - set(names)):
        parser.error(f"--only: unknown {', '.join(unknown)} (choose from {', '.join(names)})")
    options.command = shlex.join(["python", "-m", "drumfire.bench.peers.gpu", *words])
    return options


def _make(folder: Path) -> None:
    """Raises ``UserError``."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"{folder} cannot be written: {error.strerror or error}; choose another --output") from None


def needed() -> dict[str, str]:
    """The packages without which nothing here runs, and their modules."""
    project = tomllib.loads((installation.ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    names = [re.split(r"[^\w-]", requirement)[0] for requirement in project["dependencies"]]
    # hdrhistogram needs pbr, which pip does not bring with --no-deps.
    return {name: name.replace("-", "_") for name in (*names, "pbr")} | {"hdrhistogram": "hdrh"}


def check_packages() -> None:
    """Raise ``UserError`` where this Python lacks what every part needs."""
    if lacking := installation.lacking(needed()):
        raise UserError(
            f"{sys.executable} lacks {', '.join(lacking)}: pip install --target D {' '.join(lacking)} (where there "
            "is a network), then PYTHONPATH=D"
        )
    try:
        found = importlib.metadata.version("torch")
    except importlib.metadata.PackageNotFoundError:
        raise UserError(f"{sys.executable} has no torch: name the Python that has it, as PYTHON=...") from None
    if tuple(int(word) for word in found.split(".")[:2]) < _LEAST_TORCH:
        raise UserError(f"torch {found} is older than {'.'.join(map(str, _LEAST_TORCH))}: name another PYTHON=...")


def _variables(device: str) -> Mapping[str, str]:
    """The environment of the parts.  Raises ``UserError`` where there is no GPU and one was asked for."""
    variables = module_process.environment()
    # Absolute, as parts start programs in other folders.
    search = variables["PYTHONPATH"].split(os.pathsep)
    variables["PYTHONPATH"] = os.pathsep.join(os.path.abspath(folder) for folder in search)
    if device == "cpu":
        return variables
    try:
        looked = subprocess.run(
            [sys.executable, "-c", _LOOK], capture_output=True, text=True, timeout=_LOOK_S, check=False, env=variables
        )
    except subprocess.TimeoutExpired:
        raise UserError(f"torch has not found the GPU within {_LOOK_S:g} s: check the driver") from None
    if looked.returncode:
        why = (looked.stderr.strip() or "it said nothing").splitlines()[-1]
        raise UserError(f"torch sees no GPU ({why[:200]}): check nvidia-smi, or take DEVICE=cpu")
    folders = [os.path.dirname(line) for line in looked.stdout.splitlines() if line.startswith("/")]
    libraries = variables.get("LD_LIBRARY_PATH")
    return variables | {"LD_LIBRARY_PATH": os.pathsep.join([*folders, *([libraries] if libraries else [])])}


def _prove(options: argparse.Namespace, variables: Mapping[str, str]) -> int:
    from drumfire.bench.peers.gpu.meters import metered
    from drumfire.loadgen import environment

    began, until = time.monotonic(), time.monotonic() + options.minutes * 60 - _REPORT_S
    chosen, expected = parts.of(options.device)
    chosen = [part for part in chosen if not options.only or part.name in options.only]
    about: dict[str, Any] = {
        "started": datetime.now().astimezone().isoformat(timespec="seconds"),
        "command": options.command,
        "device": options.device,
        "load": os.getloadavg(),
        "environment": environment.describe(("torch", "torchvision", "onnx", "triton")),
    }
    ended: list[Ended] = []
    unsaved = ""
    on_ending(signal.default_int_handler)
    with metered() as meter:

        def run(part: Part, seconds: float) -> Ended:
            say(f"{part.name}: at most {seconds:.0f} s ...")
            one = child.run(part, seconds, options.device, variables)
            say(f"{part.name}: {one.status} after {one.took_s:.0f} s{': ' + one.why if one.why else ''}")
            if reading := meter.since_last():
                one.figures.append({"of": "meter", "part": part.name, **reading})
            return one

        # An interrupt within a part ends the part; one between two parts comes here.
        with suppress(KeyboardInterrupt):
            for one in plan.carry_out(chosen, run, lambda: until - time.monotonic()):
                ended.append(one)
                unsaved = _save(options.output, ended, expected, about, began)
    on_ending(signal.SIG_IGN)
    is_whole = len(ended) == len(chosen) and all(one.status != "interrupted" for one in ended)
    if not plan.figures(ended, "meter"):
        no_gpu = options.device == "cpu"
        why = "the cpu has none" if no_gpu else "nvidia-smi gave none"
        expected = [*expected, Missing("NVML's figures", why, expected=no_gpu)]
    unsaved = _save(options.output, ended, expected, about, began, interrupted=not is_whole)
    if unsaved:
        say(f"gpu-proof: {unsaved}")
    return status(ended, expected, interrupted=not is_whole, unsaved=bool(unsaved))


def status(ended: Sequence[Ended], expected: Sequence[Missing], *, interrupted: bool, unsaved: bool) -> int:
    """The exit status."""
    missing = [one for of_part in ended for one in of_part.missing] + list(expected)
    held = [statuses.DONE]
    if any(not one.expected for one in missing):
        held.append(statuses.UNDECIDED)
    if any(one.status == "failed" for one in ended):
        held.append(statuses.FAILED)
    if unsaved:
        held.append(statuses.UNSAVED)
    if interrupted:
        held.append(statuses.INTERRUPTED)
    return statuses.worst(*held)


def _save(
    folder: Path, ended: Sequence[Ended], expected: Sequence[Missing], about: Mapping[str, Any], began: float,
    *, interrupted: bool | None = None,
) -> str:  # fmt: skip
    """Write both files; in the end (``interrupted`` is not None) print the tables too.  Returns why it could not."""
    from drumfire.bench.peers.gpu import report
    from drumfire.loadgen.files import in_one_step

    took = {"took_s": time.monotonic() - began}
    # Until the end it is as one that was interrupted: that is what is found of it if this process is killed.
    found = report.document(ended, expected, {**about, **took}, interrupted=interrupted is not False)
    text = report.section(found)
    if interrupted is not None:
        print(text)
    try:
        for name, contents in ((DOCUMENT, json.dumps(found, indent=1, allow_nan=False)), (TABLES, text)):
            with in_one_step(folder / name) as file:
                file.write(contents.encode() + b"\n")
    except OSError as error:
        return f"{folder} cannot be written: {one_line(error)}"
    return ""


def _record(path: Path) -> None:
    """Put the tables of a document into RESULTS.md.  Raises ``UserError``."""
    from drumfire.bench.peers import results
    from drumfire.bench.peers.gpu import report
    from drumfire.loadgen import files

    try:
        found = json.loads(files.read_bytes(path))
        device, text = found["device"], report.section(found)
    except (ValueError, LookupError, TypeError, AttributeError):
        raise UserError(f"{path} is not a {DOCUMENT} of this program") from None
    if device != "gpu":
        raise UserError(f"{path} is of the {device}, which shows nothing of a GPU: record one of --device gpu")
    to = installation.ROOT / "bench" / "peers" / "RESULTS.md"
    try:
        results.put_section(to, "gpu", f"## On a GPU\n\n{text}")
    except OSError as error:
        raise UserError(f"{to} cannot be written: {error.strerror or error}") from None


if __name__ == "__main__":
    sys.exit(main())
