"""Writes a picture of one opacity a pixel as PNG."""

from __future__ import annotations

import struct
import zlib

import numpy as np
import numpy.typing as npt


def opacities(pixels: npt.NDArray[np.uint8]) -> bytes:
    """A black picture as a mask: ``pixels`` of shape (height, width), 0 for transparent and 255 for opaque."""
    height, width = pixels.shape
    lines = np.zeros((height, width + 1), np.uint8)  # each line begins with its filter: none
    lines[:, 1:] = pixels
    parts = (
        (b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),  # 8 bits a pixel, by palette
        (b"PLTE", bytes(3 * 256)),
        (b"tRNS", bytes(range(256))),
        (b"IDAT", zlib.compress(lines.tobytes(), 9)),
        (b"IEND", b""),
    )
    chunks = (struct.pack(">I", len(data)) + (body := name + data) + struct.pack(">I", zlib.crc32(body))
              for name, data in parts)  # fmt: skip
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)
