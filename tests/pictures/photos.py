"""JPEG, WebP and AVIF files from other encoders, and what other decoders read in them."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator
from io import BytesIO
from typing import Any

import cv2
import imagecodecs
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from pictures.cases import Case, Levels, ramps, seen, turned

Bytes = NDArray[np.uint8]


def every() -> Iterator[Case]:
    yield from jpegs()
    yield from odd_jpegs()
    yield from webps()
    yield from avifs()


def by_opencv(data: bytes, alpha: bool = False) -> Levels:
    """What OpenCV decodes, not turned."""
    flags = cv2.IMREAD_UNCHANGED if alpha else cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION
    read = cv2.imdecode(np.frombuffer(data, dtype=np.uint8), flags)
    assert read is not None
    if alpha and read.ndim == 3 and read.shape[2] == 4:
        return seen(read[..., 2::-1], read[..., 3:] / 255)
    return seen(read[..., None] if read.ndim == 2 else read[..., ::-1])


def exif(orientation: int, order: str = "<", entries: int = 1) -> bytes:
    """A TIFF header with a directory that names an orientation, as its last entry."""
    others = b"".join(struct.pack(f"{order}HHII", tag, 3, 1, 0) for tag in range(200, 199 + entries))
    last = struct.pack(f"{order}HHIHH", 274, 3, 1, orientation, 0)
    head = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, entries)
    return head + others + last + bytes(4)


def pillow(pixels: Bytes, form: str, **options: Any) -> bytes:
    out = BytesIO()
    mode = {1: "L", 3: "RGB", 4: options.pop("mode", "RGBA")}[pixels.shape[2]]
    Image.frombytes(mode, (pixels.shape[1], pixels.shape[0]), pixels.tobytes()).save(out, form, **options)
    return out.getvalue()


def jpegs() -> Iterator[Case]:
    for (height, width), quality, progressive, subsampling in itertools.product(
        [(17, 25), (8, 8), (1, 1), (16, 33), (64, 3)],
        (30, 75, 95),
        (False, True),
        ("4:4:4", "4:2:2", "4:2:0", "4:1:1", "gray", "cmyk"),
    ):
        samples = {"gray": 1, "cmyk": 4}.get(subsampling, 3)
        pixels = ramps(samples, 255, max(2, height), max(2, width))[:height, :width].astype(np.uint8)
        options: dict[str, Any] = {"quality": quality, "progressive": progressive, "mode": "CMYK"}
        if samples == 3:
            options["subsampling"] = subsampling
        data = pillow(pixels, "JPEG", **options)
        name = f"{width} x {height}, quality {quality}, {subsampling}{', progressive' if progressive else ''}"
        # OpenCV turns inks into colours by its own formula.
        yield Case("JPEG", name, data, by_opencv(data), 2.01 if samples == 4 else 1.01)
        if height > 1:
            yield Case("JPEG", f"{name}, without its end", data[:-2], by_opencv(data), 2.01 if samples == 4 else 1.01)
    colour = ramps(3, 255).astype(np.uint8)
    for restarts, optimise, progressive in itertools.product((0, 1, 3), (False, True), (False, True)):
        data = pillow(colour, "JPEG", restart_marker_blocks=restarts, optimize=optimise, progressive=progressive)
        yield Case(
            "JPEG", f"restarts {restarts}, optimised {optimise}, progressive {progressive}", data, by_opencv(data), 1.01
        )
    for orientation, order, progressive in itertools.product(range(1, 9), "<>", (False, True)):
        for entries in (1, 30):
            block = b"Exif\0\0" + exif(orientation, order, entries)
            data = pillow(colour, "JPEG", exif=block, progressive=progressive)
            name = f"orientation {orientation}, {order}, {entries} entries, progressive {progressive}"
            yield Case("JPEG", name, data, turned(by_opencv(data), orientation), 1.01)


def segment(marker: int, body: bytes) -> bytes:
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(body) + 2) + body


def odd_jpegs() -> Iterator[Case]:
    colour = ramps(3, 255).astype(np.uint8)
    whole = pillow(colour, "JPEG", quality=90)
    plain = by_opencv(whole)
    start = whole.index(b"\xff\xda")
    for name, data in {
        "garbage behind": whole + b"garbage" * 30,
        "a second picture behind": whole + whole,
        "without half of its end": whole[:-1],
        "fill before the end": whole[:-2] + b"\xff" * 7 + b"\xd9",
        "fill before segments": whole[:2] + b"\xff\xff" + whole[2:],
        "damaged EXIF": whole[:2] + segment(0xE1, b"Exif\0\0II*\0\xff\xff\xff\x7f") + whole[2:],
        "EXIF cut off": whole[:2] + segment(0xE1, b"Exif\0\0II*\0\x08\0\0\0\xff\xff") + whole[2:],
        "empty EXIF": whole[:2] + segment(0xE1, b"Exif\0\0") + whole[2:],
        "EXIF in a loop": whole[:2]
        + segment(0xE1, b"Exif\0\0II*\0\x08\0\0\0\x01\0" + struct.pack("<HHIII", 34665, 4, 1, 8, 8))
        + whole[2:],
        "a hundred profiles": whole[:2] + segment(0xE2, b"ICC_PROFILE\0" + bytes(60000)) * 100 + whole[2:],
        "comments": whole[:2] + segment(0xFE, b"\xff\xd9\xff\xda") * 50 + whole[2:],
        "a comment before its scan": whole[:start] + segment(0xFE, b"\xff\xd9") + whole[start:],
        "a wrong version of JFIF": whole.replace(b"JFIF\0\x01", b"JFIF\0\x09", 1),
    }.items():
        yield Case("JPEG", name, data, plain, 1.01)
    rgb = bytes(imagecodecs.jpeg8_encode(colour, level=95, colorspace="rgb", outcolorspace="rgb"))
    yield Case("JPEG", "components are red, green, blue", rgb, by_opencv(rgb), 1.01)
    for name, pixels in {"colour": colour, "gray": colour[..., 0]}.items():
        lossless = bytes(imagecodecs.jpeg8_encode(np.ascontiguousarray(pixels), lossless=True))
        yield Case("JPEG", f"lossless, {name}", lossless, seen(pixels[..., None] if pixels.ndim == 2 else pixels))
    wide = np.ascontiguousarray(ramps(1, 4095)[..., 0]).astype(np.uint16)
    arithmetic = whole.replace(b"\xff\xc0", b"\xff\xc9", 1)
    two = whole.replace(
        segment(0xC0, whole[whole.index(b"\xff\xc0") + 4 :][:15]),
        segment(0xC0, b"\x08\0\x11\0\x19\x02\x01\x22\0\x02\x11\x01"),
        1,
    )
    for name, data in {
        "12 bits": bytes(imagecodecs.jpeg8_encode(wide, bitspersample=12)),
        "lossless of 12 bits": bytes(imagecodecs.jpeg8_encode(wide, bitspersample=12, lossless=True)),
        "arithmetic": arithmetic,
        "two components": two,
        "no scan": whole[:start],
        "no lines": whole.replace(b"\x08\0\x11\0\x19", b"\x08\0\0\0\x19", 1),
        "two frames": whole[:start] + whole[whole.index(b"\xff\xc0") :],
        "half": whole[: len(whole) // 2],
        "half, and an end": whole[: len(whole) // 2] + b"\xff\xd9",
        "half of its scan, and an end": whole[: start + (len(whole) - start) // 2] + b"\xff\xd9",
        "all but 20 bytes": whole[:-22],
        "all but 20 bytes, and an end": whole[:-22] + b"\xff\xd9",
    }.items():
        yield Case("JPEG", name, data, None)
    big = pillow(ramps(3, 255, 64, 80).astype(np.uint8), "JPEG", progressive=True, quality=90)
    scans = [at for at in range(len(big)) if big[at : at + 2] == b"\xff\xda"]
    for index, at in enumerate(scans[:-1]):
        cut = at + (scans[index + 1] - at) // 2
        yield Case("JPEG", f"progressive, ends in scan {index}", big[:cut], None)
        yield Case("JPEG", f"progressive, ends in scan {index}, and an end", big[:cut] + b"\xff\xd9", None)


def webps() -> Iterator[Case]:
    for samples, lossless, quality, (height, width) in itertools.product(
        (3, 4), (False, True), (20, 75, 95), [(17, 25), (1, 1), (16, 16), (40, 3)]
    ):
        pixels = ramps(samples, 255, max(2, height), max(2, width))[:height, :width].astype(np.uint8)
        data = bytes(imagecodecs.webp_encode(pixels, level=quality, lossless=lossless))
        read = imagecodecs.webp_decode(data)
        expected = seen(read[..., :3], read[..., 3:] / 255 if read.shape[-1] == 4 else None)
        name = f"{width} x {height}, {samples} samples, {'lossless' if lossless else quality}"
        yield Case("WebP", f"{name}, level {quality}", data, expected)
        yield Case("WebP", f"{name}, level {quality}, garbage behind", data + b"garbage" * 9, expected)
    colour, clear = ramps(3, 255).astype(np.uint8), ramps(4, 255).astype(np.uint8)
    for pixels, orientation, form in itertools.product((colour, clear), range(1, 9), ("Exif\0\0", "")):
        data = pillow(pixels, "WEBP", lossless=True, exact=True, exif=form.encode() + exif(orientation))
        upright = turned(seen(pixels[..., :3], pixels[..., 3:] / 255 if pixels.shape[2] == 4 else None), orientation)
        yield Case("WebP", f"orientation {orientation}, {pixels.shape[2]} samples, {form!r}", data, upright)
    for pixels in (colour, clear):
        second = Image.fromarray(255 - colour)
        data = pillow(pixels, "WEBP", lossless=True, exact=True, save_all=True, append_images=[second] * 3)
        expected = seen(pixels[..., :3], pixels[..., 3:] / 255 if pixels.shape[2] == 4 else None)
        yield Case("WebP", f"an animation, {pixels.shape[2]} samples", data, expected)
        yield Case("WebP", f"half of one, {pixels.shape[2]} samples", data[:70], None)


def avifs() -> Iterator[Case]:
    sizes = [(17, 25), (1, 1), (64, 64), (40, 3)]
    for (height, width), form, quality, bits in itertools.product(
        sizes, ("400", "420", "422", "444"), (60, 100), (8, 10, 12)
    ):
        samples = 1 if form == "400" else 3
        pixels = ramps(samples, 2**bits - 1, 64, 64)[:height, :width]
        narrow = pixels.astype(np.uint8 if bits == 8 else np.uint16)
        data = bytes(
            imagecodecs.avif_encode(
                narrow if samples == 3 else np.ascontiguousarray(narrow[..., 0]),
                level=quality,
                speed=10,
                bitspersample=bits,
                pixelformat=form,
            )
        )
        read = imagecodecs.avif_decode(data)
        if read.ndim == 2:
            read = read[..., None]
        yield Case(
            "AVIF",
            f"{width} x {height}, {form}, {bits} bits, quality {quality}",
            data,
            seen(read * 255.0 / (2**bits - 1)),
            2.01 if bits == 8 else 8,
        )
    for premultiplied, quality in itertools.product((False, True), (60, 100)):
        clear = ramps(4, 255).astype(np.uint8)
        data = pillow(clear, "AVIF", quality=quality, speed=10, alpha_premultiplied=premultiplied, subsampling="4:4:4")
        read = imagecodecs.avif_decode(data)
        yield Case(
            "AVIF",
            f"alpha, quality {quality}, premultiplied {premultiplied}",
            data,
            seen(read[..., :3], read[..., 3:] / 255),
            2.01,
        )
    colour = ramps(3, 255).astype(np.uint8)
    for orientation in range(1, 9):
        data = pillow(colour, "AVIF", quality=100, speed=10, subsampling="4:4:4", exif=b"Exif\0\0" + exif(orientation))
        read = imagecodecs.avif_decode(data)
        yield Case("AVIF", f"orientation {orientation}", data, turned(seen(colour), orientation), 3)
        assert read.shape == colour.shape
    data = pillow(
        colour,
        "AVIF",
        quality=100,
        speed=10,
        subsampling="4:4:4",
        save_all=True,
        append_images=[Image.fromarray(255 - colour)] * 3,
    )
    yield Case("AVIF", "a sequence", data, seen(colour), 3)
    yield Case("AVIF", "half", data[: len(data) // 3], None)
