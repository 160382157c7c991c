"""A harness in the style of MLPerf's own, written for the C++ LoadGen: it imports ``mlperf_loadgen``, not Drumfire.

Drumfire runs it as it is; the logs land in FOLDER, as always.

    python -m drumfire.loadgen.compat examples/harness.py FOLDER [SECONDS]
"""

import array
import os
import queue
import sys
import threading

import mlperf_loadgen as lg

waiting: queue.SimpleQueue = queue.SimpleQueue()


def work() -> None:
    """Answer one query's samples after the other: the answer to a sample is its index, doubled."""
    while (samples := waiting.get()) is not None:
        for sample in samples:
            answer = array.array("q", [sample.index * 2])
            address, count = answer.buffer_info()
            lg.QuerySamplesComplete([lg.QuerySampleResponse(sample.id, address, count * answer.itemsize)])


def main(folder: str, seconds: float) -> None:
    settings = lg.TestSettings()
    settings.scenario = lg.TestScenario.Server
    settings.mode = lg.TestMode.PerformanceOnly
    settings.server_target_qps = 2000
    settings.server_target_latency_ns = 200_000_000
    settings.min_duration_ms = int(seconds * 1000)
    logs = lg.LogSettings()
    logs.log_output.outdir = folder
    logs.log_output.copy_summary_to_stdout = True

    os.makedirs(folder, exist_ok=True)
    # A daemon, so that an error of the LoadGen ends the program although the thread waits.
    worker = threading.Thread(target=work, daemon=True)
    worker.start()
    sut = lg.ConstructSUT(waiting.put, lambda: None)
    qsl = lg.ConstructQSL(1000, 1000, lambda indices: None, lambda indices: None)
    lg.StartTestWithLogSettings(sut, qsl, settings, logs)
    lg.DestroyQSL(qsl)
    lg.DestroySUT(sut)
    waiting.put(None)
    worker.join()


if __name__ == "__main__":
    main(sys.argv[1], float(sys.argv[2]) if len(sys.argv) > 2 else 5.0)
