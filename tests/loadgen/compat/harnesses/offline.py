"""A harness in the style of the LoadGen's demos: Offline accuracy, then performance, in one process.

Responses come by callback: what is to be logged is told only when the load generator asks for it.
"""

import array
import queue
import sys
import threading

import mlperf_loadgen as lg

pending: queue.Queue = queue.Queue()
LABELS = array.array("i", (index * 7 % 10 for index in range(300)))


def tell(response: lg.QuerySampleResponse, index_of: dict) -> None:
    address, _ = LABELS.buffer_info()
    response.data = address + LABELS.itemsize * index_of[response.id]
    response.size = LABELS.itemsize


def answer(samples: list) -> None:
    index_of = {sample.id: sample.index for sample in samples}
    for first in range(0, len(samples), 32):
        batch = samples[first : first + 32][::-1]
        responses = [lg.QuerySampleResponse(sample.id, 0, 0) for sample in batch]
        lg.QuerySamplesComplete(responses, lambda response: tell(response, index_of))


def work() -> None:
    while (samples := pending.get()) is not None:
        answer(samples)


def main(folder: str) -> None:
    worker = threading.Thread(target=work)
    worker.start()
    sut = lg.ConstructSUT(pending.put, lambda: None)
    qsl = lg.ConstructQSL(300, 128, lambda _: None, lambda _: None)
    for mode in (lg.TestMode.AccuracyOnly, lg.TestMode.PerformanceOnly):
        settings = lg.TestSettings()
        settings.scenario = lg.TestScenario.Offline
        settings.mode = mode
        settings.min_query_count = 2000
        settings.min_duration_ms = 0
        logs = lg.LogSettings()
        logs.log_output.outdir = folder
        logs.log_output.prefix = f"{mode.name}_"
        logs.log_output.suffix = "_log"
        logs.log_output.copy_summary_to_stdout = True
        lg.StartTestWithLogSettings(sut, qsl, settings, logs)
    lg.DestroyQSL(qsl)
    lg.DestroySUT(sut)
    pending.put(None)
    worker.join()


if __name__ == "__main__":
    main(sys.argv[1])
