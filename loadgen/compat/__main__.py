"""``python -m drumfire.loadgen.compat SCRIPT [ARGUMENTS ...]``: run a script that imports ``mlperf_loadgen``."""

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
        "--patience", type=float, metavar="S", help="give up on a test after this many seconds without any answer"
    )
    parser.add_argument("-m", action="store_true", dest="module", help="SCRIPT is the name of a module")
    parser.add_argument("script", metavar="SCRIPT")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, metavar="ARGUMENTS")
    options = parser.parse_args()
    if options.patience is not None and not options.patience > 0:
        parser.error("--patience must be above 0")
    sys.argv = [options.script, *options.arguments]
    if options.module:
        install(patience_s=options.patience)
        runpy.run_module(options.script, run_name="__main__", alter_sys=True)
        return
    if not Path(options.script).is_file():
        parser.error(f"there is no file {options.script}")
    # As Python does for a script: its folder leads the path, and the current folder is not on it.
    sys.path[:] = [str(Path(options.script).resolve().parent), *(path for path in sys.path if path != str(Path.cwd()))]
    install(patience_s=options.patience)
    runpy.run_path(options.script, run_name="__main__")


if __name__ == "__main__":
    main()
