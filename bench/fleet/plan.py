"""What a generator is told before it starts: plain data, one line of JSON from its supervisor.

Knows how options and settings are written down; must not know processes or hosts.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from drumfire.loadgen import Mode, Scenario, TestSettings
from drumfire.loadgen.share import Slice

_DRIVERS_OWN = ("command", "words", "user_conf", "audit_conf", "output", "ray_address")
"""Options that the driver has dealt with: settings come from it, and files of its own host need not be elsewhere."""
_PATH = "path:"
"""Begins the text of an option that is a path."""


@dataclass(frozen=True)
class Plan:
    """A generator's part of a run."""

    name: str
    options: Mapping[str, Any]
    settings: Mapping[str, Any]
    part: int
    parts: int
    width: int
    """See ``drumfire.loadgen.share.Slice``."""
    rows: int
    """Of this part."""
    columns: Mapping[str, str]
    """What the system adds to the table: each column's dtype."""
    view: Mapping[str, Any]
    """A ``drumfire.bench.view.watch.Plan``, by which the part's table is watched."""
    limit_s: float
    """However it goes, the generator ends so long after its first start."""

    @property
    def slice(self) -> Slice:
        return Slice(self.part, self.parts, self.width)

    def to_json(self, **more: Any) -> str:
        return json.dumps(asdict(self) | more)

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Plan:
        return cls(**{name: told[name] for name in cls.__dataclass_fields__})


def options_to_plain(options: argparse.Namespace) -> dict[str, Any]:
    """The command's options as JSON-ready data, paths made absolute."""
    values = {name: None if name in _DRIVERS_OWN else value for name, value in vars(options).items()}
    return {name: f"{_PATH}{value.resolve()}" if isinstance(value, Path) else value for name, value in values.items()}


def options_from_plain(values: Mapping[str, Any]) -> argparse.Namespace:
    paths = {
        name: Path(value.removeprefix(_PATH))
        for name, value in values.items()
        if isinstance(value, str) and value.startswith(_PATH)
    }
    return argparse.Namespace(**{**values, **paths})


def settings_to_plain(settings: TestSettings) -> dict[str, Any]:
    return asdict(settings)


def settings_from_plain(values: Mapping[str, Any]) -> TestSettings:
    enums = {"scenario": Scenario(values["scenario"]), "mode": Mode(values["mode"])}
    return TestSettings(**{**values, **enums})
