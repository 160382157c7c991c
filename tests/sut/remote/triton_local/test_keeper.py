"""The process that keeps a local server."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from drumfire.sut.remote.triton_local import keeper
from tests.support.running_server import until

# A sparse file, so that the test writes next to nothing.  The last word tells that it was not empty.
_FLOOD = "import os, time; os.ftruncate(2, 65 << 20); os.write(2, b'last'); time.sleep(60)"


def test_a_log_that_grows_without_end_is_cut(tmp_path: Path) -> None:
    log = tmp_path / "log"
    with open(log, "a+b") as errors:
        server = [sys.executable, "-c", _FLOOD]
        process = subprocess.Popen(
            [*keeper.command(tmp_path / "folder", "none-"), *server], stdout=subprocess.PIPE, stderr=errors
        )
        assert process.stdout is not None
        try:
            until(lambda: log.stat().st_size > 0)
            until(lambda: log.stat().st_size == 0)
            errors.write(b"later\n")
        finally:
            keeper.end(process, tmp_path / "folder", "none-")
            process.stdout.close()
    assert log.read_bytes() == b"later\n"
