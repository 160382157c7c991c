"""Random draws, bit for bit those of the reference: libstdc++ (GCC 11 and newer) over ``std::mt19937``.

Pure arithmetic on one stream of 32-bit words, independent of samples and schedules.  Every function consumes exactly
the words that its C++ counterpart does, so draws may follow each other on one stream.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt

Uint64Array = npt.NDArray[np.uint64]
Int64Array = npt.NDArray[np.int64]
Float64Array = npt.NDArray[np.float64]

_WORD = 1 << 32
_WORD_MASK = np.uint64(_WORD - 1)

DEFAULT_SEED = 5489
"""The seed of a default-constructed ``std::mt19937``."""


class Words:
    """A ``std::mt19937`` stream: 32-bit words, in order.  Only the low 32 bits of ``seed`` count."""

    def __init__(self, seed: int) -> None:
        # RandomState seeds with Knuth's init_genrand, like std::mt19937; numpy's Generator does not.
        self._engine = np.random.MT19937()
        key = np.random.RandomState(seed % _WORD).get_state(legacy=False)["state"]["key"]
        self._engine.state = {"bit_generator": "MT19937", "state": {"key": key, "pos": 624}}

    def take(self, count: int) -> Uint64Array:
        """The next ``count`` words, shape (count,), each below 2**32."""
        return self._engine.random_raw(count)


def below(words: Words, bound: int, count: int) -> Uint64Array:
    """``count`` uniform integers in [0, bound), 1 <= bound < 2**32 (Lemire's method with rejection).

    Source: ``std::uniform_int_distribution`` of libstdc++ >= 11.
    """
    limit = np.uint64(_WORD % bound)
    drawn = np.empty(count, np.uint64)
    have = 0
    while have < count:  # another word replaces each rejected word
        product = words.take(count - have)
        product *= np.uint64(bound)
        if limit:
            product = product[(product & _WORD_MASK) >= limit]
        drawn[have : have + product.size] = product >> np.uint64(32)
        have += product.size
    return drawn


def uniform(words: Words, count: int) -> Float64Array:
    """``count`` doubles in [0, 1), two words each, low word first (``std::generate_canonical``)."""
    pairs = words.take(2 * count)
    drawn = pairs[1::2].astype(np.float64)
    drawn *= float(_WORD)
    drawn += pairs[0::2]
    drawn *= 2.0**-64
    # The sum of two large words can round up to 1.0, which libstdc++ clamps.
    return np.minimum(drawn, math.nextafter(1.0, 0.0), out=drawn)


def exponential_ns(words: Words, rate: float, count: int) -> Int64Array:
    """``count`` exponential intervals of ``rate`` per second, in whole ns (truncated as the reference does)."""
    u = 1.0 - uniform(words, count)
    seconds = np.log(u)
    np.negative(seconds, out=seconds)
    seconds /= rate
    seconds *= 1e9
    drawn = seconds.astype(np.int64)
    # numpy's log may differ from libm's by one unit in the last place.  That matters only for values next to a whole
    # ns: those few are computed again with libm.
    slack = seconds * 4e-15
    doubtful = np.flatnonzero((seconds - drawn <= slack) | (drawn + 1 - seconds <= slack))
    for i in doubtful:
        drawn[i] = int(-math.log(u[i]) / rate * 1e9)
    return drawn


def shuffle(words: Words, items: list[int]) -> None:
    """Shuffle ``items`` in place as ``std::shuffle`` does, for fewer than 2**32 items."""
    for i, j in enumerate(shuffle_partners(words, len(items)), start=1):
        items[i], items[j] = items[j], items[i]


def shuffle_partners(words: Words, size: int) -> list[int]:
    """The partners with which a shuffle of ``size`` items swaps positions 1 .. size-1; consumes its words."""
    if size < 2:
        return []
    if (_WORD - 1) // size >= size:  # small enough for two positions per word
        return _paired_partners(words, size)
    return _single_partners(words, size)


def _paired_partners(words: Words, size: int) -> list[int]:
    """Partners for size <= 65,535: at most 32,767 draws, each with its own bound, so a plain loop suffices."""
    partners: list[int] = []
    if size % 2 == 0:
        partners.append(int(below(words, 2, 1)[0]))
    i = len(partners) + 1
    mask = _WORD - 1
    while i < size:
        for word in words.take((size - i) // 2).tolist():
            bound = (i + 1) * (i + 2)
            product = word * bound
            # The costly modulo is needed only if the low half is below the bound (as in Lemire's paper).
            low = product & mask
            if low < bound and low < _WORD % bound:
                continue
            first, second = divmod(product >> 32, i + 2)
            partners.append(first)
            partners.append(second)
            i += 2
    return partners


def _single_partners(words: Words, size: int) -> list[int]:
    """Partners for larger sizes: one word per position; a rejection moves all later words one position down."""
    bounds = np.arange(2, size + 1, dtype=np.uint64)
    limits = np.uint64(_WORD) % bounds
    pending = words.take(size - 1)
    partners: list[int] = []
    start = 0
    while start < bounds.size:
        product = pending * bounds[start:]
        rejected = np.flatnonzero((product & _WORD_MASK) < limits[start:])
        good = int(rejected[0]) if rejected.size else product.size
        partners.extend((product[:good] >> np.uint64(32)).tolist())
        start += good
        if rejected.size:
            pending = np.concatenate([pending[good + 1 :], words.take(1)])
    return partners
