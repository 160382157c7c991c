"""``make run``: a run for each scenario, told apart, and a table of them that is read from their folders."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from drumfire.bench.commands import scenarios
from drumfire.loadgen.installation import ROOT


def document(validity: str, metric: float | None, unit: str = "1/s", **more: Any) -> dict[str, Any]:
    found = None if metric is None else {"name": f"a metric in {unit}", "value": metric, "unit": unit}
    return {"validity": validity, "metric": found, "latency_ns": {"p99": 2_140_000}, "query_latency_ns": None} | more


def shown(*found: tuple[str, dict[str, Any]]) -> list[list[str]]:
    console = Console(width=100, file=io.StringIO())
    console.print(scenarios.table(found))
    return [line.split() for line in console.file.getvalue().splitlines()]


def test_the_table_has_each_scenarios_own_figures() -> None:
    lines = shown(
        ("SingleStream", document("VALID", 239_000, "ns")),
        ("MultiStream", document("INVALID", 1_500_000, "ns", query_latency_ns={"p99": 7_000_000})),
        ("Server", document("INVALID", None, latency_ns=None)),
    )
    assert lines[0] == ["scenario", "result", "metric", "p99", "latency"]
    assert lines[1] == ["SingleStream", "VALID", "239", "us", "a", "metric", "in", "ns", "2.14", "ms"]
    assert lines[2] == ["MultiStream", "INVALID", "1.50", "ms", "a", "metric", "in", "ns", "7.00", "ms"]
    assert lines[3] == ["Server", "INVALID"]


class Runs:
    """In place of ``drumfire run``: each ends with the status given, and leaves a result unless that is 2."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *statuses: int) -> None:
        self.commands: list[list[str]] = []
        self._left = list(statuses)
        monkeypatch.chdir(tmp_path)
        monkeypatch.setattr(scenarios._Stop, "__init__", lambda _: None)
        monkeypatch.setattr(scenarios._Stop, "run", lambda _, command: self._run(command))

    def _run(self, command: list[str]) -> int:
        self.commands.append(command)
        status = self._left.pop(0)
        if status != 2:
            folder = Path(command[command.index("--output") + 1])
            folder.mkdir(parents=True)
            found = document("VALID" if status == 0 else "INVALID", 2028.0)
            (folder / "result.json").write_text(json.dumps(found))
        return status


@pytest.mark.parametrize(
    ("statuses", "ends", "rows"), [((0, 0), 0, 2), ((1, 0), 1, 2), ((0, 130), 130, 2), ((130,), 130, 1), ((2,), 2, 0)]
)
def test_the_status_is_the_worst_and_only_invalid_runs_are_followed_by_others(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    statuses: tuple[int, ...],
    ends: int,
    rows: int,
) -> None:
    runs = Runs(monkeypatch, tmp_path, *statuses)
    words = ["onnxruntime", "digits", "cpu", "--time", "3"]
    assert scenarios.main(["--scenarios", "Server Offline", *words]) == ends
    assert len(runs.commands) == len(statuses)
    assert runs.commands[0][4:12] == ["run", *words, "--scenario", "Server"]
    out = capsys.readouterr().out
    assert "1 of 2: Server" in out
    assert ("2 of 2: Offline" in out) == (len(statuses) == 2)
    assert sum(line.startswith(("Server ", "Offline ")) for line in out.splitlines()) == rows
    assert ("drumfire run --help" in out) == (rows > 0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_all(tmp_path: Path, number: signal.Signals) -> None:
    command = [
        sys.executable,
        "-m",
        "drumfire.bench.commands.scenarios",
        "null",
        "identity",
        "--time",
        "60",
        "--no-dashboard",
    ]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    process = subprocess.Popen(
        [*command, "--qps", "100"], cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True,
        start_new_session=True,
    )  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "\n"
    assert process.stdout.readline() == "1 of 4: SingleStream\n"
    # SIGTERM comes to one process, Ctrl-C to all that the terminal started.
    (os.killpg if number == signal.SIGINT else os.kill)(process.pid, number)
    out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "2 of 4" not in out


def test_a_scenario_named_twice_is_run_twice(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    runs = Runs(monkeypatch, tmp_path, 0, 0, 0, 0)
    for _ in range(2):  # perhaps in the same second
        assert scenarios.main(["--scenarios", "Server Server", "null", "digits"]) == 0
    folders = {command[command.index("--output") + 1] for command in runs.commands}
    assert len(folders) == 4
    assert sum(line.startswith("Server ") for line in capsys.readouterr().out.splitlines()) == 4
