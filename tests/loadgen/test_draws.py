"""Random draws: the values that libstdc++ gave, and for any seed those of a plain generator that takes word by word."""

import json
import math
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from drumfire.loadgen.draws import DEFAULT_SEED, Words, below, exponential_ns, shuffle, shuffle_partners, uniform

VECTORS = json.loads((Path(__file__).parents[1] / "golden" / "rng_vectors.json").read_text())
SHUFFLE_SEED = 2747215439041700203
BIG_SHUFFLE_SEED = 2085463073848966840
REAL_SEED = 720381539243781796
EXPONENTIAL_SEED = 16159082839903944936

SEEDS = st.integers(0, 2**64 - 1)
BOUNDS = st.one_of(st.integers(1, 2**32 - 1), st.integers(1, 300), st.sampled_from([2**31 + 1, 2**32 - 1, 3 * 2**30]))


def mersenne_words(seed: int) -> Iterator[int]:
    """The Mersenne twister MT19937 as its authors wrote it down, a word at a time."""
    state = [seed & 0xFFFFFFFF]
    for i in range(1, 624):
        state.append((1812433253 * (state[-1] ^ state[-1] >> 30) + i) & 0xFFFFFFFF)
    while True:
        for i in range(624):
            y = state[i] & 0x80000000 | state[(i + 1) % 624] & 0x7FFFFFFF
            state[i] = state[(i + 397) % 624] ^ y >> 1 ^ (0x9908B0DF if y & 1 else 0)
        for y in state[:]:
            y ^= y >> 11
            y ^= y << 7 & 0x9D2C5680
            y ^= y << 15 & 0xEFC60000
            yield y ^ y >> 18


def one_below(words: Iterator[int], bound: int) -> int:
    while True:
        product = next(words) * bound
        if product & 0xFFFFFFFF >= 2**32 % bound:
            return product >> 32


def one_uniform(words: Iterator[int]) -> float:
    low, high = next(words), next(words)
    return min((float(low) + float(high) * 2.0**32) / 2.0**64, math.nextafter(1.0, 0.0))


def one_exponential_ns(words: Iterator[int], rate: float) -> int:
    return int(-math.log(1.0 - one_uniform(words)) / rate * 1e9)


def plain_shuffle(words: Iterator[int], items: list[int]) -> None:
    def swap(i: int, j: int) -> None:
        items[i], items[j] = items[j], items[i]

    n = len(items)
    if n == 0:
        return
    if 0xFFFFFFFF // n < n:
        for i in range(1, n):
            swap(i, one_below(words, i + 1))
        return
    start = 1
    if n % 2 == 0:
        swap(1, one_below(words, 2))
        start = 2
    for i in range(start, n, 2):
        first, second = divmod(one_below(words, (i + 1) * (i + 2)), i + 2)
        swap(i, first)
        swap(i + 1, second)


def next_word(words: Words) -> int:
    return int(words.take(1)[0])


# The values of libstdc++.


@pytest.mark.parametrize("seed", VECTORS["raw"])
def test_raw_words(seed: str) -> None:
    known = VECTORS["raw"][seed]
    assert Words(int(seed)).take(len(known)).tolist() == known


def test_default_seed() -> None:
    """The standard fixes the 10,000th word of a default-constructed engine."""
    assert Words(DEFAULT_SEED).take(10_000)[-1] == 4123659995


@pytest.mark.parametrize("size", VECTORS["shuffle"])
def test_shuffle(size: str) -> None:
    words, items = Words(SHUFFLE_SEED), list(range(int(size)))
    shuffle(words, items)
    assert items == VECTORS["shuffle"][size]["perm"]
    assert next_word(words) == VECTORS["shuffle"][size]["next_raw"]


@pytest.mark.parametrize("size", VECTORS["shuffle_big_checks"])
def test_big_shuffle(size: str) -> None:
    words, items, known = Words(BIG_SHUFFLE_SEED), list(range(int(size))), VECTORS["shuffle_big_checks"][size]
    shuffle(words, items)
    # How the vectors were hashed: whole values in place of bytes, from an offset that lacks FNV's last digit.
    digest = 1469598103934665603
    for item in items:
        digest = (digest ^ item) * 0x100000001B3 & 0xFFFFFFFFFFFFFFFF
    assert (items[0], items[-1], digest) == (known["first"], known["last"], known["fnv1a64_of_values"])
    assert next_word(words) == known["next_raw"]


@pytest.mark.parametrize("bound", VECTORS["uniform_int_0_n"])
def test_uniform_integers(bound: str) -> None:
    words, known = Words(SHUFFLE_SEED), VECTORS["uniform_int_0_n"][bound]
    assert below(words, int(bound), len(known["v"])).tolist() == known["v"]
    assert next_word(words) == known["next_raw"]


def test_uniform_reals() -> None:
    assert uniform(Words(REAL_SEED), 40).tolist() == VECTORS["uniform_real"]


@pytest.mark.parametrize("rate", VECTORS["exp_ns"])
def test_exponential_intervals(rate: str) -> None:
    known = VECTORS["exp_ns"][rate]
    assert exponential_ns(Words(EXPONENTIAL_SEED), float(rate), len(known)).tolist() == known


# For any seed, the values and the words consumed of the plain generator above.


@given(SEEDS, st.integers(0, 1500))
def test_words_of_any_seed(seed: int, count: int) -> None:
    assert Words(seed).take(count).tolist() == list(islice(mersenne_words(seed), count))


@given(SEEDS, st.lists(st.integers(0, 700), max_size=6))
def test_words_do_not_depend_on_chunks(seed: int, counts: list[int]) -> None:
    words = Words(seed)
    chunks = [words.take(count) for count in counts]
    assert np.array_equal(np.concatenate([*chunks, words.take(1)]), Words(seed).take(sum(counts) + 1))


@given(SEEDS, BOUNDS, st.integers(0, 400))
def test_below_is_in_range_and_consumes_exactly(seed: int, bound: int, count: int) -> None:
    ours, plain = Words(seed), mersenne_words(seed)
    drawn = below(ours, bound, count)
    assert drawn.shape == (count,)
    assert (drawn < bound).all()
    assert drawn.tolist() == [one_below(plain, bound) for _ in range(count)]
    assert next_word(ours) == next(plain)


@given(SEEDS, st.integers(0, 400))
def test_uniform_is_in_range_and_consumes_exactly(seed: int, count: int) -> None:
    ours, plain = Words(seed), mersenne_words(seed)
    drawn = uniform(ours, count)
    assert ((drawn >= 0.0) & (drawn < 1.0)).all()
    assert drawn.tolist() == [one_uniform(plain) for _ in range(count)]
    assert next_word(ours) == next(plain)


class FixedWords(Words):
    """A stream that was written down, to reach what no seed is likely to give."""

    def __init__(self, words: list[int]) -> None:
        self.words = words

    def take(self, count: int) -> np.ndarray:
        taken, self.words = self.words[:count], self.words[count:]
        return np.array(taken, np.uint64)


@pytest.mark.parametrize(
    ("low", "high"), [(0, 0), (2**32 - 1, 2**32 - 1), (2**32 - 1024, 2**32 - 1), (2**32 - 1025, 2**32 - 1), (1, 0)]
)
def test_extreme_words(low: int, high: int) -> None:
    """The greatest words round up to 1.0, which is clamped, so that no interval is infinite."""
    u = one_uniform(iter([low, high]))
    assert uniform(FixedWords([low, high]), 1).tolist() == [u]
    assert 0.0 <= u < 1.0
    assert exponential_ns(FixedWords([low, high]), 10.0, 1).tolist() == [int(-math.log(1.0 - u) / 10.0 * 1e9)]


def test_integers_with_many_rejections() -> None:
    """With a bound just above 2**31 nearly half of all words are rejected."""
    ours, plain = Words(7), mersenne_words(7)
    assert below(ours, 2**31 + 1, 20_000).tolist() == [one_below(plain, 2**31 + 1) for _ in range(20_000)]
    assert next_word(ours) == next(plain)


@given(SEEDS, st.integers(0, 600))
def test_shuffle_is_a_permutation(seed: int, size: int) -> None:
    ours, plain, items, plainly = Words(seed), mersenne_words(seed), list(range(size)), list(range(size))
    shuffle(ours, items)
    plain_shuffle(plain, plainly)
    assert sorted(items) == list(range(size))
    assert items == plainly
    assert next_word(ours) == next(plain)


@pytest.mark.parametrize("size", [65_534, 65_535, 65_536, 65_537, 300_001])
def test_shuffle_where_the_method_changes(size: int) -> None:
    ours, plain, items, plainly = Words(size), mersenne_words(size), list(range(size)), list(range(size))
    shuffle(ours, items)
    plain_shuffle(plain, plainly)
    assert items == plainly
    assert next_word(ours) == next(plain)


@given(SEEDS, st.integers(0, 600))
def test_partners_alone_consume_what_the_shuffle_does(seed: int, size: int) -> None:
    ours, other = Words(seed), Words(seed)
    partners = shuffle_partners(ours, size)
    shuffle(other, list(range(size)))
    assert len(partners) == max(size - 1, 0)
    assert all(partner <= position for position, partner in enumerate(partners, start=1))
    assert next_word(ours) == next_word(other)


DRAWS = st.one_of(
    st.tuples(st.just("below"), BOUNDS, st.integers(0, 50)),
    st.tuples(st.just("uniform"), st.none(), st.integers(0, 50)),
    st.tuples(st.just("exponential"), st.floats(1e-2, 1e9), st.integers(0, 50)),
    st.tuples(st.just("shuffle"), st.none(), st.integers(0, 120)),
)


@given(SEEDS, st.lists(DRAWS, max_size=8))
def test_draws_may_follow_each_other(seed: int, draws: list[tuple]) -> None:
    """Any sequence of draws on one stream equals the plain one: nothing is drawn ahead, nothing is lost."""
    ours, plain = Words(seed), mersenne_words(seed)
    for kind, parameter, count in draws:
        if kind == "below":
            assert below(ours, parameter, count).tolist() == [one_below(plain, parameter) for _ in range(count)]
        elif kind == "uniform":
            assert uniform(ours, count).tolist() == [one_uniform(plain) for _ in range(count)]
        elif kind == "exponential":
            drawn = exponential_ns(ours, parameter, count).tolist()
            assert drawn == [one_exponential_ns(plain, parameter) for _ in range(count)]
        else:
            items, plainly = list(range(count)), list(range(count))
            shuffle(ours, items)
            plain_shuffle(plain, plainly)
            assert items == plainly
    assert next_word(ours) == next(plain)


@settings(max_examples=50)
@given(SEEDS, st.floats(1e-3, 1e9) | st.sampled_from([0.5, 1.0, 100.0, 1000.0, 1e6]))
def test_exponential_equals_libm_draw_by_draw(seed: int, rate: float) -> None:
    """numpy's logarithm may be off by one in the last place; the interval in ns must not be."""
    drawn = exponential_ns(Words(seed), rate, 5000)
    u = uniform(Words(seed), 5000).tolist()
    assert drawn.tolist() == [int(-math.log(1.0 - x) / rate * 1e9) for x in u]
    assert (drawn >= 0).all()
