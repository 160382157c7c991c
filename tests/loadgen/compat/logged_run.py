"""Drive one test through ``mlperf_loadgen``, whichever module that is, and tell as JSON all that it left behind.

A script, since the reference wants a fresh process for every test.  The case comes in on standard input: ``total``,
``perf`` (the library's counts), ``settings`` (attributes of TestSettings, enumerations by name) and, where wanted,
``audit`` (the text of an audit.config), ``kind`` (of system: SUT, FastSUT, QDL), ``log`` (of LogOutputSettings),
``trace``, ``configs`` (before the settings: text, or none for a file that is not there, and FromConfig's further
arguments), ``token_counts`` (of a sample, by its index, in turn) and ``without_first`` (indices without a first token).
"""

import array
import json
import sys
import tempfile
from pathlib import Path

NO_FILE = "/no/such/user.conf"


def tokens_of(case: dict, index: int) -> int:
    counts = case.get("token_counts", [2, 3, 4, 5, 6, 7, 8])
    return counts[index % len(counts)]


def has_first(case: dict, index: int) -> bool:
    return index not in case.get("without_first", ())


def run(case: dict, folder: Path) -> dict:
    import mlperf_loadgen as lg

    settings = lg.TestSettings()
    user_conf = folder / "user.conf"
    for text, *arguments in case.get("configs", ()):
        user_conf.write_text(text or "")
        settings.FromConfig(NO_FILE if text is None else str(user_conf), *arguments)
        user_conf.unlink()
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
                [
                    lg.QuerySampleResponse(i, base + 8 * at, 8)
                    for i, at in zip(ids, indices, strict=True)
                    if has_first(case, at)
                ]
            )
        lg.QuerySamplesComplete(
            [
                lg.QuerySampleResponse(i, base + 8 * at, 8, tokens_of(case, at))
                for i, at in zip(ids, indices, strict=True)
            ]
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
    logs.enable_trace = case.get("trace", False)
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
        document = json.dumps(run(json.load(sys.stdin), Path(made)))
    # Python's own standard output, where it is not buffered, loses what a single write to a pipe leaves.
    with open(1, "w", closefd=False) as output:
        output.write(f"\n{document}\n")
