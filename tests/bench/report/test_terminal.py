"""The last screen: the verdict first, and no figure that is not the document's."""

from __future__ import annotations

import io
import itertools
import json
import re
from typing import Any

import jsonschema
import pytest
from rich.console import Console

from drumfire.bench.report import figures, terminal
from drumfire.bench.report.rows import report
from drumfire.bench.report.terminal import say, wrapped
from drumfire.loadgen.errors import printable
from drumfire.loadgen.installation import ROOT
from tests.support.terminal import Screen


def document(**changes: Any) -> dict[str, Any]:
    """A Server run as ``drumfire.loadgen.directory.document`` tells it, with the sections of ``drumfire run``."""
    return {
        "tool": "Drumfire 0.1.0",
        "note": "MLPerf-style, not an MLPerf result",
        "validity": "VALID",
        "reasons": [],
        "warnings": [],
        "scenario": "Server",
        "mode": "PerformanceOnly",
        "started": "2025-01-01T00:00:00+00:00",
        "sut_name": "digits",
        "qsl_name": "digits",
        "metric": {"name": "completed samples per second", "value": 998.4, "unit": "1/s"},
        "asked": {
            "qps": 1000.0, "min_duration_s": 10.0, "min_query_count": 100, "max_query_count": 0,
            "samples_per_query": 1, "target_latency_ns": 15_000_000, "target_latency_percentile": 0.99,
            "performance_sample_count": 500, "generated_queries": 10_007,
        },
        "delivered": {"queries": 10_007, "samples": 10_007, "samples_per_second": 998.4, "duration_s": 10.02},
        "checks": {"performance_constraints": True},
        "latency_ns": {
            "count": 10_007, "min": 201_000, "mean": 512_000, "max": 9_870_000, "p50": 423_000, "p90": 812_000,
            "p95": 1_110_000, "p97": 1_220_000, "p99": 1_330_000, "p99.9": 4_440_000, "target_percentile": 1_330_000,
        },
        "query_latency_ns": None,
        "lateness_ns": {
            "meaning": "from a query's scheduled time to its issue", "p50": 61, "p99": 7_770, "max": 888_000,
            "share_over_1ms": 0.0031, "early": 0,
        },
        "errors": {"failed": 0, "unanswered": 0, "refused": 0, "messages": {}},
        "overhead": {
            "wall_s": 10.02, "process_cpu_s": 6.54, "issuing_thread_cpu_s": 3.2, "pacer_spin_s": 1.23,
            "issuing_cpu_us_per_sample": 5.67, "pacer_window_us": 50.0, "exact_timer": True, "gc_collections": 0,
            "longest_stall_us": 12.5, "realtime_s": 0.5, "gc_pause_s": 0.0,
            "involuntary_switches": 12, "steal_s": 0.03,
        },
        "seeds": {"qsl": 11, "sample_index": 22, "schedule": 33, "accuracy_log": 0},
        "results": {},
        "system": {
            "backend": "onnxruntime", "model": "digits", "device": "cpu",
            "description": "onnxruntime 1.30.0 CPUExecutionProvider", "threads": 1, "instances": 1,
            "max_batch_size": 32, "max_queue_delay_ms": 0.5, "weights": "digits.onnx",
            "batch_sizes": {"1": 5000, "2": 2503, "16": 1}, "queue_ns": {"p50": 1_500, "p99": 22_200},
            "service_ns": {"p50": 333_000, "p99": 1_010_000}, "qps_source": "asked for",
        },
        "accuracy": None,
        "environment": {
            "cpu": "Some CPU", "cores": 8, "memory_bytes": 1, "governor": "performance", "clock_source": "tsc",
            "gpus": ["Some GPU, 550.1"], "system": "Linux", "python": "3.12.1",
            "versions": {"drumfire": None, "numpy": "2.0.0"}, "git_revision": "0123456789",
        },
        "directory": "runs/20250101-000000-onnxruntime-digits-cpu-Server-with-a-name-that-is-longer-than-a-line-is",
    } | changes  # fmt: skip


def shown(found: dict[str, Any], width: int = 80, *, colour: bool = False) -> str:
    out = io.StringIO()
    terminal.show(report(found), Console(file=out, width=width, highlight=False, force_terminal=colour))
    return out.getvalue()


def server_side() -> dict[str, Any]:
    """As ``drumfire run triton`` has it in the system section."""
    report = {
        "url": "grpc://127.0.0.1:8001", "note": None, "success": 10_007, "fail": 0, "inference_count": 10_007,
        "execution_count": 7_504, "batch_sizes": {"1": 5_001, "2": 2_503}, "mean_batch_size": 1.33, "cache_hits": 0,
        "cache_misses": 0,
        "mean_ns": {
            "request": 330_000.0, "queue": 45_200.0, "compute_input": 4_000.0, "compute_infer": 260_000.0,
            "compute_output": 16_000.0, "cache_hit": 0.0,
        },
        "metrics": {
            "samples": 10,
            "gpus": [{
                "uuid": "GPU-1234", "utilization": {"mean": 0.87, "max": 0.99},
                "power_w": {"mean": 250.2, "max": 301.0},
                "memory_used_bytes": {"mean": 1.2e10, "max": 1.23e10}, "memory_total_bytes": 8e10, "energy_j": 2_502.0,
            }],
            "cpu_utilization": {"mean": 0.5, "max": 0.6}, "pending_requests": None,
        },
    }  # fmt: skip
    agreed = {
        "requests": {
            "client": 10_007, "server": 10_007, "difference": 0, "equal": True, "client_failed": 0, "server_failed": 0,
        },
        "batch_sizes": {"1": 5_001, "2": 2_503}, "mean_batch_size": 1.33, "cached_share": 0.0,
        "mean_ns": {
            "latency": 512_000.0, "waiting": 12_300.0, "round_trip": 499_700.0, "queue": 45_200.0,
            "compute": 280_000.0, "cache_hit": 0.0, "network": 174_500.0, "network_and_client": 186_800.0,
        },
        "in_flight": {"by_rate": 0.511, "by_time": 0.512, "in_server": 0.33},
    }  # fmt: skip
    return {"servers": [report], "reconciliation": agreed, "events": {"connections replaced": 2}}


def with_server(server: dict[str, Any] | None) -> dict[str, Any]:
    found = document()
    return found | {"system": found["system"] | {"server": server}}


def test_verdict_then_reasons_then_warnings_then_figures() -> None:
    reasons = ["Reduce target QPS to improve latency.", "The test exited early [badly].\n   See the log."]
    lines = shown(document(validity="INVALID", reasons=reasons, warnings=["a core is missing"])).split("\n")
    assert lines[:4] == [
        "Result is : INVALID",
        "  - Reduce target QPS to improve latency.",
        "  - The test exited early [badly]. See the log.",
        "  - warning: a core is missing",
    ]


def test_valid_run_figure_by_figure() -> None:
    text = shown(document())
    assert text.startswith("Result is : VALID\n\n")
    words = " ".join(text.split())
    for expected in (
        "998.4/s completed samples per second",
        "asked 1,000/s (asked for), at least 10 s and 100 queries",
        "delivered 998.4/s: 10,007 samples, 10,007 queries in 10.0 s",
        "p50 423 us p90 812 us p95 1.11 ms p97 1.22 ms p99 1.33 ms p99.9 4.44 ms",
        "mean 512 us min 201 us max 9.87 ms",
        "p99 within 15.0 ms: 1.33 ms",
        "lateness p50 61 ns p99 7.77 us max 888 us 0.31% over 1 ms",
        "errors none",
        "batch sizes 1: 5,000 2: 2,503 16: 1",
        "queueing p50 1.50 us p99 22.2 us",
        "computing p50 333 us p99 1.01 ms",
        "5.67 us CPU per sample on the issuing thread, 1.23 s of spin",
        "process CPU 6.54 s, longest stall 12.5 us, GC 0 ns, steal 30.0 ms, preempted 12 times, real-time 500 ms",
        "seeds qsl 11, sample_index 22, schedule 33, accuracy_log 0",
        "Some CPU, 8 cores, governor performance",
        "GPU Some GPU, 550.1",
        "Python 3.12.1, numpy 2.0.0",
        "revision 0123456789",
        "not an MLPerf result",
    ):
        assert expected in words


def test_reads_at_80_columns_and_the_directory_stays_in_one_piece() -> None:
    found = document(validity="INVALID", reasons=["word " * 60])
    *lines, directory, _ = shown(found).split("\n")
    assert all(len(line) <= 80 and line == line.rstrip() for line in lines)
    assert directory.endswith(found["directory"])


def test_accuracy_line_has_its_fixed_form() -> None:
    found = document(
        mode="AccuracyOnly", metric=None, checks=None, latency_ns=None, lateness_ns=None,
        accuracy={"metric": "top-1", "value": 0.988, "good": 494, "total": 500, "target": 0.98, "met": True,
                  "lines": ["accuracy=98.800%, good=494, total=500"]},
    )  # fmt: skip
    text = shown(found)
    assert text.startswith("Result is : VALID\n")
    assert "accuracy=98.800%, good=494, total=500 (target 98%)" in text
    assert "10,007 queries" in text


def test_what_the_server_says() -> None:
    text = shown(with_server(server_side()))
    assert all(len(line) <= 80 for line in text.split("\n")[:-2])
    words = " ".join(text.split())
    for expected in (
        "server 10,007 requests counted, as many as were answered batches",
        "batches of 1.33 samples on average: 1: 5,001 2: 2,503",
        "latency 512 us on average: 12.3 us until the request was sent, "
        "174 us network and server's reading, 45.2 us queue, 280 us compute",
        "in flight 0.51 samples (rate x latency 0.51), 0.33 requests in the server",
        "server GPU GPU-1234: use 87% (max 99%), power 250 W (max 301 W), memory 12.3 of 80 GB, 2,502 J",
    ):
        assert expected in words
    assert "cache" not in words


@pytest.mark.parametrize(("difference", "words"), [(3, "3 more than were"), (-1_234, "1,234 fewer than were")])
def test_counts_that_do_not_agree(difference: int, words: str) -> None:
    server = server_side()
    server["reconciliation"]["requests"] |= {"equal": False, "difference": difference, "server_failed": 5}
    text = " ".join(shown(with_server(server)).split())
    assert f"{words} answered here, 5 failed" in text


def test_cached_replies_are_told_of() -> None:
    server = server_side()
    server["reconciliation"]["cached_share"] = 0.98
    server["reconciliation"]["mean_ns"]["cache_hit"] = 5_100.0
    assert "5.10 us cache (98% from the cache)" in " ".join(shown(with_server(server)).split())


def test_a_server_that_tells_nothing_and_one_that_tells_half() -> None:
    silent = dict.fromkeys(server_side()["servers"][0]) | {"url": "http://other:8000", "note": "no statistics: gone"}
    text = " ".join(shown(with_server({"servers": [silent], "reconciliation": None, "events": {}})).split())
    assert "server http://other:8000: no statistics: gone" in text
    two = server_side()["servers"] + [silent]
    text = " ".join(shown(with_server({"servers": two, "reconciliation": None, "events": {}})).split())
    assert "server grpc://127.0.0.1:8001: 10,007 requests server http://other:8000: no statistics: gone" in text
    assert shown(with_server(None)) == shown(document())


@pytest.mark.parametrize("told", [True, False])
def test_what_the_server_says_is_in_the_schema(told: bool) -> None:
    schema = json.loads((ROOT / "loadgen" / "result.schema.json").read_text())
    server = server_side()
    if not told:
        server["servers"] = [dict.fromkeys(server["servers"][0]) | {"url": "http://other:8000"}]
        server["reconciliation"] = None
    part = {"$defs": schema["$defs"]} | schema["properties"]["system"]["properties"]["server"]
    jsonschema.validate(server, part)
    server["servers"][0]["more"] = 1
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(server, part)


def test_errors_are_told_with_their_messages() -> None:
    errors = {"failed": 3, "unanswered": 1, "refused": 0, "messages": {"RuntimeError: [no] memory": 3}}
    text = shown(document(validity="INVALID", errors=errors))
    assert "3 failed, 1 unanswered, 0 refused\n" in text
    assert "3 times: RuntimeError: [no] memory" in text


@pytest.mark.parametrize(
    ("first", "count", "says"),
    [([7], 1, "sample 7"), ([5, 38], 2, "samples 5, 38"), ([0, 1, 2, 3, 9], 6, "samples 0, 1, 2, 3, 9 and 1 other")],
)
def test_the_samples_that_failed_are_named(first: list[int], count: int, says: str) -> None:
    errors = {"failed": 8, "unanswered": 0, "refused": 0, "messages": {}, "samples": {"first": first, "count": count}}
    text = " ".join(shown(document(validity="INVALID", errors=errors)).split())
    assert f"8 failed, 0 unanswered, 0 refused; failed: {says} " in text


def test_a_run_that_issued_nothing_and_has_no_sections() -> None:
    bare = document(
        validity="INVALID", reasons=["No query was issued."], metric=None, latency_ns=None, lateness_ns=None,
        overhead=None,
    )  # fmt: skip
    for section in ("system", "accuracy", "environment", "directory"):
        del bare[section]
    assert shown(bare).startswith("Result is : INVALID\n  - No query was issued.\n")


def test_a_target_percentile_of_its_own_and_the_metric_of_a_closed_loop() -> None:
    found = document(scenario="MultiStream")
    found["metric"] = {"name": "early-stopping estimate", "value": 2_220_000, "unit": "ns"}
    found["asked"] |= {"qps": None, "target_latency_ns": None, "target_latency_percentile": 0.8, "samples_per_query": 8}
    found["query_latency_ns"] = found["latency_ns"] | {"target_percentile": 777_000}
    words = " ".join(shown(found).split())
    assert "2.22 ms early-stopping estimate" in words
    assert "p80 777 us" in words
    assert "of 8 samples each" in words


def test_the_verdict_is_coloured_on_a_terminal_only() -> None:
    assert re.match(r"\x1b\[[\d;]+mResult is : VALID\x1b\[0m\n", shown(document(), colour=True))
    assert "\x1b" not in shown(document())


@pytest.mark.parametrize("variables", [{"FORCE_COLOR": "1"}, {"COLUMNS": "40", "LINES": "5"}, {"TERM": "dumb"}])
def test_as_text_it_is_the_same_everywhere(variables: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    before = terminal.encoded(report(document()))
    assert before.decode() == shown(document())
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("rich.console._is_jupyter", lambda: True)  # there, rich would show it instead
    assert terminal.encoded(report(document())) == before


@pytest.mark.parametrize(
    ("ns", "text"),
    [(0, "0 ns"), (999, "999 ns"), (999.6, "1.00 us"), (1_234, "1.23 us"), (999_600, "1.00 ms"),
     (41_200_000, "41.2 ms"), (412_345_678, "412 ms"), (9_996_000_000, "10.0 s"), (4_321 * 10**9, "4,321 s")],
)  # fmt: skip
def test_durations(ns: float, text: str) -> None:
    assert figures.duration(ns) == text


def test_rates_shares_and_clocks() -> None:
    assert [figures.rate(r) for r in (0.5, 12.34, 998.44, 1000.0, 41234.5)] == [
        "0.50/s", "12.3/s", "998.4/s", "1,000/s", "41,234/s",
    ]  # fmt: skip
    assert [figures.share(f) for f in (0.0, 1e-7, 0.00013, 0.042, 0.97, 0.999, 1.0)] == [
        "0%", "<0.001%", "0.013%", "4.2%", "97%", "99.9%", "100%",
    ]  # fmt: skip
    assert [figures.clock(s) for s in (-1, 7.4, 754, 3723)] == ["0:00", "0:07", "12:34", "1:02:03"]


@pytest.mark.parametrize("text", ["\x1b[31mred", "a\x07b", "\x9b31m", "\u202egnp", "\x7f"])
def test_no_control_character_is_written(text: str) -> None:
    found = document(tool=text, note=text, reasons=[text], warnings=[text], scenario=text, mode=text, directory=text)
    found["system"] |= {"model": text, "description": text, "reservations": [text]}
    found["errors"]["messages"] = {text: 1}
    assert all(c == "\n" or c.isprintable() for c in shown(found))
    assert printable(text) in shown(found)


def test_what_is_printable_stays() -> None:
    assert printable("café \u2713 x") == "café \u2713 x"
    assert printable("a\nb\tc") == "a b c"
    assert printable("\x1b\udce9\x00") == "\\x1b\\udce9\\x00"


def common(warnings: int, reasons: int) -> dict[str, Any]:
    """A run with a server's figures and as many lines of advice."""
    reason, warning = (
        "some queries took longer than 15 ms: lower --qps.",
        "it takes two lines of eighty columns, as many",
    )
    return with_server(server_side()) | {
        "validity": "INVALID" if reasons else "VALID",
        "reasons": [f"Reason {number}: {reason}" for number in range(reasons)],
        "warnings": [f"cause {number} of a warning: {warning} do" for number in range(warnings)],
    }


def put_on(screen: Screen, found: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", str(screen.width))
    monkeypatch.setenv("LINES", str(screen.height))
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr("sys.stdout", screen)
    terminal.put(report(found))
    screen.write("$ ")  # the shell's


@pytest.mark.parametrize(("width", "height"), [(60, 12), (80, 24), (200, 60)])
@pytest.mark.parametrize(("warnings", "reasons"), [(0, 0), (6, 0), (6, 2), (30, 4)])
def test_the_verdict_stays_on_the_screen(
    width: int, height: int, warnings: int, reasons: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, screen = common(warnings, reasons), Screen(width, height)
    put_on(screen, found, monkeypatch)
    assert f"Result is : {found['validity']}" in screen.seen
    text = " ".join(" ".join(screen.seen).split())
    assert "998.4/s completed samples per second" in text
    for reason in found["reasons"]:
        assert reason in text
    shown = sum(warning in text for warning in found["warnings"])
    assert shown == warnings or f"{warnings - shown} more above" in text
    if (width, height) == (80, 24):
        assert shown >= min(warnings, 6)


def test_a_report_that_fits_says_nothing_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    screen = Screen(80, 60)
    put_on(screen, common(1, 1), monkeypatch)
    assert screen.seen[0].startswith("Result is : INVALID")
    assert sum(line.startswith("Result is") for line in screen.lines) == 1


@pytest.mark.parametrize("width", [60, 80])
def test_no_path_that_fits_is_broken(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    path, longer = "/data/of/somebody/with-a-name/" + "x" * 25, "/data" + "/with-a-long-name" * 8
    found = document(
        warnings=[f"the file {path} is old"], directory=path, validity="INVALID", reasons=[f"No {longer}."]
    )
    found["system"]["weights"] = found["directory"] = path
    screen = Screen(width, 80)
    put_on(screen, found, monkeypatch)
    assert sum(path in line for line in screen.lines) == 3
    assert longer in "".join(screen.lines)


@pytest.mark.parametrize("width", range(20, 60))
def test_no_line_ends_between_a_figure_and_its_unit_or_a_size_and_its_count(width: int) -> None:
    text = "batches of 1.12 samples: 1: 740  2: 71  13: 13  in 25.2 us, 283 ms or 1.31 s of 12 GB at 250 W"
    lines = wrapped(text, width)
    assert " ".join(" ".join(lines).split()) == " ".join(text.split())
    assert all(len(line) <= width for line in lines)
    for line, after in itertools.pairwise(lines):
        assert not line[-2:-1].isdigit() or not line.endswith(":")
        assert after.split()[0].strip(",") not in ("us", "ms", "s", "GB", "W")


def test_a_message_on_a_terminal_ends_its_lines_between_words() -> None:
    path = "/a/very/long/path/" + "x" * 50
    text = f"no --qps given: the server has as many connections as it wants, and the folder is {path}, which is long"
    for shown_to_people, least in ((True, 4), (False, 1)):
        out = io.StringIO()
        say(Console(file=out, width=40, force_terminal=shown_to_people, color_system=None), f"note: {text}")
        lines = out.getvalue().rstrip("\n").split("\n")
        assert " ".join(lines) == f"note: {text}"
        assert len(lines) >= least
        if shown_to_people:
            assert all(len(line) <= 40 or path in line for line in lines)
