"""A generator's part of a run, as a line of JSON from its supervisor.

Turns options and settings into plain data and back.  Does not depend on processes or hosts.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from drumfire.bench.assemble.options import RunOptions
from drumfire.bench.options import values
from drumfire.loadgen.settings import Mode, Scenario, TestSettings
from drumfire.loadgen.share import Slice

_DRIVERS_OWN = ("device", "user_conf", "audit_conf", "output", "ray_address")
"""Options that only the driver uses: it sends settings, and its files need not exist on other hosts."""


@dataclass(frozen=True)
class Assignment:
    """A generator's part of a run."""

    name: str
    options: Mapping[str, Any]
    settings: Mapping[str, Any]
    slice: Slice
    rows: int
    """Rows of the slice."""
    columns: Mapping[str, Any]
    """The table's columns: see ``Record.described``."""
    view: Mapping[str, Any]
    """The ``drumfire.bench.watch.ViewPlan`` with which the supervisor watches the part's table."""
    limit_s: float
    """The generator always ends this long after its first start."""
    spare: int = 0
    """Rows for a warm-up, beside those of the part."""

    def to_json(self, **more: Any) -> str:
        return json.dumps(asdict(self) | more)

    @classmethod
    def from_json(cls, message: Mapping[str, Any]) -> Assignment:
        known = {name: message[name] for name in cls.__dataclass_fields__}
        return cls(**known | {"slice": Slice(**message["slice"])})


def options_to_plain(options: RunOptions) -> dict[str, Any]:
    """The options as JSON-ready data, with absolute paths."""
    return {name: value for name, value in values.plain(options).items() if name not in _DRIVERS_OWN}


def options_from_plain(plain: Mapping[str, Any]) -> RunOptions:
    return values.build(RunOptions, plain)


def settings_to_plain(settings: TestSettings) -> dict[str, Any]:
    return asdict(settings)


def settings_from_plain(values: Mapping[str, Any]) -> TestSettings:
    enums = {"scenario": Scenario(values["scenario"]), "mode": Mode(values["mode"])}
    return TestSettings(**{**values, **enums})
