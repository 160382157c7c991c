"""A process that outlives a run, however the run ends, and makes every server release the run's shared memory.

``memory`` starts it with one line of JSON on the standard input, whose end tells it that the run has ended.  Until then
it imports only what waiting needs, so that it neither delays nor disturbs the run.
"""

from __future__ import annotations

import json
import signal
import sys

WITHIN_S = 60.0
"""How long it tries: a server keeps a region while abandoned requests still use it."""


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    line = sys.stdin.buffer.readline()
    if not line.endswith(b"\n"):
        return  # the run ended before it made any region
    sys.stdin.buffer.read()
    from drumfire.sut.remote.kserve.memory import finish

    finish(json.loads(line), WITHIN_S)


if __name__ == "__main__":
    main()
