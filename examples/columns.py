"""Open a run's folder: every query's times as numpy arrays, where the time of the slowest ones went, and the series.

The folder is what ``drumfire run`` leaves behind; ``drumfire.load`` reads of it only what is used.

    drumfire run onnxruntime digits cpu --scenario Server --qps 500 --time 10 --output runs/mine
    python examples/columns.py runs/mine
"""

import sys
from pathlib import Path

import numpy as np

import drumfire

OK = 1  # the status of a sample that was answered well

if len(sys.argv) != 2 or not Path(sys.argv[1], "result.json").is_file():
    sys.exit("usage: python columns.py RUN, the folder of a run that has ended")

run = drumfire.load(sys.argv[1])
# One array a column, one element a sample; times are ns from the start of the phase.
columns = run.columns
for name, column in columns.items():
    print(f"{name:14} {column.dtype!s:8} {len(column):,} samples")

good = np.flatnonzero(columns["status"] == OK)
scheduled, issued, completed = (columns[name][good] for name in ("scheduled", "issued", "completed"))
latency = completed - scheduled

# The percentile rule of MLPerf's LoadGen: of n values in order, the one at position int(n * p), from 0.
p99 = int(np.sort(latency)[int(latency.size * 0.99)])
print(f"\n{run}")
print(f"\np99 {p99 / 1e6:.3f} ms, in result.json {run.result['latency_ns']['p99'] / 1e6:.3f} ms")

slowest = np.argsort(latency)[-5:][::-1]
print("\n  sample     due at   latency  lateness     queue   compute   (ms)")
for at in slowest:
    times = [scheduled[at], latency[at], issued[at] - scheduled[at]]
    if "begun" in columns:  # a system in this process also writes when a sample's batch began to be computed
        begun = columns["begun"][good[at]]
        times += [begun - issued[at], completed[at] - begun]
    print(f"{columns['sample_index'][good[at]]:8}" + "".join(f"{ns / 1e6:10.3f}" for ns in times))

# What the servers said of themselves; a run without servers has none.
for name, one in run.series.items():
    print(f"{name:30} {one.unit:8} at most {one.points['value'].max():,.1f}")
