"""The environments of the other servers, made in the cache folder on first use, apart from this environment.

Does not depend on how the servers are started.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from drumfire.bench.peers.process import MeasurementError
from drumfire.sut.cache import cache_folder
from drumfire.sut.environments import EnvironmentFailed, Say, made

KSERVE, MLSERVER = "kserve", "mlserver"
REQUIREMENTS: Mapping[str, tuple[str, ...]] = {KSERVE: ("kserve==0.21.0",), MLSERVER: ("mlserver==1.7.1",)}


def python(server: str, say: Say) -> Path:
    """An interpreter that has the server; making it takes some 450 MB and a minute.  Raises ``MeasurementError``."""
    try:
        return made(cache_folder(), server, REQUIREMENTS[server], say) / "bin" / "python"
    except (EnvironmentFailed, OSError) as error:
        raise MeasurementError(str(error)) from None
