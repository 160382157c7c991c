"""A report as rows: what a further way to show them relies on, and what a further percentile touches."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from rich.console import Console

from drumfire.bench.report import rows, terminal
from drumfire.bench.report.rows import Style
from drumfire.loadgen import directory, logs, results, summary
from drumfire.loadgen.installation import ROOT
from drumfire.loadgen.rounds import ROUNDS
from drumfire.loadgen.saved import load

RUNS = sorted((ROOT / "tests" / "loadgen" / "old_runs").iterdir())
SCHEMA = json.loads((ROOT / "loadgen" / "result.schema.json").read_text())


@pytest.fixture(params=RUNS, ids=lambda path: path.name)
def document(request: pytest.FixtureRequest) -> dict[str, Any]:
    return load(request.param).result


def test_rows_are_labels_and_cells(document: dict[str, Any]) -> None:
    first, *others = rows.report(document)
    assert (first[0].label, list(first[0].cells), first[0].style) == ("Result is", ["INVALID"], Style.INVALID)
    reasons = [row.cells[0] for row in first if row.style is Style.REASON]
    assert reasons == [" ".join(reason.split()) for reason in document["reasons"]]
    assert all(row.style in (Style.FIGURES, Style.METRIC, Style.FOLDER) for section in others for row in section)
    assert all(section and section[0].label for section in others)
    labels = [row.label for section in others for row in section if row.label]
    assert len(labels) == len(set(labels))
    assert {"system", "scenario", "metric", "latency", "lateness", "errors", "seeds", "saved in"} <= set(labels)
    assert all(cell and "\n" not in cell for section in others for row in section for cell in row.cells)


def test_every_cell_is_shown(document: dict[str, Any]) -> None:
    out = io.StringIO()
    terminal.show(rows.report(document), Console(file=out, width=10_000, highlight=False))
    shown = out.getvalue()
    for section in rows.report(document):
        for row in section:
            assert row.label in shown
            assert all(cell in shown for cell in row.cells)


def test_percentiles_are_spread_over_rows_that_fit(document: dict[str, Any]) -> None:
    latency = document["latency_ns"]
    for extra in range(6):
        latency |= {f"p{50 + at}.5": 123_456_789 for at in range(extra)}
        sections = [[row for row in section if len(row.cells) > 1] for section in rows.report(document)]
        cells = [cell for section in sections for row in section for cell in row.cells]
        assert {cell.partition(" ")[0] for cell in cells} >= {name for name in latency if name.startswith("p")}
        assert all(len(row.cells) <= 4 for section in sections for row in section)
    assert all(len(line) <= 80 for line in terminal.encoded(rows.report(document)).decode().splitlines()[:-1])


@pytest.mark.parametrize("run", RUNS, ids=lambda path: path.name)
def test_a_percentile_more_is_one_line_and_not_in_the_logs(run: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def logged() -> tuple[Any, str]:
        saved = load(run)
        assert saved.results is not None
        text = summary.summary("any", saved.effective, saved.results, warnings=0, errors=0)
        return json.dumps(logs.result_values(saved.effective, saved.results)), text

    before = logged()
    more = (*results.SHOWN_PERCENTILES[:1], 0.75, *results.SHOWN_PERCENTILES[1:])
    for module in (results, directory):  # both names stand for the one line
        monkeypatch.setattr(module, "SHOWN_PERCENTILES", more)
    assert logged() == before
    found = load(run).result | load(run).figures
    jsonschema.validate(found, SCHEMA)
    assert list(found["latency_ns"])[4:6] == ["p50", "p75"]
    assert b" p75 " in terminal.encoded(rows.report(found))


def lines(document: dict[str, Any]) -> list[str]:
    return terminal.encoded(rows.report(document)).decode().splitlines()


@pytest.mark.parametrize(
    "place",
    ["asked.qps", "lateness_ns.early", "overhead.gc_pause_s", "environment.governor", "tool", "reasons", "metric",
     "latency_ns.p50", "seeds", "system", "delivered.samples"],
)  # fmt: skip
def test_a_row_whose_figures_are_missing_is_left_out(document: dict[str, Any], place: str) -> None:
    whole, inner = lines(document), document
    *parts, name = place.split(".")
    for part in parts:
        inner = inner[part]
    del inner[name]
    shown = lines(document)
    assert shown[0] == whole[0]
    assert whole[-1] in shown
    assert len(whole) - len(shown) < 8
    if place not in ("system", "latency_ns.p50"):  # these two are shown with what they have
        assert set(shown) < set(whole)


def test_a_document_of_nothing_but_a_verdict() -> None:
    assert lines({"validity": "VALID"})[0] == "Result is : VALID"


def _cells(document: dict[str, Any], label: str) -> list[str]:
    return [" ".join(row.cells) for section in rows.report(document) for row in section if row.label == label]


def test_latencies_that_are_the_same_are_shown_once(document: dict[str, Any]) -> None:
    if document["query_latency_ns"] is None:
        return
    same = document | {"query_latency_ns": document["latency_ns"] | {"count": 1}}
    other = document | {"query_latency_ns": document["latency_ns"] | {"max": 1 << 40}}
    assert (len(_cells(same, "per query")), len(_cells(other, "per query"))) == (0, 1)
    assert len(_cells(same, "latency")) == 1


def test_offline_asks_for_samples_and_warms_up_with_them(document: dict[str, Any]) -> None:
    warm_up = {"queries": 200, "seconds": 0.1, "failed": 0}
    asked = document["asked"] | {"samples_per_query": 4840, "min_duration_s": 2.0, "qps": 2000.0}
    offline = document | {"scenario": "Offline", "mode": "PerformanceOnly", "asked": asked, "warmup": warm_up}
    assert _cells(offline, "asked") == ["one query of 4,840 samples, at least 2 s"]
    assert _cells(offline, "warm-up")[0].startswith("200 samples in")


def test_the_round_is_named_by_its_seeds(document: dict[str, Any]) -> None:
    for name, one in ROUNDS.items():
        seeds = {"qsl": one.qsl, "sample_index": one.sample_index, "schedule": one.schedule, "accuracy_log": 0}
        assert f"seeds {name}: qsl {one.qsl}" in " ".join(" ".join(lines(document | {"seeds": seeds})).split())
    seeds = dict.fromkeys(("qsl", "sample_index", "schedule", "accuracy_log"), 11)
    assert "seeds qsl 11," in " ".join(" ".join(lines(document | {"seeds": seeds})).split())
