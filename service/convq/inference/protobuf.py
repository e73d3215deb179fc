"""As much of protocol buffers as it takes to look into an ONNX file without the onnx package.

ONNX files are messages of fields; a field is a number, a kind, and a value. The numbers are those of `onnx.proto`, which
never change.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from convq.errors import ModelBroken

VARINT, FIXED64, BYTES, FIXED32 = 0, 1, 2, 5
_WIDTH = {FIXED64: 8, FIXED32: 4}
_MOST_VARINT_BYTES = 10


class Field(NamedTuple):
    """One field of a message."""

    number: int
    value: int | memoryview
    """A number, or the bytes of a text, of a nested message, or of something of fixed width."""

    @property
    def content(self) -> memoryview:
        """The value where it must be bytes. Raises ModelBroken."""
        if isinstance(self.value, int):
            raise ModelBroken(f"not an ONNX file: field {self.number} is a number")
        return self.value


def fields(message: bytes | memoryview) -> Iterator[Field]:
    """The fields of one message, in order. Raises ModelBroken where the bytes are no message."""
    view, position = memoryview(message), 0
    while position < len(view):
        start = position
        key, position = _varint(view, position)
        number, kind = key >> 3, key & 7
        value: int | memoryview
        if kind == VARINT:
            value, position = _varint(view, position)
        else:
            if kind == BYTES:
                length, position = _varint(view, position)
            elif kind in _WIDTH:
                length = _WIDTH[kind]
            else:
                raise ModelBroken(f"not an ONNX file: a field of kind {kind} at byte {start}")
            value = view[position : position + length]
            if len(value) < length:
                raise ModelBroken("not an ONNX file, or it is truncated: the bytes end within a field")
            position += length
        yield Field(number, value)


def _varint(view: memoryview, position: int) -> tuple[int, int]:
    """A number of seven bits a byte, lowest first, and where it ends."""
    value = 0
    for shift in range(_MOST_VARINT_BYTES):
        if position >= len(view):
            raise ModelBroken("not an ONNX file, or it is truncated: the bytes end within a number")
        byte = view[position]
        position += 1
        value |= (byte & 0x7F) << (7 * shift)
        if byte < 0x80:  # noqa: PLR2004 - the high bit says that more follows
            return value, position
    raise ModelBroken("not an ONNX file: a number does not end")
