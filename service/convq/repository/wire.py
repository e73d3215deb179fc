"""The fields of a protocol buffer, one message at a time: what it takes to look into an ONNX file without the package onnx.

A message is a row of fields, and a field a number, a kind and a value, which may be a message again; what the numbers
mean is up to the reader. ONNX's are those of `onnx.proto3`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_WIDTH = {_FIXED64: 8, _FIXED32: 4}
_MAX_VARINT_BYTES = 10


class Field(NamedTuple):
    """One field of a message."""

    number: int
    value: int | memoryview
    """The bytes of a text or a message, or a number; 0 for numbers of fixed width, which nobody here needs."""
    whole: memoryview
    """The field as it stands in the message, tag and all."""


def fields(message: bytes | memoryview) -> Iterator[Field]:
    """The fields of a message, in order. Raises ValueError, in words that go on after a file's name, for what is none."""
    view, position = memoryview(message), 0
    size = len(view)
    while position < size:
        start = position
        tag, position = _varint(view, position)
        kind = tag & 7
        value: int | memoryview = 0
        if kind == _VARINT:
            value, position = _varint(view, position)
        elif kind == _BYTES:
            length, position = _varint(view, position)
            value = view[position : position + length]
            position += length
        elif kind in _WIDTH:
            position += _WIDTH[kind]
        else:
            raise ValueError("is no ONNX file")
        if position > size:
            raise ValueError("is cut off: it ends in the middle of a field")
        yield Field(tag >> 3, value, view[start:position])


def as_field(number: int, content: bytes) -> tuple[bytes, bytes, bytes]:
    """A field of bytes, in parts to be joined."""
    return _as_varint(number << 3 | _BYTES), _as_varint(len(content)), content


def as_number(number: int, value: int) -> bytes:
    """A field that holds a number, 0 or above."""
    return _as_varint(number << 3 | _VARINT) + _as_varint(value)


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    """A number and where it ends."""
    value = 0
    for shift, byte in enumerate(message[position : position + _MAX_VARINT_BYTES]):
        value |= (byte & 0x7F) << (7 * shift)
        if byte < 0x80:  # noqa: PLR2004 - the last byte has no continuation bit
            return value, position + shift + 1
    raise ValueError("is cut off, or no ONNX file")


def _as_varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:  # noqa: PLR2004
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])
