"""audit.config: overrides that an auditor lays over a test's settings, read and applied as the reference does.

Looked up for model ``*``, so that a model's own lines in it say nothing; a file that the grammar refuses changes
nothing and is an error in the log.  Knows no test and judges nothing.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from drumfire.loadgen.config import ConfigReader
from drumfire.loadgen.settings import Mode, TestSettings

AUDIT_CONFIG = "audit.config"
FOUND = "Found Audit Config file (audit.config). Overriding TestSettings from audit.config file."
"""The reference's warning; it names the file so, whatever its name."""


def audited(settings: TestSettings, path: Path | str | None) -> tuple[TestSettings, tuple[str, ...], tuple[str, ...]]:
    """The settings after the audit file, where there is one, and after TEST05's seeds, where they are asked for.

    Returns new settings, then warnings and errors for the log.
    """
    settings = replace(settings)
    warnings: tuple[str, ...] = ()
    reader = ConfigReader()
    if path is not None and Path(path).is_file():
        warnings = (FOUND,)
        reader.from_config(settings, path, "*", settings.scenario.name, reader.FILE)
    if settings.test05:
        settings.mode = Mode.PerformanceOnly
        for name in ("qsl_rng_seed", "sample_index_rng_seed", "schedule_rng_seed"):
            setattr(settings, name, getattr(settings, f"test05_{name}"))
    return settings, warnings, tuple(reader.errors)
