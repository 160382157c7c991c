"""A harness in the style of the LoadGen's demos: SingleStream, each query answered by a worker thread."""

import array
import queue
import sys
import threading

import mlperf_loadgen as lg

pending: queue.Queue = queue.Queue()


def work() -> None:
    while (sample := pending.get()) is not None:
        answer = array.array("B", b"%d" % sample.index)
        address, length = answer.buffer_info()
        lg.QuerySamplesComplete([lg.QuerySampleResponse(sample.id, address, length)])


def main(folder: str) -> None:
    settings = lg.TestSettings()
    settings.scenario = lg.TestScenario.SingleStream
    settings.mode = lg.TestMode.PerformanceOnly
    settings.single_stream_expected_latency_ns = 1_000_000
    settings.min_query_count = 700
    settings.min_duration_ms = 0
    settings.accuracy_log_probability = 0.05
    logs = lg.LogSettings()
    logs.log_output.outdir = folder
    logs.log_output.copy_summary_to_stdout = True

    worker = threading.Thread(target=work)
    worker.start()
    sut = lg.ConstructSUT(lambda samples: [pending.put(sample) for sample in samples], lambda: None)
    qsl = lg.ConstructQSL(500, 100, lambda _: None, lambda _: None)
    lg.StartTestWithLogSettings(sut, qsl, settings, logs)
    lg.DestroyQSL(qsl)
    lg.DestroySUT(sut)
    pending.put(None)
    worker.join()


if __name__ == "__main__":
    main(sys.argv[1])
