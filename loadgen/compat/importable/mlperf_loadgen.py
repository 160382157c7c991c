"""``import mlperf_loadgen`` imports this if its folder leads the path, and gets ``drumfire.loadgen.compat.api``."""

import importlib
import sys

sys.modules[__name__] = importlib.import_module("drumfire.loadgen.compat.api")
