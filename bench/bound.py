"""``python -m drumfire.bench.bound PID WORDS``: ``drumfire WORDS``, which ends when the process PID ends.

A run of a session that was killed is then saved and ends, and does not load the machine under the next one.  Not by
``preexec_fn``, as the session has threads.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

from drumfire.bench import statuses
from drumfire.bench.cli import program

_PR_SET_PDEATHSIG = 1  # linux/prctl.h


if __name__ == "__main__":
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != int(sys.argv.pop(1)):  # it has ended before
        sys.exit(statuses.INTERRUPTED)
    program()
