"""Finds the tensors of an ONNX file that lie in other files, and puts them into it.

A graph is one file with one checksum, and its bytes are all that onnxruntime ever sees: `Engine.load` refuses one that
names other files. No checksum covers these, and their names may lead anywhere: given the bytes of a graph, onnxruntime 1.21
opens any path in it, later ones what lies below the working folder. Exporters write such files by default, so what
brings models into a repository makes one file of them with `inlined`.

The ONNX file is a protocol buffer. Only its skeleton is read here, the messages that can hold a tensor; knows nothing of
onnxruntime and needs no other package.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_WIDTH = {_FIXED64: 8, _FIXED32: 4}
_MAX_VARINT_BYTES = 10
_MAX_DEPTH = 64
"""Of messages inside each other; what exporters write is a tenth as deep."""

# Field numbers of onnx.proto3. For each kind of message: field -> the kind that stands there, where it may hold tensors.
_TENSOR = "tensor"
_HOLDERS: Mapping[str, Mapping[int, str]] = {
    "model": {7: "graph", 20: "training", 25: "function"},
    "graph": {1: "node", 5: _TENSOR, 15: "sparse"},
    "function": {7: "node", 11: "attribute"},
    "training": {1: "graph", 2: "graph"},
    "node": {5: "attribute"},
    "attribute": {5: _TENSOR, 6: "graph", 10: _TENSOR, 11: "graph", 22: "sparse", 23: "sparse"},
    "sparse": {1: _TENSOR, 2: _TENSOR},
}
_RAW_DATA, _EXTERNAL_DATA, _DATA_LOCATION = 9, 13, 14
_EXTERNAL = 1


class External(NamedTuple):
    """Where the bytes of one tensor are."""

    location: str
    """As the model names the file: relative to its own folder, if it means well."""
    offset: int
    length: int | None
    """None: up to the end of the file."""


class _Field(NamedTuple):
    number: int
    kind: int
    start: int
    """Where its tag begins, so that the bytes from here to `end` are the whole field."""
    value: int | memoryview
    end: int


def external_files(model: bytes) -> tuple[str, ...]:
    """The files besides itself that an ONNX file takes tensors from, each once. Raises ValueError for what is no ONNX file."""
    found: dict[str, None] = {}
    for external in _externals(memoryview(model), "model", 0):
        found[external.location] = None
    return tuple(found)


def inlined(model: bytes, read: Callable[[External], bytes]) -> bytes:
    """The same model with all its tensors inside. `read` gives the bytes of one; it decides which files may be opened.

    Raises ValueError for what is no ONNX file, and whatever `read` raises.
    """
    return _rewritten(memoryview(model), "model", 0, read)


def _externals(message: memoryview, kind: str, depth: int) -> Iterator[External]:
    if kind == _TENSOR:
        external = _external_of(message)
        if external is not None:
            yield external
        return
    for field in _fields(message):
        inner = _HOLDERS[kind].get(field.number)
        if inner is not None and isinstance(field.value, memoryview):
            yield from _externals(field.value, inner, _deeper(depth))


def _rewritten(message: memoryview, kind: str, depth: int, read: Callable[[External], bytes]) -> bytes:
    """The message with every external tensor in it replaced; what is not touched is copied as it is."""
    if kind == _TENSOR:
        external = _external_of(message)
        if external is None:
            return bytes(message)
        dropped = (_RAW_DATA, _EXTERNAL_DATA, _DATA_LOCATION)
        kept = [bytes(message[field.start : field.end]) for field in _fields(message) if field.number not in dropped]
        return b"".join((*kept, *_as_field(_RAW_DATA, read(external))))
    parts: list[bytes | memoryview] = []
    for field in _fields(message):
        inner = _HOLDERS[kind].get(field.number)
        if inner is not None and isinstance(field.value, memoryview):
            parts += _as_field(field.number, _rewritten(field.value, inner, _deeper(depth), read))
        else:
            parts.append(message[field.start : field.end])
    return b"".join(parts)


def _external_of(tensor: memoryview) -> External | None:
    """Where the tensor's bytes are, if not in itself. ONNX ignores what it says about files unless it is marked external."""
    said: dict[bytes, bytes] = {}
    external = False
    for field in _fields(tensor):
        if field.number == _DATA_LOCATION:
            external = field.value == _EXTERNAL
        elif field.number == _EXTERNAL_DATA and isinstance(field.value, memoryview):
            pair = {part.number: part.value for part in _fields(field.value)}
            said[_text(pair.get(1))] = _text(pair.get(2))
    if not external:
        return None
    location = said.get(b"location", b"").decode("utf-8", "replace")
    length = said.get(b"length")
    return External(location, _number(said.get(b"offset", b"0")), None if length is None else _number(length))


def _fields(message: memoryview) -> Iterator[_Field]:
    position, size = 0, len(message)
    while position < size:
        start = position
        tag, position = _varint(message, position)
        kind, value = tag & 7, 0
        held: int | memoryview = value
        if kind == _VARINT:
            held, position = _varint(message, position)
        elif kind == _BYTES:
            length, position = _varint(message, position)
            held = message[position : position + length]
            position += length
        elif kind in _WIDTH:
            position += _WIDTH[kind]
        else:
            raise ValueError("is no ONNX file")
        if position > size:
            raise ValueError("is cut off: it ends in the middle of a field")
        yield _Field(tag >> 3, kind, start, held, position)


def _varint(message: memoryview, position: int) -> tuple[int, int]:
    """A number and where it ends."""
    value = 0
    for shift, byte in enumerate(message[position : position + _MAX_VARINT_BYTES]):
        value |= (byte & 0x7F) << (7 * shift)
        if byte < 0x80:  # noqa: PLR2004 - the last byte has no continuation bit
            return value, position + shift + 1
    raise ValueError("is cut off, or no ONNX file")


def _as_field(number: int, content: bytes) -> tuple[bytes, bytes, bytes]:
    return _as_varint(number << 3 | _BYTES), _as_varint(len(content)), content


def _as_varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:  # noqa: PLR2004
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _deeper(depth: int) -> int:
    if depth >= _MAX_DEPTH:
        raise ValueError(f"has messages nested more than {_MAX_DEPTH} deep")
    return depth + 1


def _text(value: Any) -> bytes:
    return bytes(value) if isinstance(value, memoryview) else b""


def _number(text: bytes) -> int:
    if not text.isdigit() or len(text) > 18:  # noqa: PLR2004 - what fits 64 bits
        raise ValueError("has an external tensor whose offset or length is no number")
    return int(text)
