"""The run lengths of BMP."""

from __future__ import annotations

import numpy as np

from convq.engine.codecs.raster import Pixels

_END_OF_ROW, _END, _DELTA = 0, 1, 2


def unpack_runs(data: bytes, at: int, width: int, height: int, *, small: bool) -> Pixels | None:
    """Indices, [height, width], the row stored first on top; None where the bytes end before the picture does.

    `small`: of 4 bits, two in a byte. What is skipped keeps index 0, what goes beyond its row is cut off there.
    """
    out = bytearray(width * height)
    size, column, row = len(data), 0, 0
    pairs = [bytes((byte >> 4, byte & 15)) * 128 for byte in range(256)] if small else []
    while row < height:
        if at + 2 > size:
            # All pixels are there, only the mark of the end is not.
            return _grid(out, width, height) if (row, column) == (height - 1, width) else None
        count, value = data[at], data[at + 1]
        at += 2
        if count:
            fits = min(count, width - column)
            begin = row * width + column
            out[begin : begin + fits] = pairs[value][:fits] if small else data[at - 1 : at] * fits
            column += fits
        elif value == _END_OF_ROW:
            column, row = 0, row + 1
        elif value == _END:
            break
        elif value == _DELTA:
            if at + 2 > size:
                return None
            column, row, at = min(column + data[at], width), row + data[at + 1], at + 2
        else:
            length = (value + 1) // 2 if small else value
            literal = data[at : at + length]
            if len(literal) < length:
                return None
            if small:
                literal = b"".join(pairs[byte][:2] for byte in literal)
            fits = min(value, width - column)
            begin = row * width + column
            out[begin : begin + fits] = literal[:fits]
            column += fits
            at += length + (length & 1)
    return _grid(out, width, height)


def _grid(out: bytearray, width: int, height: int) -> Pixels:
    return np.frombuffer(out, dtype=np.uint8).reshape(height, width)
