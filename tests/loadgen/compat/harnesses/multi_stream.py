"""A harness in the style of the LoadGen's demos: MultiStream, samples answered backwards by two threads."""

import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import mlperf_loadgen as lg

pool = ThreadPoolExecutor(2)
answered = threading.Semaphore(0)


def answer(sample: lg.QuerySample) -> None:
    lg.QuerySamplesComplete([lg.QuerySampleResponse(sample.id, 0, 0)])
    answered.release()


def issue(samples: list) -> None:
    for sample in reversed(samples):
        pool.submit(answer, sample)


def main(folder: str) -> None:
    settings = lg.TestSettings()
    settings.scenario = lg.TestScenario.MultiStream
    settings.mode = lg.TestMode.PerformanceOnly
    settings.multi_stream_samples_per_query = 4
    settings.min_query_count = 670
    settings.min_duration_ms = 0
    logs = lg.LogSettings()
    logs.log_output.outdir = folder
    logs.log_output.copy_summary_to_stdout = True

    sut = lg.ConstructSUT(issue, lambda: None)
    qsl = lg.ConstructQSL(64, 64, lambda _: None, lambda _: None)
    lg.StartTestWithLogSettings(sut, qsl, settings, logs)
    lg.DestroyQSL(qsl)
    lg.DestroySUT(sut)
    pool.shutdown()


if __name__ == "__main__":
    main(sys.argv[1])
