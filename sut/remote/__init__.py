"""Models on remote servers as systems under test, by protocol: one file or folder each, found here by name.

``endpoint`` and ``wire`` (addresses and sockets) serve any protocol.  ``triton_local`` starts a real Triton on this
machine.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping

TARGETS = {"triton": "drumfire.sut.remote.kserve.target"}


def kinds() -> Mapping[str, type]:
    """The class of each target's options."""
    return {name: importlib.import_module(module).OPTIONS for name, module in TARGETS.items()}
