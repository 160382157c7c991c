"""Drive one test through ``mlperf_loadgen``, whichever module that is, and tell as JSON all that it left behind.

A script, since the reference wants a fresh process for every test.  The case comes in on standard input: ``total``,
``perf`` (the library's counts), ``settings`` (attributes of TestSettings, enumerations by name) and, where wanted,
``audit`` (the text of an audit.config), ``kind`` (of system: SUT, FastSUT, QDL) and ``log`` (of LogOutputSettings).
"""

import array
import json
import sys
import tempfile
from pathlib import Path


def run(case: dict, folder: Path) -> dict:
    import mlperf_loadgen as lg

    settings = lg.TestSettings()
    for name, value in case["settings"].items():
        if name in ("scenario", "mode"):
            value = getattr(lg.TestScenario if name == "scenario" else lg.TestMode, value)
        setattr(settings, name, value)
    tokens, offline = settings.use_token_latencies, case["settings"]["scenario"] == "Offline"
    called: list[str] = []
    answers = array.array("q", range(case["total"]))
    base, _ = answers.buffer_info()

    def answer(ids: list[int], indices: list[int]) -> None:
        called.append("issue")
        if tokens and not offline:
            lg.FirstTokenComplete(
                [lg.QuerySampleResponse(i, base + 8 * at, 8) for i, at in zip(ids, indices, strict=True)]
            )
        lg.QuerySamplesComplete(
            [lg.QuerySampleResponse(i, base + 8 * at, 8, 2 + at % 7) for i, at in zip(ids, indices, strict=True)]
        )

    def issue(samples: list) -> None:
        answer([sample.id for sample in samples], [sample.index for sample in samples])

    def name() -> str:
        called.append("name")
        return "a named one"

    def flush() -> None:
        called.append("flush")

    kind = case.get("kind", "SUT")
    if kind == "QDL":
        sut, destroy = lg.ConstructQDL(issue, flush, name), lg.DestroyQDL
    elif kind == "FastSUT":
        sut, destroy = lg.ConstructFastSUT(answer, flush), lg.DestroyFastSUT
    else:
        sut, destroy = lg.ConstructSUT(issue, flush), lg.DestroySUT

    qsl = lg.ConstructQSL(
        case["total"], case["perf"], lambda _: called.append("load"), lambda _: called.append("unload")
    )
    logs = lg.LogSettings()
    logs.log_output.outdir = str(folder)
    logs.enable_trace = False
    for name_of, value in case.get("log", {}).items():
        setattr(logs.log_output, name_of, value)
    audit = folder / "audit.config"
    if "audit" in case:
        audit.write_text(case["audit"])
    lg.StartTestWithLogSettings(sut, qsl, settings, logs, str(audit))
    destroy(sut)
    lg.DestroyQSL(qsl)
    audit.unlink(missing_ok=True)
    return {
        "files": {path.name: path.read_text(errors="replace") for path in sorted(folder.iterdir())},
        "called": called,
    }


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as made:
        print("\n" + json.dumps(run(json.load(sys.stdin), Path(made))))
