"""Facts that must agree between the processes of a run."""

from __future__ import annotations

from drumfire.bench.fleet.facts import differences, facts


def test_of_this_process() -> None:
    ours = facts({"model": "m", "data": "d"})
    assert ours == facts({"model": "m", "data": "d"})
    assert {"drumfire", "revision", "source", "constraints", "python", "numpy", "model", "data"} <= ours.keys()
    assert len(ours["source"]) == 64
    assert differences(ours, {"host 0": dict(ours), "host 1": dict(ours)}) == []


def test_a_table_of_what_differs() -> None:
    ours = {"drumfire": "1", "numpy": "2.4.6", "data": "a" * 64}
    table = differences(ours, {"host 0": ours, "host 1": {**ours, "numpy": "2.3.0"}, "host 2": {**ours, "more": "x"}})
    assert len(table) == 3
    assert table[0].split() == ["here", "host", "1", "host", "2"]  # host 0 is like us
    assert table[1].split() == ["numpy", "2.4.6", "2.3.0", "2.4.6"]
    assert table[2].split() == ["more", "-", "-", "x"]
    assert max(map(len, differences(ours, {"host 0": {**ours, "data": "b" * 64}}))) < 80
