"""audit.config: an auditor's overrides of a test's settings, read and applied as in the reference.

Values are looked up for model ``*``, so lines for a single model have no effect.  A file that the grammar refuses
changes nothing and is an error in the log.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from drumfire.loadgen.config import ConfigReader
from drumfire.loadgen.errors import UserError
from drumfire.loadgen.settings import Mode, TestSettings

AUDIT_CONFIG = "audit.config"
FOUND = "Found Audit Config file (audit.config). Overriding TestSettings from audit.config file."
"""The reference's warning, whatever the file's name."""


def audited(
    settings: TestSettings, path: Path | str | None, *, strict: bool = False
) -> tuple[TestSettings, tuple[str, ...], tuple[str, ...]]:
    """Apply the audit file, if it exists, and then TEST05's seeds, if ``test05`` is set.

    Returns new settings, and warnings and errors for the log.  With ``strict``, raises ``UserError`` for the errors.
    """
    settings = replace(settings)
    warnings: tuple[str, ...] = ()
    reader = ConfigReader()
    if path is not None and Path(path).is_file():
        warnings = (FOUND,)
        reader.from_config(settings, path, "*", settings.scenario.name, reader.FILE)
        if strict and reader.errors:
            modes = ", ".join(f"{mode.value} ({mode.name})" for mode in Mode)
            raise reader.refused or UserError(f"{path}: mode must be one of {modes}")
    if settings.test05:
        settings.mode = Mode.PerformanceOnly
        for name in ("qsl_rng_seed", "sample_index_rng_seed", "schedule_rng_seed"):
            setattr(settings, name, getattr(settings, f"test05_{name}"))
    return settings, warnings, tuple(reader.errors)
