"""Models on remote servers as systems under test, by protocol: one file or folder each, found here by name.

``endpoint`` and ``wire`` (addresses and sockets), ``system`` and ``samples`` (rows and requests) serve any protocol.
``triton_local`` starts a real Triton on this machine.
"""

from __future__ import annotations

from collections.abc import Mapping

from drumfire.sut.plugins import Registry

TARGETS = Registry(
    "drumfire.targets",
    {
        "triton": "drumfire.sut.remote.kserve.target:TritonTarget",
        "http": "drumfire.sut.remote.http.target:HttpTarget",
    },
)
"""The ``target.Target`` of each word on the command line."""


def kinds() -> Mapping[str, type]:
    """The class of each target's options."""
    from drumfire.sut.remote.target import TargetOptions

    return TARGETS.options(TargetOptions)
