"""PNG: every colour type, depth and interlacing; of an animation the default picture."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from io import BytesIO

import numpy as np
from numpy.typing import NDArray
from PIL import ImageFile
from PIL.PngImagePlugin import PngImageFile

from convq.engine.codecs import orientation
from convq.engine.codecs.raster import Pixels, Raster, narrow, of_image, peak
from convq.errors import BadImage

SIGNATURE = b"\x89PNG\r\n\x1a\n"

_GRAY, _RGB, _PALETTE, _GRAY_ALPHA, _RGB_ALPHA = 0, 2, 3, 4, 6
_DEPTHS = {_GRAY: (1, 2, 4, 8, 16), _RGB: (8, 16), _PALETTE: (1, 2, 4, 8), _GRAY_ALPHA: (8, 16), _RGB_ALPHA: (8, 16)}
_CHANNELS = {_GRAY: 1, _RGB: 3, _PALETTE: 3, _GRAY_ALPHA: 2, _RGB_ALPHA: 4}
_HEAD_BYTES = 33
"""The signature and IHDR."""
_BYTE, _WIDE = 8, 16
MAX_CHUNKS = 200_000
"""16 MiB in chunks of 84 bytes; encoders write them of some kilobytes."""
_CRITICAL = frozenset({b"IHDR", b"PLTE", b"IDAT", b"IEND"})
_TRUNCATED = "the PNG image is truncated: the bytes end before the picture does"
_TEXT_KEYS = {b"XML:com.adobe.xmp", b"Raw profile type exif"}


@dataclass(slots=True)
class _Chunks:
    """What the picture needs of its file."""

    palette: bytes = b""
    clear: bytes = b""
    """tRNS: what is transparent."""
    data: list[bytes] = field(default_factory=list)
    turns: dict[bytes, int] = field(default_factory=dict)
    """Orientation by the kind of chunk that says so."""


@dataclass(frozen=True, slots=True)
class PngHeader:
    """The chunk IHDR; `file` is the whole file."""

    file: bytes
    width: int
    height: int
    depth: int
    colour: int

    @property
    def peak_bytes(self) -> int:
        """Pillow holds gray and palettes in one byte, 16-bit gray in two, colours in four.

        RGB of 16 bits with a transparent colour is unpacked twice, for high and low bytes.
        """
        stored = (2 if self.depth == _WIDE else 1) if self.colour in (_GRAY, _PALETTE) else 4
        if (self.colour, self.depth) == (_RGB, _WIDE):
            stored *= 2
        return peak(self.width * self.height, stored)

    def raster(self) -> Raster:
        """The default picture with its transparency."""
        if self.depth not in _DEPTHS.get(self.colour, ()):
            raise BadImage(f"the PNG image has colour type {self.colour} with {self.depth} bits, which there is not")
        chunks = _collect(self.file)
        if not chunks.data:
            raise BadImage(_TRUNCATED)
        turn = next((chunks.turns[kind] for kind in (b"eXIf", b"tEXt", b"zTXt", b"iTXt") if kind in chunks.turns), 1)
        channels = _CHANNELS[self.colour]
        if self.colour in (_GRAY, _RGB) and chunks.clear:
            channels += 1
        elif self.colour == _PALETTE and chunks.clear:
            channels = 4
        return Raster(self.width, self.height, channels, self._rows(chunks), turn)

    def _rows(self, chunks: _Chunks) -> Callable[[int, int], Pixels]:
        image = _spare(self.file, chunks)
        if self.colour == _PALETTE:
            return _looked_up(of_image(image), chunks)
        if self.colour == _GRAY and self.depth == _WIDE:
            return _wide_gray(of_image(image), _key(chunks.clear, 1, _WIDE) if chunks.clear else None)
        if self.colour not in (_GRAY, _RGB) or not chunks.clear:
            # Pillow has no mode for gray and alpha of 16 bits: it comes as RGBA.
            return _without_copies(of_image(image)) if self.colour == _GRAY_ALPHA else of_image(image)
        key = _key(chunks.clear, _CHANNELS[self.colour], self.depth)
        if self.depth == _WIDE:
            return _wide_colour(of_image(image), of_image(_low_bytes(_spare(self.file, chunks))), key)
        return _with_key(of_image(image), key * (255 // (2**self.depth - 1)))


def header(data: bytes) -> PngHeader:
    """What IHDR says; BadImage where there is none."""
    if len(data) < _HEAD_BYTES or data[12:16] != b"IHDR":
        raise BadImage(_TRUNCATED)
    width, height, depth, colour = struct.unpack_from(">IIBB", data, 16)
    return PngHeader(data, width, height, depth, colour)


def _walk(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Kind, start and end of the contents of every chunk after IHDR. The last one may be cut off."""
    at, size, count = _HEAD_BYTES, len(data), 0
    while at + 8 <= size:
        if (count := count + 1) > MAX_CHUNKS:
            raise BadImage(f"the PNG image has more than {MAX_CHUNKS} chunks; encoders write some thousand at most")
        kind, start = data[at + 4 : at + 8], at + 8
        at = start + int.from_bytes(data[at : at + 4], "big") + 4
        yield kind, start, at - 4
        if kind == b"IEND":
            return


def _collect(data: bytes) -> _Chunks:
    """Walks the file; damaged chunks are passed over where the picture does without them.

    Whatever is compressed and no pixel is left packed, but for the first 64 KiB of a text that may hold EXIF.
    """
    found, closed = _Chunks(), False
    for kind, start, end in _walk(data):
        if kind == b"IDAT" and not closed:
            _check(data, kind, start, end)
            found.data.append(data[start:end])
            continue
        closed = bool(found.data)
        if kind in (b"PLTE", b"tRNS") and not closed:
            _check(data, kind, start, end)
            setattr(found, "palette" if kind == b"PLTE" else "clear", data[start:end])
        elif kind in (b"eXIf", b"tEXt", b"zTXt", b"iTXt"):
            if kind not in found.turns and (turn := _turn(kind, data, start, end)):
                found.turns[kind] = turn
        elif kind[:1].isupper() and kind.isalpha() and kind not in _CRITICAL and not closed:
            raise BadImage(f"the PNG image needs its chunk {kind.decode('ascii')}, which is in no specification")
    return found


def _check(data: bytes, kind: bytes, start: int, end: int) -> None:
    """A chunk that is all there must have the right checksum; where the file ends in it, its decoder will tell."""
    if end + 4 <= len(data) and zlib.crc32(memoryview(data)[start - 4 : end]) != int.from_bytes(
        data[end : end + 4], "big"
    ):
        raise BadImage(f"the PNG image is damaged: the checksum of a chunk {kind.decode('ascii')} is wrong")


def _turn(kind: bytes, data: bytes, start: int, end: int) -> int | None:
    """The orientation that a chunk of metadata names."""
    if kind == b"eXIf":
        if end > len(data):
            raise BadImage(_TRUNCATED)
        return orientation.of_exif(data[start:end])
    key, _, text = data[start : min(end, start + (1 << 16))].partition(b"\0")
    if key not in _TEXT_KEYS:
        return None
    if kind == b"iTXt":  # compression flag and method, language, the key again
        return orientation.of_xmp(text) if text[:1] == b"\0" else None
    return orientation.of_raw_profile(text[1:] if kind == b"zTXt" else text, compressed=kind == b"zTXt")


def _chunk(kind: bytes, body: bytes, *, checked: bool = True) -> bytes:
    checksum = zlib.crc32(kind + body) if checked else 0
    return b"".join((len(body).to_bytes(4, "big"), kind, body, checksum.to_bytes(4, "big")))


def _spare(data: bytes, chunks: _Chunks) -> ImageFile.ImageFile:
    """The same picture without anything else; Pillow does not look at the checksum of the data, `_check` has."""
    palette = _chunk(b"PLTE", chunks.palette) if data[25] == _PALETTE else b""
    packed = chunks.data[0] if len(chunks.data) == 1 else b"".join(chunks.data)
    parts = (data[:_HEAD_BYTES], palette, _chunk(b"IDAT", packed, checked=False), _chunk(b"IEND", b""))
    return PngImageFile(BytesIO(b"".join(parts)))


def _low_bytes(image: ImageFile.ImageFile) -> ImageFile.ImageFile:
    """Set to take the low byte of every 16-bit sample, where Pillow takes the high one."""
    tile = image.tile[0]
    image.tile = [ImageFile._Tile(tile[0], tile[1], tile[2], "RGB;16L")]  # noqa: SLF001
    return image


def _key(clear: bytes, samples: int, depth: int) -> NDArray[np.uint16]:
    """The transparent level or colour in the file's own depth, [samples]; only the low bits of it count."""
    if len(clear) < 2 * samples:
        raise BadImage("the PNG image is damaged: its chunk tRNS is too short")
    return np.frombuffer(clear, dtype=">u2", count=samples).astype(np.uint16) & np.uint16(2**depth - 1)


def _looked_up(indices: Callable[[int, int], Pixels], chunks: _Chunks) -> Callable[[int, int], Pixels]:
    """Colours for indices; one beyond the palette is black."""
    if not chunks.palette or len(chunks.palette) % 3:
        raise BadImage("the PNG image is damaged: it has no palette of whole colours")
    colours = np.zeros((256, 4), dtype=np.uint8)
    colours[:, 3] = 255
    entries = np.frombuffer(chunks.palette[: 3 * 256], dtype=np.uint8).reshape(-1, 3)
    colours[: len(entries), :3] = entries
    alphas = np.frombuffer(chunks.clear[:256], dtype=np.uint8)
    colours[: len(alphas), 3] = alphas
    table = colours if chunks.clear else np.ascontiguousarray(colours[:, :3])
    return lambda top, bottom: table[indices(top, bottom)[..., 0]]


def _wide_gray(levels: Callable[[int, int], Pixels], key: NDArray[np.uint16] | None) -> Callable[[int, int], Pixels]:
    def rows(top: int, bottom: int) -> Pixels:
        wide = levels(top, bottom)
        if key is None:
            return narrow(wide, 65535)
        return np.concatenate([narrow(wide, 65535), _opaque(wide != key)], axis=-1)

    return rows


def _wide_colour(
    high: Callable[[int, int], Pixels], low: Callable[[int, int], Pixels], key: NDArray[np.uint16]
) -> Callable[[int, int], Pixels]:
    def rows(top: int, bottom: int) -> Pixels:
        levels = high(top, bottom)
        other = (levels != key >> 8) | (low(top, bottom) != (key & 255))
        return np.concatenate([levels, _opaque(other.any(axis=-1, keepdims=True))], axis=-1)

    return rows


def _with_key(levels: Callable[[int, int], Pixels], key: NDArray[np.uint16]) -> Callable[[int, int], Pixels]:
    def rows(top: int, bottom: int) -> Pixels:
        part = levels(top, bottom)
        return np.concatenate([part, _opaque((part != key).any(axis=-1, keepdims=True))], axis=-1)

    return rows


def _opaque(where: NDArray[np.bool_]) -> Pixels:
    return np.where(where, np.uint8(255), np.uint8(0))


def _without_copies(levels: Callable[[int, int], Pixels]) -> Callable[[int, int], Pixels]:
    """Gray and alpha, also where Pillow repeats the gray as red, green and blue."""
    return lambda top, bottom: levels(top, bottom)[..., [0, -1]]
