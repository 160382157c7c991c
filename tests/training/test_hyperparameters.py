"""The hyperparameters of each batch size, against MLPerf's own reference convergence points and the rules."""

from __future__ import annotations

import json
from importlib import resources

import pytest
from hypothesis import given
from hypothesis import strategies as st

from drumfire.training.hyperparameters import of_batch

# batch size: rate, decay steps, candidates, warm-up steps, warm-up factor
TABLE = {
    8: (0.01, (144000, 192000), 1000, 500, 0.00002),
    48: (0.06, (24000, 32000), 6000, 800, 0.000096),
    64: (0.08, (18000, 24000), 6000, 800, 0.0001),
    96: (0.12, (12000, 16000), 6000, 625, 0.000192),
    128: (0.16, (9000, 12000), 6000, 625, 0.000256),
    256: (0.24, (5625, 7500), 6000, 1800, 0.000133),
    272: (0.24, (5294, 7058), 6000, 1800, 0.000133),
}


@pytest.mark.parametrize("size", TABLE)
def test_the_table(size: int) -> None:
    found = of_batch(size, images_per_rank=1)
    assert TABLE[size] == (
        found.base_learning_rate,
        found.decay_steps,
        found.image_candidates,
        found.warmup_steps,
        found.warmup_factor,
    )


@pytest.mark.extra
def test_every_reference_convergence_point() -> None:
    pytest.importorskip("mlperf_logging")
    text = (resources.files("mlperf_logging") / "rcp_checker/training_3.1.0/rcps_maskrcnn.json").read_text()
    points = json.loads(text).values()
    assert {point["BS"] for point in points} == set(TABLE)
    for point in points:
        asked, found = point["Hyperparams"], of_batch(point["BS"], images_per_rank=1)
        assert found.base_learning_rate == asked["opt_base_learning_rate"]
        assert list(found.decay_steps) == asked["opt_learning_decay_steps"]
        assert found.image_candidates == asked["num_image_candidates"]
        assert found.warmup_steps == asked["opt_learning_rate_warmup_steps"]
        assert found.warmup_factor == asked["opt_learning_rate_warmup_factor"]


def test_the_references_own_schedules() -> None:
    two, sixteen = of_batch(2, 2), of_batch(16, 4)
    assert (two.base_learning_rate, two.decay_steps) == (0.0025, (480_000, 640_000))
    assert (sixteen.base_learning_rate, sixteen.decay_steps) == (0.02, (60_000, 80_000))
    assert sixteen.learning_rate(0) == pytest.approx(0.02 / 3)
    assert sixteen.image_candidates == 4000


def test_the_course_of_the_rate() -> None:
    found = of_batch(8, 8)
    assert found.learning_rate(0) == pytest.approx(0.0)
    assert found.learning_rate(250) == pytest.approx(0.005)
    assert found.learning_rate(500) == 0.01
    assert found.learning_rate(143_999) == 0.01
    assert found.learning_rate(144_000) == pytest.approx(0.001)
    assert found.learning_rate(192_000) == pytest.approx(0.0001)
    # The table's warm-up of 48 images would begin below 0.
    assert of_batch(48, 6).learning_rate(0) == 0.0


@given(st.integers(1, 2000), st.integers(1, 64))
def test_the_rules_hold_for_every_size(size: int, images_per_rank: int) -> None:
    found = of_batch(size, images_per_rank)
    rate = found.base_learning_rate
    multiple, fraction = rate / 0.02, 0.02 / rate
    assert multiple == pytest.approx(round(multiple)) or (size < 16 and fraction == pytest.approx(round(fraction)))
    assert rate <= 0.02 * size / 16 + 1e-12 or size < 16
    assert found.image_candidates % 1000 == 0
    stretches = {k for k in range(20) if int(60_000 * (10 + k) * 16 / (10 * size)) == found.decay_steps[0]}
    assert stretches
    assert found.warmup_factor > 0
    assert all(0 <= found.learning_rate(at) <= rate for at in range(0, 3000, 7))
