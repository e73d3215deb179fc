"""Images of every kind that people send, and bytes that are none."""

from __future__ import annotations

import struct
import threading
import warnings
import zlib
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from convq.engine.formats import Estimate, estimate
from convq.engine.image import decode, prepare
from convq.errors import BadImage, ImageTooLarge, JobError
from convq.repository.manifest import Input, Limits

LIMITS = Limits()
RGB = Input(color="rgb")
GRAY = Input(color="gray")
FORMATS = ["PNG", "JPEG", "WEBP", "BMP", "GIF", "TIFF", "AVIF"]


def encoded(image: Image.Image, kind: str = "PNG", **options: Any) -> bytes:
    out = BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def picture(height: int = 24, width: int = 40) -> NDArray[np.uint8]:
    """Red rises to the right, green downwards, blue is constant."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([columns * 6, rows * 10, np.full_like(rows, 40)], axis=-1).astype(np.uint8)


def chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png16(samples: NDArray[np.uint16], colour_type: int) -> bytes:
    """A 16-bit PNG, which Pillow cannot write in colour."""
    height, width = samples.shape[:2]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in samples)
    header = struct.pack(">IIBBBBB", width, height, 16, colour_type, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF"])
def test_a_lossless_rgb_image_comes_out_as_it_went_in(kind: str) -> None:
    decoded = decode(encoded(Image.fromarray(picture()), kind), RGB, LIMITS)

    assert np.uint8 == decoded.dtype
    np.testing.assert_array_equal(picture(), decoded)


@pytest.mark.parametrize("kind", ["JPEG", "WEBP", "GIF"])
def test_a_lossy_image_comes_out_nearly_as_it_went_in(kind: str) -> None:
    options = {"subsampling": 0, "quality": 95} if kind == "JPEG" else {}
    decoded = decode(encoded(Image.fromarray(picture()), kind, **options), RGB, LIMITS)

    assert picture().shape == decoded.shape
    assert np.abs(picture().astype(int) - decoded).mean() < 12


def test_a_gray_model_gets_two_axes_and_the_luma_of_colours() -> None:
    red = Image.new("RGB", (3, 2), (255, 0, 0))

    decoded = decode(encoded(red), GRAY, LIMITS)

    assert [[76, 76, 76]] * 2 == decoded.tolist()


def test_no_bytes_at_all_are_no_image() -> None:
    with pytest.raises(BadImage, match="empty"):
        decode(b"", RGB, LIMITS)


def test_bytes_that_are_no_image_are_quoted_and_the_formats_named() -> None:
    with pytest.raises(BadImage) as caught:
        decode(b"Hello\x00 world, this goes on", RGB, LIMITS)

    expected = (
        "not an image in a format that convq reads (PNG, JPEG, WebP, BMP, GIF, TIFF, AVIF); the bytes begin with "
    )
    assert expected + "'Hello\\x00 world'" == str(caught.value)


@pytest.mark.parametrize(
    ("start", "name"),
    [
        (b"\x00\x00\x00\x0cjP  \r\n\x87\n", "JPEG 2000"),
        (b"\x00\x00\x00\x1cftypheic\0\0\0\0mif1", "HEIC or HEIF"),
        (b"\xff\x0a", "JPEG XL"),
        (b"<?xml version='1.0'?>\n<svg xmlns='http://www.w3.org/2000/svg'>", "SVG"),
        (b"  <svg>", "SVG"),
        (b"%PDF-1.7", "PDF"),
        (b"\x00\x00\x01\x00\x01\x00", "ICO"),
        (b"8BPS\0\1", "PSD"),
        (b"P6\n8 8\n255\n", "Netpbm"),
        (b"%!PS-Adobe-3.0", "PostScript"),
        (b"\x00\x00\x00\x18ftypmp42", "video"),
    ],
)
def test_a_format_that_is_not_read_is_refused_by_its_name(start: bytes, name: str) -> None:
    with pytest.raises(BadImage, match=f"the bytes are {name}.*, which convq does not read; it reads PNG, .* AVIF"):
        decode(start + bytes(100), RGB, LIMITS)


@pytest.mark.parametrize("kind", FORMATS)
def test_a_truncated_file_is_refused_or_whole_but_never_half_a_picture(kind: str) -> None:
    noise = np.random.default_rng(3).integers(0, 256, (32, 32, 3), dtype=np.uint8)
    whole = encoded(Image.fromarray(noise), kind)
    expected = decode(whole, RGB, LIMITS)
    refused = 0

    for length in range(1, len(whole), max(1, len(whole) // 150)):
        try:
            np.testing.assert_array_equal(expected, decode(whole[:length], RGB, LIMITS))
        except BadImage:
            refused += 1

    assert refused > 100


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_truncation_is_called_by_its_name(kind: str) -> None:
    whole = encoded(Image.fromarray(picture(200, 200)), kind)

    with pytest.raises(BadImage, match=f"the {kind} image is truncated"):
        decode(whole[: len(whole) // 2], RGB, LIMITS)


def test_more_bytes_than_allowed_are_refused_before_anything_is_read() -> None:
    with pytest.raises(ImageTooLarge, match="has 11 bytes; at most 10"):
        decode(b"not a image", RGB, Limits(max_bytes=10))


def riff(fourcc: bytes, body: bytes) -> bytes:
    chunks = b"WEBP" + fourcc + struct.pack("<I", len(body)) + body
    return b"RIFF" + struct.pack("<I", len(chunks)) + chunks


BOMBS = {
    "png": b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 65536, 65536, 8, 2, 0, 0, 0)) + b"\0" * 11,
    "webp canvas": riff(b"VP8X", b"\0" * 4 + b"\xff\xff\x00" * 2 + b"\0" * 14),
    "webp lossless": riff(b"VP8L", b"\x2f" + b"\xff\xff\xff\x0f" + b"\0" * 19),
    "webp lossy": riff(b"VP8 ", b"\0\0\0\x9d\x01\x2a" + b"\xff\x3f\xff\x3f" + b"\0" * 14),
    "gif": b"GIF89a"
    + struct.pack("<HHBBB", 65535, 65535, 0, 0, 0)
    + b","
    + struct.pack("<HHHHB", 0, 0, 65535, 65535, 0),
    "bmp": b"BM"
    + struct.pack("<IHHI", 54, 0, 0, 54)
    + struct.pack("<IiiHHIIiiII", 40, 65536, 65536, 1, 24, 0, 0, 0, 0, 0, 0),
}


@pytest.mark.parametrize("bomb", BOMBS.values(), ids=BOMBS.keys())
def test_a_few_bytes_that_claim_gigapixels_are_refused_by_their_header(bomb: bytes) -> None:
    assert 60 > len(bomb)
    with pytest.raises(ImageTooLarge, match="pixels"):
        decode(bomb, RGB, LIMITS)


@pytest.mark.parametrize("kind", FORMATS)
def test_the_memory_that_a_picture_takes_is_known_from_its_header(kind: str) -> None:
    small, large = (estimate(encoded(Image.new("RGB", size), kind)) for size in ((30, 20), (300, 200)))

    assert (600, 60_000) == (small.pixels, large.pixels)
    assert 3 * 60_000 < large.peak_bytes < 60 * 60_000


def test_bytes_that_are_no_picture_take_nothing() -> None:
    assert Estimate(0, 0) == estimate(b"") == estimate(b"no picture") == estimate(b"\xff\xd8\xff")


def test_the_pixel_limit_is_the_manifests() -> None:
    image = encoded(Image.new("RGB", (100, 100)))

    with pytest.raises(ImageTooLarge, match="100 x 100 = 10000 pixels; at most 9999"):
        decode(image, RGB, Limits(max_pixels=9999))
    assert (100, 100, 3) == decode(image, RGB, Limits(max_pixels=10_000)).shape


def test_sixteen_bit_gray_is_scaled_and_not_clipped() -> None:
    samples = (np.arange(256, dtype=np.uint16) * 257).reshape(16, 16)
    eight = np.arange(256, dtype=np.uint8).reshape(16, 16)

    for kind in ("PNG", "TIFF"):
        np.testing.assert_array_equal(eight, decode(encoded(Image.fromarray(samples), kind), GRAY, LIMITS))


def test_big_endian_sixteen_bit_tiff_is_read_in_its_own_order() -> None:
    strip = struct.pack(">4H", 0, 257 * 100, 257 * 200, 65535)
    tags = [(256, 3, 2), (257, 3, 2), (258, 3, 16), (259, 3, 1), (262, 3, 1), (273, 4, 8), (277, 3, 1), (279, 4, 8)]
    entries = b"".join(
        struct.pack(">HHIHH", tag, kind, 1, value, 0) if kind == 3 else struct.pack(">HHII", tag, kind, 1, value)
        for tag, kind, value in tags
    )
    tiff = b"MM\0*" + struct.pack(">I", 16) + strip + struct.pack(">H", len(tags)) + entries + b"\0" * 4

    assert [[0, 100], [200, 255]] == decode(tiff, GRAY, LIMITS).tolist()


def test_sixteen_bit_colour_is_scaled_and_not_clipped() -> None:
    samples = picture().astype(np.uint16) * 257

    np.testing.assert_array_equal(picture(), decode(png16(samples, 2), RGB, LIMITS))


def test_pixels_of_32_bits_are_refused_with_what_is_read() -> None:
    for mode, kind in (("I", "32-bit integer"), ("F", "floating point")):
        with pytest.raises(BadImage, match=f"{kind} pixels; expected"):
            decode(encoded(Image.new(mode, (4, 4)), "TIFF"), GRAY, LIMITS)


def test_cmyk_jpeg_becomes_rgb() -> None:
    decoded = decode(encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG"), RGB, LIMITS)

    red, green, blue = decoded[8, 8].tolist()
    assert red > 245
    assert max(green, blue) < 10


def test_a_palette_is_looked_up() -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)

    assert [[[10, 20, 30], [200, 100, 50]]] == decode(encoded(image), RGB, LIMITS).tolist()


@pytest.mark.parametrize("kind", ["PNG", "GIF"])
def test_a_transparent_palette_entry_shows_the_background(kind: str) -> None:
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 200, 100, 50])
    image.putpixel((1, 0), 1)
    spec = Input(color="rgb", background=(1, 2, 3))

    decoded = decode(encoded(image, kind, transparency=1), spec, LIMITS)

    assert [[[10, 20, 30], [1, 2, 3]]] == decoded.tolist()


def test_alpha_is_composited_over_the_background() -> None:
    image = Image.new("RGBA", (2, 1), (200, 100, 0, 0))
    image.putpixel((1, 0), (200, 100, 0, 128))
    white = Input(color="rgb", background=(255,))

    over_black = decode(encoded(image), RGB, LIMITS)
    over_white = decode(encoded(image), white, LIMITS)

    np.testing.assert_allclose([[[0, 0, 0], [100, 50, 0]]], over_black, atol=1)
    np.testing.assert_allclose([[[255, 255, 255], [227, 177, 127]]], over_white, atol=1)


def test_gray_with_alpha_is_composited_too() -> None:
    image = Image.new("LA", (2, 1), (200, 0))
    image.putpixel((1, 0), (200, 255))

    assert [[0, 200]] == decode(encoded(image), GRAY, LIMITS).tolist()
    assert [[50, 200]] == decode(encoded(image), Input(color="gray", background=(50,)), LIMITS).tolist()


def test_a_transparent_level_of_a_sixteen_bit_image_shows_the_background() -> None:
    plain = png16(np.array([[0, 65535]], dtype=np.uint16), 0)
    with_trns = plain[:33] + chunk(b"tRNS", b"\xff\xff") + plain[33:]

    assert [[0, 9]] == decode(with_trns, Input(color="gray", background=(9,)), LIMITS).tolist()


def test_one_bit_images_are_black_and_white() -> None:
    image = Image.new("1", (2, 1))
    image.putpixel((1, 0), 1)

    assert [[0, 255]] == decode(encoded(image), GRAY, LIMITS).tolist()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_a_rotated_photograph_is_seen_as_people_see_it(kind: str, orientation: int) -> None:
    upright = picture(24, 40)
    undo = {
        1: lambda a: a,
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, 1),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: np.rot90(a, -1),
    }
    stored = Image.fromarray(np.ascontiguousarray(undo[orientation](upright)))
    exif = Image.Exif()
    exif[0x0112] = orientation
    options: dict[str, Any] = {"quality": 95} if kind == "JPEG" else {"lossless": True} if kind == "WEBP" else {}

    decoded = decode(encoded(stored, kind, exif=exif, **options), RGB, LIMITS)

    assert upright.shape == decoded.shape
    np.testing.assert_allclose(upright[2:-2, 2:-2], decoded[2:-2, 2:-2], atol=25 if kind == "JPEG" else 0)


def test_a_photograph_with_a_damaged_exif_block_is_still_a_photograph() -> None:
    broken = encoded(Image.fromarray(picture()), "JPEG", exif=b"Exif\0\0II*\0\xff\xff\xff\x7f")

    assert picture().shape == decode(broken, RGB, LIMITS).shape


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_an_animation_the_first_frame_counts(kind: str) -> None:
    first, second = Image.new("RGB", (8, 8), (250, 0, 0)), Image.new("RGB", (8, 8), (0, 0, 250))
    options = {"lossless": True} if kind == "WEBP" else {}

    decoded = decode(encoded(first, kind, save_all=True, append_images=[second], **options), RGB, LIMITS)

    np.testing.assert_allclose(np.full((8, 8, 3), (250, 0, 0)), decoded, atol=3)


def test_no_warning_of_pillow_escapes_and_the_filters_are_as_before() -> None:
    before = list(warnings.filters)
    odd = Image.new("P", (4, 4))
    data = encoded(odd, "PNG", transparency=b"\x00\x80\xff")

    threads = [threading.Thread(target=lambda: [decode(data, RGB, LIMITS) for _ in range(50)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert before == list(warnings.filters)


@given(data=st.binary(max_size=200), signature=st.sampled_from([b"", b"\x89PNG\r\n\x1a\n", b"\xff\xd8\xff", b"BM"]))
@settings(max_examples=150, deadline=None)
def test_any_bytes_are_an_image_or_refused_in_plain_words(data: bytes, signature: bytes) -> None:
    check_refusal(signature + data)


@given(st.sampled_from(FORMATS), st.integers(0, 10_000), st.integers(0, 255))
@settings(max_examples=200, deadline=None)
def test_one_wrong_byte_is_survived(kind: str, place: int, value: int) -> None:
    data = bytearray(encoded(Image.fromarray(picture(8, 8)), kind))
    data[place % len(data)] = value
    check_refusal(bytes(data))


def check_refusal(data: bytes) -> None:
    refusal: JobError | None = None
    try:
        decoded = decode(data, RGB, LIMITS)
    except JobError as err:
        refusal = err

    if refusal is None:
        assert (3, 3) == (decoded.ndim, decoded.shape[2])
        return
    assert isinstance(refusal, BadImage | ImageTooLarge)
    assert "object at" not in str(refusal)
    assert "Traceback" not in str(refusal)
    assert "\n" not in str(refusal)


def test_an_image_of_the_inputs_size_is_passed_through() -> None:
    decoded = picture(16, 16)

    nhwc = prepare(decoded, Input(layout="NHWC", height=16, width=16))
    nchw = prepare(decoded, Input(layout="NCHW", height=16, width=16))
    bgr = prepare(decoded, Input(layout="NHWC", color="bgr", height=16, width=16))

    np.testing.assert_array_equal(decoded, nhwc)
    np.testing.assert_array_equal(decoded.transpose(2, 0, 1), nchw)
    np.testing.assert_array_equal(decoded[..., ::-1], bgr)
    assert nchw.flags.c_contiguous
    assert bgr.flags.c_contiguous


def test_lenets_digit_is_padded_by_two_on_every_side() -> None:
    digit = np.full((28, 28), 9, dtype=np.uint8)
    expected = np.pad(digit, 2)[None]

    made = prepare(digit, Input(color="gray", height=32, width=32, pad=2, resize="letterbox"))

    np.testing.assert_array_equal(expected, made)


def test_a_digit_that_has_its_border_already_is_not_given_another() -> None:
    digit = np.pad(np.full((28, 28), 9, dtype=np.uint8), 2)

    made = prepare(digit, Input(color="gray", height=32, width=32, pad=2, resize="letterbox"))

    np.testing.assert_array_equal(digit[None], made)


def test_letterbox_keeps_the_proportions_and_fills_with_the_pad_value() -> None:
    spec = Input(layout="NHWC", height=20, width=20, resize="letterbox", pad_value=(7, 8, 9))

    made = prepare(np.full((10, 40, 3), 200, dtype=np.uint8), spec)

    expected = np.full((20, 20, 3), (7, 8, 9), dtype=np.uint8)
    expected[7:12] = 200  # 40 x 10 becomes 20 x 5, and 15 rows are left: 7 above, 8 below
    np.testing.assert_array_equal(expected, made)


def test_the_pad_value_of_a_bgr_model_is_in_its_own_order() -> None:
    spec = Input(layout="NHWC", color="bgr", height=4, width=4, resize="letterbox", pad_value=(1, 2, 3))

    assert [1, 2, 3] == prepare(np.zeros((2, 4, 3), dtype=np.uint8), spec)[0, 0].tolist()


def test_crop_scales_the_short_side_and_takes_the_centre() -> None:
    decoded = np.zeros((20, 60), dtype=np.uint8)
    decoded[:, 20:40] = 100
    plain = Input(color="gray", height=20, width=20, resize="crop")
    wider = Input(color="gray", height=20, width=20, resize="crop", short_side=40)
    larger = np.asarray(Image.fromarray(decoded).resize((120, 40), Image.Resampling.BILINEAR))

    np.testing.assert_array_equal(np.full((1, 20, 20), 100), prepare(decoded, plain))
    np.testing.assert_array_equal(larger[None, 10:30, 50:70], prepare(decoded, wider))


def test_crop_with_a_short_side_is_not_skipped_for_an_image_of_the_inputs_size() -> None:
    decoded = picture(20, 20)
    spec = Input(layout="NHWC", height=20, width=20, resize="crop", short_side=40)
    larger = np.asarray(Image.fromarray(decoded).resize((40, 40), Image.Resampling.BILINEAR))

    np.testing.assert_array_equal(larger[10:30, 10:30], prepare(decoded, spec))


@pytest.mark.parametrize("interpolation", ["nearest", "box", "bilinear", "hamming", "bicubic", "lanczos"])
def test_stretch_is_pillows_resize(interpolation: Any) -> None:
    spec = Input(layout="NHWC", height=11, width=17, interpolation=interpolation)
    expected = Image.fromarray(picture()).resize((17, 11), Image.Resampling[interpolation.upper()])

    np.testing.assert_array_equal(np.asarray(expected), prepare(picture(), spec))


def test_height_leaves_the_width_free_up_to_its_multiple() -> None:
    spec = Input(color="gray", height=16, resize="height", multiple_of=32, pad_value=(5,))

    made = prepare(np.full((32, 100), 50, dtype=np.uint8), spec)

    assert (1, 16, 64) == made.shape
    assert {50} == set(made[:, :, :50].ravel().tolist())
    assert {5} == set(made[:, :, 50:].ravel().tolist())


def test_resize_none_takes_only_the_right_size() -> None:
    spec = Input(color="gray", height=8, width=8, resize="none")

    with pytest.raises(BadImage, match=r"is 9 x 8 pixels; this model takes 8 x 8 \(width x height\)"):
        prepare(np.zeros((8, 9), dtype=np.uint8), spec)


def test_free_sides_are_filled_at_the_bottom_and_the_right() -> None:
    made = prepare(np.ones((5, 9), dtype=np.uint8), Input(color="gray", resize="none", multiple_of=8))

    assert (1, 8, 16) == made.shape
    assert 45 == made.sum() == made[:, :5, :9].sum()


@pytest.mark.parametrize(
    ("shape", "spec"),
    [
        ((10_000, 1), Input(color="gray", height=8, width=8, resize="crop", short_side=400)),
        ((1, 30_000), Input(color="gray", height=64, resize="height")),
        ((1, 1), Input(color="gray", resize="none", multiple_of=4096)),
    ],
)
def test_scaling_may_not_grow_an_image_beyond_the_pixel_limit(shape: tuple[int, int], spec: Input) -> None:
    with pytest.raises(ImageTooLarge, match="at most 1000000 are accepted"):
        prepare(np.zeros(shape, dtype=np.uint8), spec, max_pixels=1_000_000)


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
def test_a_float_graph_gets_scaled_and_normalised_pixels(layout: Any) -> None:
    mean, std = (0.4, 0.5, 0.6), (0.2, 0.25, 0.5)
    spec = Input(layout=layout, height=24, width=40, scale=1 / 255, mean=mean, std=std)
    expected = (picture().astype(np.float64) / 255 - mean) / std
    expected = expected.transpose(2, 0, 1) if layout == "NCHW" else expected

    made = prepare(picture(), spec, "float32")

    assert np.float32 == made.dtype
    assert made.flags.c_contiguous
    np.testing.assert_allclose(expected, made, atol=1e-5)


def test_a_float_graph_without_normalisation_gets_plain_values() -> None:
    made = prepare(picture(), Input(layout="NHWC", height=24, width=40), "float32")

    np.testing.assert_array_equal(picture().astype(np.float32), made)


@given(
    height=st.integers(1, 60),
    width=st.integers(1, 60),
    rule=st.sampled_from(["stretch", "crop", "letterbox"]),
    pad=st.integers(0, 3),
)
@settings(max_examples=80, deadline=None)
def test_every_image_comes_out_at_the_inputs_size(height: int, width: int, rule: Any, pad: int) -> None:
    spec = Input(color="gray", height=13, width=21, resize=rule, pad=pad)

    assert (1, 13, 21) == prepare(np.zeros((height, width), dtype=np.uint8), spec).shape
