"""A drop-in for ``mlperf_loadgen``: harnesses written for the C++ LoadGen's Python module run on this engine.

    python -m drumfire.loadgen.compat SCRIPT [ARGUMENTS ...]          # or, as the first lines of a script:
    import drumfire.loadgen.compat; drumfire.loadgen.compat.install()

Names, calls, settings, threads and log files are the same.  Where the reference hangs or crashes, an error says what
to do.  The engine does not depend on this package.
"""

from __future__ import annotations

import importlib
import os
import sys
from pathlib import Path

from drumfire.loadgen.compat import start
from drumfire.loadgen.installation import ROOT

NAME = "mlperf_loadgen"
_ALSO = "mlcommons_loadgen"
"""The reference's distribution also installs this package, whose import replaces ``mlperf_loadgen``."""
_IMPORTABLE = str(Path(__file__).resolve().parent / "importable")
_ROOT = str(ROOT)


def install(*, patience_s: float | None = None) -> None:
    """Make ``import mlperf_loadgen`` import this engine, in this process and in processes that it starts.

    ``patience_s``: how long a test waits without any answer before StartTest raises; by default an hour.
    Raises ``RuntimeError`` if the reference is already imported.
    """
    api = importlib.import_module("drumfire.loadgen.compat.api")
    if patience_s is not None:
        start.patience_s = patience_s
    imported = sys.modules.get(NAME)
    if imported is not None and imported is not api:
        file = getattr(imported, "__file__", None)
        if str(Path(file or "").parent) != _IMPORTABLE:
            raise RuntimeError(f"{NAME} is already imported from {file}: call install() before importing it")
    sys.modules[NAME] = sys.modules[_ALSO] = api
    # Processes that multiprocessing spawns inherit sys.path; other Python processes inherit PYTHONPATH.
    inherited = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    for paths in (sys.path, inherited):
        if _IMPORTABLE not in paths:
            paths.insert(0, _IMPORTABLE)
        if _ROOT not in paths:
            paths.append(_ROOT)
    os.environ["PYTHONPATH"] = os.pathsep.join(inherited)
