"""YOLO11l on files of open sizes: each picture at its own shape, framed as the reference frames it, and found there."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from drumfire.sut.data import DataError, coco
from drumfire.sut.data.inputs import InputError
from drumfire.sut.data.options import InputOptions
from drumfire.sut.data.ragged import RaggedLibrary
from drumfire.sut.data.recipes import Letterbox
from drumfire.sut.models.tensors import Input, Tensors
from drumfire.sut.models.yolo11l import Yolo11l
from tests.support.command import here, one_line_error

DETECTOR = Path(__file__).parents[2] / "data" / "onnx" / "detectors" / "red_and_green.onnx"
SIZES = ((640, 480), (333, 501), (1024, 683), (300, 90), (640, 480), (37, 29), (500, 375), (480, 640))
"""Width and height."""
REFERENCE = Letterbox((32, 32), (640, 640))


def file(height: int | None = None, width: int | None = None) -> Tensors:
    """As Ultralytics' library exports it."""
    dims = ("", "height" if height is None else "", "width" if width is None else "")
    one = Input("images", (3, height, width), np.dtype(np.float32), dims=dims)
    return Tensors((one,), ("output0",), "batch")


def of(tensors: Tensors, **options: tuple[str, ...]) -> Yolo11l:
    return Yolo11l().for_file(tensors, InputOptions(**options))


def reference_frame(height: int, width: int, side: int = 640) -> tuple[tuple[int, int], tuple[int, int, int, int]]:
    """The scaled picture, and its margins (top, bottom, left, right), as the reference's predict computes them."""
    scale = min(side / height, side / width)
    new = round(width * scale), round(height * scale)
    across, down = np.mod(side - new[0], 32) / 2, np.mod(side - new[1], 32) / 2
    margins = round(down - 0.1), round(down + 0.1), round(across - 0.1), round(across + 0.1)
    return (new[1], new[0]), margins


@pytest.mark.parametrize("portrait", [False, True])
def test_pictures_lie_in_frames_as_the_references(portrait: bool) -> None:
    frames = set()
    for long in range(601, 700, 7):
        for short in range(30, long + 1):
            height, width = (long, short) if portrait else (short, long)
            top, left, *new, (tall, wide) = REFERENCE.place(height, width)
            scaled, margins = reference_frame(height, width)
            assert (tuple(new), (top, tall - top - new[0], left, wide - left - new[1])) == (scaled, margins)
            frames.add((tall, wide))
    assert len(frames) == 20  # multiples of 32


@pytest.mark.parametrize(
    ("tensors", "options", "expected"),
    [
        (file(), {}, REFERENCE),
        (file(640, 640), {}, Letterbox((640, 640), (640, 640))),
        (file(480, 640), {}, Letterbox((480, 640), (480, 640))),
        (file(500, 640), {}, Letterbox((500, 640), (500, 640))),  # which is the file's own affair
        (file(None, 640), {}, Letterbox((32, 640), (640, 640))),
        (file(), {"dim": ("height=480", "width=640")}, Letterbox((480, 640), (480, 640))),
        (file(), {"dim": ("height=320..480",)}, Letterbox((320, 32), (480, 640))),
        (file(), {"shape": ("images=3x480x320..640",)}, Letterbox((480, 320), (480, 640))),
        (file(), {"input": ("images:3,320,640",)}, Letterbox((320, 640), (320, 640))),
    ],
)
def test_sizes_are_the_files_or_the_users(tensors: Tensors, options: dict[str, Any], expected: Letterbox) -> None:
    model = of(tensors, **options)
    assert model._letterbox == expected
    sides = zip(*expected, strict=True)
    assert model.tensors.inputs[0].sample_shape == (3, *(low if low == high else None for low, high in sides))
    assert tensors.feeds(model.tensors) is not None
    told = [one for one in model.reservations if "scaled" in one]
    assert bool(told) == (expected.most != (640, 640))


@pytest.mark.parametrize("most", [(640, 640), (480, 640), (96, 640)])
@pytest.mark.parametrize("least", [(32, 32), (96, 64), (32, 640)])
def test_a_frame_holds_its_picture_and_keeps_to_the_limits(least: tuple[int, int], most: tuple[int, int]) -> None:
    box = Letterbox(least, most)
    for height, width in np.random.default_rng(1).integers(1, 1500, (2000, 2)).tolist():
        top, left, new_height, new_width, frame = box.place(height, width)
        for at, size, side, low, high in zip((top, left), (new_height, new_width), frame, least, most, strict=True):
            assert side % 32 == 0
            assert low <= side <= high
            assert 0 <= at <= at + size <= side
            assert abs(side - size - 2 * at) <= 1  # in the middle
            assert side == low or side - size < 32  # and no larger than it must be


@pytest.mark.parametrize(
    ("tensors", "options", "words"),
    [
        (
            file(),
            {"dim": ("height=500",)},
            r"cannot have 500 pixels: give a multiple of 32, such as 640, or .*32\.\.640",
        ),
        (file(), {"dim": ("width=32..500",)}, r"cannot have 32\.\.500 pixels"),
        (file(), {"shape": ("images=3x640x50..640",)}, r"cannot have 50\.\.640 pixels"),
        (file(), {"dim": ("width=64..320..640",)}, r"cannot have 64\.\.320\.\.640 pixels"),
        (file(), {"dim": ("wide=640",)}, "--dim wide=640: the model has the open sizes height, width, .*did you mean"),
        (file(), {"shape": ("image=3x640x640",)}, r"--shape image=3x640x640: the model yolo11l takes images FP32"),
        (file(), {"shape": ("images=1x640x640",)}, "only open sizes can be chosen"),
        (file(640, 640), {"dim": ("height=480",)}, "--dim height=480: the model names no open size"),
        (file(640, 640), {"shape": ("images=3x480x640",)}, "only open sizes can be chosen"),
    ],
)
def test_other_sizes_are_refused(tensors: Tensors, options: dict[str, Any], words: str) -> None:
    with pytest.raises(InputError, match=words) as error:
        of(tensors, **options)
    assert "\n" not in str(error.value)


def test_a_model_of_an_earlier_file_is_not_changed() -> None:
    model = Yolo11l()
    assert model.for_file(file(), InputOptions()).tensors.has_open_sizes
    assert not model.tensors.has_open_sizes


def test_a_backend_that_compiles_is_told_the_users_sizes() -> None:
    fixed = of(file(), dim=("height=480", "width=640")).tensors
    assert file().with_sizes_of(fixed).inputs == (file().inputs[0]._replace(sample_shape=(3, 480, 640)),)
    assert file().with_sizes_of(of(file()).tensors) == file()
    grey = Tensors((Input("images", (1, None, None), np.dtype(np.float32)),), ("output0",))
    assert grey.with_sizes_of(fixed) == grey  # which its data does not fit, as the run says


def data_set(folder: Path, sizes: Sequence[tuple[int, int]] = SIZES) -> Path:
    """Pictures with a red and a green field each, of classes 1 and 90."""
    from PIL import Image

    (folder / "annotations").mkdir(parents=True)
    (folder / "val2017").mkdir()
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    for at, (width, height) in enumerate(sizes):
        pixels = np.full((height, width, 3), 60, np.uint8)
        for kind, colour, share in ((1, 0, (0.1, 0.2, 0.3, 0.5)), (90, 1, (0.5, 0.3, 0.4, 0.6))):
            x, y, across, down = (round(one * side) for one, side in zip(share, (width, height) * 2, strict=True))
            pixels[y : y + down, x : x + across] = np.eye(3, dtype=np.uint8)[colour] * 255
            one = {"category_id": kind, "bbox": [x, y, across, down], "area": across * down, "iscrowd": 0}
            annotations.append(one | {"id": len(annotations) + 1, "image_id": at})
        Image.fromarray(pixels).save(folder / "val2017" / f"{at}.png")
        images.append({"id": at, "file_name": f"{at}.png", "width": width, "height": height})
    categories = [{"id": number, "name": str(number)} for number in coco.COCO_CATEGORIES]
    document = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations" / "instances_val2017.json").write_text(json.dumps(document))
    return folder


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    pytest.importorskip("cv2")
    pytest.importorskip("PIL")
    monkeypatch.setenv("MODEL_DIR", str(tmp_path / "cache"))
    return data_set(tmp_path / "data")


@pytest.mark.extra
def test_samples_are_the_references_pixels(folder: Path) -> None:
    import cv2

    model = of(file())
    library = model.library(folder)
    assert isinstance(library, RaggedLibrary)
    order = np.array([5, 0, 3, 1, 2, 7, 6, 4])
    for _ in range(2):  # the second time from the cache
        library.load(order)
        for index in order:
            pixels = cv2.imread(str(folder / "val2017" / f"{index}.png"))
            (height, width), margins = reference_frame(*pixels.shape[:2])
            pixels = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_LINEAR)
            pixels = cv2.copyMakeBorder(pixels, *margins, cv2.BORDER_CONSTANT, value=(114, 114, 114))
            expected = pixels[..., ::-1].transpose(2, 0, 1).astype(np.float32) / 255
            (found,) = library.alone(index)["input"]
            assert found.shape == expected.shape
            np.testing.assert_array_equal(found, expected)
    parts = library.divided(order)
    assert [sorted(part.tolist()) for part in parts if len(part) > 1] == [[0, 4, 6]]  # of 480x640


@pytest.mark.extra
def test_a_picture_that_is_not_as_annotated_is_refused(folder: Path) -> None:
    from PIL import Image

    Image.fromarray(np.zeros((300, 90, 3), np.uint8)).save(folder / "val2017" / "3.png")
    library = of(file()).library(folder)
    with pytest.raises(DataError, match=r"3\.png \(it has another shape than its annotation says\)"):
        library.load(np.arange(8))


def precision(folder: Path, *words: str) -> dict[str, Any]:
    done = here(
        "run", "onnxruntime", "yolo11l", "--weights", DETECTOR, "--dataset-path", folder, "--accuracy", "--json",
        "--no-dashboard", "--output", folder / "run", *words,
    )  # fmt: skip
    assert done.stdout, done.stderr
    result: dict[str, Any] = json.loads(done.stdout)
    assert result["errors"]["failed"] == 0
    return result


@pytest.mark.extra
@pytest.mark.parametrize(
    "words",
    [
        ("--scenario", "SingleStream"),
        ("--scenario", "Offline", "--processes", "0"),
        ("--scenario", "Offline", "--processes", "0", "--dim", "height=640", "--dim", "width=640"),
        ("--scenario", "Offline", "--processes", "0", "--shape", "images=3x320x480..640"),
        pytest.param(("--scenario", "Offline", "--processes", "1"), marks=pytest.mark.slow),
        pytest.param(("--scenario", "MultiStream", "--count", "4"), marks=pytest.mark.slow),
        pytest.param(("--scenario", "Server", "--qps", "50", "--processes", "1"), marks=pytest.mark.slow),
    ],
)
def test_what_a_file_of_open_sizes_finds_is_where_it_is(words: tuple[str, ...], folder: Path) -> None:
    """Boxes come back from each picture's own frame; the file fails on sides that are no multiples of 32."""
    pytest.importorskip("pycocotools")
    pytest.importorskip("onnxruntime")
    assert precision(folder, *words)["accuracy"]["value"] > 0.95


def test_options_of_made_up_data_have_no_effect() -> None:
    done = here("run", "onnxruntime", "yolo11l", "--weights", DETECTOR, "--range", "images=0..1")
    one_line_error(done, "--range has no effect with yolo11l, which has data of its own")
