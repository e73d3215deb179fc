"""An ONNX file that somebody brings: as one piece, and what it says of itself.

torch.onnx.export writes `model.onnx` and `model.onnx.data` by default; a version of a model is one file that one checksum
covers.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Final

from convq.errors import ModelBroken
from convq.printable import brief
from convq.repository.external_data import External, external_tensors, inlined
from convq.repository.files import MOST_BYTES, open_given, read_given
from convq.repository.wire import fields

LARGEST_BYTES = MOST_BYTES["model.onnx"]
"""What one message of protocol buffers may hold."""

# Numbers of fields in ModelProto, OperatorSetIdProto, GraphProto and TensorProto.
_IR_VERSION, _PRODUCER, _GRAPH, _OPSET_IMPORT, _METADATA = 1, 2, 7, 8, 14
_KEY, _VALUE = 1, 2
_DOMAIN, _VERSION = 1, 2
_INITIALIZER = 5
_DATA_TYPE = 2
_MOST_TEXT_BYTES, _MOST_OPSETS = 200, 64
MOST_METADATA: Final = 256
"""Entries of metadata that are read."""
MOST_METADATA_BYTES: Final = 1 << 20
"""Of the value of one entry; an alphabet of 18,000 signs takes 73 kB."""

_TYPES = {1: "float32", 2: "uint8", 3: "int8", 10: "float16", 11: "float64", 16: "bfloat16", 21: "uint4", 22: "int4"}
"""The element types that weights have: number in TensorProto.DataType -> numpy's name, or ONNX's where that has none."""


@dataclass(frozen=True, slots=True)
class Origin:
    """What an ONNX file says of itself."""

    ir_version: int | None = None
    opsets: Mapping[str, int] = field(default_factory=dict)
    """Domain -> version; the ONNX operators are the domain ""."""
    producer: str = ""


def read_whole(file: Path) -> tuple[bytes, tuple[str, ...]]:
    """The model's bytes with all its weights inside, and the names of the files beside it that they came from.

    A file without such weights comes back byte for byte. Raises ModelBroken where it is no ONNX file, where a file of
    weights is missing, too short or outside the model's folder, and where the whole would be 2 GiB or more.
    """
    content = read_given(file, LARGEST_BYTES)
    weights: dict[str, bytes] = {}
    taken_bytes = 0

    def part_of(external: External) -> bytes:
        """One tensor. What thousands of them take of one file is summed before it is copied."""
        nonlocal taken_bytes
        if external.location not in weights:
            left_bytes = LARGEST_BYTES - sum(map(len, weights.values()))
            weights[external.location] = _beside(file.parent, external.location, left_bytes)
        there = weights[external.location]
        end = len(there) if external.length is None else external.offset + external.length
        if end > len(there):
            raise ModelBroken(f"{external.location}: has {len(there)} bytes; the model's weights need {end}")
        taken_bytes += max(0, end - external.offset)
        if taken_bytes > LARGEST_BYTES:
            raise ModelBroken(
                f"{file}: its weights have more than {LARGEST_BYTES} bytes; one ONNX file holds less than 2 GiB"
            )
        return there[external.offset : end]

    try:
        if not (externals := external_tensors(content)):
            return content, ()
        _must_fit(file, externals)
        names = tuple(dict.fromkeys(one.location for one in externals))
        whole = inlined(content, part_of)
    except ValueError as error:
        raise ModelBroken(f"{file}: {error}") from None
    if len(whole) > LARGEST_BYTES:
        raise ModelBroken(f"{file}: has {len(whole)} bytes with its weights; one ONNX file holds less than 2 GiB")
    return whole, names


def _must_fit(file: Path, externals: Sequence[External]) -> None:
    """Look at each file of weights and sum what the model takes of them, before anything is read. Raises ModelBroken."""
    sizes: dict[str, int] = {}
    for location in {one.location for one in externals}:
        with open_given(_place(file.parent, location), LARGEST_BYTES) as opened:
            sizes[location] = os.fstat(opened.fileno()).st_size
    taken = (sizes[one.location] - one.offset if one.length is None else one.length for one in externals)
    total = sum(max(0, size) for size in taken)
    if max(total, sum(sizes.values())) > LARGEST_BYTES:
        raise ModelBroken(
            f"{file}: its weights have more than {LARGEST_BYTES} bytes; one ONNX file holds less than 2 GiB"
        )


def origin_of(content: bytes) -> Origin:
    """What the model says of itself; what is missing or damaged stays empty."""
    ir_version, producer = None, ""
    opsets: dict[str, int] = {}
    with contextlib.suppress(ValueError):
        for part in fields(content):
            if part.number == _IR_VERSION and isinstance(part.value, int):
                ir_version = part.value
            elif part.number == _PRODUCER:
                producer = _text(part.value)
            elif part.number == _OPSET_IMPORT and isinstance(part.value, memoryview) and len(opsets) < _MOST_OPSETS:
                entry = {inner.number: inner.value for inner in fields(part.value)}
                domain, version = _text(entry.get(_DOMAIN)), entry.get(_VERSION)
                opsets["" if domain == "ai.onnx" else domain] = version if isinstance(version, int) else 0
    return Origin(ir_version, opsets, producer)


def metadata_of(content: bytes) -> dict[str, str]:
    """What an exporter wrote beside the graph, key by key, as text; empty where the file is damaged.

    The first `MOST_METADATA` entries, the last value of a key that stands there twice. Values are cut off after
    `MOST_METADATA_BYTES`, keys after 200 bytes.
    """
    found: dict[str, str] = {}
    with contextlib.suppress(ValueError):
        entries = (part.value for part in fields(content) if part.number == _METADATA)
        for entry in islice(entries, MOST_METADATA):
            if isinstance(entry, memoryview):
                inner = {part.number: part.value for part in fields(entry)}
                found[_text(inner.get(_KEY))] = _text(inner.get(_VALUE), MOST_METADATA_BYTES)
    return found


def precision_of(content: bytes) -> str:
    """The element type that holds most bytes of a model's weights, as float32 or int8; "unknown" where there are none.

    What onnxruntime computes with may be another one: it is the kernels' choice.
    """
    sizes: dict[str, int] = {}
    with contextlib.suppress(ValueError):
        for part in fields(content):
            if part.number == _GRAPH and isinstance(part.value, memoryview):
                for inner in fields(part.value):
                    if inner.number == _INITIALIZER and isinstance(inner.value, memoryview):
                        name = _element_type(inner.value)
                        sizes[name] = sizes.get(name, 0) + len(inner.value)
    sizes.pop("", None)
    return max(sizes, key=sizes.__getitem__, default="unknown")


def _element_type(tensor: memoryview) -> str:
    """The type of a tensor's elements; nothing for those that are no weights: indices, shapes, texts."""
    kinds = [part.value for part in fields(tensor) if part.number == _DATA_TYPE]
    return _TYPES.get(kinds[-1], "") if kinds and isinstance(kinds[-1], int) else ""


def _beside(folder: Path, name: str, most_bytes: int) -> bytes:
    """A file of weights, as `_place` takes it."""
    return read_given(_place(folder, name), most_bytes)


def _place(folder: Path, name: str) -> Path:
    """Where a file of weights is: below the model's folder, as whoever made the model chose the name. Raises ModelBroken."""
    path = PurePosixPath(name)
    try:
        is_inside = (folder / path).resolve().is_relative_to(folder.resolve())
    except (OSError, RuntimeError, ValueError):  # links in a circle, or the name of no file
        is_inside = False
    if not name or path.is_absolute() or not is_inside:
        raise ModelBroken(f"its weights are in '{brief(name, 200)}'; expected a file beside the model")
    return folder / path


def _text(value: int | memoryview | None, most_bytes: int = _MOST_TEXT_BYTES) -> str:
    """At most so much of it: it goes into the report, which people read."""
    return bytes(value[:most_bytes]).decode("utf-8", "replace") if isinstance(value, memoryview) else ""
