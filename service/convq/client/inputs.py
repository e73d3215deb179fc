"""From what a caller calls an image to the fields of a job."""

from __future__ import annotations

import os
import stat
import sys
from math import prod
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from convq.client.encoding import png_of
from convq.client.options import shown
from convq.errors import BadField, BadImage, BadTensor, ImageTooLarge, JobError
from convq.protocol import Job

MOST_BYTES = 512 << 20
"""What Redis takes as one value, unless its `proto-max-bulk-len` says otherwise."""
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif"})
"""What is taken for a picture in a folder; a file that is named itself is taken whatever it is called."""
SLOW_BYTES = 1 << 20
"""Copying more than this is worth a thread of its own to a program that must go on meanwhile."""


def job_for(image: Any, options: dict[str, Any]) -> Job:
    """The job for an image: encoded bytes, a path, a PIL image, or an array in the layout of the model's input.

    `options` are fields of the job. Raises BadImage, BadTensor, ImageTooLarge and BadField.
    """
    try:
        return Job.model_validate({**_input(image), **options})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BadField(f"{where or 'job'}: {first['msg'].removeprefix('Value error, ')}") from None


def is_slow(image: Any) -> bool:
    """Whether `job_for` may take long: it encodes a PIL image, reads a file, or copies much."""
    if isinstance(image, bytes):
        return False
    if isinstance(image, str | os.PathLike) or _is_pillow(image):
        return True
    size = getattr(image, "nbytes", None)
    return (size if isinstance(size, int) else sys.getsizeof(image)) > SLOW_BYTES


def _input(image: Any) -> dict[str, Any]:
    if isinstance(image, str | os.PathLike):
        return {"image": contents(image)}
    if hasattr(image, "dtype") and hasattr(image, "shape") and hasattr(image, "tobytes"):
        return _tensor(image)
    if _is_pillow(image):
        return {"image": _bounded(png_of(image), ImageTooLarge, "the image")}
    try:
        view = memoryview(image)
    except TypeError:
        hint = "; give what its read() returns" if hasattr(image, "read") else ""
        raise BadImage(
            f"an image is bytes, a path, a PIL image or a numpy array, not {type(image).__name__}{hint}"
        ) from None
    _check_size(view.nbytes, ImageTooLarge, "the image")
    return {"image": image if isinstance(image, bytes) else view.tobytes()}


def _is_pillow(image: Any) -> bool:
    return hasattr(image, "save") and hasattr(image, "mode") and hasattr(image, "getexif")


def contents(path: str | os.PathLike[Any]) -> bytes:
    """The bytes of a file. Pipes and devices are no files here: reading one may take for ever. Raises BadImage, ImageTooLarge."""
    where = shown(str(path) if isinstance(path, Path) else path)
    try:
        # A pipe that nobody writes to would hold a plain open().
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
        try:
            found = os.fstat(handle)
            if stat.S_ISDIR(found.st_mode):
                raise BadImage(f"cannot read {where}: it is a folder")
            if not stat.S_ISREG(found.st_mode):
                raise BadImage(f"cannot read {where}: it is no regular file; give its bytes")
            _check_size(found.st_size, ImageTooLarge, f"the file {where}")
            with os.fdopen(handle, "rb", closefd=False) as file:
                return _bounded(file.read(MOST_BYTES + 1), ImageTooLarge, f"the file {where}")
        finally:
            os.close(handle)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        hint = "; text is taken for a path, an image itself is bytes" if isinstance(path, str) else ""
        raise BadImage(f"cannot read {where}: {reason}{hint}") from None


def _tensor(array: Any) -> dict[str, Any]:
    name = getattr(array.dtype, "name", None)
    if name not in ("uint8", "float32") or array.dtype.byteorder == ">":
        raise BadTensor(
            f"an array must be uint8 or little-endian float32, not {array.dtype}; convert it with .astype()"
        )
    shape = [int(side) for side in array.shape]
    if not prod(shape) or not shape:
        raise BadTensor(
            f"an array must have the shape of the model's input, without the batch axis, not {tuple(shape)}"
        )
    _check_size(prod(shape) * (1 if name == "uint8" else 4), BadTensor, "the array")
    return {"tensor": array.tobytes(), "dtype": name, "shape": ",".join(map(str, shape))}


def _bounded(data: bytes, error: type[JobError], what: str) -> bytes:
    _check_size(len(data), error, what)
    return data


def _check_size(size: int, error: type[JobError], what: str) -> None:
    if size > MOST_BYTES:
        raise error(f"{what} has {size} bytes; Redis takes at most {MOST_BYTES} as one value")


def within_trace(options: dict[str, Any]) -> dict[str, Any]:
    """The options with the `traceparent` of the caller's current OpenTelemetry span, unless one was given.

    Nothing is imported for it: where the program has not imported OpenTelemetry there is no span.
    """
    api = sys.modules.get("opentelemetry.trace")
    if api is None or "traceparent" in options:
        return options
    span = api.get_current_span().get_span_context()
    if not span.is_valid:
        return options
    return {**options, "traceparent": f"00-{span.trace_id:032x}-{span.span_id:016x}-{span.trace_flags:02x}"}
