"""From encoded bytes to the pixels that people see: the first half of the path that `image` describes."""

from __future__ import annotations

import re
import threading
import warnings
from types import TracebackType

from PIL import Image

from convq.engine.codecs.raster import Pixels, paint
from convq.engine.formats import read_header, recognise
from convq.errors import BadImage, ImageTooLarge, JobError
from convq.repository.manifest import Input, Limits

__all__ = ["Pixels", "decode"]


class _Quiet:
    """Silences Python's warnings while at least one thread decodes.

    Pillow warns about oddities of the file, which are the client's business and not our log's. The interpreter's
    filters belong to the process, and `catch_warnings` alone would leave them wrong when two threads overlap.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._inside = 0
        self._saved: warnings.catch_warnings[None] | None = None

    def __enter__(self) -> None:
        with self._lock:
            self._inside += 1
            if self._inside == 1:
                self._saved = warnings.catch_warnings()
                self._saved.__enter__()
                warnings.simplefilter("ignore")

    def __exit__(self, kind: type[BaseException] | None, err: BaseException | None, tb: TracebackType | None) -> None:
        with self._lock:
            self._inside -= 1
            if self._inside == 0 and self._saved is not None:
                self._saved.__exit__(None, None, None)
                self._saved = None


_quiet = _Quiet()


def decode(data: bytes, spec: Input, limits: Limits) -> Pixels:
    """The first picture of an encoded file as people see it: uint8, [height, width] for gray, else [height, width, 3].

    PNG, JPEG, WebP, BMP, GIF, TIFF, AVIF. Colours come as red, green, blue also for a model that wants BGR. Transparent
    pixels are composited over `spec.background`; orientation is applied, as EXIF, XMP or the container names it; 16 bits
    a channel become 8 by dividing by 257 (in PNG's colours by taking the high byte, at most one level lower). A variant
    of a format that is not known to be read right is refused by name. The array may be read-only.

    Raises:
        ImageTooLarge: more bytes, or by its header more pixels, than `limits`; nothing has been decoded then.
        BadImage: everything else that keeps the bytes from being an image, truncation included.
    """
    if not data:
        raise BadImage("the image is empty: 0 bytes")
    if len(data) > limits.max_bytes:
        raise ImageTooLarge(f"the image has {len(data)} bytes; at most {limits.max_bytes} are accepted")
    name = recognise(data)
    try:
        with _quiet:
            header = read_header(data, name)
            _check_size((header.width, header.height), name, limits)
            return paint(header.raster(), spec.background, gray=spec.color == "gray")
    except JobError:
        raise
    except Image.DecompressionBombError:
        raise ImageTooLarge(f"the {name} image would decompress to too many pixels") from None
    except MemoryError:
        raise ImageTooLarge(f"the {name} image needs more memory to decode than there is") from None
    except Exception as err:  # noqa: BLE001
        # Pillow raises nearly every built-in exception on hostile bytes, and whichever it is, the file is at fault.
        raise BadImage(f"the {name} image {_reason(err)}") from None


MAX_SIDE = 65_535
"""As in JPEG and BMP of old: a decoder keeps some bytes for every row and column, besides those of the pixels."""


def _check_size(size: tuple[int, int], name: str, limits: Limits) -> None:
    width, height = size
    if width < 1 or height < 1:
        raise BadImage(f"the {name} image is {width} x {height} pixels; expected at least 1 x 1")
    if max(width, height) > MAX_SIDE:
        raise ImageTooLarge(f"the {name} image is {width} x {height} pixels; no side may be longer than {MAX_SIDE}")
    if width * height > limits.max_pixels:
        raise ImageTooLarge(
            f"the {name} image is {width} x {height} = {width * height} pixels; at most {limits.max_pixels} are accepted"
        )


def _reason(err: Exception) -> str:
    """Pillow's own words where they are words: no path, no object's repr, no numbers of its innards."""
    text = str(err)
    if "truncated" in text.lower() or isinstance(err, EOFError | IndexError):
        return "is truncated: the bytes end before the picture does"
    if re.fullmatch(r"[A-Za-z][A-Za-z0-9 ,.'-]{3,80}", text) and "object" not in text:
        return f"cannot be decoded: {text[0].lower()}{text[1:]}"
    return "cannot be decoded: it is damaged or incomplete"
