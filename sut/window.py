"""The last seconds of what is looked at again and again, for rates and means in a view.

Does not depend on what is looked at.
"""

from __future__ import annotations

from collections import deque
from typing import TypeVar

WINDOW_NS = 2_000_000_000

T = TypeVar("T")


def begin_of_window(looks: deque[tuple[int, T]], now_ns: int, newest: T) -> tuple[int, T]:
    """Add a look with its time; return the one to compare with: ``WINDOW_NS`` old or older, or the first.

    Drops the looks before it.
    """
    looks.append((now_ns, newest))
    while len(looks) > 2 and looks[1][0] <= now_ns - WINDOW_NS:
        looks.popleft()
    return looks[0]
