"""GIF and BMP files, written here byte by byte."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from pictures.cases import Case, ramps, seen

COLOURS = np.random.default_rng(5).integers(0, 256, (256, 3))
OTHER = np.random.default_rng(6).integers(0, 256, (256, 3))


def lzw(indices: bytes, bits: int) -> bytes:
    """The codes of GIF, none longer than `bits` + 1: a clear code before the table grows. In sub-blocks of 255 and less."""
    clear, end, width = 1 << bits, (1 << bits) + 1, bits + 1
    room = (1 << width) - end - 2
    codes = []
    for place, index in enumerate(indices):
        if place % max(1, room) == 0:
            codes.append(clear)
        codes.append(index)
    number = 0
    for place, code in enumerate([*codes, end]):
        number |= code << (place * width)
    data = number.to_bytes(((len(codes) + 1) * width + 7) // 8, "little")
    blocks = b"".join(bytes([len(data[at : at + 255])]) + data[at : at + 255] for at in range(0, len(data), 255))
    return bytes([bits]) + blocks + b"\0"


def table(colours: NDArray[np.int64], bits: int) -> bytes:
    return colours[: 2**bits].astype(np.uint8).tobytes()


def frame(
    indices: NDArray[np.int64],
    bits: int,
    *,
    at: tuple[int, int] = (0, 0),
    own: bytes = b"",
    interlaced: bool = False,
    clear: int | None = None,
) -> bytes:
    height, width = indices.shape
    rows = (
        [*range(0, height, 8), *range(4, height, 8), *range(2, height, 4), *range(1, height, 2)]
        if interlaced
        else range(height)
    )
    data = b"".join(bytes(indices[row].tolist()) for row in rows)
    control = struct.pack("<BBBBHBB", 0x21, 0xF9, 4, 1, 10, clear, 0) if clear is not None else b""
    flags = (0x80 | bits - 1 if own else 0) | (0x40 if interlaced else 0)
    return control + struct.pack("<BHHHHB", 0x2C, *at, width, height, flags) + own + lzw(data, max(2, bits))


def gif(size: tuple[int, int], bits: int, colours: bytes, *frames: bytes) -> bytes:
    flags = 0x80 | bits - 1 if colours else 0
    return b"GIF89a" + struct.pack("<HHBBB", *size, flags, 1, 0) + colours + b"".join(frames) + b";"


def every() -> Iterator[Case]:
    yield from gifs()
    yield from bmps()


def gifs() -> Iterator[Case]:
    for bits, interlaced, own, clear in itertools.product(range(1, 9), (False, True), (False, True), (None, 0, 1)):
        indices = ramps(1, 2**bits - 1)[..., 0]
        colours = OTHER if own else COLOURS
        picture = frame(indices, bits, own=table(OTHER, bits) if own else b"", interlaced=interlaced, clear=clear)
        alpha = (indices != clear).astype(float)[..., None] if clear is not None else None
        name = f"GIF {bits} bits{', interlaced' if interlaced else ''}{', own table' if own else ''}{'' if clear is None else f', clear {clear}'}"
        yield Case("GIF", name, gif((25, 17), bits, table(COLOURS, bits), picture), seen(colours[indices], alpha))
    indices = ramps(1, 255)[..., 0]
    whole, gray = gif((25, 17), 8, table(COLOURS, 8), frame(indices, 8)), gif((25, 17), 8, b"", frame(indices, 8))
    yield Case("GIF", "GIF without a table", gray, seen(indices[..., None]))
    for left, top in itertools.product((0, 3, 8), (0, 2, 9)):
        beside = np.zeros((30, 40, 1))
        beside[top : top + 17, left : left + 25] = 1
        colour = np.zeros((30, 40, 3))
        colour[top : top + 17, left : left + 25] = COLOURS[indices]
        data = gif((40, 30), 8, table(COLOURS, 8), frame(indices, 8, at=(left, top)), frame(indices[::-1], 8))
        yield Case("GIF", f"GIF, the picture at {left}, {top}", data, seen(colour, beside))
    plain = seen(COLOURS[indices])
    comment = b"!\xfe" + (b"\xff" + b"c" * 255) * 200 + b"\0"
    head = whole[: 13 + 768]
    for name, data in {
        "without a trailer": whole[:-1],
        "garbage behind": whole + b"garbage",
        "comments": head + comment * 3 + whole[len(head) :],
        "an application's block": head + b"!\xff\x0bNETSCAPE2.0\x03\x01\0\0\0" + whole[len(head) :],
        "87a": b"GIF87a" + whole[6:],
        "a second picture": whole[:-1] + frame(indices[::-1], 8) + b";",
        "a picture larger than its canvas": whole[:6] + struct.pack("<HH", 3, 3) + whole[10:],
        "a canvas of no size": whole[:6] + struct.pack("<HH", 0, 0) + whole[10:],
    }.items():
        yield Case("GIF", f"GIF, {name}", data, plain)
    for name, data in {
        "no picture": head + b";",
        "half": whole[: len(whole) // 2],
        "an end code too early": gif((25, 17), 8, table(COLOURS, 8), frame(indices, 8)[:10] + lzw(bytes(25), 8)),
        "codes of 13 bits": head + whole[len(head) :][:10] + b"\x0d" + whole[len(head) + 11 :],
    }.items():
        yield Case("GIF", f"GIF, {name}", data, None)


def bmp(
    rows: list[bytes],
    bits: int,
    *,
    size: int = 40,
    packing: int = 0,
    colours: bytes = b"",
    height: int | None = None,
    masks: tuple[int, ...] = (),
    width: int = 25,
) -> bytes:
    high = height if height is not None else len(rows)
    if size == 12:
        head = struct.pack("<IHHHH", 12, width, high, 1, bits)
    else:
        entries = len(colours) // 4
        head = struct.pack("<IiiHHIIiiII", size, width, high, 1, bits, packing, 0, 2835, 2835, entries, 0)
        head += struct.pack(f"<{len(masks)}I", *masks) if size > 40 else b""
        head = head[:size].ljust(size, b"\0") + (
            struct.pack(f"<{len(masks)}I", *masks) if size == 40 and masks else b""
        )
    data = b"".join(row + bytes(-len(row) % 4) for row in rows) if packing not in (1, 2) else b"".join(rows)
    start = 14 + len(head) + len(colours)
    return struct.pack("<2sIHHI", b"BM", start + len(data), 0, 0, start) + head + colours + data


def bmps() -> Iterator[Case]:
    for bits, size, downwards in itertools.product((1, 2, 4, 8), (12, 16, 40, 52, 56, 64, 108, 124), (False, True)):
        if downwards and size == 12:
            continue
        indices = ramps(1, 2**bits - 1)[..., 0]
        rows = [number(row, bits) for row in indices.tolist()]
        blue_first = COLOURS[: 2**bits, ::-1]
        colours = (
            blue_first.astype(np.uint8).tobytes()
            if size == 12
            else np.pad(blue_first, ((0, 0), (0, 1))).astype(np.uint8).tobytes()
        )
        data = bmp(rows if downwards else rows[::-1], bits, size=size, colours=colours, height=-17 if downwards else 17)
        yield Case(
            "BMP", f"BMP {bits} bits, header {size}{', downwards' if downwards else ''}", data, seen(COLOURS[indices])
        )
    yield from true_colours()
    yield from runs()


def number(row: list[int], bits: int) -> bytes:
    text = "".join(format(level, f"0{bits}b") for level in row)
    text += "0" * (-len(text) % 8)
    return int(text, 2).to_bytes(len(text) // 8, "big")


FIELDS = {
    "565": (16, (5, 6, 5, 0)),
    "555": (16, (5, 5, 5, 0)),
    "4444": (16, (4, 4, 4, 4)),
    "1555": (16, (5, 5, 5, 1)),
    "332 of 16": (16, (3, 3, 2, 0)),
    "888 of 32": (32, (8, 8, 8, 0)),
    "8888": (32, (8, 8, 8, 8)),
    "10 10 10 2": (32, (10, 10, 10, 2)),
    "11 11 10": (32, (11, 11, 10, 0)),
}


def true_colours() -> Iterator[Case]:
    for size, downwards in itertools.product((12, 40, 108, 124), (False, True)):
        if not (downwards and size == 12):
            samples = ramps(3, 255)
            rows = [row[:, ::-1].astype(np.uint8).tobytes() for row in samples]
            data = bmp(rows if downwards else rows[::-1], 24, size=size, height=-17 if downwards else 17)
            yield Case("BMP", f"BMP 24 bits, header {size}{', downwards' if downwards else ''}", data, seen(samples))
    samples = ramps(4, 255)
    rows = [row[:, [2, 1, 0, 3]].astype(np.uint8).tobytes() for row in samples][::-1]
    yield Case("BMP", "BMP 32 bits, the fourth byte unused", bmp(rows, 32), seen(samples[..., :3]))
    samples = ramps(3, 31)
    rows = [(row[:, 0] << 10 | row[:, 1] << 5 | row[:, 2]).astype("<u2").tobytes() for row in samples][::-1]
    yield Case("BMP", "BMP 16 bits", bmp(rows, 16), seen(samples * 255 / 31))
    for (name, (bits, widths)), order, size in itertools.product(
        FIELDS.items(), ("rgba", "bgra", "argb", "abgr", "grab"), (40, 52, 56, 108, 124)
    ):
        if widths[3] and size < 56:
            continue
        shift, masks, value = 0, {}, np.zeros((17, 25), dtype=np.int64)
        levels = {}
        for channel in order[::-1]:
            wide = widths["rgba".index(channel)]
            if wide:
                plane = ramps(4, 2**wide - 1)[..., "rgba".index(channel)]
                levels[channel] = plane * 255 / (2**wide - 1)
                masks[channel] = (2**wide - 1) << shift
                value |= plane << shift
                shift += wide
        rows = [row.astype(f"<u{bits // 8}").tobytes() for row in value][::-1]
        given = tuple(masks.get(channel, 0) for channel in "rgba")[: 3 if size < 56 else 4]
        data = bmp(rows, bits, size=size, packing=3, masks=given)
        alpha = levels["a"][..., None] / 255 if widths[3] else None
        yield Case(
            "BMP",
            f"BMP fields {name}, {order}, header {size}",
            data,
            seen(np.stack([levels[c] for c in "rgb"], axis=-1), alpha),
            1.01,
        )
    for name, masks_ in {"overlap": (0xFF00, 0xFFF0, 0xF), "gap": (0xF0F, 0xF0, 0xF000), "none": (0, 0, 0)}.items():
        yield Case("BMP", f"BMP fields that {name}", bmp([bytes(50)] * 17, 16, packing=3, masks=masks_), None)
    yield Case("BMP", "BMP with a JPEG", bmp([bytes(75)] * 17, 24, packing=4), None)
    yield Case("BMP", "BMP of 48 bits", bmp([bytes(150)] * 17, 48), None)
    yield Case("BMP", "BMP cut off", bmp([bytes(75)] * 17, 24)[:-90], None)


def runs() -> Iterator[Case]:
    """Run lengths of 8 and 4 bits: runs, literals, both, and what is skipped."""
    for bits, style, size in itertools.product((8, 4), ("runs", "literal", "mixed", "skips"), (40, 64, 124)):
        indices = ramps(1, 2**bits - 1)[..., 0]
        if style == "skips":
            indices[3:6] = 0
            indices[8, :10] = 0
        data = b"".join(coded(row, bits, style, index) for index, row in enumerate(indices[::-1].tolist()))
        colours = np.pad(COLOURS[: 2**bits, ::-1], ((0, 0), (0, 1))).astype(np.uint8).tobytes()
        file = bmp([data + b"\0\1"], bits, size=size, packing=1 if bits == 8 else 2, colours=colours, height=17)
        yield Case("BMP", f"BMP runs of {bits} bits, {style}, header {size}", file, seen(COLOURS[indices]))
        yield Case("BMP", f"BMP runs of {bits} bits, {style}, header {size}, half", file[: -len(data) // 2], None)


def coded(row: list[int], bits: int, style: str, index: int) -> bytes:
    if style == "skips":
        if not any(row):
            return b"\0\0"
        skipped = len(row) - len([*itertools.dropwhile(lambda level: not level, row)])
        head = b"\0\2" + bytes([skipped, 0]) if skipped else b""
        return head + coded(row[skipped:], bits, "literal" if len(row) - skipped > 2 else "runs", index)
    if style == "literal" or (style == "mixed" and index % 2):
        body = number(row, bits)
        return b"\0" + bytes([len(row)]) + body + bytes(len(body) % 2) + b"\0\0"
    out = b""
    for level, group in itertools.groupby(row):
        out += bytes([len(list(group)), level | level << 4 if bits == 4 else level])
    return out + b"\0\0"
