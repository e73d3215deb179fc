"""What would make decoding slow or large without making the file large is refused, or costs nothing."""

from __future__ import annotations

import struct
import zlib
from io import BytesIO

import numpy as np
import pytest
from PIL import Image

from convq.engine.formats import estimate
from convq.engine.image import decode
from convq.errors import BadImage, ImageTooLarge
from convq.repository.manifest import Input, Limits
from pictures.photos import pillow, segment
from pictures.pngs import RGB as PNG_RGB
from pictures.pngs import chunk, png
from pictures.tiffs import written

RGB = Input(color="rgb")
COLOUR = np.random.default_rng(1).integers(0, 256, (16, 24, 3), dtype=np.uint8)


def scan_after_scan(scans: int) -> bytes:
    """A gray progressive JPEG whose last scan is there `scans` times more: it brings no bit that is new."""
    data = pillow(COLOUR[..., :1], "JPEG", progressive=True)
    last = data.rindex(b"\xff\xda")
    return data[:-2] + data[last:-2] * scans + b"\xff\xd9"


def scans_of(data: bytes) -> int:
    return data.count(b"\xff\xda")


def test_a_jpeg_may_have_two_hundred_scans_and_no_more() -> None:
    ordinary = scans_of(scan_after_scan(0))

    assert (16, 24, 3) == decode(scan_after_scan(200 - ordinary), RGB, Limits()).shape
    with pytest.raises(BadImage, match="more than 200 scans"):
        decode(scan_after_scan(201 - ordinary), RGB, Limits())


def test_the_scans_of_a_jpeg_inside_a_tiff_are_counted_too() -> None:
    jpeg = scan_after_scan(300)
    whole = written(COLOUR[..., :1], photometric="minisblack", compression="jpeg", compressionargs={"level": 90})
    tiff = with_tags(whole, {273: len(whole), 279: len(jpeg)}) + jpeg

    with pytest.raises(BadImage, match="more than 200 scans"):
        decode(tiff, RGB, Limits())


def entry(tiff: bytes, tag: int) -> int:
    """Where a tag stands in a little-endian TIFF's first directory."""
    (at,) = struct.unpack_from("<I", tiff, 4)
    (count,) = struct.unpack_from("<H", tiff, at)
    return next(
        place for place in range(at + 2, at + 2 + 12 * count, 12) if struct.unpack_from("<H", tiff, place) == (tag,)
    )


def with_tags(tiff: bytes, tags: dict[int, int]) -> bytes:
    """The same with other values, one each."""
    out = bytearray(tiff)
    for tag, value in tags.items():
        struct.pack_into("<HHII", out, entry(tiff, tag), tag, 4, 1, value)
    return bytes(out)


def test_hidden_frames_of_an_avif_are_counted() -> None:
    data = pillow(COLOUR, "AVIF", quality=80, speed=10)
    assert (16, 24, 3) == decode(data, RGB, Limits()).shape
    mdat = data.index(b"mdat")
    units = data[mdat + 8 + data[mdat + 7] :]  # behind the temporal delimiter and the header of the sequence
    size, longer = len(data) - mdat - 4, len(data) - mdat - 4 + 9 * len(units)

    assert data.endswith(units)
    assert 0x32 == units[0]
    many = data + units * 9
    many = many.replace(struct.pack(">I", size + 8) + b"mdat", struct.pack(">I", longer + 8) + b"mdat")
    many = many.replace(struct.pack(">II", mdat + 4, size), struct.pack(">II", mdat + 4, longer))

    with pytest.raises(BadImage, match="more than 8 frames"):
        decode(many, RGB, Limits())


@pytest.mark.parametrize(
    "unit", [chunk(b"tEXt", b""), chunk(b"IDAT", b""), chunk(b"iCCP", b"a\0\0" + zlib.compress(bytes(1 << 22)))]
)
def test_a_png_of_very_many_chunks_is_read(unit: bytes) -> None:
    data = png(COLOUR.astype(np.int64), PNG_RGB, 8, before=unit * (200_000 // len(unit)))

    np.testing.assert_array_equal(COLOUR, decode(data, RGB, Limits()))


def test_a_jpeg_of_very_many_segments_and_fill_bytes_is_read() -> None:
    data = pillow(COLOUR, "JPEG")
    expected = decode(data, RGB, Limits())

    for more in (
        segment(0xE5, b"") * 50_000,
        b"\xff" * 500_000,
        segment(0xE1, b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + bytes(9000)) * 100,
    ):
        np.testing.assert_array_equal(expected, decode(data[:2] + more + data[2:], RGB, Limits()))
    np.testing.assert_array_equal(expected, decode(data[:-2] + b"\xff" * 500_000 + data[-2:], RGB, Limits()))


def test_a_jpeg_of_millions_of_segments_is_refused_before_or_behind_its_first_scan() -> None:
    data, many = pillow(COLOUR, "JPEG"), segment(0xE5, b"") * 110_000
    begun = data.index(b"\xff\xda")
    scan = data[begun:-2]

    for hostile in (data[:2] + many + data[2:], data[:begun] + scan + many + scan + data[-2:]):
        with pytest.raises(BadImage, match="more than 100000 segments"):
            decode(hostile, RGB, Limits())


def test_a_png_of_a_million_chunks_is_refused() -> None:
    with pytest.raises(BadImage, match="more than 200000 chunks"):
        decode(png(COLOUR.astype(np.int64), PNG_RGB, 8, before=chunk(b"tEXt", b"") * 210_000), RGB, Limits())


@pytest.mark.parametrize("size", [(1, 65_536), (65_536, 1), (50_000_000, 1)])
def test_a_side_that_no_decoder_should_keep_rows_of_is_too_long(size: tuple[int, int]) -> None:
    with pytest.raises(ImageTooLarge, match="longer than 65535"):
        decode(pillow(np.zeros((*size, 1), dtype=np.uint8), "PNG"), RGB, Limits())


def test_tiles_far_larger_than_their_picture_are_refused_before_they_are_unpacked() -> None:
    tiff = written(COLOUR, photometric="rgb", tile=(16, 16), compression="lzw")
    huge = with_tags(tiff, {322: 1 << 22})

    with pytest.raises(ImageTooLarge, match="tiles of 4194304 x 16 pixels"):
        decode(huge, RGB, Limits())


def test_a_tiff_that_names_one_strip_very_often_is_refused() -> None:
    tiff = written(
        np.zeros((60_000, 8, 1), dtype=np.uint8), photometric="minisblack", compression="lzw", rowsperstrip=1
    )
    (offsets,) = struct.unpack_from("<I", tiff, entry(tiff, 273) + 8)
    out = bytearray(tiff)
    struct.pack_into("<HHII", out, entry(tiff, 279), 279, 4, 60_000, offsets)  # as long as they are far

    with pytest.raises(BadImage, match="lie over each other"):
        decode(bytes(out), RGB, Limits())


def test_later_pages_and_frames_are_never_looked_at() -> None:
    out = BytesIO()
    first = Image.fromarray(COLOUR)
    first.save(out, "TIFF", save_all=True, append_images=[first] * 3)
    tiff = bytearray(out.getvalue())
    (at,) = struct.unpack_from("<I", tiff, 4)
    (count,) = struct.unpack_from("<H", tiff, at)
    struct.pack_into("<I", tiff, at + 2 + 12 * count, at)  # a directory that follows itself

    np.testing.assert_array_equal(COLOUR, decode(bytes(tiff), RGB, Limits()))
    gif = pillow(COLOUR, "GIF")
    np.testing.assert_array_equal(decode(gif, RGB, Limits()), decode(gif[:-1] + b"," + bytes(100_000), RGB, Limits()))


def test_the_estimate_grows_with_what_decoding_holds() -> None:
    """Bytes a pixel, of large pictures: gray least, progressive colours and WebP most."""
    pixels = Image.new("RGB", (2000, 2000))

    def each(form: str, image: Image.Image = pixels, **options: object) -> float:
        out = BytesIO()
        image.save(out, form, **options)
        found = estimate(out.getvalue())
        assert 4_000_000 == found.pixels
        return found.peak_bytes / found.pixels

    gray = each("PNG", pixels.convert("L"))
    assert gray < each("PNG") <= each("JPEG") < each("JPEG", progressive=True) < each("WEBP")
