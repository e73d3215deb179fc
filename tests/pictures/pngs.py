"""PNG files of every colour type, depth, filter, interlacing and transparency, written here byte by byte."""

from __future__ import annotations

import itertools
import struct
import zlib
from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from pictures.cases import Case, Levels, ramps, seen, turned

GRAY, RGB, PALETTE, GRAY_ALPHA, RGB_ALPHA = 0, 2, 3, 4, 6
DEPTHS = {GRAY: (1, 2, 4, 8, 16), RGB: (8, 16), PALETTE: (1, 2, 4, 8), GRAY_ALPHA: (8, 16), RGB_ALPHA: (8, 16)}
SAMPLES = {GRAY: 1, RGB: 3, PALETTE: 1, GRAY_ALPHA: 2, RGB_ALPHA: 4}
PASSES = [(0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1)]
"""Of Adam7: first row and column, and the steps between rows and columns."""
COLOURS = np.random.default_rng(3).integers(0, 256, (256, 3))
SIGNATURE = b"\x89PNG\r\n\x1a\n"


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def packed_row(row: NDArray[np.int64], depth: int) -> bytes:
    """[width, samples] as bytes, high bits first."""
    flat = row.reshape(-1)
    if depth >= 8:
        return flat.astype(f">u{depth // 8}").tobytes()
    text = "".join(format(level, f"0{depth}b") for level in flat.tolist())
    text += "0" * (-len(text) % 8)
    return int(text, 2).to_bytes(len(text) // 8, "big")


def guess(filter_: int, left: int, above: int, corner: int) -> int:
    """What a filter expects a byte to be."""
    if filter_ == 4:
        return min((left, above, corner), key=lambda one: abs(left + above - corner - one))
    return (0, left, above, (left + above) // 2)[filter_]


def filtered(rows: list[bytes], step: int, kind: int) -> bytes:
    """Each row with filter `kind`, or with each in turn where that is 5. `step`: bytes of a whole pixel."""
    out, above = [], bytes(len(rows[0]) if rows else 0)
    for index, row in enumerate(rows):
        this = index % 5 if kind == 5 else kind
        left = bytes(step) + row[:-step] if len(row) >= step else bytes(len(row))
        corner = bytes(step) + above[:-step] if len(row) >= step else bytes(len(row))
        guesses = [guess(this, *bytes_) for bytes_ in zip(left, above, corner, strict=True)]
        out.append(bytes([this]) + bytes((x - guessed) % 256 for x, guessed in zip(row, guesses, strict=True)))
        above = row
    return b"".join(out)


def png(
    samples: NDArray[np.int64],
    colour: int,
    depth: int,
    *,
    kind: int = 5,
    interlaced: bool = False,
    before: bytes = b"",
    parts: int = 1,
) -> bytes:
    height, width = samples.shape[:2]
    step = max(1, SAMPLES[colour] * depth // 8)
    fields = [samples[top::down, left::across] for top, left, down, across in PASSES] if interlaced else [samples]
    rows = b"".join(filtered([packed_row(row, depth) for row in field], step, kind) for field in fields if field.size)
    data = zlib.compress(rows)
    size = -(-len(data) // parts)
    body = b"".join(chunk(b"IDAT", data[at : at + size]) for at in range(0, len(data), size))
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, interlaced)
    return SIGNATURE + chunk(b"IHDR", header) + before + body + chunk(b"IEND", b"")


def every() -> Iterator[Case]:
    for colour, interlaced, kind in itertools.product(DEPTHS, (False, True), range(6)):
        for depth in DEPTHS[colour]:
            samples = ramps(SAMPLES[colour], 2**depth - 1)
            for clear in (False, True):
                yield case(samples, colour, depth, kind, interlaced=interlaced, clear=clear)
    for width, height in itertools.product((1, 2, 5, 9), (1, 3, 8)):
        for depth in (1, 4, 16):
            samples = ramps(1, 2**depth - 1, 20, 20)[:height, :width]
            data = png(samples, GRAY, depth, interlaced=True)
            yield Case(
                "PNG", f"{width} x {height}, {depth} bits, interlaced", data, seen(samples * 255 / (2**depth - 1))
            )
    yield from oddities()


def case(samples: NDArray[np.int64], colour: int, depth: int, kind: int, *, interlaced: bool, clear: bool) -> Case:
    """`clear`: with a transparent level, colour or palette."""
    top, before, key = 2**depth - 1, b"", None
    levels: Levels = samples * 255 / top
    if colour == PALETTE:
        before = chunk(b"PLTE", COLOURS[: top + 1].astype(np.uint8).tobytes())
        alphas = np.concatenate([[0, 128, 255, 7][: top + 1], np.full(max(0, top - 3), 255)])
        if clear:
            before += chunk(b"tRNS", bytes(alphas[: min(4, top + 1)].tolist()))
        expected = seen(COLOURS[samples[..., 0]], alphas[samples] / 255 if clear else None)
    elif colour in (GRAY_ALPHA, RGB_ALPHA):
        expected = seen(levels[..., :-1], levels[..., -1:] / 255)
    else:
        if clear:
            key = samples[5, 7]
            # The unused high bits do not count.
            before = chunk(b"tRNS", (key + (0xA500 if depth == 8 else 0)).astype(">u2").tobytes())
        expected = seen(levels, (samples != key).any(axis=-1, keepdims=True).astype(float) if key is not None else None)
    data = png(samples, colour, depth, kind=kind, interlaced=interlaced, before=before, parts=1 + kind)
    name = (
        f"type {colour}, {depth} bits, filter {kind}{', interlaced' if interlaced else ''}{', tRNS' if clear else ''}"
    )
    return Case("PNG", name, data, expected, 1.6 if depth == 16 and colour != GRAY else 0.51)


def oddities() -> Iterator[Case]:
    samples = ramps(3, 255)
    plain = seen(samples)
    for key, name in (((0x1234, 0x5634, 0x9A34), "low bytes alike"), ((0x1234, 0x1235, 0x1236), "all bytes differ")):
        wide = np.array(
            [[[0x1234, 0x5634, 0x9A34], [0x0034, 0x0034, 0x0034], [0x1234, 0x1235, 0x1236], [0x1200, 0x5600, 0x9A00]]]
        )
        data = png(wide, RGB, 16, before=chunk(b"tRNS", struct.pack(">3H", *key)))
        yield Case(
            "PNG",
            f"16 bits, tRNS, {name}",
            data,
            seen(wide / 257, (wide != key).any(-1, keepdims=True).astype(float)),
            1.01,
        )
    large = b"name\0\0" + zlib.compress(bytes(3 << 20))
    metadata = {
        "a large profile": chunk(b"iCCP", large),
        "a large text": chunk(b"zTXt", large),
        "a large international text": chunk(b"iTXt", b"name\0\1\0\0\0" + zlib.compress(bytes(3 << 20))),
        "many large texts": chunk(b"zTXt", large) * 80,
        "a damaged profile": chunk(b"iCCP", b"name\0\0nonsense"),
        "a profile packed in another way": chunk(b"iCCP", b"name\0\7nonsense"),
        "a wrong checksum in a text": chunk(b"tEXt", b"a\0b")[:-1] + b"?",
        "a private chunk": chunk(b"prVt", b"anything"),
        "damaged EXIF": chunk(b"eXIf", b"II*\0\xff\xff\xff\x7f"),
        "huge EXIF": chunk(b"eXIf", b"MM\0*\0\0\0\x08\xff\xff" + bytes(1 << 20)),
        "empty chunks": chunk(b"tEXt", b"") * 5 + chunk(b"IDAT", b"") * 3,
        "an animation's control": chunk(b"acTL", struct.pack(">II", 2, 0))
        + chunk(b"fcTL", struct.pack(">IIIIIHHBB", 0, 25, 17, 0, 0, 1, 1, 0, 0)),
        "a broken animation's control": chunk(b"acTL", b"") + chunk(b"fcTL", b"xx"),
        "a short gamma": chunk(b"gAMA", b"1"),
        "a background": chunk(b"bKGD", struct.pack(">3H", 1, 2, 3)),
    }
    for name, chunks in metadata.items():
        yield Case("PNG", name, png(samples, RGB, 8, before=chunks), plain)
    whole = png(samples, RGB, 8)
    for name, data in {
        "without IEND": whole[:-12],
        "half of IEND": whole[:-6],
        "without the last checksum": whole[:-16],
        "garbage behind": whole + b"garbage" * 50,
        "a second picture behind": whole + whole,
        "a text behind the data": whole[:-12] + chunk(b"tEXt", b"a\0b") + chunk(b"IEND", b""),
    }.items():
        yield Case("PNG", name, data, plain)
    for orientation in range(1, 9):
        for order in ("<", ">"):
            exif = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(
                f"{order}IHHHIHHI", 8, 1, 274, 3, 1, orientation, 0, 0
            )
            block = chunk(b"eXIf", exif)
            yield Case(
                "PNG",
                f"orientation {orientation} {order}",
                png(samples, RGB, 8, before=block),
                turned(plain, orientation),
            )
            behind = whole[:-12] + block + chunk(b"IEND", b"")
            yield Case("PNG", f"orientation {orientation} {order} behind", behind, turned(plain, orientation))
    for name, data in {
        "without data": SIGNATURE
        + chunk(b"IHDR", struct.pack(">IIBBBBB", 25, 17, 8, 2, 0, 0, 0))
        + chunk(b"IEND", b""),
        "depth 16 of a palette": SIGNATURE
        + chunk(b"IHDR", struct.pack(">IIBBBBB", 25, 17, 16, 3, 0, 0, 0))
        + whole[33:],
        "colour type 5": SIGNATURE + chunk(b"IHDR", struct.pack(">IIBBBBB", 25, 17, 8, 5, 0, 0, 0)) + whole[33:],
        "no palette": png(ramps(1, 255), PALETTE, 8),
        "a wrong checksum of the data": whole[:-14] + b"??" + whole[-12:],
        "Apple's own": SIGNATURE + chunk(b"CgBI", b"\x50\0\x20\x06") + whole[8:],
        "half": whole[: len(whole) // 2],
        "a foreign critical chunk": png(samples, RGB, 8, before=chunk(b"ABcD", b"")),
    }.items():
        yield Case("PNG", name, data, None)
