"""The environments of the other servers, made in the cache folder on first use, apart from this environment.

Does not depend on how the servers are started.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from drumfire.bench.peers.triton.environments import environment_of
from drumfire.sut.environments import Say

KSERVE, MLSERVER = "kserve", "mlserver"
REQUIREMENTS: Mapping[str, tuple[str, ...]] = {KSERVE: ("kserve==0.21.0",), MLSERVER: ("mlserver==1.7.1",)}


def python(server: str, say: Say) -> Path:
    """An interpreter that has the server; making it takes some 450 MB and a minute.  Raises ``MeasurementError``."""
    return environment_of(server, REQUIREMENTS[server], say) / "bin" / "python"
