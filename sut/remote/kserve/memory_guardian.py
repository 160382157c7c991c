"""A process that outlives a run, however the run ends, and sees to it that no server keeps the run's shared memory.

Run by ``memory`` with one line of JSON on the standard input.  It waits there for the end of the run; until then it has
loaded nothing but what waiting takes, so that the run is neither held up nor disturbed by it.
"""

from __future__ import annotations

import json
import signal
import sys

WITHIN_S = 60.0
"""How long it tries: a server keeps a region while requests that nobody waits for any more are at work in it."""


def main() -> None:
    """Returns when nothing is left to do."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    line = sys.stdin.buffer.readline()
    if not line.endswith(b"\n"):
        return  # the run ended before it made anything
    sys.stdin.buffer.read()
    from drumfire.sut.remote.kserve.memory import finish

    finish(json.loads(line), WITHIN_S)


if __name__ == "__main__":
    main()
