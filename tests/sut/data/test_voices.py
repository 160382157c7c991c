"""Made-up speech is the same for a seed, has pauses, and is louder than the noise in them."""

import numpy as np
import pytest

from drumfire.sut.data import voices


@pytest.mark.parametrize("seed", range(3))
def test_a_recording(seed: int) -> None:
    sound = voices.draw(4.0, np.random.default_rng(seed))
    assert sound.samples.tobytes() == voices.draw(4.0, np.random.default_rng(seed)).samples.tobytes()
    assert (sound.samples.dtype, sound.samples.shape) == (np.float32, (4 * voices.RATE,))
    assert sound.is_speech.shape == sound.samples.shape
    assert 0.2 <= np.abs(sound.samples).max() <= 0.9
    assert 0.2 < sound.is_speech.mean() < 0.95
    speech, pause = (np.sqrt(np.mean(sound.samples[of] ** 2)) for of in (sound.is_speech, ~sound.is_speech))
    assert 20 * np.log10(speech / pause) > 7  # the noise is 8 to 25 dB below


def test_a_voice_is_made_of_harmonics() -> None:
    sound = voices._utterance(100.0, 1.0, np.random.default_rng(3))
    power = np.abs(np.fft.rfft(sound)) ** 2
    frequency = np.fft.rfftfreq(sound.size, 1 / voices.RATE)
    assert power[(frequency > 75) & (frequency < 4000)].sum() > 0.8 * power.sum()


def test_nothing_fits_into_a_short_recording() -> None:
    sound = voices.draw(0.5, np.random.default_rng(1))
    assert not sound.is_speech.any()
    assert np.isfinite(sound.samples).all()
