"""What a client makes of a PIL image: the service must see in it what it sees in the file of that image."""

from __future__ import annotations

import mmap
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps

from convq.client.encoding import CONVERTED, REFUSED, png_of
from convq.client.inputs import job_for
from convq.engine.decoding import decode
from convq.errors import BadImage, BadTensor, ImageTooLarge
from convq.repository.manifest import Input, Limits
from services import encoded

RGB = Input(name="image", color="rgb", height=8, width=8)
GRAY = Input(name="image", color="gray", height=8, width=8)
SPECS = [RGB, RGB.model_copy(update={"background": (10, 200, 30)}), GRAY]


def seen(data: bytes, spec: Input = RGB) -> np.ndarray[Any, Any]:
    """What the service makes of the bytes of a file."""
    return decode(data, spec, Limits())


def drawing(mode: str = "RGB", size: tuple[int, int] = (23, 17)) -> Image.Image:
    """A picture without symmetry, whose every channel varies."""
    rng = np.random.default_rng(len(mode) + sum(map(ord, mode)))
    channels = {"L": 1, "1": 1, "P": 1, "LA": 2, "RGB": 3}.get(mode, 4)
    noise = rng.integers(0, 256, (size[1], size[0], channels), dtype=np.uint8)
    if channels == 1:
        plain = Image.fromarray(noise[..., 0])
        return plain if mode == "L" else plain.convert(mode)
    return Image.fromarray(noise, {2: "LA", 3: "RGB", 4: "RGBA"}[channels]).convert(mode)


def turned(form: str, orientation: int, mode: str = "RGB") -> bytes:
    """A file whose EXIF says how it is to be turned."""
    exif = Image.Exif()
    exif[274] = orientation
    exif[271] = "maker"
    options = {"lossless": True} if form == "WEBP" else {"quality": 95} if form in ("JPEG", "AVIF") else {}
    return encoded(drawing(mode), form, exif=exif, **options)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_a_picture_is_turned_alike_however_it_is_given(form: str, orientation: int) -> None:
    data = turned(form, orientation)
    upright = seen(data)

    def opened() -> Image.Image:
        return Image.open(BytesIO(data))

    loaded = opened()
    loaded.load()
    ways = {
        "lazily": opened(),
        "loaded": loaded,
        "copied": opened().copy(),
        "turned by the user": ImageOps.exif_transpose(opened()),
        "an array of what is upright": Image.fromarray(upright),
    }
    ways |= {"converted": opened().convert("RGBA").convert("RGB")} if form != "TIFF" else {}
    for way, image in ways.items():
        assert np.array_equal(upright, seen(png_of(image))), way
    assert (23, 17) == loaded.size if form != "TIFF" or orientation < 5 else (17, 23) == loaded.size


def test_what_the_user_says_of_the_orientation_counts() -> None:
    image = Image.open(BytesIO(turned("JPEG", 6)))
    image.getexif()[274] = 1

    assert (17, 23) == seen(png_of(image)).shape[:2]


@pytest.mark.parametrize("orientation", [0, 9, 65535, "6"])
def test_an_orientation_that_there_is_not_turns_nothing(orientation: Any) -> None:
    image = drawing()
    image.getexif()[274] = orientation

    assert np.array_equal(np.asarray(drawing()), seen(png_of(image)))


def test_nothing_travels_but_pixels_and_orientation() -> None:
    exif = Image.Exif()
    exif[274], exif[271] = 3, "a maker of cameras"
    profile = bytes(range(256)) * 8192  # in a PNG the service would take so much for a bomb
    image = Image.open(BytesIO(encoded(drawing(), "WEBP", lossless=True, icc_profile=profile, exif=exif)))
    image.info["dpi"], image.info["comment"] = (72, 72), b"at home"

    data = png_of(image)
    chunks = [name for name, *_ in _chunks(data)]
    assert {b"IHDR", b"IDAT", b"eXIf", b"IEND"} == set(chunks)
    assert b"maker" not in data
    assert np.array_equal(np.asarray(drawing())[::-1, ::-1], seen(data))
    assert "icc_profile" in image.info  # the user's own image is left as it is


def _chunks(data: bytes) -> list[tuple[bytes, bytes]]:
    at, found = 8, []
    while at < len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        found.append((data[at + 4 : at + 8], data[at + 8 : at + 8 + size]))
        at += 12 + size
    return found


@pytest.mark.parametrize("spec", SPECS, ids=["rgb", "background", "gray"])
@pytest.mark.parametrize(
    ("mode", "form"),
    [
        ("1", "PNG"), ("1", "TIFF"), ("L", "PNG"), ("LA", "PNG"), ("P", "PNG"), ("P", "GIF"), ("RGB", "BMP"),
        ("RGBA", "PNG"), ("RGBA", "TIFF"), ("CMYK", "TIFF"), ("CMYK", "JPEG"), ("RGBX", "TIFF"), ("PA", "TIFF"),
    ],
)  # fmt: skip
def test_every_mode_shows_what_its_file_shows(mode: str, form: str, spec: Input) -> None:
    image = drawing(mode)
    data = encoded(image, form, **({"quality": 95} if form == "JPEG" else {}))
    opened = Image.open(BytesIO(data))
    expected = seen(data, spec).astype(int)
    # Pillow writes a TIFF's palette of 16 bits as 256 times the level: 255/256 of it, where there is alpha to round with.
    most = 1 if mode == "PA" else 0

    assert np.abs(expected - seen(png_of(opened), spec)).max() <= most
    if form != "JPEG":
        assert np.abs(expected - seen(png_of(image), spec)).max() <= most


@pytest.mark.parametrize("mode", ["YCbCr", "HSV", "RGBa", "La"])
def test_a_mode_that_no_file_holds_shows_what_pillow_makes_of_it(mode: str) -> None:
    image = drawing({"La": "LA", "RGBa": "RGBA"}.get(mode, "RGB")).convert(mode)
    plain = image.convert(CONVERTED[mode])

    assert np.array_equal(seen(encoded(plain)), seen(png_of(image)))


@pytest.mark.parametrize("mode", ["I;16", "I;16L", "I;16B", "I;16N"])
@pytest.mark.parametrize("spec", [RGB, GRAY], ids=["rgb", "gray"])
def test_sixteen_bits_stay_sixteen_bits(mode: str, spec: Input) -> None:
    values = np.arange(16 * 256, dtype=np.uint16).reshape(64, 64) * 16 + 7
    image = Image.new(mode, (64, 64))
    image.frombytes(values.astype(">u2" if mode == "I;16B" else "<u2").tobytes())
    expected = ((values * np.uint64(255) + 32767) // 65535).astype(np.uint8)

    for given in (image, image.copy()):
        result = seen(png_of(given), spec)
        assert np.array_equal(expected, result if spec is GRAY else result[..., 0])


@pytest.mark.parametrize("mode", sorted(REFUSED))
def test_what_the_service_refuses_is_refused_in_its_words(mode: str) -> None:
    image = Image.new(mode, (4, 4))
    with pytest.raises(BadImage) as ours:
        png_of(image)
    with pytest.raises(BadImage) as theirs:
        seen(encoded(image, "TIFF"))

    assert str(theirs.value).replace("the TIFF image", "the image") == str(ours.value).replace(
        f" (PIL mode {mode})", ""
    )


@pytest.mark.parametrize("clear", [0, 1, 7, 15])
@pytest.mark.parametrize("bits", [1, 2, 4])
def test_a_palette_keeps_its_transparency(bits: int, clear: int) -> None:
    image = Image.new("P", (16, 4))
    colors = 1 << bits
    image.putpalette(bytes(np.random.default_rng(bits).integers(0, 256, colors * 3, dtype=np.uint8)))
    image.putdata([n % colors for n in range(64)])
    for transparency in (min(clear, colors - 1), bytes((n * 37) % 256 for n in range(colors))):
        data = encoded(image, "PNG", transparency=transparency)
        for spec in SPECS:
            assert np.array_equal(seen(data, spec), seen(png_of(Image.open(BytesIO(data))), spec))


def test_a_palette_with_transparency_of_its_own_and_one_that_is_too_short() -> None:
    image = Image.new("P", (4, 1))
    image.putpalette([255, 0, 0, 0, 0, 255, 0, 128, 0, 0, 255, 255], "RGBA")
    image.putdata([0, 1, 2, 1])
    short = Image.new("P", (4, 1))
    short.putpalette([9, 8, 7, 6, 5, 4])
    short.putdata([0, 1, 2, 200])

    assert np.array_equal(seen(encoded(image.convert("RGBA"))), seen(png_of(image)))
    assert [[9, 8, 7], [6, 5, 4], [0, 0, 0], [0, 0, 0]] == seen(png_of(short))[0].tolist()


def test_a_transparent_level_or_colour_is_kept() -> None:
    gray, colour, wide = drawing("L"), drawing("RGB"), Image.new("I;16", (3, 1))
    wide.frombytes(np.array([0, 300, 65535], "<u2").tobytes())
    for image, clear in ((gray, gray.getpixel((3, 3))), (colour, colour.getpixel((3, 3))), (wide, 300)):
        data = encoded(image, "PNG", transparency=clear)
        for spec in SPECS:
            assert np.array_equal(seen(data, spec), seen(png_of(Image.open(BytesIO(data))), spec))


def test_one_image_may_be_encoded_by_many_threads_at_once() -> None:
    data = encoded(drawing(size=(700, 500)), "PNG")
    image = Image.open(BytesIO(data))
    start = threading.Barrier(8)

    def encode(_: int) -> bytes:
        start.wait()
        return png_of(image)

    with ThreadPoolExecutor(8) as pool:
        assert all(np.array_equal(seen(data), seen(one)) for one in pool.map(encode, range(8)))


def test_an_image_that_cannot_be_read_is_refused() -> None:
    whole = encoded(drawing(size=(200, 200)), "PNG")
    closed = Image.open(BytesIO(whole))
    closed.close()
    for image in (Image.open(BytesIO(whole[: len(whole) // 2])), closed):
        with pytest.raises(BadImage, match="the PIL image cannot be read"):
            png_of(image)
    with pytest.raises(BadImage, match="0 x 5 pixels"):
        png_of(Image.new("RGB", (0, 5)))


# -- what else is called an image -------------------------------------------------------------------------------------


def test_whatever_holds_bytes_is_bytes(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    file.write_bytes(b"0123456789")
    with file.open("rb") as handle, mmap.mmap(handle.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        given = [b"0123456789", bytearray(b"0123456789"), memoryview(b"0123456789"), mapped, file, str(file)]
        given += [memoryview(b"0.1.2.3.4.5.6.7.8.9")[::2], os.fsencode(file).decode()]
        assert {b"0123456789"} == {job_for(one, {}).image for one in given}


def test_a_path_that_is_no_file_is_refused_and_never_waits(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    for path, why in (
        (pipe, "no regular file"),
        (tmp_path, "it is a folder"),
        (tmp_path / "missing", "No such file"),
        ("/dev/zero", "no regular file"),
        ("with\0nul", "null (byte|character)"),
        ("iVBORw0KGgo" * 1000, "text is taken for a path"),
    ):
        with pytest.raises(BadImage, match=why) as caught:
            job_for(path, {})
        assert len(str(caught.value)) < 300


def test_an_array_is_taken_in_c_order_or_refused() -> None:
    whole = np.arange(96, dtype=np.uint8).reshape(1, 8, 12)
    for array in (whole[:, :, ::2], whole.transpose(0, 2, 1), whole[:, ::-1], np.asfortranarray(whole)):
        job = job_for(array, {})
        assert (array.tobytes("C"), "uint8", ",".join(map(str, array.shape))) == (job.tensor, job.dtype, job.shape)
    for bad in (
        whole.astype(">f4"), whole.astype(np.float64), whole.astype(bool), np.uint8(7), np.zeros((), np.uint8),
        np.zeros((1, 0, 4), np.uint8), np.array(["a"]), np.array([object()]),
    ):  # fmt: skip
        with pytest.raises(BadTensor):
            job_for(bad, {})


def test_what_redis_would_not_take_is_refused_before_it_is_copied(tmp_path: Path) -> None:
    most = 512 << 20
    file = tmp_path / "huge"
    with file.open("wb") as handle:
        handle.truncate(most + 1)
    with pytest.raises(BadTensor, match="at most 536870912"):
        job_for(np.broadcast_to(np.uint8(0), (1, most + 1)), {})
    with pytest.raises(ImageTooLarge, match="at most 536870912"):
        job_for(file, {})
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        for given in (mapped, memoryview(mapped)):
            with pytest.raises(ImageTooLarge, match="at most 536870912"):
                job_for(given, {})
            del given


@pytest.mark.parametrize("image", [None, 7, ["a"], {"a": 1}, object(), BytesIO(b"x")])
def test_what_is_no_image_is_refused(image: Any) -> None:
    with pytest.raises(BadImage, match="an image is bytes, a path, a PIL image or a numpy array"):
        job_for(image, {})
