"""A drop-in for ``mlperf_loadgen``: harnesses written for the C++ LoadGen's Python module run on this engine.

    python -m drumfire.loadgen.compat SCRIPT [ARGUMENTS ...]          # or, as the first lines of a script:
    import drumfire.loadgen.compat; drumfire.loadgen.compat.install()

Same names, calls, settings, threads and log files.  Where the reference hangs or dies, these raise an error that
names the mend.  Knows the engine; the engine knows nothing of this package.
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
"""The reference's distribution also installs a package of this name, whose import hides the module itself."""
_IMPORTABLE = str(Path(__file__).resolve().parent / "importable")
_ROOT = str(ROOT)


def install(*, patience_s: float | None = None) -> None:
    """Let ``import mlperf_loadgen`` find this engine, in this process and in those that it starts.

    ``patience_s``: how long a test waits without any answer before StartTest raises; an hour unless told.
    Raises ``RuntimeError`` where the reference was imported already.
    """
    api = importlib.import_module("drumfire.loadgen.compat.api")
    if patience_s is not None:
        start.patience_s = patience_s
    found = sys.modules.get(NAME)
    if (
        found is not None
        and found is not api
        and str(Path(getattr(found, "__file__", None) or "").parent) != _IMPORTABLE
    ):
        raise RuntimeError(f"{NAME} is already imported from {found.__file__}: call install() before importing it")
    sys.modules[NAME] = sys.modules[_ALSO] = api
    # Processes that multiprocessing starts afresh take over the one, other Python processes the other.
    inherited = [path for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    for paths in (sys.path, inherited):
        if _IMPORTABLE not in paths:
            paths.insert(0, _IMPORTABLE)
        if _ROOT not in paths:
            paths.append(_ROOT)
    os.environ["PYTHONPATH"] = os.pathsep.join(inherited)
