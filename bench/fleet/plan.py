"""A generator's part of a run, as a line of JSON from its supervisor.

Turns options and settings into plain data and back.  Does not depend on processes or hosts.
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
"""Options that only the driver uses: it sends settings, and its files need not exist on other hosts."""
_PATH = "path:"
"""Marks the text of an option that is a path."""


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
    """Rows of this part."""
    columns: Mapping[str, str]
    """The dtype of each column of the table."""
    view: Mapping[str, Any]
    """The ``drumfire.bench.view.watch.Plan`` with which the supervisor watches the part's table."""
    limit_s: float
    """The generator always ends this long after its first start."""

    @property
    def slice(self) -> Slice:
        return Slice(self.part, self.parts, self.width)

    def to_json(self, **more: Any) -> str:
        return json.dumps(asdict(self) | more)

    @classmethod
    def from_json(cls, message: Mapping[str, Any]) -> Plan:
        return cls(**{name: message[name] for name in cls.__dataclass_fields__})


def options_to_plain(options: argparse.Namespace) -> dict[str, Any]:
    """The options as JSON-ready data, with absolute paths."""
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
