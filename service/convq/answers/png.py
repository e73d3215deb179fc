"""The bytes of a PNG file: gray of 8 or 16 bits, or colours of 8.

The file is written here and not by Pillow, which weighs five filters for every row: 1024 x 1024 pixels of a photograph took
Pillow 98 ms at its level 1 and 1.77 MB; rows as differences to the one above, packed by run lengths and Huffman codes
alone, took 43 ms and 1.88 MB. zlib lets go of the interpreter lock meanwhile.
"""

from __future__ import annotations

import struct
import zlib
from typing import Any

import numpy as np
from numpy.typing import NDArray

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_GRAY, _COLOUR = 0, 2
_UP = 2
"""The filter that every row names: what stands there is the difference to the row above."""
_WINDOW_BITS, _MEMORY = 15, 9


def png(levels: NDArray[Any]) -> bytes:
    """A PNG file (ISO/IEC 15948) of at least one pixel: [h, w] gray of uint8 or uint16, or [h, w, 3] RGB of uint8."""
    height, width = levels.shape[:2]
    bits = 8 * levels.dtype.itemsize
    rows = levels.reshape(height, -1) if bits == 8 else _bytes(levels)  # noqa: PLR2004
    filtered = np.empty((height, 1 + rows.shape[1]), dtype=np.uint8)
    filtered[:, 0] = _UP
    filtered[0, 1:] = rows[0]
    np.subtract(rows[1:], rows[:-1], out=filtered[1:, 1:])
    packer = zlib.compressobj(1, zlib.DEFLATED, _WINDOW_BITS, _MEMORY, zlib.Z_RLE)
    packed = packer.compress(filtered.data) + packer.flush()
    colour = _GRAY if levels.ndim == 2 else _COLOUR  # noqa: PLR2004
    header = struct.pack(">IIBBBBB", width, height, bits, colour, 0, 0, 0)
    return b"".join((_SIGNATURE, *_chunk(b"IHDR", header), *_chunk(b"IDAT", packed), *_chunk(b"IEND", b"")))


def _chunk(kind: bytes, content: bytes) -> tuple[bytes, bytes, bytes, bytes]:
    """Length, kind, content and checksum. Content of 2 GiB and more has no place in a PNG, nor in a Redis value."""
    return struct.pack(">I", len(content)), kind, content, struct.pack(">I", zlib.crc32(content, zlib.crc32(kind)))


def _bytes(levels: NDArray[np.uint16]) -> NDArray[np.uint8]:
    """[h, w] as [h, 2 * w]: the high byte of each level comes first."""
    return np.ascontiguousarray(levels, dtype=">u2").view(np.uint8)
