"""The fixed runs of the guards, saved and opened again: what a saved run says and its document does not.

python -m tests.support.saved_again     # prints a JSON object of differences by run, and how many were compared
"""

from __future__ import annotations

from tests.guards import fixed_runs  # first: it makes time virtual

import contextlib  # isort: skip
import json
import tempfile
from pathlib import Path
from typing import Any

from drumfire.loadgen.saved import load
from tests.support.saved_figures import differences


def main() -> None:
    found: dict[str, Any] = {}
    compared = 0
    for name, run in fixed_runs.RUNS.items():
        if run.part is not None:  # a generator's share, which is never saved by itself
            continue
        with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):
            fixed_runs.performed(run, Path("run"))
            saved = load("run")
            compared += saved.results is not None
            if differs := differences(saved):
                found[name] = differs
    print(json.dumps({"differences": found, "compared": compared}))


if __name__ == "__main__":
    main()
