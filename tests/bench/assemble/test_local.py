"""A backend and a model's data are fitted to each other before a run, or refused in one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from drumfire.bench.assemble.local import _run_batch, _Service, fit, read_settings, spare_cores
from drumfire.bench.assemble.options import TrafficOptions
from drumfire.sut import models
from drumfire.sut.data.library import ArrayLibrary
from drumfire.sut.local.backends import BackendError

PICTURES = np.random.default_rng(1).random((4, 3, 224, 224), np.float32)


class Takes:
    """A backend of which only the input matters."""

    description = ""
    fixed_batch_size = None

    def __init__(self, shape: tuple[int | None, ...], dtype: type = np.float32) -> None:
        self.sample_shape, self.sample_dtype = shape, dtype

    def run(self, batch: np.ndarray) -> list[np.ndarray]:
        return []

    def close(self) -> None:
        pass


def fitted(backend: Takes) -> np.ndarray:
    """What the backend would be given."""
    library = ArrayLibrary("pictures", PICTURES.__getitem__, 4, 4)
    fit(library, backend, models.get("resnet50"))
    library.load(np.arange(4))
    return library.batch(np.arange(4))


@pytest.mark.parametrize("shape", [(3, 224, 224), (3, None, None), (None, 224, 224)])
def test_the_same_layout_stays(shape: tuple[int | None, ...]) -> None:
    np.testing.assert_array_equal(fitted(Takes(shape)), PICTURES)


@pytest.mark.parametrize("shape", [(224, 224, 3), (None, None, 3)])
def test_channels_are_laid_last_for_a_file_that_wants_them_so(shape: tuple[int | None, ...]) -> None:
    given = fitted(Takes(shape))
    assert given.flags.c_contiguous
    np.testing.assert_array_equal(given, PICTURES.transpose(0, 2, 3, 1))


@pytest.mark.parametrize(
    "backend", [Takes((1, 8, 8)), Takes((3, 300, 300)), Takes((150528,)), Takes((3, 224, 224), np.uint8)]
)
def test_another_input_is_refused(backend: Takes) -> None:
    says = r"^the file takes \w+ of shape \[.*\], and resnet50's data is float32 of shape \[3, 224, 224\]: .*--weights$"
    with pytest.raises(BackendError, match=says):
        fitted(backend)


def test_a_core_is_left_to_the_generator(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda pid: set(range(16)), raising=False)
    assert [spare_cores(instances) for instances in (1, 3, 40)] == [15, 5, 1]


class Slow(Takes):
    """A file for four samples at a time; remembers the sizes that it was given."""

    fixed_batch_size = 4

    def __init__(self) -> None:
        super().__init__((3, 224, 224))
        self.sizes: list[int] = []

    def run(self, batch: np.ndarray) -> list[np.ndarray]:
        self.sizes.append(len(batch))
        return [batch.reshape(len(batch), -1)[:, :1000]]


@pytest.mark.parametrize("count", [1, 3, 4])
def test_a_file_for_one_batch_size_is_always_given_that(count: int) -> None:
    backend, model = Slow(), models.get("resnet50")
    given = _run_batch(backend, model)(PICTURES[:count])
    expected = model.respond(backend.run(PICTURES))
    assert backend.sizes == [4, 4]
    np.testing.assert_array_equal(given, np.asarray(expected)[:count])


def test_what_is_measured_before_a_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """The best of the times, of a batch that does not take too long; and every size once."""
    asked = []

    def times(run: object, *, least: int) -> list[float]:
        asked.append(library.batch(np.arange(1)).shape)
        return [0.9, 0.5, 0.7]

    library = ArrayLibrary("pictures", PICTURES.__getitem__, 4, 4)
    monkeypatch.setattr("drumfire.bench.assemble.local.service_times", times)
    service = _Service(lambda batch: [], library, 32, 2)
    service.check()
    assert service.samples_per_second(together=False) == 2 / 0.7
    assert service.samples_per_second(together=True) == 2 * 8 / 0.5  # 4 s / 0.5 s
    assert service.query_seconds(4) == 0.5
    assert len(asked) == 3
    service.query_seconds(4)
    service.samples_per_second(together=True)
    assert len(asked) == 3


@pytest.mark.parametrize(
    ("conf", "max_latency_s", "bound_ms"),
    [
        ("", None, 50),
        ("*.Server.target_latency = 44", None, 44),
        ("digits.Server.target_latency = 33", None, 33),
        ("digits.Server.target_latency = 33", 0.02, 20),
    ],
)
def test_a_models_own_bound_counts_where_nobody_gives_another(
    conf: str, max_latency_s: float | None, bound_ms: int, tmp_path: Path
) -> None:
    file = tmp_path / "user.conf"
    file.write_text(conf)
    options = TrafficOptions(scenario="Server", user_conf=file, max_latency=max_latency_s)
    settings, errors = read_settings(options, "digits")
    assert (settings.server_target_latency_ns, errors) == (bound_ms * 1_000_000, ())
