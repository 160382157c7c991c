"""A saved run of which one file is damaged: opened, or refused in one line.

An input is a file's path below the run's folder, a line feed, and its contents.
"""

from __future__ import annotations

import shutil

from drumfire.loadgen.errors import UserError
from drumfire.loadgen.saved import load
from tests.fuzz.harness import check_line, file
from tests.support.command import here

_WHOLE, _DAMAGED = file("whole"), file("damaged")
_ASKED = ("--scenario", "Server", "--qps", 20_000, "--count", 20, "--time", 0.001, "--no-dashboard", "--output", _WHOLE)
here("run", "null", "digits", *_ASKED)
shutil.copytree(_WHOLE, _DAMAGED)

_FILES = sorted(str(path.relative_to(_WHOLE)) for path in _WHOLE.rglob("*") if path.suffix in (".json", ".npy"))
SEEDS = [name.encode() + b"\n" + (_WHOLE / name).read_bytes() for name in _FILES]
TOKENS = [b"null", b"NaN", b"[]", b"{}", b'""', b"-1", b"1e400", b"<i8", b"<f8", b"|O", b"True"]
_PARTS = ("result", "valid", "requested", "effective", "environment", "columns", "flat_columns", "series", "logs")
_damaged: list[str] = []
"""The file that is not as it was."""
_FIGURES = ("measured", "results", "figures")


def read(data: bytes) -> None:
    name, _, contents = data.partition(b"\n")
    file = name.decode(errors="replace") if name.decode(errors="replace") in _FILES else "result.json"
    if _damaged and _damaged[0] != file:
        shutil.copyfile(_WHOLE / _damaged[0], _DAMAGED / _damaged[0])
    _damaged[:] = [file]
    (_DAMAGED / file).write_bytes(contents)
    try:
        run = load(_DAMAGED)
        repr(run)
        for part in (*_PARTS, *_FIGURES):
            try:
                getattr(run, part)
            except UserError as error:
                check_line(error)
    except UserError as error:
        check_line(error)
