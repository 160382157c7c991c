"""A run over time: each slice's figures, against the same computed plainly."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from drumfire.bench.report import timeline
from drumfire.bench.report.blocks import Line
from drumfire.bench.report.timeline import Tally, Timeline
from drumfire.loadgen.record import Status
from drumfire.loadgen.saved import load
from tests.support.made_run import made, queued


def line_of(folder: Path, columns: dict[str, Any], most: int = 600, **papers: Any) -> Timeline:
    found = timeline.of(load(made(folder, columns, **papers)), most)
    assert found is not None
    return found


def slices_of(times: np.ndarray, step_s: float, slices: int) -> np.ndarray:
    return np.clip((times / (step_s * 1e9)).astype(int), 0, slices - 1)


def test_each_slice_has_its_own_rows(tmp_path: Path) -> None:
    columns = queued(6000)
    columns["status"] = np.full(6000, Status.OK)
    columns["status"][1000:1100] = Status.FAILED
    line = line_of(tmp_path / "run", columns)
    slices = line.answered.size
    assert slices == 30
    assert line.step_s * slices == pytest.approx(columns["completed"].max() * 1e-9)
    of = slices_of(columns["scheduled"], line.step_s, slices)
    ok = columns["status"] == Status.OK
    for number in range(slices):
        here = of == number
        latency = np.sort((columns["completed"] - columns["scheduled"])[here & ok])
        late = np.sort((columns["issued"] - columns["scheduled"])[here])
        for name, values in (("", latency), ("late_", late)):
            wanted = [values[int(values.size * 0.5)], values[int(values.size * 0.99)], values[-1]]
            assert [getattr(line, name + part)[number] for part in ("p50", "p99", "highest")] == wanted
        assert line.errors[number] == np.count_nonzero(here & ~ok)
        assert line.queue[number] == pytest.approx((columns["begun"] - columns["issued"])[here & ok].mean())
        assert line.compute[number] == pytest.approx((columns["completed"] - columns["begun"])[here & ok].mean())
        assert line.heat[number].sum() == latency.size
    assert line.asked is not None
    assert line.asked.sum() * line.step_s == pytest.approx(6000)
    assert line.answered.sum() * line.step_s == pytest.approx(5900)
    done_in = slices_of(columns["completed"], line.step_s, slices)
    begun_in = slices_of(columns["issued"], line.step_s, slices)
    in_flight = [np.count_nonzero(begun_in <= n) - np.count_nonzero(done_in <= n) for n in range(slices)]
    assert line.in_flight.tolist() == in_flight
    assert line.in_flight[-1] == 0


def test_parts_of_the_mean_add_up_to_it(tmp_path: Path) -> None:
    columns = queued(2000)
    line = line_of(tmp_path / "run", columns)
    assert list(line.means) == ["late", "queue", "compute"]
    assert sum(line.means.values()) == pytest.approx((columns["completed"] - columns["scheduled"]).mean())


def test_a_single_stream_is_sliced_by_its_issues_and_late_after_the_answer(tmp_path: Path) -> None:
    issued = np.arange(4000) * 100_000
    columns = {"scheduled": issued, "issued": issued, "completed": issued + 70_000}
    line = line_of(tmp_path / "run", columns, effective={"scenario": "SingleStream"})
    assert line.asked is None
    assert line.answered == pytest.approx(np.full(20, 10_000), rel=0.01)
    assert set(line.p50) == {70_000}
    assert set(line.late_p50) == {30_000}
    assert line.lateness.counts.sum() == 3999  # also between two slices
    assert line.from_send.counts.sum() == 0  # nothing but the latency again


def test_loops_that_are_mixed_are_put_in_order(tmp_path: Path) -> None:
    """Of two generators' closed loops, rows by turns; the second one's clock is ahead."""
    issued = np.arange(4000) // 2 * 100_000
    issued[1::2] += 7_000_000
    columns = {"scheduled": issued, "issued": issued, "completed": issued + np.where(np.arange(4000) % 2, 90, 70)}
    line = line_of(tmp_path / "run", columns, effective={"scenario": "SingleStream"})
    assert line.p50[0] == 70  # the second loop's first query comes 7 ms later
    assert line.p50[-1] == 90
    assert np.isnan(line.late_p50).all()


def test_queries_of_several_samples_count_once(tmp_path: Path) -> None:
    issued = np.repeat(np.arange(1000) * 1_000_000, 8)
    completed = issued + np.tile(np.arange(1, 9) * 1000, 1000)
    columns = {"scheduled": issued, "issued": issued, "completed": completed}
    line = line_of(tmp_path / "run", columns, effective={"scenario": "MultiStream", "samples_per_query": 8})
    assert set(line.p50) == {8000}
    assert line.heat.sum() == line.latency.counts.sum() == 1000
    assert line.answered.sum() * line.step_s == pytest.approx(8000)
    assert set(line.late_p50) == {992_000}  # after the last sample's answer


def test_offline_is_sliced_by_the_answers(tmp_path: Path) -> None:
    completed = np.random.default_rng(1).permutation(np.arange(1, 20_001) * 1000)
    columns = {
        "scheduled": np.zeros(20_000), "issued": np.full(20_000, 50), "completed": completed,
        "batch_size": np.where(completed > 10_000_000, 4, 2).astype(np.uint16),
    }  # fmt: skip
    line = line_of(tmp_path / "run", columns, effective={"scenario": "Offline"})
    assert line.answered == pytest.approx(np.full(100, 1e6), rel=0.02)
    assert (line.batch[0], line.batch[-1]) == (2, 4)
    assert np.isnan(line.p50).all()
    assert not line.heat.any()


@pytest.mark.parametrize("rows", [1, 2, 3, 9, 40])
def test_a_few_queries_are_a_few_slices(tmp_path: Path, rows: int) -> None:
    line = line_of(tmp_path / "run", queued(rows))
    assert line.answered.size == max(min(10, rows // 5), 1)
    assert line.answered.sum() * line.step_s == pytest.approx(rows)


def test_where_nothing_was_answered_there_are_no_latencies(tmp_path: Path) -> None:
    columns = queued(500)
    columns |= {"completed": np.zeros(500), "status": np.full(500, Status.UNANSWERED)}
    line = line_of(tmp_path / "run", columns)
    assert np.isnan(line.p50).all()
    assert line.errors.sum() == line.in_flight[-1] == 500


def test_several_loops_at_once_are_late_after_what_made_each_query_due(tmp_path: Path) -> None:
    """The answer to the row before does not say when a query of a closed loop of several is due."""
    due = np.repeat(np.arange(1000) * 1_000_000, 4)
    columns = {"scheduled": due, "issued": due + 3000, "completed": due + 900_000 + np.tile(np.arange(4) * 1000, 1000)}
    line = line_of(tmp_path / "run", columns, effective={"scenario": "SingleStream", "concurrency": 4})
    assert set(line.late_p50) == set(line.late_highest) == {3000}
    assert line.asked is None


def test_percentiles_of_a_tally_are_near_the_exact_ones() -> None:
    values = np.random.default_rng(2).lognormal(12, 1, 100_000).astype(np.int64)
    tally = Tally()
    for part in np.array_split(values, 7):
        tally.add(part)
    x, y = tally.curve(200)
    assert (x[0], x[-1]) == (0, 4)  # 10 of the values are above the end
    exact = np.sort(values)[np.minimum((values.size * (1 - 10**-x)).astype(int), values.size - 1)]
    assert y == pytest.approx(exact, rel=0.004)


def test_a_tally_takes_any_value() -> None:
    tally = Tally()
    tally.add(np.array([-5, 0, 1, 1 << 62]))
    assert tally.counts[0] == 3
    assert tally.counts[-1] == 1
    assert tally.curve(5)[0].size == 0


def test_a_percentile_beside_a_jump_is_read_from_its_own_point() -> None:
    values = np.concatenate([np.full(5_001, 100_000), np.full(4_999, 900_000)])
    tally = Tally()
    tally.add(values)
    line = Line("x", *tally.curve(30))
    assert line.at(0.5) == "about 100 us"
    assert line.at(0.9) == "about 900 us"
    assert replace(line, exact={"p50": 100_123.0}).at(0.5) == "100 us"
    assert line.at(0.99999) == "-"
