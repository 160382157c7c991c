"""What ``import mlperf_loadgen`` finds where this folder leads the path: the module of ``drumfire.loadgen.compat``."""

import importlib
import sys

sys.modules[__name__] = importlib.import_module("drumfire.loadgen.compat.api")
