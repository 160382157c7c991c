"""How many rows a run has is known from its options before anything is loaded."""

from __future__ import annotations

import pytest

from drumfire.bench.assemble.local import assemble, read_settings
from drumfire.bench.assemble.sizing import least_rows
from drumfire.loadgen.run import Test
from tests.support.command import options


@pytest.mark.parametrize(
    "words",
    [
        ["--scenario", "Server", "--qps", 5000, "--time", 0.5],
        ["--scenario", "Server", "--qps", 50, "--time", 0.5],
        ["--scenario", "Server", "--qps", 500, "--count", 400],
        ["--scenario", "Offline", "--qps", 5000, "--time", 0.5],
        ["--scenario", "SingleStream", "--count", 70],
        ["--scenario", "SingleStream", "--count", 70, "--qps", 5000],
        ["--scenario", "MultiStream", "--count", 70, "--samples-per-query", 5],
    ],
)
def test_it_is_that_of_the_run(words: list[object]) -> None:
    chosen = options("run", "null", "digits", *words)
    settings, _ = read_settings(chosen.traffic, chosen.model, chosen.system.concurrency)
    least = least_rows(settings, chosen.traffic)
    assembly = assemble(chosen)
    rows = Test(assembly.system, assembly.library, assembly.settings).record.rows
    assert 0.9 * rows < least <= 1.05 * rows  # Server's arrivals are random


@pytest.mark.parametrize(
    "words", [["--time", 5], ["--scenario", "Server", "--accuracy", "--qps", 5], ["--find-peak-performance"]]
)
def test_where_the_options_do_not_tell_nothing_is_claimed(words: list[object]) -> None:
    chosen = options("run", "null", "digits", *words)
    assert least_rows(read_settings(chosen.traffic, "digits", None)[0], chosen.traffic) == 0
