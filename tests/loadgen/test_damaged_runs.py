"""A saved run that something has changed: whatever it is now, it opens, or one line says which file is wrong."""

from __future__ import annotations

import contextlib
import copy
import io
import json
import os
import shutil
import unicodedata
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from drumfire.loadgen import series
from drumfire.loadgen.errors import UserError
from drumfire.loadgen.flat_columns import Flat
from drumfire.loadgen.installation import ROOT
from drumfire.loadgen.record import Gauge, Record, Status
from drumfire.loadgen.saved import SavedRun, load
from drumfire.loadgen.schema import fault
from drumfire.loadgen.series import Series
from tests.support.command import SCHEMA, here, one_line_error

OLD = {path.name.partition("-")[2]: path for path in (ROOT / "tests" / "loadgen" / "old_runs").iterdir()}
PARTS = ("unfinished", "result", "valid", "requested", "effective", "environment", "columns", "flat_columns", "series",
         "logs", "report", "measured", "results", "figures")  # fmt: skip
FIGURES = ("measured", "results", "figures")
DEEP = "[" * 100_000
VALUES = (
    *(None, True, 0, 1, -1, 7, 0.5, 1e-300, 1 - 1e-12, 1.5, 1e300, 10**290, 2**64, "", "x", "p50\x1b[31m", "\ud800"),
    *([], [1], ["x"], [None], {}, {"p50": "x"}, {"x": {}}),
)
TEXTS = (b"", b"null", b"[]", b"{}", b"\xff", b"NaN", b'{"validity": "VALID"}', b'{"validity": "x"}', DEEP.encode())


def filled() -> dict[str, Any]:
    """A result that has every section, of figures that are any."""
    found: dict[str, Any] = json.loads((OLD["Server"] / "result.json").read_text())
    figures = {"p50": 5, "p99": 9, "max": 10}
    gauge = {"mean": 0.5, "max": 0.9}
    generator = {
        "name": "worker 0", "part": 0, "host": "here", "machine": {"host": "here", "kernel": "any", "cores": 1},
        "state": "lost", "samples": 150, "known": 150, "answered": 150, "start_ns": 1, "start_late_ns": 1,
        "lost": {"reason": "gone", "at": "then", "after_s": 1.0,
                 "last_seen": {"issued": 1, "answered": 1, "failed": 0, "latency_ns": figures}},
        "clock_offset_ns": 0, "clock_bound_ns": 0, "latency_ns": figures, "lateness_ns": figures,
        "last_completed_ns": 1, "issuing_cpu_us_per_sample": 1.5, "longest_stall_ns": 1,
    }  # fmt: skip
    server = {
        "url": "http://there", "note": "one", "success": 9, "fail": 0, "inference_count": 9, "execution_count": 9,
        "batch_sizes": {"1": 9}, "mean_batch_size": 1.0, "cache_hits": 0, "cache_misses": 0,
        "mean_ns": dict.fromkeys(
            ("request", "queue", "compute_input", "compute_infer", "compute_output", "cache_hit"), 1.0
        ),
        "metrics": {
            "samples": 3, "cpu_utilization": gauge, "pending_requests": None,
            "gpus": [{"uuid": "GPU-1", "utilization": gauge, "power_w": gauge, "memory_used_bytes": gauge,
                      "memory_total_bytes": 1e9, "energy_j": 1.0}],
        },
    }  # fmt: skip
    means = ("latency", "waiting", "round_trip", "queue", "compute", "cache_hit", "network", "network_and_client")
    agreed = {
        "requests": {"client": 9, "server": 8, "difference": -1, "equal": False, "client_failed": 0,
                     "server_failed": 1},
        "batch_sizes": {"1": 9}, "mean_batch_size": 1.0, "cached_share": 0.5, "mean_ns": dict.fromkeys(means, 1.0),
        "in_flight": {"by_rate": 1.0, "by_time": 1.0, "in_server": 1.0},
    }  # fmt: skip
    probe = {
        "load": 1.0, "seconds": 1.0, "queries": 9, "replica": 0, "purpose": "bracket", "allowed": 1, "over": 0,
        "valid": True, "query_s": 1.0, "note": "",
    }  # fmt: skip
    found["system"] |= {
        "batch_sizes": {"1": 9, "16": 1}, "queue_ns": {"p50": 1, "p99": 2}, "service_ns": {"p50": 1, "p99": 2},
        "remote": {"urls": ["http://there"], "client": "drumfire", "connections": 1, "concurrency": 1,
                   "input_data": "random", "shared_memory": "system", "dynamic_batching": True,
                   "response_cache": False},
        "server": {"servers": [server, server], "reconciliation": agreed, "events": {"any": 1}},
        "reservations": ["any"], "max_queue_delay_ms": 0.5,
    }  # fmt: skip
    return found | {
        "search": {"goal": {"any": [1.5]}, "peak": 1.0, "unit": "queries/s", "passes_at": 1.0, "fails_at": 2.0,
                   "probes": [probe], "query_time_s": 1.0},
        "confidence": {"verdict": "open", "queries": 9, "over": 1, "limit_s": 1.0},
        "warmup": {"queries": 9, "seconds": 1.0, "failed": 1},
        "accuracy": {"metric": "top-1", "value": 0.9, "good": 9, "total": 10, "expected": 10, "target": 0.9,
                     "met": True, "lines": ["accuracy=90%"]},
        "hosts": {"kind": "hosts", "status": "partial", "on_host_loss": "continue", "independent_streams": True,
                  "planned_start": None, "start_dispersion_ns": 1, "clock_bound_ns": 1, "slowest": "worker 0",
                  "generators": [generator, generator]},
        "query_latency_ns": found["latency_ns"], "warnings": ["any"],
    }  # fmt: skip


def places(value: Any, before: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Where each value within a document is."""
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, each in items:
        yield (*before, key)
        yield from places(each, (*before, key))


def changed(document: Any, place: tuple[Any, ...], value: Any) -> Any:
    """With another value there, or, where it is ``...``, without that key."""
    document = copy.deepcopy(document)
    inner = document
    for key in place[:-1]:
        inner = inner[key]
    if value is ...:
        del inner[place[-1]]
    else:
        inner[place[-1]] = value
    return document


FILLED = filled()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return shutil.copytree(OLD["Server"], tmp_path / "run")


@pytest.fixture(scope="module", params=OLD)
def whole(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a flat column and a series, to be copied."""
    run = shutil.copytree(OLD[request.param], tmp_path_factory.mktemp("whole") / "run")
    record = Record(np.load(run / "columns" / "status.npy").size, {"marks": Flat(np.int64, 2)})
    record.gauges[Gauge.ISSUED] = record.rows
    for row in range(record.rows):
        record.flat_columns["marks"].append(row, row)
    for name, write in record.flat_columns["marks"].writers("marks", record.rows):
        with (run / "columns" / name).open("wb") as file:
            write(file)
    series.save([Series.of("power", "W", "any", [1, 2], [1.0, 2.0])], run)
    (run / "report.txt").write_text("any")
    return run


def fresh(run: Path) -> Path:
    """Another copy of it, in place of the last."""
    folder = run.parent / "copy"
    shutil.rmtree(folder, ignore_errors=True)
    return shutil.copytree(run, folder)


def said(saved: SavedRun) -> dict[str, str]:
    """What each part that cannot be had says."""
    found = {}
    for part in PARTS:
        try:
            getattr(saved, part)
        except UserError as error:
            found[part] = str(error)
    return found


def check(folder: Path) -> dict[str, str]:
    """Use all of the run.  It opens, or ``UserError`` names what is wrong; no control character is shown."""
    saved = load(folder)
    assert repr(saved).isprintable()
    found = said(saved)
    for text in found.values():
        assert str(folder) in text
        assert text.isprintable()
        assert len(text) < 1500
    if "flat_columns" not in found:
        for column in saved.flat_columns.values():
            assert len([column[row] for row in range(len(column))]) == len(column)
    for words in ((), ("--json",)):
        done = here("show", folder, *words)
        assert done.returncode in (0, 1, 2, 4), done.stderr
        assert all(c == "\n" or unicodedata.category(c) not in ("Cc", "Cs") for c in done.stdout + done.stderr)
        if "result" in found and not saved.unfinished:
            one_line_error(done, "result.json")
        elif not saved.unfinished:
            assert done.returncode == (0 if saved.valid else 1)
    return found


def test_the_filled_result_is_one() -> None:
    jsonschema.validate(FILLED, SCHEMA)
    assert fault(FILLED, SCHEMA) is None


@pytest.mark.parametrize("old", OLD)
def test_a_whole_run_is_read_whole(old: str, tmp_path: Path) -> None:
    assert set(check(shutil.copytree(OLD[old], tmp_path / "run"))) == {"report"}


def changes(document: Any) -> st.SearchStrategy[Any]:
    """The document with up to three values changed or gone."""

    def apply(chosen: list[tuple[tuple[Any, ...], Any]]) -> Any:
        found = document
        for place, value in chosen:
            with contextlib.suppress(LookupError, TypeError):  # a change before it has taken the place away
                found = changed(found, place, value)
        return found

    one = st.tuples(st.sampled_from(list(places(document))), st.sampled_from((..., *VALUES)))
    return st.lists(one, min_size=1, max_size=3).map(apply)


@given(changes(FILLED))
def test_another_result(whole: Path, document: Any) -> None:
    folder = fresh(whole)
    (folder / "result.json").write_text(json.dumps(document))
    check(folder)


@given(st.data())
def test_other_settings(whole: Path, data: st.DataObject) -> None:
    folder = fresh(whole)
    document = json.loads((folder / "settings.json").read_text())
    document["effective"] |= {
        "mode": data.draw(st.sampled_from(("PerformanceOnly", "SubmissionRun", "AccuracyOnly"))),
        "scenario": data.draw(st.sampled_from((*OLD, "SingleStream", "Offline"))),
        "performance_sample_count": 7,
        "accuracy_sample_count": 24,
    }
    (folder / "settings.json").write_text(json.dumps(data.draw(changes(document))))
    check(folder)


@given(st.sampled_from(("result", "settings", "environment", "series/series")), st.data())
def test_another_text(whole: Path, name: str, data: st.DataObject) -> None:
    folder = fresh(whole)
    path = folder / f"{name}.json"
    text = path.read_bytes()
    cut = st.integers(0, len(text)).map(lambda size: text[:size])
    path.write_bytes(data.draw(st.sampled_from(TEXTS) | cut))
    check(folder)


def structured(array: Any) -> Any:
    return np.zeros(array.size, [("a", np.int64), ("b", np.int8)])


ARRAYS: tuple[Callable[[Any], Any], ...] = (
    structured,
    lambda array: array[:-1],
    lambda array: array[:0],
    lambda array: np.stack([array, array], 1),
    lambda array: np.array(3),
    lambda array: np.full(array.size, np.nan),
    lambda array: np.full(array.size, "x"),
    lambda array: np.full(array.size, 1j),
    lambda array: np.full(array.size, 4, array.dtype) if array.dtype.names is None else array[::-1],
    lambda array: np.arange(array.size).astype(array.dtype) % 5 if array.dtype.names is None else array,
    lambda array: np.full(array.size, np.iinfo(array.dtype).min, array.dtype) if array.dtype.kind in "iu" else array,
    lambda array: np.full(array.size, np.iinfo(array.dtype).max, array.dtype) if array.dtype.kind in "iu" else array,
)


def zipped() -> bytes:
    out = io.BytesIO()
    np.savez(out, a=np.zeros(3))
    return out.getvalue()


@given(st.data())
def test_another_column(whole: Path, data: st.DataObject) -> None:
    folder = fresh(whole)
    paths = sorted([*(folder / "columns").iterdir(), *(folder / "series").glob("*.npy")])
    for path in data.draw(st.lists(st.sampled_from(paths), min_size=1, max_size=2, unique=True)):
        content = path.read_bytes()
        cut = st.integers(0, len(content)).map(lambda size, content=content: content[:size])
        bits = st.tuples(st.integers(0, 127), st.binary(min_size=1, max_size=3)).map(
            lambda at, content=content: content[: at[0]] + at[1] + content[at[0] + 1 :]
        )
        change = data.draw(st.sampled_from([None, *ARRAYS]) | st.sampled_from([b"", zipped()]) | cut | bits)
        if change is None:
            path.unlink()
        elif isinstance(change, bytes):
            path.write_bytes(change)
        else:
            np.save(path, change(np.load(path)))
    check(folder)


LINES = {
    "result.json": {
        DEEP: "nested too deeply",
        '{"validity": "VALID", "a": NaN}': "NaN",
        '{"validity": "VALID", "a": 1e999}': "1e999",
        '{"validity": "VALID", "a": ' + "1" * 5000 + "}": "5000 digits",
        '{"validity": "VALID", "asked": {"qps": "many"}}': "asked.qps is string, not number or null",
        '{"validity": "VALID", "reasons": [1]}': r"reasons\[0\] is integer, not string",
        '{"validity": "x"}': "validity is not VALID or INVALID",
        '{"validity": ["VALID"]}': "validity is array, not string",
        "[]": "it is array, not object",
    },
    "settings.json": {
        DEEP: "nested too deeply",
        '{"requested": 1}': "requested is integer, not object",
        '{"requested": {}, "effective": {"scenario": "x"}}': "effective.scenario is 'x'",
    },
    "environment.json": {DEEP: "nested too deeply", "[]": "it is array", '{"gpus": [1]}': r"gpus\[0\] is integer"},
    "series/series.json": {"[]": "it is array", '{"../a": {}}': "'../a' is not the name", '{"a": {}}': "no such file"},
}


@pytest.mark.parametrize(("name", "text"), [(name, text) for name, texts in LINES.items() for text in texts])
def test_the_line_names_the_file_and_what_is_wrong(name: str, text: str, folder: Path) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(text)
    part = {"settings": "effective"}.get(Path(name).stem, Path(name).stem)
    with pytest.raises(UserError, match=LINES[name][text]) as caught:
        getattr(load(folder), part)
    assert str(folder / name.partition("/")[0]) in str(caught.value)
    check(folder)


def setting(folder: Path, name: str, value: Any) -> None:
    path = folder / "settings.json"
    path.write_text(json.dumps(changed(json.loads(path.read_text()), ("effective", name), value)))


@pytest.mark.parametrize(
    ("name", "value"),
    [("samples_per_query", None), ("samples_per_query", "x"), ("samples_per_query", -1), ("samples_per_query", True),
     ("target_latency_percentile", 1e308), ("target_latency_percentile", 0), ("min_query_count", "x"),
     ("performance_sample_count", 0), ("qsl_rng_seed", 0.5), ("mode", "x"), ("errors", [1])],
)  # fmt: skip
def test_settings_that_no_run_has(name: str, value: Any, folder: Path) -> None:
    setting(folder, name, value)
    with pytest.raises(UserError, match=rf"settings\.json .*effective\.{name}"):
        load(folder).results  # noqa: B018


def test_settings_as_a_program_may_write_them(folder: Path) -> None:
    figures = load(folder).figures
    setting(folder, "target_latency_ns", 2e9)
    setting(folder, "print_timestamps", 0)
    assert load(folder).figures == figures


COLUMNS: dict[str, tuple[Callable[[Any], Any], str]] = {
    "structured": (structured, "its type is"),
    "text": (lambda array: np.full(array.size, "x"), "its type is <U1"),
    "NaN": (lambda array: np.full(array.size, np.nan), "its type is float64"),
    "two axes": (lambda array: np.stack([array, array], 1), "its shape is"),
    "no axis": (lambda array: np.array(array[0]), "its shape is"),
    "shorter": (lambda array: array[:-1], r"has \d+ rows, and other columns have \d+"),
}


@pytest.mark.parametrize("change", COLUMNS)
@pytest.mark.parametrize("name", ["status", "completed", "issued", "scheduled"])
def test_a_column_of_another_kind(name: str, change: str, folder: Path) -> None:
    path = folder / "columns" / f"{name}.npy"
    np.save(path, COLUMNS[change][0](np.load(path)))
    with pytest.raises(UserError, match=rf"{name}\.npy .*{COLUMNS[change][1]}"):
        load(folder).columns  # noqa: B018
    assert check(folder).keys() == {"report", "columns", "flat_columns", *FIGURES}


def test_a_header_of_python_2_is_read_without_a_warning(folder: Path, recwarn: pytest.WarningsRecorder) -> None:
    path = folder / "columns" / "status.npy"
    whole = load(folder).columns["status"]
    of_2 = path.read_bytes().replace(b",), }  ", b"L,), } ")
    assert b"L,)" in of_2
    path.write_bytes(of_2)
    assert load(folder).columns["status"].tolist() == whole.tolist()
    assert not recwarn.list


@pytest.mark.parametrize("content", [b"", b"damaged", zipped()])
def test_a_column_that_is_no_array(content: bytes, folder: Path) -> None:
    (folder / "columns" / "status.npy").write_bytes(content)
    (folder / "result.json").unlink()
    done = here("show", folder)
    one_line_error(done, "status.npy cannot be read")


def test_a_column_that_is_gone(folder: Path) -> None:
    (folder / "columns" / "issued.npy").unlink()
    assert "issued" not in load(folder).columns
    for part in FIGURES:
        with pytest.raises(UserError, match=r"columns lacks issued\.npy"):
            getattr(load(folder), part)


def test_a_pipe_under_a_files_name(folder: Path) -> None:
    (folder / "settings.json").unlink()
    os.mkfifo(folder / "settings.json")
    with pytest.raises(UserError, match=r"settings\.json cannot be read: it is a"):
        load(folder).effective  # noqa: B018


@pytest.mark.parametrize("name", ["a\0b", "a" * 5000])
def test_names_that_no_folder_has(name: str) -> None:
    with pytest.raises(UserError, match="is no folder"):
        load(name)


def test_flat_columns_that_do_not_fit(whole: Path) -> None:
    for change in ([], [0, 1], [1, 2, 3]):
        folder = fresh(whole)
        np.save(folder / "columns" / "marks.offsets.npy", np.array(change, np.int64))
        with pytest.raises(UserError, match=r"marks\.offsets\.npy does not fit the \d+ values of marks\.npy"):
            load(folder).flat_columns  # noqa: B018
    folder = fresh(whole)
    np.save(folder / "columns" / "marks.npy", np.arange(3))
    np.save(folder / "columns" / "marks.offsets.npy", np.arange(4))
    with pytest.raises(UserError, match=r"marks\.npy has 3 rows"):
        load(folder).flat_columns  # noqa: B018


def test_only_whole_queries_are_measured(tmp_path: Path) -> None:
    """Of a query that is known in part, nothing is."""
    folder = shutil.copytree(OLD["MultiStream"], tmp_path / "run")
    saved = load(folder)
    assert saved.measured is not None
    queries, path = saved.measured.queries, folder / "columns" / "status.npy"
    status = np.load(path)
    status[3] = Status.MISSING
    np.save(path, status)
    saved = load(folder)
    assert saved.measured is not None
    assert saved.measured.queries == queries - 1
