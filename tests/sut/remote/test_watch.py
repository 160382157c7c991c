"""What is said of a run's requests once it is over."""

from __future__ import annotations

import asyncio
from collections import Counter
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from drumfire.loadgen.record import Status
from drumfire.sut.remote.watch import MeasuredWindow


@pytest.mark.parametrize(("batch_size", "told"), [(3, [2]), (1, [])])
def test_requests_that_failed_with_all_their_samples_are_counted(batch_size: int, told: list[int]) -> None:
    bad = Status.FAILED
    rows = [(10, bad), (10, bad), (10, bad), (20, Status.OK), (20, Status.OK), (30, bad), (40, bad), (40, bad)]
    rows += [(0, bad), (0, bad)]  # never sent
    sent, status = np.array(rows).T
    answers: Any = SimpleNamespace(columns={"sent": sent, "status": status})
    client: Any = SimpleNamespace(served=Counter(), happened=Counter())
    window = MeasuredWindow(batch_size=batch_size)
    asyncio.run(window.begin(client, answers))
    report = window.report([])
    assert report is not None
    assert list(report["events"].values()) == told
