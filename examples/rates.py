"""Measure a model at several rates from Python, and compare: each run is what ``drumfire run`` does and leaves behind.

It runs in a notebook too.

    python examples/rates.py [SECONDS]
"""

import sys

import numpy as np

import drumfire


def main(seconds: float) -> bool:
    runs = []
    for qps in (250, 500, 1000):
        run = drumfire.run("onnxruntime", "digits", scenario="Server", qps=qps, time=seconds)
        p50, p99 = (run.result["latency_ns"][name] / 1e6 for name in ("p50", "p99"))
        print(f"{qps:5}/s {run.result['validity']:8} p50 {p50:.3f} ms, p99 {p99:.3f} ms")
        runs.append(run)

    # A run is its folder, of this program or of an earlier one.
    last = drumfire.load(runs[-1].folder)
    waited = last.columns["begun"] - last.columns["issued"]
    print(f"\n{last}\nin its queue a sample waited {np.median(waited) / 1e3:.1f} us (median)\n")
    print(last.report)
    return all(run.valid for run in runs)


if __name__ == "__main__":
    sys.exit(0 if main(float(sys.argv[1]) if len(sys.argv) > 1 else 5.0) else 1)
