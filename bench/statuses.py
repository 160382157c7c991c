"""Exit statuses of the commands; other programs rely on them.

Where several hold, the most severe wins: INTERRUPTED, USAGE, INVALID, VALID.
"""

VALID = DONE = 0
"""The run is VALID, or the task succeeded."""
INVALID = FAILED = 1
"""The run is INVALID, or the task failed."""
USAGE = 2
"""Wrong usage or input: one line on stderr names the fix."""
INTERRUPTED = 130
"""Interrupted; what was measured is saved."""
