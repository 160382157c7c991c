"""What a run leaves behind, from real runs: the reference's log files as the reference writes them, and our own files.

Keys, order and types are held against the detail logs that the reference wrote for the same settings.
"""

import asyncio
import json
import math
import re
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hdrh.histogram import HdrHistogram
from hdrh.log import HistogramLogReader
from hypothesis import given
from hypothesis import strategies as st

from drumfire.loadgen import directory, histogram, logs
from drumfire.loadgen.record import load_columns
from drumfire.loadgen.run import Test
from drumfire.loadgen.settings import OF_CLOSED_LOOPS, Mode, Scenario, TestSettings
from drumfire.loadgen.summary import SUMMARY

GOLDEN = Path(__file__).parents[1] / "golden"
RUNS = {
    path.stem: run for path in sorted(GOLDEN.glob("*.json")) if "deterministic" in (run := json.loads(path.read_text()))
}
PREFIX = ":::MLLOG "


class Library:
    """The samples are their own dataset indices."""

    name = "numbers"

    def __init__(self, total_count: int, performance_count: int) -> None:
        self.total_count, self.performance_count = total_count, performance_count

    def load(self, indices: np.ndarray) -> None:
        pass

    def unload(self, indices: np.ndarray) -> None:
        pass

    def batch(self, indices: np.ndarray) -> np.ndarray:
        return indices


class Numbers:
    """Answers with the dataset index as 8 bytes, as the recorded runs of the reference did.

    ``pause_s`` is how long a call takes; ``inline`` answers a closed loop in its own thread; ``as_bytes`` gives byte
    strings in place of an array's rows.
    """

    name = "numbers"

    def __init__(
        self, *, pause_s: float = 0.0, inline: bool = False, as_bytes: bool = False, tokens: int | None = None
    ) -> None:
        self.pause_s, self.as_bytes, self.tokens = pause_s, as_bytes, tokens
        self.answer = self.compute if inline else None
        self.columns: Mapping[str, Any] = {"first_token": np.int64, "n_tokens": np.int32} if tokens else {}

    async def open(self, answers: Any) -> None:
        self.answers = answers

    def compute(self, first: int, last: int) -> Any:
        if self.pause_s:
            time.sleep(self.pause_s)
        answer = self.answers.sample_index[first:last].astype("<u8").reshape(-1, 1)
        return [row.tobytes() for row in answer] if self.as_bytes else answer

    def issue(self, first: int, last: int) -> None:
        if self.tokens:
            self.answers.columns["first_token"][first:last] = self.answers.now()
            self.answers.columns["n_tokens"][first:last] = self.tokens
        self.answers.complete(first, last, self.compute(first, last))

    def flush(self) -> None:
        pass

    async def close(self) -> None:
        pass


def performed(system: Numbers, library: Library, settings: TestSettings, folder: Path) -> tuple[Test, dict[str, Any]]:
    """Run a test and save it into ``folder``, as the command line does."""
    test = Test(system, library, settings)
    asyncio.run(test.run())
    found = directory.document(test, {"environment": {"cpu": "some"}}, [])
    directory.save(test, found, folder)
    return test, found


def settings_of(run: dict) -> TestSettings:
    values = dict(run["test_settings"])
    values["scenario"], values["mode"] = Scenario[values["scenario"]], Mode[values["mode"]]
    return TestSettings(**values)


def no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def strictly(text: str) -> Any:
    return json.loads(text, parse_constant=no_constant)


def entries_of(text: str) -> list[dict[str, Any]]:
    lines = text.splitlines()
    assert all(line.startswith(PREFIX) for line in lines)
    return [strictly(line.removeprefix(PREFIX)) for line in lines]


def kind(value: Any) -> str:
    """The JSON type; the reference prints whole doubles without a point, so that numbers are of one kind."""
    for types, name in ((bool, "bool"), ((int, float), "number"), (str, "string"), (list, "list"), (dict, "map")):
        if isinstance(value, types):
            return name
    raise AssertionError(f"{value!r} has no place in the log")


def skeleton(entries: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """Keys and kinds in order, without what differs from run to run: errors, warnings, and the reason of a verdict."""
    return [
        (entry["key"], kind(entry["value"]))
        for entry in entries
        if not (entry["metadata"]["is_error"] or entry["metadata"]["is_warning"])
        and entry["key"] != "result_invalid_reason"
        and not (entry["key"] == "generic_message" and str(entry["value"]).startswith("Ending "))
    ]


@pytest.fixture(scope="module", params=RUNS)
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def repeated(name: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[Test, dict[str, Any], Path]:
    """A recorded run, run again by us with the same settings."""
    run, folder = RUNS[name], tmp_path_factory.mktemp(name)
    closed = run["test_settings"]["scenario"] in ("SingleStream", "MultiStream")
    system = Numbers(pause_s=2e-4 if closed else 0.0, tokens=run["spec"]["sut"].get("tokens"))
    library = Library(run["spec"]["total"], run["spec"]["perf"])
    return *performed(system, library, settings_of(run), folder), folder


def test_detail_entries_are_those_of_the_reference(name: str, repeated: tuple) -> None:
    _, _, folder = repeated
    ours = entries_of((folder / logs.DETAIL).read_text())
    # The reference does not escape its texts, but none of the recorded ones needs it.
    theirs = entries_of(RUNS[name]["detail_log"])
    assert skeleton(ours) == skeleton(theirs)
    assert {tuple(entry) for entry in ours} == {tuple(entry) for entry in theirs}
    assert {tuple(entry["metadata"]) for entry in ours} == {tuple(entry["metadata"]) for entry in theirs}
    verdicts = [entry["value"] for entry in ours if entry["key"] == "result_validity"]
    assert ("result_invalid_reason" in {entry["key"] for entry in ours}) == (verdicts == ["INVALID"])


def test_detail_values_that_settings_fix(name: str, repeated: tuple) -> None:
    """Requested and effective settings and the traffic are equal in value as well."""
    _, _, folder = repeated

    def fixed(entries: list[dict[str, Any]]) -> list[tuple[str, Any]]:
        starts = ("requested_", "effective_", "generated_", "loaded_", "qsl_reported_")
        return [(entry["key"], entry["value"]) for entry in entries if entry["key"].startswith(starts)]

    ours, theirs = (fixed(entries_of(text)) for text in ((folder / logs.DETAIL).read_text(), RUNS[name]["detail_log"]))
    assert ours == theirs


def test_detail_time_never_goes_back(name: str, repeated: tuple) -> None:
    _, _, folder = repeated
    times = [entry["time_ms"] for entry in entries_of((folder / logs.DETAIL).read_text())]
    assert times == sorted(times)


def test_summary_has_the_layout_of_the_reference(name: str, repeated: tuple) -> None:
    """Line by line up to the colon, but for the advice and early stopping's text, which follow how the run went."""
    _, _, folder = repeated

    def labels(text: str) -> list[str]:
        steady = re.sub(r"Early stopping satisfied.*?Additional Stats", "", text, flags=re.DOTALL)
        without_counts = steady.rsplit("\n\n", 2)[0]
        return [line.partition(":")[0] for line in without_counts.split("\n")]

    assert labels((folder / SUMMARY).read_text()) == labels(RUNS[name]["summary_log"])


def test_summary_figures_are_those_of_the_document(name: str, repeated: tuple) -> None:
    test, found, folder = repeated
    text = (folder / SUMMARY).read_text()
    figures = dict(re.findall(r"^(.+?) *: (.+)$", text, re.MULTILINE))
    if test.results() is None:
        assert figures == {}
        return
    assert figures["Result is"] == found["validity"]
    assert figures["Scenario"] == found["scenario"]
    assert figures["SUT name"] == found["sut_name"]
    latency = found["query_latency_ns"] or found["latency_ns"]
    for word in ("Min", "Max", "Mean"):
        assert int(figures[f"{word} latency (ns)"]) == latency[word.lower()]
    for percent, key in ((50, "p50"), (90, "p90"), (95, "p95"), (97, "p97"), (99, "p99"), (99.9, "p99.9")):
        assert int(figures[f"{percent:.2f} percentile latency (ns)"]) == latency[key]
    if found["scenario"] == "Server":
        assert float(figures["Completed samples per second"]) == pytest.approx(found["metric"]["value"], abs=0.006)
    elif found["scenario"] == "Offline":
        assert float(figures["Samples per second"]) == pytest.approx(found["metric"]["value"], rel=1e-5)
    else:
        percent = test.effective.target_latency_percentile * 100
        assert int(figures[f"{percent:.1f}th percentile latency (ns)"]) == latency["target_percentile"]
    for key, value in found["results"].items():
        if isinstance(value, int) and key.startswith("result_") and "latency_ns" in key:
            assert str(value) in text or "per_query" in key or found["scenario"] == "MultiStream"


def test_result_file_is_strict_json(name: str, repeated: tuple) -> None:
    _, found, folder = repeated
    assert strictly((folder / directory.RESULT).read_text()) == json.loads(json.dumps(found))
    assert strictly((folder / "environment.json").read_text()) == {"cpu": "some"}
    settings = strictly((folder / "settings.json").read_text())
    assert settings["requested"]["scenario"] == settings["effective"]["scenario"] == found["scenario"]
    asked = {k: getattr(v, "name", v) for k, v in vars(settings_of(RUNS[name])).items() if k not in OF_CLOSED_LOOPS}
    assert settings["requested"] == asked
    assert not list(folder.glob("*.partial"))


def test_columns_reload(name: str, repeated: tuple) -> None:
    test, _, folder = repeated
    columns = load_columns(folder / "columns")
    assert columns.keys() == test.record.columns.keys()
    for column, values in columns.items():
        assert values.dtype == test.record.columns[column].dtype
        assert np.array_equal(values, test.record.columns[column][: test.record.issued_rows])


def test_histograms_reload(name: str, repeated: tuple) -> None:
    test, found, folder = repeated
    if test.results() is None:
        assert not (folder / "histograms").exists()
        return
    for what in ("latency", "lateness"):
        reader = HistogramLogReader(str(folder / "histograms" / f"{what}.hlog"), histogram.new())
        read: HdrHistogram = reader.get_next_interval_histogram()
        rows = sum(report.issued_rows for report in test.reports if not report.phase.accuracy)
        assert read.get_total_count() == rows
        assert reader.get_next_interval_histogram() is None
        table = (folder / "histograms" / f"{what}.hgrm").read_text()
        assert f"Total count    = {rows:>12}" in table or str(rows) in table
    latency = HistogramLogReader(str(folder / "histograms" / "latency.hlog"), histogram.new())
    read = latency.get_next_interval_histogram()
    assert read.get_max_value() == pytest.approx(found["latency_ns"]["max"], rel=2e-3)


# The accuracy log.


def accuracy_entries(folder: Path) -> list[tuple[int, int, bytes]]:
    entries = strictly((folder / logs.ACCURACY).read_text())
    assert all(entry["data"] == entry["data"].upper() for entry in entries)
    return [(entry["seq_id"], entry["qsl_idx"], bytes.fromhex(entry["data"])) for entry in entries]


def quick(scenario: Scenario, mode: Mode, **values: Any) -> TestSettings:
    return TestSettings(
        scenario=scenario,
        mode=mode,
        min_duration_ms=50,
        min_query_count=200,
        server_target_qps=5000.0,
        offline_expected_qps=5000.0,
        single_stream_expected_latency_ns=5e4,
        multi_stream_expected_latency_ns=1e5,
        qsl_rng_seed=11,
        sample_index_rng_seed=12,
        schedule_rng_seed=13,
        accuracy_log_rng_seed=14,
        **values,
    )


@pytest.mark.parametrize("inline", [False, True])
@pytest.mark.parametrize("as_bytes", [False, True])
@pytest.mark.parametrize("scenario", Scenario)
def test_accuracy_log_holds_the_very_answers(scenario: Scenario, as_bytes: bool, inline: bool, tmp_path: Path) -> None:
    system, library = Numbers(as_bytes=as_bytes, inline=inline), Library(150, 64)
    test, found = performed(system, library, quick(scenario, Mode.AccuracyOnly), tmp_path)
    entries = accuracy_entries(tmp_path)
    # Every sample of the data set at least once (a MultiStream set's last query repeats some), each row once.
    assert sorted(row for row, _, _ in entries) == list(range(test.record.rows))
    assert {index for _, index, _ in entries} == set(range(150))
    assert all(test.record.sample_index[row] == index for row, index, _ in entries)
    assert all(int.from_bytes(data, "little") == index and len(data) == 8 for _, index, data in entries)
    assert len(test.phases) == 3
    assert found["validity"] == "VALID"
    assert found["results"] == {}


@pytest.mark.parametrize("scenario", Scenario)
def test_accuracy_log_of_a_performance_run_holds_the_selection(scenario: Scenario, tmp_path: Path) -> None:
    settings = quick(scenario, Mode.PerformanceOnly, accuracy_log_probability=0.25)
    test, _ = performed(Numbers(), Library(150, 64), settings, tmp_path)
    entries = accuracy_entries(tmp_path)
    logged = test.phases[0].logged
    assert logged is not None
    assert sorted(row for row, _, _ in entries) == np.flatnonzero(logged[: test.record.issued_rows]).tolist()
    assert all(int.from_bytes(data, "little") == index for _, index, data in entries)
    assert 0 < len(entries) < test.record.issued_rows


def test_accuracy_log_is_empty_without_a_selection(tmp_path: Path) -> None:
    performed(Numbers(), Library(150, 64), quick(Scenario.Offline, Mode.PerformanceOnly), tmp_path)
    assert (tmp_path / logs.ACCURACY).read_text() == "[\n]\n"


class Backwards(Numbers):
    """Holds all answers back until the flush, then gives them row by row, the last row first, of growing length."""

    def issue(self, first: int, last: int) -> None:
        self.last = last

    def flush(self) -> None:
        for row in reversed(range(self.last)):
            self.answers.complete(row, row + 1, [bytes([row % 256]) * (row % 5)])


def test_accuracy_log_is_in_order_of_completion(tmp_path: Path) -> None:
    test, _ = performed(Backwards(), Library(30, 30), quick(Scenario.Offline, Mode.AccuracyOnly), tmp_path)
    entries = accuracy_entries(tmp_path)
    assert [row for row, _, _ in entries] == list(reversed(range(test.record.rows)))
    assert all(data == bytes([row % 256]) * (row % 5) for row, _, data in entries)


# No NaN and no infinity, however short the run; and no text that breaks a line.


@pytest.mark.parametrize("scenario", Scenario)
def test_a_run_of_one_query_leaves_only_numbers(scenario: Scenario, tmp_path: Path) -> None:
    """Where the reference prints -nan, which is not JSON."""
    settings = TestSettings(
        scenario=scenario, min_duration_ms=0, min_query_count=1, server_target_qps=1000.0, accuracy_log_probability=1.0
    )
    test, found = performed(Numbers(), Library(10, 10), settings, tmp_path)
    assert test.phases[0].query_count == 1
    detail = (tmp_path / logs.DETAIL).read_text()
    entries_of(detail)
    strictly((tmp_path / directory.RESULT).read_text())
    for text in (detail, (tmp_path / SUMMARY).read_text()):
        assert not re.search(r"[ :-](nan|inf)\b", text, re.IGNORECASE)
    assert all(math.isfinite(v) for v in found["results"].values() if isinstance(v, float))


# Lone surrogates too: what models raise, or paths hold, may be anything.
TEXT = st.lists(st.characters() | st.sampled_from('\ud800"\\\n\r\t\0'), max_size=20).map("".join)
VALUES = (
    st.floats() | st.integers(-(2**63), 2**64 - 1) | TEXT | st.booleans() | st.lists(st.integers(0, 2**32), max_size=4)
)


@given(st.lists(st.tuples(VALUES, st.sampled_from(["plain", "error", "warning"])), max_size=5))
def test_any_value_makes_a_strict_line(tmp_path_factory: pytest.TempPathFactory, values: list[tuple[Any, str]]) -> None:
    log, path = logs.DetailLog(), tmp_path_factory.getbasetemp() / "detail.txt"
    for value, how in values:
        log.put("key", value, is_error=how == "error", is_warning=how == "warning")
    log.write(path)
    written = path.read_text(encoding="utf-8").split("\n")[:-1]
    assert len(written) == len(values)
    for line, (value, how) in zip(written, values, strict=True):
        entry = strictly(line.removeprefix(PREFIX))
        if isinstance(value, float):
            assert entry["value"] == (float(f"{value:g}") if math.isfinite(value) else 0)
        elif isinstance(value, str):
            assert entry["value"] == value.replace("\n", " ")
        else:
            assert entry["value"] == value
        assert (entry["metadata"]["is_error"], entry["metadata"]["is_warning"]) == (how == "error", how == "warning")
    assert (log.errors, log.warnings) == tuple(sum(how == h for _, how in values) for h in ("error", "warning"))


class Failing(Numbers):
    """Fails its first call with a text that no file takes as it is."""

    def compute(self, first: int, last: int) -> Any:
        if first == 0:
            raise RuntimeError('bad "sample"\n\x00\ud800 \N{SNOWMAN}')
        return super().compute(first, last)

    def issue(self, first: int, last: int) -> None:
        try:
            self.answers.complete(first, last, self.compute(first, last))
        except RuntimeError as error:
            self.answers.fail(first, last, error)


@pytest.mark.parametrize("inline", [False, True])
def test_any_failure_can_be_saved(inline: bool, tmp_path: Path) -> None:
    settings = quick(Scenario.SingleStream, Mode.PerformanceOnly)
    _, found = performed(Failing(inline=inline), Library(10, 10), settings, tmp_path)
    saved = strictly((tmp_path / directory.RESULT).read_text())
    assert saved["validity"] == found["validity"] == "INVALID"
    assert saved["errors"]["failed"] == 1
    assert saved["errors"]["samples"]["count"] == len(saved["errors"]["samples"]["first"]) == 1
    entries = entries_of((tmp_path / logs.DETAIL).read_text(encoding="utf-8"))
    told = [entry["value"] for entry in entries if entry["metadata"]["is_error"]]
    assert any('bad "sample"' in text for text in told)
    assert [entry["value"] for entry in entries if entry["key"] == "num_errors"] == [len(told)]
    summary = (tmp_path / SUMMARY).read_text(encoding="utf-8")
    assert "Result is : INVALID" in summary
    assert "1 of " in summary


def test_errors_of_the_configuration_are_logged(tmp_path: Path) -> None:
    settings = quick(Scenario.Offline, Mode.PerformanceOnly)
    test = Test(Numbers(), Library(10, 10), settings, config_errors=("line 3 is wrong",))
    asyncio.run(test.run())
    directory.save(test, directory.document(test, {}, []), tmp_path)
    entries = entries_of((tmp_path / logs.DETAIL).read_text())
    assert [e["value"] for e in entries if e["key"] == "error_invalid_config"] == ["line 3 is wrong"]
    assert next(e["value"] for e in entries if e["key"] == "num_errors") == 1
    assert "1 ERROR encountered" in (tmp_path / SUMMARY).read_text()
