"""TIFF files of every combination that tifffile writes, and what tifffile reads in them."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator
from io import BytesIO
from typing import Any, Literal

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from pictures.cases import BACKGROUND, Case, Levels, ramps, seen, turned

PACKINGS = ["none", "lzw", "adobe_deflate", "deflate", "packbits", "zstd", "lzma"]
LAYOUTS: dict[str, dict[str, Any]] = {"one strip": {}, "strips": {"rowsperstrip": 5}, "tiles": {"tile": (16, 16)}}
KINDS: dict[str, tuple[str, int, int, tuple[str, ...]]] = {
    # photometric, samples, bits, extra samples
    "white is zero 8": ("miniswhite", 1, 8, ()),
    "white is zero 16": ("miniswhite", 1, 16, ()),
    "gray 8": ("minisblack", 1, 8, ()),
    "gray 16": ("minisblack", 1, 16, ()),
    "gray and alpha 8": ("minisblack", 2, 8, ("unassalpha",)),
    "gray and alpha 16": ("minisblack", 2, 16, ("unassalpha",)),
    "gray times alpha 8": ("minisblack", 2, 8, ("assocalpha",)),
    "gray times alpha 16": ("minisblack", 2, 16, ("assocalpha",)),
    "gray and something 8": ("minisblack", 2, 8, ("unspecified",)),
    "gray and something 16": ("minisblack", 2, 16, ("unspecified",)),
    "white is zero and alpha 8": ("miniswhite", 2, 8, ("unassalpha",)),
    "white is zero and alpha 16": ("miniswhite", 2, 16, ("unassalpha",)),
    "rgb 8": ("rgb", 3, 8, ()),
    "rgb 16": ("rgb", 3, 16, ()),
    "rgba 8": ("rgb", 4, 8, ("unassalpha",)),
    "rgba 16": ("rgb", 4, 16, ("unassalpha",)),
    "rgb times alpha 8": ("rgb", 4, 8, ("assocalpha",)),
    "rgb times alpha 16": ("rgb", 4, 16, ("assocalpha",)),
    "rgb and something 8": ("rgb", 4, 8, ("unspecified",)),
    "rgb and something 16": ("rgb", 4, 16, ("unspecified",)),
    "rgb, something and alpha 8": ("rgb", 5, 8, ("unspecified", "unassalpha")),
    "rgb, something and alpha 16": ("rgb", 5, 16, ("unspecified", "unassalpha")),
    "palette 8": ("palette", 1, 8, ()),
    "cmyk 8": ("separated", 4, 8, ()),
    "cmyk 16": ("separated", 4, 16, ()),
    "cmyk and alpha 8": ("separated", 5, 8, ("unassalpha",)),
    "cmyk and alpha 16": ("separated", 5, 16, ("unassalpha",)),
}
NOT_READ: dict[str, tuple[str, int, Any]] = {
    "float32 gray": ("minisblack", 1, np.float32),
    "float16 gray": ("minisblack", 1, np.float16),
    "float32 rgb": ("rgb", 3, np.float32),
    "float64 white is zero": ("miniswhite", 1, np.float64),
    "uint32 gray": ("minisblack", 1, np.uint32),
    "uint64 gray": ("minisblack", 1, np.uint64),
    "uint32 rgb": ("rgb", 3, np.uint32),
    "int8 gray": ("minisblack", 1, np.int8),
    "int16 gray": ("minisblack", 1, np.int16),
    "int32 white is zero": ("miniswhite", 1, np.int32),
    "complex gray": ("minisblack", 1, np.complex64),
    "cielab 8": ("cielab", 3, np.uint8),
    "cielab 16": ("cielab", 3, np.uint16),
    "icclab 8": ("icclab", 3, np.uint8),
    "colour filter array": ("cfa", 1, np.uint16),
    "linear raw": ("linear_raw", 3, np.uint16),
}
TABLE = (np.random.default_rng(7).integers(0, 256, (3, 256)) * 257).astype(np.uint16)
NUMBERS = {"none": 1, "lzw": 5, "adobe_deflate": 8, "packbits": 32773}


def written(pixels: NDArray[Any], **options: Any) -> bytes:
    """What tifffile writes. `pixels` [h, w, samples] whatever the planes."""
    out = BytesIO()
    if pixels.shape[-1] == 1:
        pixels = pixels[..., 0]
    elif options.get("planarconfig") == "separate":
        pixels = np.ascontiguousarray(pixels.transpose(2, 0, 1))
    tifffile.imwrite(out, pixels, metadata=None, **options)
    return out.getvalue()


def read(data: bytes) -> Levels:
    """What is seen in what tifffile reads."""
    with tifffile.TiffFile(BytesIO(data)) as file:
        page = file.pages[0]
        assert isinstance(page, tifffile.TiffPage)
        samples = page.asarray()
        if page.samplesperpixel == 1:
            samples = samples[..., None]
        elif page.planarconfig == 2:
            samples = samples.transpose(1, 2, 0)
        orientation = page.tags.valueof(274, 1)
        return turned(meaning(samples, page), orientation)


def meaning(samples: NDArray[Any], page: tifffile.TiffPage) -> Levels:
    top = 255 if page.photometric == 6 else 2**page.bitspersample - 1
    extra = [int(kind) for kind in page.extrasamples]
    base = samples.shape[-1] - len(extra)
    levels = samples.astype(np.float64) * 255 / top
    where = next((index for index, kind in enumerate(extra) if kind), None)
    alpha = None if where is None else levels[..., base + where, None] / 255
    colour = levels[..., :base]
    if page.photometric == 0:
        colour = 255 - colour
    elif page.photometric == 3:
        assert page.colormap is not None
        colour = page.colormap[:, samples[..., 0]].transpose(1, 2, 0) / 257
    elif page.photometric == 5:
        colour = (255 - colour[..., :3]) * (255 - colour[..., 3:]) / 255
    if where is not None and extra[where] == 1:
        assert alpha is not None
        over: Levels = np.minimum(255, seen(colour) + (1 - alpha) * np.array(BACKGROUND))
        return over
    return seen(colour, alpha)


def every() -> Iterator[Case]:
    yield from combinations()
    yield from few_bits()
    yield from others()


def pixels_of(samples: int, bits: int, extra: tuple[str, ...]) -> NDArray[Any]:
    pixels = ramps(samples, 2**bits - 1)
    if "assocalpha" in extra:
        pixels[..., :-1] = pixels[..., :-1] * pixels[..., -1:] // (2**bits - 1)
    return pixels.astype(f"u{bits // 8}")


def combinations() -> Iterator[Case]:
    axes = itertools.product(KINDS.items(), "<>", ["contig", "separate"], PACKINGS, [False, True], LAYOUTS.items())
    for (kind, (photometric, samples, bits, extra)), order, planes, packing, predictor, (layout, form) in axes:
        if (planes == "separate" and samples == 1) or (predictor and packing in ("none", "packbits")):
            continue
        options: dict[str, Any] = dict(form, photometric=photometric, byteorder=order)
        if samples > 1:
            options["planarconfig"] = planes
        if extra:
            options["extrasamples"] = extra
        if photometric == "palette":
            options["colormap"] = TABLE
        data = written(pixels_of(samples, bits, extra), compression=packing, predictor=predictor, **options)
        name = f"{kind}, {order}, {planes}, {packing}{', predictor' if predictor else ''}, {layout}"
        yield Case("TIFF", name, data, read(data), 0.51 if bits == 8 and samples < 5 else 1.6)


def few_bits() -> Iterator[Case]:
    """Of 1, 2, 4 and 12 bits, in both orders of the bits of a byte."""
    for bits, photometric, packing, order in itertools.product(
        (1, 2, 4, 12), ("minisblack", "miniswhite", "palette"), ("none", "lzw", "adobe_deflate", "packbits"), "<>"
    ):
        if photometric == "palette" and bits == 12:
            continue
        pixels = ramps(1, 2**bits - 1)
        rows = packed(pixels[..., 0], bits)
        for reverse in (False, True):
            data = strip_file(
                rows,
                bits,
                {"minisblack": 1, "miniswhite": 0, "palette": 3}[photometric],
                order,
                packing,
                reverse=reverse,
            )
            levels = pixels * 255 / (2**bits - 1)
            if photometric == "miniswhite":
                levels = 255 - levels
            elif photometric == "palette":
                levels = TABLE[:, : 2**bits][:, pixels[..., 0]].transpose(1, 2, 0) / 257
            yield Case(
                "TIFF",
                f"{photometric} {bits}, {order}, {packing}{', bits reversed' if reverse else ''}",
                data,
                seen(levels),
            )


def packed(levels: NDArray[np.int64], bits: int) -> list[bytes]:
    """Rows of `bits` a sample, the first in the highest bits."""
    rows = []
    for row in levels.tolist():
        text = "".join(format(level, f"0{bits}b") for level in row)
        text += "0" * (-len(text) % 8)
        rows.append(int(text, 2).to_bytes(len(text) // 8, "big"))
    return rows


def shared_colours() -> Iterator[Case]:
    """YCbCr without JPEG, where several pixels share a colour."""
    for (across, down), packing in itertools.product([(1, 1), (2, 1), (2, 2), (4, 2)], ("none", "lzw")):
        luma = ramps(1, 255, 16, 24)[..., 0]
        blue, red = (ramps(5, 255, 16 // down, 24 // across)[..., place] for place in (1, 3))
        rows = []
        for top in range(0, 16, down):
            row = b""
            for left in range(0, 24, across):
                row += bytes(luma[top : top + down, left : left + across].flatten().tolist())
                row += bytes([blue[top // down, left // across], red[top // down, left // across]])
            rows.append(row)
        more = [(530, across | down << 16)]
        data = strip_file(rows, 8, 6, "<", packing, reverse=False, size=(24, 16), samples=3, more=more)
        cb, cr = (np.kron(plane, np.ones((down, across))) - 128 for plane in (blue, red))
        colours = [luma + 1.402 * cr, luma - 0.344136 * cb - 0.714136 * cr, luma + 1.772 * cb]
        yield Case(
            "TIFF", f"YCbCr {across} x {down}, {packing}", data, np.clip(np.stack(colours, axis=-1), 0, 255), 0.6
        )


def strip_file(
    rows: list[bytes],
    bits: int,
    photometric: int,
    order: str,
    packing: str,
    *,
    reverse: bool,
    size: tuple[int, int] = (25, 17),
    samples: int = 1,
    more: list[tuple[int, int]] | None = None,
) -> bytes:
    """A classic file with one strip, written without any library but for the packing."""
    strip = b"".join(rows)
    if packing == "lzw":
        strip = bytes(imagecodecs.lzw_encode(strip))
    elif packing == "adobe_deflate":
        strip = bytes(imagecodecs.zlib_encode(strip))
    elif packing == "packbits":
        strip = b"".join(imagecodecs.packbits_encode(row) for row in rows)
    if reverse:
        strip = bytes(int(f"{byte:08b}"[::-1], 2) for byte in strip)
    name: Literal["little", "big"] = "little" if order == "<" else "big"

    def number(value: int, length: int) -> bytes:
        return value.to_bytes(length, name)

    tags = [(256, 3, size[0]), (257, 3, size[1]), (258, 3, bits), (259, 3, NUMBERS[packing]), (262, 3, photometric)]
    tags += [(266, 3, 2 if reverse else 1), (273, 4, 8), (277, 3, samples), (278, 3, size[1]), (279, 4, len(strip))]
    table = TABLE[:, : 2**bits].astype(f"{order}u2").tobytes() if photometric == 3 else b""
    strip += b"\0" * (len(strip) % 2)
    entries = b""
    for tag, kind, value in tags:
        entries += number(tag, 2) + number(kind, 2) + number(1, 4)
        entries += number(value, 2) + b"\0\0" if kind == 3 else number(value, 4)
    if table:
        entries += number(320, 2) + number(3, 2) + number(len(table) // 2, 4) + number(8 + len(strip), 4)
    for tag, pair in more or []:
        entries += number(tag, 2) + number(3, 2) + number(2, 4) + number(pair, 4)
    head = (b"II*\0" if order == "<" else b"MM\0*") + number(8 + len(strip) + len(table), 4)
    return head + strip + table + number(len(entries) // 12, 2) + entries + bytes(4)


def others() -> Iterator[Case]:
    plain = ramps(3, 255).astype(np.uint8)
    for orientation, packing in itertools.product(range(1, 9), ("none", "lzw")):
        data = written(plain, photometric="rgb", compression=packing, extratags=[(274, "H", 1, orientation, True)])
        yield Case("TIFF", f"orientation {orientation}, {packing}", data, turned(seen(plain), orientation))
    for order, planes, packing in itertools.product("<>", ("contig", "separate"), ("none", "adobe_deflate")):
        wide = ramps(4, 65535).astype(np.uint16)
        options: dict[str, Any] = {"planarconfig": planes, "compression": packing, "extrasamples": ["unassalpha"]}
        data = written(wide, photometric="rgb", bigtiff=True, byteorder=order, tile=(16, 16), **options)
        yield Case("TIFF", f"big, {order}, {planes}, {packing}", data, read(data), 1.6)
    form: dict[str, Any]
    for kind, (photometric, samples, dtype) in NOT_READ.items():
        form = {"planarconfig": "contig"} if samples > 1 else {}
        data = written(
            ramps(samples, 100).astype(dtype),
            photometric=photometric,
            **form,
        )
        yield Case("TIFF", kind, data, None)
    for packing in ("jpeg2000", "webp", "jpegxl", "lerc", "jpegxr", "png"):
        yield Case("TIFF", f"packed as {packing}", written(plain, photometric="rgb", compression=packing), None)
    bits = Image.fromarray((ramps(1, 255)[..., 0] > 128).astype(np.uint8) * 255).convert("1")
    for packing in ("group3", "group4", "tiff_ccitt"):
        out = BytesIO()
        bits.save(out, "TIFF", compression=packing)
        yield Case("TIFF", packing, out.getvalue(), read(out.getvalue()))
    yield from shared_colours()
    yield from jpegs()
    yield from predictors()


def predictors() -> Iterator[Case]:
    """A predictor where the packing has none, or where pixels share a colour: readers differ in what they make of it."""
    levels = ramps(1, 255)[..., 0]
    rows = [bytes(np.diff(row, prepend=0).astype(np.uint8).tolist()) for row in levels]
    for packing, predictor in itertools.product(("none", "packbits"), (2, 3, 34892)):
        data = strip_file(rows, 8, 1, "<", packing, reverse=False, more=[(317, predictor)])
        yield Case("TIFF", f"predictor {predictor}, {packing}", data, None)
    data = strip_file(rows, 8, 1, "<", "lzw", reverse=False, more=[(317, 2)])
    yield Case("TIFF", "predictor 2, lzw", data, seen(levels[..., None]))
    data = strip_file(rows, 8, 1, "<", "packbits", reverse=False, more=[(317, 1)])
    yield Case("TIFF", "predictor 1, packbits", data, seen(np.diff(levels, prepend=0, axis=1)[..., None] % 256))
    shared, units = [(530, 2 | 2 << 16), (317, 2)], [bytes(range(72))] * 8
    data = strip_file(units, 8, 6, "<", "lzw", reverse=False, size=(24, 16), samples=3, more=shared)
    yield Case("TIFF", "predictor 2, YCbCr 2 x 2", data, None)
    gray, group4 = written(ramps(1, 255).astype(np.uint8), photometric="minisblack", compression="jpeg"), BytesIO()
    Image.new("1", (24, 16)).save(group4, "TIFF", compression="group4")
    for packing, file, tag in (("jpeg", gray, 296), ("group4", group4.getvalue(), 284)):
        of_no_account, instead = struct.pack("<HHII", tag, 3, 1, 1), struct.pack("<HHII", 317, 3, 1, 2)
        assert 1 == file.count(of_no_account)
        yield Case("TIFF", f"predictor 2, {packing}", file.replace(of_no_account, instead), None)


def jpegs() -> Iterator[Case]:
    colour, gray = ramps(3, 255, 48, 64).astype(np.uint8), ramps(1, 255, 48, 64).astype(np.uint8)
    forms: dict[str, dict[str, Any]] = {"one strip": {}, "strips": {"rowsperstrip": 16}, "tiles": {"tile": (32, 32)}}
    pictures: list[tuple[NDArray[Any], str, dict[str, Any]]] = [
        (gray, "minisblack", {}),
        (gray, "miniswhite", {}),
        (colour, "rgb", {}),
        (colour, "ycbcr", {"subsampling": (1, 1)}),
        (colour, "ycbcr", {"subsampling": (2, 2)}),
        (colour, "ycbcr", {"subsampling": (2, 1)}),
        (colour, "rgb", {"planarconfig": "separate"}),
    ]
    for layout, form in forms.items():
        for pixels, photometric, options in pictures:
            args = {"level": 95, **({"outcolorspace": "rgb"} if photometric == "rgb" else {})}
            data = written(pixels, photometric=photometric, compression="jpeg", compressionargs=args, **options, **form)
            if photometric == "ycbcr":
                expected = seen(tifffile.imread(BytesIO(data)))
            else:
                expected = seen(255.0 - pixels) if photometric == "miniswhite" else seen(pixels)
            yield Case("TIFF", f"jpeg, {photometric}, {options}, {layout}", data, expected, 8)
