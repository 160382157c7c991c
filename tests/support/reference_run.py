"""Drive the reference LoadGen once, in this process, and print as JSON what it asked for.

A script, since the reference wants a fresh process for every test: the case comes in on standard input as JSON with
``total``, ``perf`` (the library's counts) and ``settings`` (attributes of TestSettings, enumerations by name).
"""

import array
import json
import re
import sys
import tempfile
from pathlib import Path

import mlperf_loadgen as lg

SAMPLE_BEGINS = re.compile(r'"name":"Sample".*?"ph":"b".*?"id":(\d+).*?"ts":(\d+)\.(\d{3})')


def settings_of(values: dict) -> lg.TestSettings:
    settings = lg.TestSettings()
    for name, value in values.items():
        if name == "scenario":
            value = getattr(lg.TestScenario, value)
        elif name == "mode":
            value = getattr(lg.TestMode, value)
        setattr(settings, name, value)
    return settings


def run(case: dict, folder: Path) -> dict:
    loaded: list[list[int]] = []
    issued: list[list[int]] = []

    def issue(samples: list) -> None:
        """Answers at once, with the dataset index as 8 bytes; the buffer need only live through the call."""
        indices = [sample.index for sample in samples]
        issued.append(indices)
        answer = array.array("q", indices)
        base, _ = answer.buffer_info()
        lg.QuerySamplesComplete([lg.QuerySampleResponse(s.id, base + 8 * i, 8) for i, s in enumerate(samples)])

    server = case["settings"]["scenario"] == "Server"
    logs = lg.LogSettings()
    logs.log_output.outdir = str(folder)
    logs.enable_trace = server  # only there is it useful: it says when each query was due
    sut = lg.ConstructSUT(issue, lambda: None)
    qsl = lg.ConstructQSL(case["total"], case["perf"], lambda indices: loaded.append(list(indices)), lambda _: None)
    lg.StartTestWithLogSettings(sut, qsl, settings_of(case["settings"]), logs, str(folder / "no_audit.config"))

    detail: dict[str, list] = {}
    for line in (folder / "mlperf_log_detail.txt").read_text(errors="replace").splitlines():
        key = re.search(r'"key": "(\w+)"', line)
        if key and key[1].startswith(("generated_", "effective_")):
            detail.setdefault(key[1], []).append(json.loads(line.removeprefix(":::MLLOG "))["value"])
    due = []
    if server:
        for line in (folder / "mlperf_log_trace.json").read_text(errors="replace").splitlines():
            if begins := SAMPLE_BEGINS.search(line):
                sequence, us, ns = map(int, begins.groups())
                due.append((sequence, us * 1000 + ns))
    return {
        "loaded": loaded,
        "issued": issued,
        "query_count": detail["generated_query_count"],
        "samples_per_query": detail["generated_samples_per_query"],
        "duration_ns": detail["generated_query_duration"],
        "effective": {key: values[-1] for key, values in detail.items() if key.startswith("effective_")},
        "due_ns": [ns for _, ns in sorted(due)],
        "logged": sorted(e["seq_id"] for e in json.loads((folder / "mlperf_log_accuracy.json").read_text())),
    }


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(run(json.load(sys.stdin), Path(folder))))
