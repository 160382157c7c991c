"""Each recipe gives, bit for bit, what the reference's steps written out with OpenCV and Pillow give."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from drumfire.sut.data import pictures
from drumfire.sut.data.recipes import RECIPES

cv2 = pytest.importorskip("cv2")
Image = pytest.importorskip("PIL.Image")
pytestmark = pytest.mark.extra

SIZES = [(500, 375), (375, 500), (640, 480), (333, 501), (256, 256), (481, 321), (224, 1000), (17, 13), (9, 31), (1, 1)]
"""Width and height."""
MEAN = np.array([0.485, 0.456, 0.406], np.float32)
DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)


def encoded(width: int, height: int, *, grey: bool, ending: str) -> bytes:
    shape = (height, width) if grey else (height, width, 3)
    noise = np.random.default_rng([width, height]).integers(0, 256, shape, dtype=np.uint8)
    return cv2.imencode(ending, cv2.blur(noise, (3, 3)))[1].tobytes()


def bgr(content: bytes) -> np.ndarray:
    return cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)


def centre(image: np.ndarray, interpolation: int) -> np.ndarray:
    height, width, _ = image.shape
    if height > width:
        image = cv2.resize(image, (256, int(256 * height / width)), interpolation=interpolation)
    else:
        image = cv2.resize(image, (int(256 * width / height), 256), interpolation=interpolation)
    height, width, _ = image.shape
    rows = slice(int((height - 224) / 2), int((height + 224) / 2))
    return image[rows, int((width - 224) / 2) : int((width + 224) / 2)]


def imagenet(image: np.ndarray) -> np.ndarray:
    pixels = centre(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), cv2.INTER_AREA).astype("float32")
    pixels -= np.array([123.68, 116.78, 103.94], dtype=np.float32)
    return pixels.transpose(2, 0, 1)


def imagenet_mobilenet(image: np.ndarray) -> np.ndarray:
    pixels = centre(cv2.cvtColor(image, cv2.COLOR_BGR2RGB), cv2.INTER_LINEAR).astype("float32")
    pixels /= 255.0
    pixels -= 0.5
    pixels *= 2
    return pixels.transpose(2, 0, 1)


def imagenet_pytorch(image: np.ndarray) -> np.ndarray:
    picture = Image.fromarray(image[:, :, ::-1].copy())
    short, long = min(picture.size), max(picture.size)
    size = (256, int(256 * long / short)) if picture.width <= picture.height else (int(256 * long / short), 256)
    picture = picture.resize(size, Image.BILINEAR)
    left, top = round((picture.width - 224) / 2.0), round((picture.height - 224) / 2.0)
    pixels = np.array(picture)[top : top + 224, left : left + 224].transpose(2, 0, 1).astype(np.float32)
    return (pixels / np.float32(255) - MEAN[:, None, None]) / DEVIATION[:, None, None]


def stretched(image: np.ndarray, side: int) -> np.ndarray:
    floats = cv2.cvtColor(np.array(image, dtype=np.float32), cv2.COLOR_BGR2RGB)
    return cv2.resize(floats, (side, side), interpolation=cv2.INTER_LINEAR)


def coco_1200(image: np.ndarray) -> np.ndarray:
    return ((stretched(image, 1200) / 255.0 - MEAN) / DEVIATION).transpose(2, 0, 1)


def letterboxed(image: np.ndarray) -> np.ndarray:
    height, width = image.shape[:2]
    gain = min(640 / height, 640 / width)
    size = max(round(width * gain), 1), max(round(height * gain), 1)
    dw, dh = (640 - size[0]) / 2, (640 - size[1]) / 2
    image = cv2.resize(image, size, interpolation=cv2.INTER_LINEAR)
    top, bottom, left, right = (round(at) for at in (dh - 0.1, dh + 0.1, dw - 0.1, dw + 0.1))
    image = cv2.copyMakeBorder(image, top, bottom, left, right, cv2.BORDER_CONSTANT, value=(114, 114, 114))
    return np.ascontiguousarray(image[..., ::-1].transpose(2, 0, 1)).astype(np.float32) / 255


EXPECTED: dict[str, Callable[[Any], np.ndarray]] = {
    "imagenet": imagenet,
    "imagenet_mobilenet": imagenet_mobilenet,
    "imagenet_pytorch": imagenet_pytorch,
    "coco-300": lambda image: np.asarray(stretched(image, 300), dtype=np.uint8),
    "coco-300-pt": lambda image: ((stretched(image, 300) - 127.5) / 127.5).transpose(2, 0, 1),
    "coco-1200": coco_1200,
    "openimages-800-retinanet": lambda image: (stretched(image, 800) / 255.0).transpose(2, 0, 1),
    "coco-640-letterbox": letterboxed,
}


def test_every_recipe_is_checked() -> None:
    assert set(EXPECTED) == set(RECIPES)


@pytest.mark.parametrize("ending", [".png", ".jpg"])
@pytest.mark.parametrize("grey", [False, True])
@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.parametrize("name", EXPECTED)
def test_recipe(name: str, size: tuple[int, int], grey: bool, ending: str) -> None:
    recipe, content = RECIPES[name], encoded(*size, grey=grey, ending=ending)
    found = np.empty(recipe.shape, recipe.dtype)
    recipe.fill(found, recipe.resized(pictures.decoded(content), recipe.size))
    expected = EXPECTED[name](bgr(content))
    assert found.dtype == expected.dtype
    np.testing.assert_array_equal(found, expected)


def test_the_pillow_recipe_is_torchvisions() -> None:
    torch = pytest.importorskip("torch")
    pytest.importorskip("drumfire.training.operators")
    functional = pytest.importorskip("torchvision.transforms.functional")
    recipe = RECIPES["imagenet_pytorch"]
    for size in SIZES[:-1]:
        pixels = pictures.decoded(encoded(*size, grey=False, ending=".png"))
        found = np.empty(recipe.shape, recipe.dtype)
        recipe.fill(found, recipe.resized(pixels, recipe.size))
        image = functional.resize(Image.fromarray(pixels), 256, functional.InterpolationMode.BILINEAR)
        tensor = functional.to_tensor(functional.center_crop(image, 224))
        expected = functional.normalize(tensor, [0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
        assert torch.equal(torch.from_numpy(found), expected)
