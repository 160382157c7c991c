"""``drumfire calibrate`` as a user types it: the rows that were asked for, the table, wrong usage, Ctrl-C."""

import io
import json
import os
import signal
import subprocess
import sys
from typing import Any

import jsonschema
import pytest
from rich.console import Console

from drumfire.bench.commands.calibrate import Calibration, show
from drumfire.bench.report import figures
from tests.support.command import ROOT, here, one_line_error
from tests.support.terminal import open_terminal

SCHEMA = json.loads((ROOT / "bench" / "calibration.schema.json").read_text())


def measured(*arguments: str) -> dict[str, Any]:
    done = here("calibrate", *arguments, "--json")
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    found = json.loads(done.stdout)
    jsonschema.validate(found, SCHEMA)
    return found


@pytest.fixture(scope="module")
def everything() -> dict[str, Any]:
    return measured("--time", "0.05")


def row(**changes: Any) -> dict[str, Any]:
    rates = {"delivered_qps": 998.5, "lateness_p50_us": 0.25, "lateness_p99_us": 41.2, "lateness_max_us": 1834.0}
    cost = {"early": 0, "cpu_us_per_query": 6.5, "spin_share": 0.042, "samples_per_query": 1}
    return {"scenario": "Server", "asked_qps": 1000.0} | rates | cost | changes


def shown(found: Calibration) -> str:
    out = io.StringIO()
    show(found, Console(file=out, width=80, highlight=False))
    return out.getvalue()


def test_without_options_all_is_measured(everything: dict[str, Any]) -> None:
    assert everything["time_s"] == 0.05
    assert everything["interrupted"] is False
    rows = everything["rows"]
    assert [r["asked_qps"] for r in rows[:4]] == [1e3, 1e4, 1e5, 1e6]
    assert [r["scenario"] for r in rows[-3:]] == ["SingleStream", "MultiStream", "Offline"]
    assert {r["scenario"] for r in rows[:-3]} == {"Server"}
    assert [r["samples_per_query"] for r in rows[-3:-1]] == [1, 8]
    assert [r["asked_qps"] for r in rows[-3:-1]] == [None, None]
    assert all(r["early"] == 0 and r["delivered_qps"] > 0 for r in rows)
    # The ceiling has a row, whether it is one of the four or was found above them.
    assert everything["ceiling_qps"] in [None, *(r["asked_qps"] for r in rows[:-3])]


def test_a_figure_is_the_same_in_both_outputs(everything: dict[str, Any]) -> None:
    text = shown(Calibration(everything["rows"], everything["ceiling_qps"], everything["ceiling_is_lower_bound"]))
    assert max(map(len, text.split("\n"))) <= 80
    for heading in ("scenario", "asked", "delivered", "lateness", "p50", "p99", "max", "early", "CPU a", "spin"):
        assert heading in text
    lines = text.split("\n")[2:]
    for r, line in zip(everything["rows"], lines, strict=False):
        assert line.startswith(r["scenario"])
        for name in ("p50", "p99", "max"):
            assert figures.duration(r[f"lateness_{name}_us"] * 1e3) in line
    if everything["ceiling_qps"] is not None:
        least = "at least " if everything["ceiling_is_lower_bound"] else ""
        assert f"Ceiling: {least}{everything['ceiling_qps']:,.0f}/s" in text


def test_table_of_known_rows() -> None:
    closed = row(scenario="MultiStream", asked_qps=None, delivered_qps=658_978_583.0)
    text = shown(Calibration([row(), closed], 96e6))
    words = text.split("\n")[2].split()
    assert words == ["Server", "1,000", "998", "250", "ns", "41.2", "us", "1.83", "ms", "0", "6.50", "us", "4.2%"]
    assert "659 M" in text
    assert "Ceiling: 96,000,000/s" in text
    assert "governor" not in text
    assert "from an answer to the next query" in text


def test_a_late_machine_is_told_the_mend() -> None:
    text = " ".join(shown(Calibration([row(lateness_p99_us=1200.0)])).split())
    assert "At 1,000/s p99 lateness is 1.20 ms: free a core" in text
    assert "performance governor" in text
    assert "governor" not in shown(Calibration([row(asked_qps=1e6, lateness_p99_us=1200.0)]))


@pytest.mark.parametrize("scenario", [[], ["--scenario", "Server"]])
def test_one_rate_is_one_row_and_no_search(scenario: list[str]) -> None:
    found = measured(*scenario, "--qps", "5000", "--time", "0.1")
    (only,) = found["rows"]
    assert (only["scenario"], only["asked_qps"], only["early"]) == ("Server", 5000, 0)
    assert found["ceiling_qps"] is None


def test_one_scenario() -> None:
    (closed,) = measured("--scenario", "MultiStream", "--time", "0.1")["rows"]
    assert (closed["scenario"], closed["asked_qps"], closed["samples_per_query"]) == ("MultiStream", None, 8)
    (offline,) = measured("--scenario", "Offline", "--qps", "20000", "--time", "0.5")["rows"]
    # The reference's sizing: a tenth more than the rate asks for.
    assert (offline["asked_qps"], offline["samples_per_query"]) == (20000, 11000)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--scenario", "SingleStream", "--qps", "10"], "--qps cannot be set for SingleStream"),
        (["--scenario", "MultiStream", "--qps", "10"], "leave it out"),
        (["--scenario", "Nowhere"], "Nowhere"),
        (["--qps", "-1"], "--qps"),
        (["--time", "0"], "--time"),
    ],
)
def test_wrong_usage_is_one_line(arguments: list[str], words: str) -> None:
    one_line_error(here("calibrate", *arguments, "--json"), words)


@pytest.mark.parametrize("output", [["--json"], []])
def test_ctrl_c_keeps_the_rows_measured_so_far(output: list[str]) -> None:
    reader, terminal = open_terminal()
    process = subprocess.Popen(
        [sys.executable, "-m", "drumfire", "calibrate", "--time", "0.5", *output],
        stdout=subprocess.PIPE, stderr=terminal, text=True, cwd=ROOT, start_new_session=True,
    )  # fmt: skip
    os.close(terminal)
    try:
        told = b""
        while b"Server, 10,000/s" not in told:  # the second row has begun, of some twenty
            told += os.read(reader, 4096)
        os.kill(process.pid, signal.SIGINT)
        stdout, _ = process.communicate(timeout=30)
    finally:
        process.kill()
        os.close(reader)
    assert process.returncode == 130
    if output:
        found = json.loads(stdout)
        jsonschema.validate(found, SCHEMA)
        assert found["interrupted"] is True
        assert found["ceiling_qps"] is None
        assert found["rows"][0]["asked_qps"] == 1000
    else:
        assert "Server " in stdout
        assert "Interrupted" in stdout
