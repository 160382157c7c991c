"""Made-up speech in noise: syllables of vowels and hisses without words, by numpy alone, from a seed.

A voice is a sum of harmonics under the resonances of a vowel's mouth.  Does not depend on files or models.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

Float32Array = npt.NDArray[np.float32]

RATE = 16_000
"""Samples a second."""
VOWELS = np.array(
    [(730, 1090, 2440), (270, 2290, 3010), (300, 870, 2240), (530, 1840, 2480), (570, 840, 2410), (490, 1350, 1690)]
)
"""The first three resonances of vowels, Hz: Peterson & Barney (1952), men."""
_BANDWIDTHS = np.array([80, 100, 140])
_HIGHEST = 5000
"""Of the harmonics, Hz."""
_STEP = 80
"""Mouth and pitch are drawn once in this many samples, 5 ms."""


class Sound(NamedTuple):
    """A recording."""

    samples: Float32Array
    """Shape (n,), in -1..1."""
    is_speech: npt.NDArray[np.bool_]
    """Of each sample, shape (n,)."""


def draw(seconds: float, draws: np.random.Generator) -> Sound:
    """One speaker's utterances with pauses of about a second between them, under noise of one loudness."""
    count = int(seconds * RATE)
    samples, is_speech = np.zeros(count), np.zeros(count, bool)
    pitch, mouth = draws.uniform(95, 210), draws.uniform(0.95, 1.15)
    at = int(draws.uniform(0.3, 1.2) * RATE)
    while at < count - RATE // 2:
        part = _utterance(pitch, mouth, draws)[: count - at]
        samples[at : at + part.size] = part
        is_speech[at : at + part.size] = True
        at += part.size + int(draws.uniform(0.6, 1.4) * RATE)
    noise = _coloured(count, draws)
    quieter_db = draws.uniform(8, 25)
    loudness = np.sqrt(np.mean(samples[is_speech] ** 2)) if is_speech.any() else 0.1
    mixed = samples + noise * loudness * 10 ** (-quieter_db / 20)
    return Sound((mixed / np.abs(mixed).max() * draws.uniform(0.2, 0.9)).astype(np.float32), is_speech)


def _utterance(pitch: float, mouth: float, draws: np.random.Generator) -> npt.NDArray[np.float64]:
    """Three to ten syllables, each a vowel and often a hiss or a hum before it."""
    formants, loud, hiss = [], [], []
    for vowel in draws.integers(0, len(VOWELS), int(draws.integers(3, 11))):
        onset, length = int(draws.integers(8, 22)), int(draws.integers(16, 40))
        kind = draws.random()
        shape = np.sin(np.linspace(0.15, np.pi - 0.15, length)) ** 0.5
        formants += [VOWELS[vowel] * mouth] * (onset + length)
        loud += [0.25 if kind > 0.7 else 0.0] * onset + shape.tolist()
        hiss += [draws.uniform(0.03, 0.15) if kind < 0.45 else 0.0] * onset + [0.0] * length
    steps = len(loud)
    smooth = np.hanning(11) / np.hanning(11).sum()
    resonances = np.stack([np.convolve(np.pad(one, 5, "edge"), smooth, "valid") for one in np.array(formants).T], 1)
    voiced, hissed = (np.convolve(np.pad(np.array(one), 2), np.hanning(5) / 2, "valid") for one in (loud, hiss))
    melody = pitch * (
        1.12 - 0.3 * np.linspace(0, 1, steps) + 0.06 * np.sin(np.linspace(0, draws.uniform(6, 20), steps))
    )
    fine, coarse = np.arange(steps * _STEP), np.arange(steps) * _STEP
    pitches = np.interp(fine, coarse, melody) * (1 + 0.004 * draws.standard_normal(fine.size).cumsum() / 200)
    turn = np.exp(2j * np.pi * np.cumsum(pitches) / RATE)
    wave, harmonic = np.zeros(fine.size), np.ones(fine.size, complex)
    for number in range(1, int(_HIGHEST / melody.max()) + 1):
        harmonic = harmonic * turn
        wave += harmonic.imag * np.interp(fine, coarse, voiced * _gain(number * melody, resonances) / number)
    breath = np.diff(draws.standard_normal(fine.size + 1))
    voice: npt.NDArray[np.float64] = wave + breath * np.interp(fine, coarse, hissed)
    return voice


def _gain(frequency: npt.NDArray[np.float64], resonances: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """Of a mouth with these resonances (n, 3), Hz, at a frequency (n,)."""
    square = resonances**2
    across = square - frequency[:, None] ** 2
    gains = square / np.hypot(across, frequency[:, None] * _BANDWIDTHS)
    product: npt.NDArray[np.float64] = gains.prod(1)
    return product


def _coloured(count: int, draws: np.random.Generator) -> npt.NDArray[np.float64]:
    """Noise whose power falls with the frequency, of unit power."""
    spectrum = np.fft.rfft(draws.standard_normal(count))
    spectrum /= np.maximum(np.arange(spectrum.size), 20) ** draws.uniform(0.0, 0.7)
    noise = np.fft.irfft(spectrum, count)
    noise /= noise.std()
    return noise
