"""Which of the named models are benchmarks of MLPerf: their names there, and the rounds that have them.

By the rounds' submission checkers.
"""

from __future__ import annotations

from typing import NamedTuple

from drumfire.loadgen.rounds import DEFAULT_ROUND


class Benchmark(NamedTuple):
    """A model of MLPerf."""

    names: tuple[str, ...]
    """In submissions."""
    first: str
    last: str
    """The rounds that have it: these and those between."""
    limits: str = ""
    """What the last rounds restrict."""
    configured_as: str | None = None
    """Its name in configuration files; None: ours."""

    @property
    def is_legacy(self) -> bool:
        """Whether the latest round lacks it."""
        return self.last != DEFAULT_ROUND


BENCHMARKS = {
    "resnet50": Benchmark(("resnet",), "v0.5", "v6.1", "edge only since v5.1; Server in the mixed category only"),
    "mobilenet": Benchmark(("mobilenet",), "v0.5", "v0.5"),
    "ssd-mobilenet": Benchmark(("ssd-small",), "v0.5", "v2.0"),
    "ssd-resnet34": Benchmark(("ssd-large",), "v0.5", "v2.0"),
    "retinanet": Benchmark(("retinanet",), "v2.1", "v6.0", "in v6.0 in the mixed category only"),
    "yolo11l": Benchmark(("yolo-95", "yolo-99"), "v6.0", "v6.1", "edge only, without Server", "yolo"),
}
"""By our names, which later rounds' checkers may not know.  A line of mlperf.conf does not make a model a member."""


def configured_as(model: str) -> str:
    """The name of a model in configuration files."""
    benchmark = BENCHMARKS.get(model)
    return (benchmark and benchmark.configured_as) or model
