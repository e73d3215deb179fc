"""How many frames of AV1 stand behind the pictures of an AVIF file.

A picture is one frame, or one for each of a few layers. The coding allows any number of hidden ones before it, each of a
few bytes and each as slow as the picture: they are counted before a decoder sees them.
"""

from __future__ import annotations

from collections.abc import Iterator

from convq.errors import BadImage

MAX_FRAMES = 8
"""Layers there are four of."""

_MAX_UNITS = 1000
_FRAME_HEADER, _FRAME = 3, 6
_BY_OFFSET, _INSIDE = 0, 1
_CHUNK_TABLES = {b"stco": 4, b"co64": 8}

Boxes = list[tuple[bytes, int, int]]
"""Kind, start and end of the contents, in the order of the file."""


def check_frames(data: bytes, boxes: Boxes) -> None:
    """Raises BadImage where an item, or the first picture of a track, is coded as more than MAX_FRAMES frames."""
    counts = [_frames(coded) for coded in (*_items(data, boxes), *_first_samples(data, boxes))]
    if not any(counts):
        raise BadImage("the AVIF image is truncated: the bytes end before the picture does")
    if max(counts) > MAX_FRAMES:
        raise BadImage(f"the AVIF image codes a picture as more than {MAX_FRAMES} frames")


def _frames(coded: bytes) -> int:
    """Frames in a sequence of open bitstream units (AV1, section 5.3); of very many units as if all were frames."""
    at, frames = 0, 0
    for _ in range(_MAX_UNITS):
        if at >= len(coded):
            return frames
        head = coded[at]
        at += 2 if head & 4 else 1
        frames += (head >> 3 & 15) in (_FRAME_HEADER, _FRAME)
        if not head & 2:
            return frames  # reaches to the end
        size = shift = 0
        while at < len(coded):
            byte = coded[at]
            at += 1
            size |= (byte & 127) << shift
            shift += 7
            if byte < 128 or shift > 56:  # noqa: PLR2004
                break
        at += size
    return MAX_FRAMES + 1


def _items(data: bytes, boxes: Boxes) -> Iterator[bytes]:
    """The coded bytes of every item of the kind av01."""
    kinds = _kinds(data, boxes)
    inside = next((data[start:end] for kind, start, end in boxes if kind == b"idat"), b"")
    for kind, start, end in boxes:
        if kind == b"iloc":
            for item, method, extents in _locations(data[start:end]):
                if kinds.get(item) == b"av01" and method in (_BY_OFFSET, _INSIDE):
                    source = inside if method == _INSIDE else data
                    yield b"".join(source[at : at + size if size else None] for at, size in extents)


def _kinds(data: bytes, boxes: Boxes) -> dict[int, bytes]:
    kinds = {}
    for kind, start, end in boxes:
        if kind == b"infe" and end - start >= 14:  # noqa: PLR2004
            wide = 4 if data[start] > 2 else 2  # noqa: PLR2004
            item = int.from_bytes(data[start + 4 : start + 4 + wide], "big")
            kinds[item] = data[start + 6 + wide : start + 10 + wide]
    return kinds


def _locations(box: bytes) -> Iterator[tuple[int, int, list[tuple[int, int]]]]:
    """Item, how its place is meant, and its pieces, of a box iloc (ISO/IEC 14496-12, section 8.11.3)."""
    at = 6

    def number(size: int) -> int:
        nonlocal at
        at += size
        return int.from_bytes(box[at - size : at], "big")

    if len(box) < at:
        return
    version = box[0]
    offset_size, length_size, base_size, index_size = (
        box[4] >> 4,
        box[4] & 15,
        box[5] >> 4,
        box[5] & 15 if version else 0,
    )
    wide = 4 if version > 1 else 2
    for _ in range(number(wide)):
        if at >= len(box):
            return
        item, method = number(wide), number(2) & 15 if version else 0
        at += 2
        base, extents = number(base_size), []
        for _ in range(number(2)):
            if at >= len(box):
                break
            at += index_size
            extents.append((base + number(offset_size), number(length_size)))
        yield item, method, extents


def _first_samples(data: bytes, boxes: Boxes) -> Iterator[bytes]:
    """The coded bytes of the first picture of every track."""
    size = 0
    for kind, start, end in boxes:
        if kind == b"stsz" and end - start >= 12:  # noqa: PLR2004
            one = int.from_bytes(data[start + 4 : start + 8], "big")
            size = one or int.from_bytes(data[start + 12 : start + 16], "big")
    for kind, start, _ in boxes:
        if kind in _CHUNK_TABLES:
            offset = int.from_bytes(data[start + 8 : start + 8 + _CHUNK_TABLES[kind]], "big")
            yield data[offset : offset + size]
