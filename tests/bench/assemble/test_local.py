"""A backend and a model's data are fitted to each other before a run, or refused in one line."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from drumfire.bench.assemble.local import _Service, read_settings, spare_cores, unread_lines
from drumfire.bench.assemble.options import TrafficOptions
from drumfire.loadgen.system import Batch, SampleLibrary
from drumfire.sut import models
from drumfire.sut.data.library import ArrayLibrary
from drumfire.sut.local.backends import BackendError
from drumfire.sut.local.loaded import fit, run_batch
from drumfire.sut.models.tensors import Input, Tensors
from tests.support.command import here, result_of

PICTURES = np.random.default_rng(1).random((4, 3, 224, 224), np.float32)


class Takes:
    """A backend of which only the input matters."""

    description = ""

    def __init__(self, shape: tuple[int | None, ...], dtype: type = np.float32, batch_size: int | None = None) -> None:
        self.tensors = Tensors((Input("image_tensor:0", shape, np.dtype(dtype), batch_size),), ("scores",))

    def run(self, batch: Batch) -> list[np.ndarray]:
        return []

    def close(self) -> None:
        pass


def fitted(backend: Takes, library: SampleLibrary | None = None) -> np.ndarray:
    """What the backend would be given, of the name that the file has."""
    library = library or ArrayLibrary("pictures", PICTURES.__getitem__, 4, 4)
    library = fit(library, backend, models.get("resnet50"))
    library.load(np.arange(4))
    ((name, batch),) = library.batch(np.arange(4)).items()
    assert name == "image_tensor:0"
    return batch


@pytest.mark.parametrize("shape", [(3, 224, 224), (3, None, None), (None, 224, 224)])
def test_the_same_layout_stays(shape: tuple[int | None, ...]) -> None:
    np.testing.assert_array_equal(fitted(Takes(shape)), PICTURES)


@pytest.mark.parametrize("shape", [(224, 224, 3), (None, None, 3)])
def test_channels_are_laid_last_for_a_file_that_wants_them_so(shape: tuple[int | None, ...]) -> None:
    given = fitted(Takes(shape))
    assert given.flags.c_contiguous
    np.testing.assert_array_equal(given, PICTURES.transpose(0, 2, 3, 1))


@pytest.mark.parametrize("shape", [(3, 224, 224), (224, 224, 3)])
def test_a_library_that_returns_bare_arrays_is_arranged_too(shape: tuple[int, ...]) -> None:
    class Own:
        name, total_count, performance_count = "own", 4, 4

        def load(self, indices: np.ndarray) -> None:
            pass

        def unload(self, indices: np.ndarray) -> None:
            pass

        def batch(self, indices: np.ndarray) -> np.ndarray:
            return PICTURES[indices]

    given = fitted(Takes(shape), Own())
    assert given.flags.c_contiguous
    np.testing.assert_array_equal(given, PICTURES.reshape(4, *shape) if shape[0] == 3 else np.moveaxis(PICTURES, 1, -1))


class TwoInputs:
    """A model of a picture and a number, on a backend that wants the picture channels last."""

    name = "two"
    tensors = Tensors((Input("picture", (3, 4, 5), np.dtype(np.float32)), Input("length", (), np.dtype(np.int64))))

    def respond(self, outputs: list[np.ndarray]) -> np.ndarray:
        return outputs[0]


def test_inputs_are_matched_by_name_and_laid_out_each() -> None:
    pictures, lengths = PICTURES[:, :, :4, :5], np.arange(4)
    read = {"length": lengths, "picture": pictures}
    library = ArrayLibrary("two", lambda indices: {name: array[indices] for name, array in read.items()}, 4, 4)
    backend, model = Takes(()), TwoInputs()
    backend.tensors = replace(model.tensors, inputs=tuple(one.as_channels_last for one in model.tensors.inputs))
    library = fit(library, backend, model)  # type: ignore[arg-type]
    library.load(np.arange(4))
    batch = library.batch(np.array([2, 0]))
    assert list(batch) == ["picture", "length"]
    np.testing.assert_array_equal(batch["picture"], pictures[[2, 0]].transpose(0, 2, 3, 1))
    np.testing.assert_array_equal(batch["length"], [2, 0])
    backend.tensors = Tensors((*backend.tensors.inputs, Input("mask", (), np.dtype(np.int64))))
    says = (
        r"^the file takes picture float32 of shape \[4, 5, 3\], length int64 of shape \[\], mask int64 of shape \[\], "
        r"and two's data is picture float32 of shape \[3, 4, 5\], length int64 of shape \[\]: give another file"
    )
    with pytest.raises(BackendError, match=says):
        fit(library, backend, model)  # type: ignore[arg-type]


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

    def __init__(self) -> None:
        super().__init__((3, 224, 224), batch_size=4)
        self.sizes: list[int] = []

    def run(self, batch: Batch) -> list[np.ndarray]:
        samples = batch["image_tensor:0"]
        self.sizes.append(len(samples))
        return [samples.reshape(len(samples), -1)[:, :1000]]


@pytest.mark.parametrize("count", [1, 3, 4])
def test_a_file_for_one_batch_size_is_always_given_that(count: int) -> None:
    backend, model = Slow(), models.get("resnet50")
    given = run_batch(backend, model)({"image_tensor:0": PICTURES[:count]})
    expected = model.respond(backend.run({"image_tensor:0": PICTURES}))
    assert backend.sizes == [4, 4]
    np.testing.assert_array_equal(given, np.asarray(expected)[:count])


def test_what_is_measured_before_a_run() -> None:
    """The best of the times, of a batch that does not take too long; and every size once."""
    asked = []

    def times(batch_size: int, seconds: float, least: int) -> list[float]:
        if least > 1:  # else the check of a batch of two, which counts as no measurement
            asked.append(batch_size)
        return [0.9, 0.5, 0.7]

    guesses: list[float] = []
    probe = SimpleNamespace(offline_rate=lambda guess: guesses.append(guess) or 1234.0)
    service = _Service(times, 32, 2, probe)  # type: ignore[arg-type]
    service.check()
    assert service.samples_per_second(together=False) == 2 / 0.7
    assert service.samples_per_second(together=True) == 1234.0
    assert guesses == [2 / 0.5]
    assert service.query_seconds(4) == (0.5, 0.35)
    service.query_seconds(4)
    assert asked == [1, 4]
    assert service.query_seconds(40)[0] == 40 / 8 * 0.5  # 4 s / 0.5 s


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
    settings, errors = read_settings(options, "digits", None)
    assert (settings.server_target_latency_ns, errors) == (bound_ms * 1_000_000, ())


def test_a_model_has_mlperfs_name_in_configuration_files(tmp_path: Path) -> None:
    file = tmp_path / "user.conf"
    file.write_text("yolo.Offline.target_qps = 77\nyolo11l.Offline.min_query_count = 5\n")
    options = TrafficOptions(scenario="Offline", user_conf=file)
    settings, _ = read_settings(options, "yolo11l", None)
    assert (settings.offline_expected_qps, settings.performance_sample_count_override) == (77, 64)
    assert settings.min_query_count != 5
    (told,) = unread_lines(options, "yolo11l")
    assert told.endswith("line 2: 'yolo11l' is not the model of this run (did you mean yolo?), so it sets nothing")


def test_lines_that_set_nothing_are_in_a_runs_warnings(tmp_path: Path) -> None:
    user, audit = tmp_path / "user.conf", tmp_path / "audit.config"
    user.write_bytes(b"\xef\xbb\xbf*.Server.target_qps = 20000\n*.Server.min_durationn = 1000\n")
    audit.write_text("digits.*.min_query_count = 5\n")
    asked = ("--scenario", "Server", "--time", 0.001, "--count", 20, "--user-conf", user, "--audit-conf", audit)
    done = here("run", "null", "digits", *asked, "--json", "--output", tmp_path / "run")
    result = result_of(done, 1)
    assert (result["system"]["qps_source"], result["round"]) == ("user.conf", "v6.1")
    told = [
        f"--user-conf {user} line 2: there is no setting 'min_durationn' (did you mean min_duration?), so it sets "
        "nothing",
        f"--audit-conf {audit} line 1: lines of a single model have no effect here: write *.*.min_query_count",
    ]
    assert [text for text in result["warnings"] if text.startswith("--")] == told  # a busy machine adds others
    assert [line.removeprefix("warning: ") for line in done.stderr.splitlines()[:2]] == told
