"""A harness in the style of the LoadGen's demos: Server, three threads answering in batches and out of order.

The second argument is the bound on latency in ns: one that is met, or one that can not be.
"""

import queue
import random
import sys
import threading

import mlperf_loadgen as lg

pending: queue.Queue = queue.Queue()


def work() -> None:
    while (sample := pending.get()) is not None:
        batch = [sample]
        while len(batch) < 16:
            try:
                more = pending.get_nowait()
            except queue.Empty:
                break
            if more is None:
                pending.put(None)
                break
            batch.append(more)
        random.shuffle(batch)
        lg.QuerySamplesComplete([lg.QuerySampleResponse(sample.id, 0, 0) for sample in batch])


def main(folder: str, bound_ns: int) -> None:
    settings = lg.TestSettings()
    settings.scenario = lg.TestScenario.Server
    settings.mode = lg.TestMode.PerformanceOnly
    settings.server_target_qps = 2000
    settings.server_target_latency_ns = bound_ns
    settings.min_query_count = 800
    settings.min_duration_ms = 300
    logs = lg.LogSettings()
    logs.log_output.outdir = folder
    logs.log_output.copy_summary_to_stdout = True

    workers = [threading.Thread(target=work) for _ in range(3)]
    for worker in workers:
        worker.start()
    sut = lg.ConstructSUT(lambda samples: [pending.put(sample) for sample in samples], lambda: None)
    qsl = lg.ConstructQSL(1000, 256, lambda _: None, lambda _: None)
    lg.StartTestWithLogSettings(sut, qsl, settings, logs)
    lg.DestroyQSL(qsl)
    lg.DestroySUT(sut)
    for _ in workers:
        pending.put(None)
    for worker in workers:
        worker.join()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
