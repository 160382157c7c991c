"""Lengths of random samples: one length, or a distribution that the user states.

``128`` is one length, ``8..128`` any length of these, each as often as the others (uniform), and ``8..24..128`` a
log-normal distribution whose median is 24, as lengths of texts mostly are.  Does not depend on what a length counts.
"""

from __future__ import annotations

import math
import re
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from drumfire.sut.data import DataError

_DEVIATIONS = 3.0
"""Of a log-normal distribution, the maximum is this many standard deviations above the median."""


class Lengths(NamedTuple):
    """Lengths from ``least`` to ``most``; see ``of``."""

    least: int
    most: int
    median: int | None = None
    """Of a log-normal distribution; None for a uniform one."""

    @classmethod
    def of(cls, text: str) -> Lengths:
        """From ``8``, ``8..128`` (uniform) or ``8..24..128`` (log-normal with the median 24).

        Raises ``DataError``, which says what is wrong, and not what else may be written.
        """
        parts = text.split("..")
        if len(parts) > 3 or not all(re.fullmatch("[0-9]{1,12}", part) for part in parts):
            raise DataError(f"{text!r:.80} is not a size of at most 12 digits, nor two or three with .. between them")
        least, *median, most = map(int, (parts * 2 if len(parts) == 1 else parts))
        if least < 1:
            raise DataError("a size is at least 1")
        if least > most:
            raise DataError(f"{least} is above {most}")
        if median and not least <= median[0] < most:
            raise DataError(f"the median {median[0]} must be from {least} to {most - 1}")
        return cls(least, most, *median)

    def __str__(self) -> str:
        """As ``of`` reads it."""
        sizes = (self.least,) if self.fixed else (self.least, self.median, self.most)
        return "..".join(str(size) for size in sizes if size is not None)

    @property
    def fixed(self) -> bool:
        """Whether there is one length only."""
        return self.least == self.most

    def draw(self, count: int, seed: int, name: str = "") -> npt.NDArray[np.int64]:
        """The lengths of samples 0 .. count-1, shape (count,): each depends only on the rest, not on ``count``.

        ``name``: of the size; sizes of other names get other draws of the same seed.
        """
        generator = np.random.default_rng((seed, *name.encode()))
        if self.median is None:
            uniform: npt.NDArray[np.int64] = generator.integers(self.least, self.most, count, endpoint=True)
            return uniform
        deviation = math.log(self.most / self.median) / _DEVIATIONS
        drawn = np.rint(self.median * np.exp(deviation * generator.standard_normal(count)))
        log_normal: npt.NDArray[np.int64] = np.clip(drawn, self.least, self.most).astype(np.int64)
        return log_normal
