"""Models on remote servers as systems under test, by protocol: one file or folder each, found here by name.

``endpoint`` and ``wire`` (addresses and sockets), ``system`` and ``samples`` (rows and requests) serve any protocol.
``triton_local`` starts a real Triton on this machine.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from drumfire.sut.plugins import Registry, must_be_options


def _admitted(found: Any) -> type:
    from drumfire.sut.remote.target import Target, TargetOptions

    if not (isinstance(found, type) and issubclass(found, Target)):
        raise TypeError(f"{found!r:.60} is not derived from Target")
    must_be_options(found.OPTIONS, TargetOptions)
    return found


TARGETS = Registry(
    "drumfire.targets",
    {
        "triton": "drumfire.sut.remote.kserve.target:TritonTarget",
        "http": "drumfire.sut.remote.http.target:HttpTarget",
    },
    _admitted,
)
"""The ``target.Target`` of each word on the command line."""


def kinds() -> Mapping[str, type]:
    """The class of each target's options; a target that cannot be used has those of all."""
    from drumfire.sut.remote.target import TargetOptions

    return TARGETS.options(TargetOptions)
