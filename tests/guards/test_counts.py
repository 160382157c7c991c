"""No row costs more than it did: calls, allocations and system calls of each way stay below their bounds."""

from __future__ import annotations

import importlib.util

import pytest

from tests.guards import counts
from tests.guards.counts import WAYS, Way

_TRIES = 3
"""What costs each row more does so every time.  What rarely comes, such as a reply in two pieces, does not."""


def _case(way: Way, meter: str) -> object:
    """Calls of rows that go alone are in the default run: most of what makes a row dearer shows there."""
    quick = meter == "calls" and way.is_alone
    return pytest.param(way, meter, id=f"{way.name}, {meter}", marks=() if quick else pytest.mark.slow)


@pytest.mark.parametrize(("way", "meter"), [_case(way, meter) for way in WAYS for meter in counts.METERS])
def test_no_row_costs_more(way: Way, meter: str) -> None:
    version, measured = counts.bounds()
    if reason := counts.missing(meter):
        pytest.skip(reason)
    if way.needs and importlib.util.find_spec(way.needs) is None:
        pytest.skip(f"{way.name} needs the package {way.needs}")
    if version != counts.python_version():
        pytest.skip(f"the bounds are Python {version}'s: python -m tests.guards.counts --write makes others")
    above: list[str] = []
    for _ in range(_TRIES):
        counters, rows = counts.measure(way, meter)
        above = [
            f"{found:.2f} {figure} per row, not {measured[way.name][figure]:.2f}: {counters[figure].most_common(10)}"
            for figure, found in counts.per_row(counters, rows).items()
            if found > counts.bound(way, figure, measured[way.name][figure])
        ]
        if not above:
            break
    assert not above, f"in {rows} rows: {'; '.join(above)}"
