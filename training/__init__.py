"""Time to train a model to a quality target.

Depends only on those modules of ``drumfire.loadgen`` that know the machine and options; no other package depends on it.
"""

from __future__ import annotations

import sys
from importlib.util import find_spec

_PACKAGES = ("faster_coco_eval", "matplotlib", "mlperf_logging", "PIL", "torch", "torchvision")

if sys.argv[0] == "-m":  # python -m is about to start one of the programs
    _lacking = [name for name in _PACKAGES if find_spec(name) is None]
    if _lacking:
        from drumfire.loadgen import installation

        print(f"training: needs {', '.join(_lacking)}: {installation.command('train')}", file=sys.stderr)
        sys.exit(2)
