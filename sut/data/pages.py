"""Drawn pages of text, in the typeface that Pillow brings: sizes, colours and words by a seed.

Does not depend on files or models.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

_TEXT = (
    "account answer balance batch budget carbon castle change clock copper delta driver engine evening figure "
    "filter garden ground harbour hotel invoice island journal kernel label ledger letter margin market matrix "
    "meadow meter minute motor number office order paper parcel phase planet price quartz quota radio ratio record "
    "river sample saddle season signal silver station summer table ticket timber total tower travel union value "
    "vector village volume water weight window winter yellow zenith "
)
WORDS = _TEXT.split()
_LEAST_SIZE, _MOST_SIZE = 16, 40
"""Of the letters, pixels."""
_MARGIN = 8
_LEAST_CONTRAST = 110
"""Between the letters and the paper, in the mean of the channels, of 255."""
_NOISE = 6


class Page(NamedTuple):
    """A page and where its lines of text are."""

    pixels: npt.NDArray[np.uint8]
    """Shape (height, width, 3)."""
    boxes: npt.NDArray[np.float32]
    """x1, y1, x2, y2 of the ink of each line in pixels, shape (n, 4)."""


def draw(width: int, height: int, draws: np.random.Generator) -> Page:
    """Draw lines of one to four words, light on dark or dark on light, down the page.

    Raises ``ImportError`` without Pillow, or with one that cannot scale its typeface.
    """
    from PIL import Image, ImageDraw, ImageFont

    ink = Image.new("L", (width, height))
    pen = ImageDraw.Draw(ink)
    boxes: list[tuple[float, float, float, float]] = []
    top = _MARGIN + int(draws.integers(0, 24))
    while True:
        size = int(draws.integers(_LEAST_SIZE, _MOST_SIZE + 1))
        words = [WORDS[at] for at in draws.integers(0, len(WORDS), int(draws.integers(1, 5)))]
        if draws.random() < 0.3:
            words[-1] = str(draws.integers(10, 10**6))
        text, font = " ".join(words).capitalize(), ImageFont.load_default(size)
        while (box := pen.textbbox((0, 0), text, font))[2] > width - 2 * _MARGIN and " " in text:
            text = text.rpartition(" ")[0]
        left = int(draws.integers(_MARGIN, max(width - _MARGIN - int(box[2]), _MARGIN) + 1))
        if top + box[3] > height - _MARGIN:
            break
        pen.text((left, top), text, fill=255, font=font)
        boxes.append(_inked(ink, pen.textbbox((left, top), text, font)))
        top += size + int(draws.integers(size // 2, 2 * size))
    return Page(_painted(np.asarray(ink), draws), np.array(boxes, np.float32).reshape(-1, 4))


def _inked(ink: Any, region: tuple[float, float, float, float]) -> tuple[float, float, float, float]:
    """The box around the ink in a region that a line of text may fill: Pillow counts the space beside letters too."""
    left, top, right, bottom = (int(side) for side in region)
    x1, y1, x2, y2 = ink.crop((left - 2, top - 2, right + 3, bottom + 3)).getbbox()
    return left - 2 + x1, top - 2 + y1, left - 2 + x2, top - 2 + y2


def _painted(ink: npt.NDArray[Any], draws: np.random.Generator) -> npt.NDArray[np.uint8]:
    """The page in two colours, with a little noise."""
    paper = letters = draws.integers(0, 256, 3)
    while abs(letters.mean() - paper.mean()) < _LEAST_CONTRAST:
        paper, letters = draws.integers(0, 256, (2, 3))
    cover = ink[..., None] / 255
    noisy = paper * (1 - cover) + letters * cover + draws.integers(-_NOISE, _NOISE + 1, (*ink.shape, 1))
    pixels: npt.NDArray[np.uint8] = np.clip(noisy, 0, 255).astype(np.uint8)
    return pixels
