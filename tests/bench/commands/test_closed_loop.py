"""``drumfire run … --loop closed --concurrency N`` as a user types it, with each kind of system."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from drumfire.bench.assemble.loop import kind
from drumfire.loadgen.record import Status
from drumfire.loadgen.saved import load
from tests.loadgen.test_closed_loop import most_under_way
from tests.support.command import columns, here, one_line_error, options, result_of
from tests.support.saved_figures import differences
from tests.support.scripted_peer import Peer

SHORT = ["--time", "0.01", "--count", "60", "--json", "--no-dashboard"]


def closed(concurrency: int, *words: object, folder: Path) -> dict[str, Any]:
    """The result of a run, whose columns show that no more than ``concurrency`` were under way."""
    line = ["run", *words, "--loop", "closed", "--concurrency", concurrency, "--output", folder, *SHORT]
    done = here(*line)
    result = result_of(done, done.returncode)
    assert (result["scenario"], result["note"]) == ("ClosedLoop", "MLPerf rules: not applicable")
    assert result["loop"]["concurrency"] == concurrency
    assert (result["errors"]["failed"], result["lateness_ns"]["early"]) == (0, 0)
    found = columns(folder)
    assert (found["status"] == Status.OK).all()
    assert most_under_way(found["issued"], found["completed"]) <= concurrency
    assert differences(load(folder)) == {}
    return result


def test_the_null_system(tmp_path: Path) -> None:
    result = closed(8, "null", "digits", folder=tmp_path)
    assert result["asked"]["max_query_count"] == result["delivered"]["queries"] == 60
    shown = here("show", tmp_path).stdout
    assert "8 queries under way" in shown
    assert "ClosedLoop" in shown
    assert "ClosedLoop" in here("runs", tmp_path).stdout


def test_a_model_here_batches_what_is_under_way(tmp_path: Path) -> None:
    words = ("onnxruntime", "digits", "--processes", 0, "--warmup", 10, "--think-time", 0.1)
    result = closed(6, *words, folder=tmp_path)
    assert result["warmup"]["queries"] == 10
    assert result["loop"]["think_time_ns"] == 100_000
    assert 1 < columns(tmp_path)["batch_size"].max() <= 6


def test_an_accuracy_run_is_judged(tmp_path: Path) -> None:
    line = ("--accuracy", "--loop", "closed", "--concurrency", 4, "--count", 40, "--output", tmp_path)
    done = here("run", "onnxruntime", "digits", "--processes", 0, *line, "--json", "--no-dashboard")
    result = result_of(done, done.returncode)
    assert (result["scenario"], result["accuracy"]["total"]) == ("ClosedLoop", 40)


@pytest.mark.parametrize(("protocol", "connections"), [("http", 5), ("grpc", 1)])
def test_on_a_server_as_many_requests_are_under_way(protocol: str, connections: int, tmp_path: Path) -> None:
    with Peer(protocol) as peer:
        result = closed(5, "triton", "echo", "--url", peer.url, folder=tmp_path)
    assert result["system"]["remote"]["concurrency"] == 5
    assert result["system"]["remote"]["connections"] == connections
    found = columns(tmp_path)
    assert (found["sent"] >= found["issued"]).all()


@pytest.mark.slow
def test_several_generators_divide_the_queries_under_way(tmp_path: Path) -> None:
    with Peer("grpc") as peer:
        result = closed(5, "triton", "echo", "--url", peer.url, "--workers", 2, folder=tmp_path)
    assert not any("independent streams" in text for text in result["warnings"])
    found = columns(tmp_path)
    for part, places in ((0, 3), (1, 2)):
        assert not found["scheduled"][part::2][:places].any()
        assert most_under_way(found["issued"][part::2], found["completed"][part::2]) <= places
        assert np.isin(found["scheduled"][part::2][places:], found["completed"][part::2]).all()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--loop", "open"], "SingleStream is a closed loop: choose --scenario Server or Offline"),
        (["--loop", "closed", "--scenario", "Server"], "leave --scenario Server out"),
        (["--loop", "closed", "--submission"], "--submission is for MLPerf's scenarios"),
        (["--loop", "closed", "--find-peak-performance"], "SingleStream has no load to vary"),
        (["--loop", "closed", "--until-confident"], "--until-confident is for"),
        (["--loop", "closed", "--concurrency", "0"], "--concurrency: must be above 0"),
        (["--loop", "closed", "--think-time", "-1"], "--think-time: must be at least 0"),
        (["--concurrency", "3"], "--concurrency has no effect without --loop"),
        (["--think-time", "3"], "--think-time has no effect without --loop"),
    ],
)
def test_what_no_loop_can_have(words: list[str], says: str, tmp_path: Path) -> None:
    one_line_error(here("run", "null", "digits", *words, "--output", tmp_path / "out", *SHORT), says)
    assert not (tmp_path / "out").exists()


def test_fewer_under_way_than_generators(tmp_path: Path) -> None:
    words = ["run", "triton", "m", "--url", "grpc://h:1", "--loop", "closed", "--workers", 3]
    one_line_error(here(*words, "--output", tmp_path / "out"), "a closed loop of 1", "give --concurrency 3 or more")


@pytest.mark.parametrize(
    ("words", "note"),
    [
        (["--loop", "closed", "--qps", "9"], "--qps has no effect in ClosedLoop, only in Server and Offline"),
        (
            ["--loop", "open", "--scenario", "Offline", "--concurrency", "3"],
            "--concurrency has no effect with --loop open",
        ),
    ],
)
def test_what_has_no_effect_is_noted(words: list[str], note: str, tmp_path: Path) -> None:
    assert f"note: {note}\n" in here("run", "null", "digits", *words, "--output", tmp_path, *SHORT).stderr


def test_the_folder_says_how_many() -> None:
    line = ("run", "null", "digits", "--loop", "closed")
    assert kind(options(*line, "--concurrency", 12)) == "ClosedLoop12"
    assert kind(options(*line)) == "ClosedLoop1"
    assert kind(options("run", "null", "digits", "--scenario", "Server")) == "Server"
