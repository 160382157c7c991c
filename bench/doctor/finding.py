"""A finding of the doctor."""

from __future__ import annotations

from typing import Any

OK, INFO, NOTE, PROBLEM = "ok", "info", "note", "problem"
"""All is well; what is not there or not known, and need not be; figures may suffer, or a part of Drumfire cannot be
used; a run would be stopped."""

Finding = dict[str, Any]
"""``name``, ``value`` (text), ``status`` and ``mend`` (how to fix it; None if ok or info)."""


def finding(name: str, value: str, fix: str | None = None, status: str | None = None) -> Finding:
    """A finding that is ok if there is nothing to fix, else a note, or what ``status`` says."""
    return {"name": name, "value": value, "status": status or (NOTE if fix else OK), "mend": fix}
