"""``drumfire export``: each form holds the run's very columns."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from drumfire.loadgen import installation
from drumfire.loadgen.claim import held
from drumfire.loadgen.record import Status
from drumfire.loadgen.series import Series, save
from tests.support.command import columns as columns_of
from tests.support.command import here, one_line_error
from tests.support.made_run import made, queued

ROWS = 70_000
"""More than a chunk."""
TIMES = ("scheduled", "issued", "begun", "completed")


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with failed and unanswered samples, a column of several values a row, one of its own, and a series."""
    columns = queued(ROWS)
    columns["status"] = np.where(np.arange(ROWS) % 10, Status.OK, Status.UNANSWERED)
    columns["loss"] = np.linspace(0, 1, ROWS)
    folder = made(tmp_path_factory.mktemp("made") / "run", columns)
    np.save(folder / "columns" / "tokens.npy", np.arange(ROWS * 2, dtype=np.int64))
    np.save(folder / "columns" / "tokens.offsets.npy", np.r_[0, 0, np.arange(2, ROWS) * 2, ROWS * 2].astype(np.int64))
    save([Series.of("power", "W", "a meter", [1, 2], [3.0, 4.0])], folder)
    return folder


def expected(run: Path) -> dict[str, list[Any]]:
    found = columns_of(run)
    answered = found["status"] == Status.OK
    words = {name: found[name].tolist() for name in ("sample_index", "batch_size", "loss")}
    words |= {f"{name}_ns": found[name].tolist() for name in TIMES}
    words["completed_ns"] = [at if ok else None for at, ok in zip(found["completed"].tolist(), answered, strict=True)]
    words["status"] = ["ok" if ok else "unanswered" for ok in answered]
    words["sample_id"] = words["query_id"] = list(range(ROWS))
    return words


def test_csv_has_every_row_and_says_what_it_lacks(run: Path) -> None:
    done = here("export", run)
    assert done.returncode == 0
    assert done.stdout.startswith(
        "sample_id,query_id,sample_index,scheduled_ns,issued_ns,begun_ns,completed_ns,status,"
    )
    assert done.stdout.endswith("\n")
    assert "\r" not in done.stdout
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    wanted = expected(run)
    assert rows[0].keys() == wanted.keys()
    for name, values in wanted.items():
        texts = [row[name] for row in rows]
        if name == "status":
            assert texts == values
        else:
            assert [None if text == "" else float(text) for text in texts] == values, name
    assert "tokens" in done.stderr
    assert "series/: power" in done.stderr
    assert done.stderr.count("\n") == 2


def test_json_lines_of_rows(run: Path, tmp_path: Path) -> None:
    file = tmp_path / "rows.jsonl"
    assert here("export", run, "--rows", "--output", file).returncode == 0
    rows = [json.loads(line) for line in file.read_text().splitlines()]
    for name, values in expected(run).items():
        assert [row[name] for row in rows] == values
    assert [row["tokens"] for row in rows[:3]] == [[], [0, 1, 2, 3], [4, 5]]


def test_json_lines_of_results(run: Path) -> None:
    done = here("export", run, run, "--format", "jsonl")
    result = json.loads((run / "result.json").read_text())
    assert [json.loads(line) for line in done.stdout.splitlines()] == [result, result]


@pytest.mark.extra
def test_parquet_has_every_row_with_units_and_the_result(run: Path, tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet", reason="needs the extra parquet")
    file = tmp_path / "rows.parquet"
    assert here("export", run, "--output", file).returncode == 0
    table = parquet.read_table(file)
    for name, values in expected(run).items():
        assert table[name].to_pylist() == values, name
    assert table["tokens"].to_pylist()[:3] == [[], [0, 1, 2, 3], [4, 5]]
    assert len(table["tokens"].to_pylist()[-1]) == 2
    assert table.schema.field("completed_ns").metadata == {b"unit": b"ns"}
    assert str(table.schema.field("status").type).startswith("dictionary<values=string")
    assert str(table.schema.field("sample_index").type) == "uint32"
    about = table.schema.metadata
    assert about[b"drumfire.schema"] == b"1"
    result = json.loads((run / "result.json").read_text())
    assert json.loads(about[b"drumfire.result"]) == result
    assert about[b"drumfire.started"].decode() == result["started"]


def test_without_pyarrow_the_line_that_installs_it(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(installation, "lacking", list)
    one_line_error(here("export", run, "--output", tmp_path / "a.parquet"), "needs pyarrow", "pip install", "parquet")
    assert not list(tmp_path.iterdir())


def test_an_unfinished_run_has_rows_and_no_result(run: Path, tmp_path: Path) -> None:
    half = tmp_path / "half"
    made(half, queued(10))
    (half / "result.json").unlink()
    assert here("export", half).stdout.count("\n") == 11
    one_line_error(here("export", half, "--format", "jsonl"), "is unfinished", "drumfire show tells")
    assert "under way" not in here("export", half).stderr
    with held(half):
        assert f"note: {half} is under way: what it has saved so far is exported" in here("export", half).stderr


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--output", "a.xlsx"], "does not say by its end what to write: end it in .csv, "),
        (["--format", "csv", "--rows"], "--rows has no effect with csv"),
        (["--format", "parquet"], "name a file by --output F"),
        (["--output", "a.csv", "RUN"], "the rows of one run are written at a time"),
        (["--output", "RUN/a.csv"], "is in the folder of the run"),
        (["--output", "RUN/columns", "--format", "csv"], "is in the folder of the run"),
        (["--output", "/dev/null", "--format", "csv"], "is no file"),
        (["--output", "none/a.csv"], "there is no folder"),
        (
            ["--format", "csv", "--output", "z.parquet"],
            "and --output z.parquet ends as parquet does",
        ),
        (["--rows", "--output", "z.csv"], "--rows writes jsonl, and --output z.csv ends as csv does: change one"),
        (["--format", "xml"], "unknown 'xml'"),
    ],
)
def test_what_cannot_be_written_is_a_line(
    words: list[str], says: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(installation, "lacking", lambda packages: [])
    monkeypatch.chdir(tmp_path)
    one_line_error(here("export", run, *(word.replace("RUN", str(run)) for word in words)), says)
    assert not list(tmp_path.iterdir())
    one_line_error(here("export", "nowhere"), "nowhere is no folder")


def test_a_run_that_was_pruned_has_no_rows(tmp_path: Path) -> None:
    folder = made(tmp_path / "runs" / "one", queued(10))
    assert here("history", "prune", tmp_path / "runs", "--keep", 0, "--columns", "--yes").returncode == 0
    one_line_error(here("export", folder), "has no rows to export: columns/sample_index.npy is not there")
    assert here("export", folder, "--format", "jsonl").returncode == 0
