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

from convq.repository.wire import as_field, fields

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


def external_files(model: bytes) -> tuple[str, ...]:
    """The files besides itself that an ONNX file takes tensors from, each once. Raises ValueError for what is no ONNX file."""
    return tuple(dict.fromkeys(one.location for one in external_tensors(model)))


def external_tensors(model: bytes) -> tuple[External, ...]:
    """All tensors that it takes from other files, in order. Raises ValueError as `external_files` does."""
    return tuple(_externals(memoryview(model), "model", 0))


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
    for field in fields(message):
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
        kept = [bytes(field.whole) for field in fields(message) if field.number not in dropped]
        return b"".join((*kept, *as_field(_RAW_DATA, read(external))))
    parts: list[bytes | memoryview] = []
    for field in fields(message):
        inner = _HOLDERS[kind].get(field.number)
        if inner is not None and isinstance(field.value, memoryview):
            parts += as_field(field.number, _rewritten(field.value, inner, _deeper(depth), read))
        else:
            parts.append(field.whole)
    return b"".join(parts)


def _external_of(tensor: memoryview) -> External | None:
    """Where the tensor's bytes are, if not in itself. ONNX ignores what it says about files unless it is marked external."""
    said: dict[bytes, bytes] = {}
    external = False
    for field in fields(tensor):
        if field.number == _DATA_LOCATION:
            external = field.value == _EXTERNAL
        elif field.number == _EXTERNAL_DATA and isinstance(field.value, memoryview):
            pair = {part.number: part.value for part in fields(field.value)}
            said[_text(pair.get(1))] = _text(pair.get(2))
    if not external:
        return None
    location = said.get(b"location", b"").decode("utf-8", "replace")
    length = said.get(b"length")
    return External(location, _number(said.get(b"offset", b"0")), None if length is None else _number(length))


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
