"""The search for a peak, against servers in virtual time whose peak is known."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drumfire.bench.peak.journal import Journal
from drumfire.bench.peak.search import PRECISION, REPLICAS, Ask, Goal, Outcome, Probe, bracket, evidence, next_step
from drumfire.loadgen.compat.find_peak import trials
from drumfire.loadgen.early_stopping import estimate
from drumfire.loadgen.errors import UserError
from drumfire.loadgen.installation import ROOT
from tests.bench.peak.simulated_server import SimulatedServer, search

SIMULATED = Path(__file__).with_name("simulated_server.py")
FULL_S = 600.0
STARTS = (1.0, 50.0, 5000.0, 900.0, 1e6)


def reference_query_time_s(start: float, peak: float) -> float:
    """What the reference's search takes of full-length runs, where each gives the right verdict."""
    steps, time_s = trials(start, 1.0, 1), 0.0
    trial = next(steps)
    while True:
        time_s += FULL_S
        try:
            trial = steps.send(trial.qps <= peak)
        except StopIteration:
            return time_s


@pytest.mark.parametrize("seed", range(20))
def test_finds_the_peak_in_a_third_of_the_references_time(seed: int) -> None:
    server = SimulatedServer(1000.0, 0.05, seed)
    peak, probes = search(server.goal(STARTS[seed % len(STARTS)], FULL_S), server.probe)
    assert peak.load == pytest.approx(server.peak, rel=0.02)
    assert server.time_s <= reference_query_time_s(server.peak / 8, server.peak) / 3
    last = probes[-1]
    assert (last.ask.purpose, last.ask.replica, last.outcome.valid) == ("confirm", 0, True)
    assert last.ask.seconds == FULL_S
    assert sum(probe.outcome.valid for probe in probes) == 1
    # The boundary was probed with different traffic on both sides, unless a full run settled it.
    known = evidence(server.goal(1, FULL_S), probes)
    low, high = bracket(known)
    assert low is not None
    assert high is not None
    replicas = {one.load: one.probes for one in known}
    refused = any(one.refused for one in known)
    assert refused or (replicas[high] >= REPLICAS and high / max(low, 1) <= 1 + 2 * PRECISION)


def test_hopeless_probes_are_short() -> None:
    server = SimulatedServer(1000.0, 0.05, 3)
    _, probes = search(server.goal(5000.0, FULL_S), server.probe)
    overloads = [probe for probe in probes if probe.ask.load > 1500]
    assert overloads
    assert all(probe.outcome.seconds < 1.0 for probe in overloads)


@settings(max_examples=5, deadline=None)
@given(st.integers(0, 10**6), st.data())
def test_a_search_goes_on_from_any_point_to_the_same_end(seed: int, data: st.DataObject) -> None:
    server = SimulatedServer(200.0, 0.1, seed)
    goal = server.goal(20.0, 20.0)
    peak, probes = search(goal, server.probe)
    at = data.draw(st.integers(0, len(probes) - 1))
    assert next_step(goal, probes[:at]) == probes[at].ask
    assert search(goal, server.probe, probes[:at]) == (peak, probes)


def simulate(seed: int, path: Path, die_after: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(SIMULATED), str(seed), str(path), str(die_after)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, timeout=120, env=environment)


def test_a_killed_search_resumes_to_the_same_answer(tmp_path: Path) -> None:
    whole = simulate(7, tmp_path / "whole.jsonl", 0)
    assert whole.returncode == 0, whole.stderr
    broken = tmp_path / "broken.jsonl"
    for die_after in (3, 1, 6):
        assert simulate(7, broken, die_after).returncode == -signal.SIGKILL
    with broken.open("a") as file:
        file.write('{"ask": {"load": 12')  # what a power cut leaves
    done = simulate(7, broken, 0)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == float(whole.stdout)
    assert broken.read_text() == (tmp_path / "whole.jsonl").read_text()


# Whole numbers: samples in a query.


@pytest.mark.parametrize("start", [1, 8, 500])
@pytest.mark.parametrize(("most", "peak"), [(64, 37), (64, 64), (4096, 1), (4096, 900)])
def test_samples_per_query(start: int, most: int, peak: int) -> None:
    """A query of n samples takes n + 1 ms, every 200th twice that, within a bound that ``peak`` samples just keep."""
    bound_s = (peak + 1.5) * 1e-3

    def probe(ask: Ask) -> Outcome:
        assert ask.load == int(ask.load)
        query_s = (ask.load + 1) * 1e-3
        queries = max(ask.queries, int(ask.seconds / query_s) + 1)
        over = queries if query_s > bound_s else queries // 200
        if over > ask.allowed:
            queries = over = ask.allowed + 1
        found = estimate(queries, 0.99).discarded
        valid = ask.purpose == "confirm" and found is not None and over <= found and queries >= ask.queries
        return Outcome(queries, over, queries * query_s, valid, query_s)

    found, probes = search(Goal(0.99, bound_s, 20_000 * bound_s, 662, start, most, whole=True), probe)
    assert found.load is not None
    assert peak / (1 + PRECISION) - 1 <= found.load <= peak
    if peak < 100:
        assert found.load == peak
    assert len(probes) < 40


# Ends without a peak.


def test_a_system_that_is_always_too_slow_has_no_peak() -> None:
    found, probes = search(
        Goal(0.99, 0.05, 60.0, 100, 100.0, 1e6), lambda ask: Outcome(ask.allowed + 1, ask.allowed + 1, 1.0, False)
    )
    assert found.load is None
    assert "not even" in found.reason
    assert len(probes) < 20


def test_a_system_that_is_never_too_slow_is_asked_for_the_most() -> None:
    def probe(ask: Ask) -> Outcome:
        return Outcome(max(ask.queries, int(ask.load * ask.seconds)), 0, ask.seconds, True)

    found, probes = search(Goal(0.99, 0.05, 60.0, 100, 100.0, 3e5), probe)
    assert (found.load, found.fails_at) == (3e5, None)
    assert len(probes) < 12


def test_full_runs_that_are_never_valid_end_the_search() -> None:
    """As where a sample always fails late in a run."""

    def probe(ask: Ask) -> Outcome:
        late = ask.load > 500
        queries = max(ask.queries, int(ask.load * ask.seconds))
        return Outcome(queries, queries if late else 0, ask.seconds, False)

    found, probes = search(Goal(0.99, 0.05, 60.0, 100, 100.0, 1e6), probe)
    assert found.load is None
    assert "no full run" in found.reason
    assert len(probes) < 200


@given(
    st.lists(st.tuples(st.integers(1, 1000), st.integers(0, 1000), st.sampled_from([1.0, 2.0, 3.0, 5.0])), max_size=12)
)
def test_shares_never_fall_with_the_load(counts: list[tuple[int, int, float]]) -> None:
    history = [
        Probe(Ask(load, 1.0, queries, 0, "bisect", 0), Outcome(queries, min(over, queries), 1.0, False))
        for queries, over, load in counts
    ]
    known = evidence(Goal(0.99, 0.05, 60.0, 100, 1.0, 1e6), history)
    shares = [one.share for one in known]
    assert shares == sorted(shares)
    assert sum(one.queries * one.share for one in known) == pytest.approx(sum(one.over for one in known))


# The journal.


def probe_of(load: float) -> Probe:
    return Probe(Ask(load, 1.0, 64, 0, "bracket", 0), Outcome(64, 3, 0.5, False, 0.01, "3 of 64"))


def test_a_journal_gives_back_what_was_put_in(tmp_path: Path) -> None:
    path = tmp_path / "search.jsonl"
    journal = Journal(path, {"of": "this", "at": 1.5}, "again")
    for load in (1.0, 2.5, 1e6):
        journal.add(probe_of(load))
    assert Journal(path, {"at": 1.5, "of": "this"}, "again").probes == [probe_of(load) for load in (1.0, 2.5, 1e6)]
    assert all(json.loads(line) for line in path.read_text().splitlines())


@given(st.integers(0, 600), st.booleans())
def test_a_journal_cut_anywhere_keeps_its_whole_lines(
    tmp_path_factory: pytest.TempPathFactory, cut: int, marked: bool
) -> None:
    """Also where an editor has put a byte order mark before them."""
    path = tmp_path_factory.mktemp("cut") / "search.jsonl"
    journal = Journal(path, {"of": "this"}, "again")
    journal.add(probe_of(1.0))
    journal.add(probe_of(2.0))
    text = path.read_text()
    path.write_text(text[:cut], encoding="utf-8-sig" if marked else "utf-8")
    whole = max(text[:cut].count("\n") - 1, 0)
    again = Journal(path, {"of": "this"}, "again")
    assert again.probes == [probe_of(1.0), probe_of(2.0)][:whole]
    again.add(probe_of(9.0))
    assert Journal(path, {"of": "this"}, "again").probes[-1] == probe_of(9.0)


def test_a_journal_of_another_search_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "search.jsonl"
    Journal(path, {"bound": 1, "of": "this"}, "again")
    with pytest.raises(UserError, match="differs in bound"):
        Journal(path, {"bound": 2, "of": "this"}, "again")
    path.write_text("not a journal\n")
    with pytest.raises(UserError, match="not the journal"):
        Journal(path, {"bound": 2, "of": "this"}, "again")


GOOD = {"ask": asdict(probe_of(1.0).ask), "outcome": asdict(probe_of(1.0).outcome)}


@pytest.mark.parametrize(
    "line",
    [
        b"[]", b"1", b"null", b"", b"\xff", b"\0" * 40, b"[" * 100_000, b"9" * 5000, b"{}",
        b'{"ask": {}, "outcome": {}}',
        *(
            json.dumps(GOOD | {part: GOOD[part] | {key: value}}).encode()
            for part, wrong in {
                "ask": {"load": ("x", None, -1, 0, 1e300), "queries": (1.5, "6"), "purpose": (3, "fun"),
                        "replica": (-1,)},
                "outcome": {"over": (65, None, -1), "valid": ("yes", 1), "query_s": (None, -1), "seconds": (-1,)},
            }.items()
            for key, values in wrong.items()
            for value in values
        ),
        json.dumps(GOOD).encode().replace(b"0.5", b"NaN"),
        json.dumps(GOOD).encode().replace(b"0.5", b"1e400"),
        json.dumps(GOOD | {"ask": GOOD["ask"] | {"more": 1}}).encode(),
    ],
    ids=lambda line: line[:60].decode(errors="replace"),
)  # fmt: skip
def test_a_damaged_journal_is_refused_in_one_line(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / "search.jsonl"
    Journal(path, {"of": "this"}, "again").add(probe_of(1.0))
    before = path.read_bytes()
    for content in (before + line + b"\n", line + b"\n" + before):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"^\S+ is not the journal of a search: choose another --output"):
            Journal(path, {"of": "this"}, "again")
        assert path.read_bytes() == content


@pytest.mark.parametrize("head", ['{"search": []}', '{"search": 5}', '{"search": null}', '{"found": {}}'])
def test_a_journal_of_something_else_is_refused(tmp_path: Path, head: str) -> None:
    path = tmp_path / "search.jsonl"
    path.write_text(head + "\n")
    with pytest.raises(UserError, match="is not the journal of a search"):
        Journal(path, {"of": "this"}, "again")


def test_a_last_line_that_a_kill_cut_is_dropped_even_within_a_character(tmp_path: Path) -> None:
    path = tmp_path / "search.jsonl"
    Journal(path, {"of": "this"}, "again").add(probe_of(1.0))
    with path.open("ab") as file:
        file.write('{"ask": "é'.encode()[:-1])
    assert Journal(path, {"of": "this"}, "again").probes == [probe_of(1.0)]
    assert path.read_bytes().endswith(b"}}\n")


def test_a_journal_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be read: it is a folder, not a file; choose another --output"):
        Journal(tmp_path, {"of": "this"}, "again")
