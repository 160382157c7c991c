"""``python -m drumfire.loadgen.compat [--patience S] SCRIPT [ARGUMENT ...]``: a script importing ``mlperf_loadgen``."""

from __future__ import annotations

import argparse
import runpy
import sys
from pathlib import Path

from drumfire.loadgen.compat import install


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m drumfire.loadgen.compat",
        description="Run a script written for the C++ LoadGen's Python module on Drumfire's engine.",
    )
    parser.add_argument(
        "--patience", type=float, metavar="S", help="give a test up after so many seconds without any answer"
    )
    parser.add_argument("-m", action="store_true", dest="module", help="SCRIPT is the name of a module")
    parser.add_argument("script", metavar="SCRIPT")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="ARGUMENTS")
    asked = parser.parse_args()
    if asked.patience is not None and not asked.patience > 0:
        parser.error("--patience must be above 0")
    sys.argv = [asked.script, *asked.arguments]
    if asked.module:
        install(patience_s=asked.patience)
        runpy.run_module(asked.script, run_name="__main__", alter_sys=True)
        return
    if not Path(asked.script).is_file():
        parser.error(f"there is no file {asked.script}")
    # As Python does for a script of its own; the current folder is not looked in.
    sys.path[:] = [str(Path(asked.script).resolve().parent), *(path for path in sys.path if path != str(Path.cwd()))]
    install(patience_s=asked.patience)
    runpy.run_path(asked.script, run_name="__main__")


if __name__ == "__main__":
    main()
