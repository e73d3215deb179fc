"""From what a caller calls an image to the fields of a job."""

from __future__ import annotations

import io
import os
import sys
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from convq.errors import BadField, BadImage, BadTensor
from convq.protocol import Job


def job_for(image: Any, options: dict[str, Any]) -> Job:
    """The job for an image: encoded bytes, a path, a PIL image, or an array in the layout of the model's input."""
    try:
        return Job.model_validate({**_input(image), **options})
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise BadField(f"{where or 'job'}: {first['msg'].removeprefix('Value error, ')}") from None


def _input(image: Any) -> dict[str, Any]:
    if isinstance(image, bytes | bytearray | memoryview):
        return {"image": bytes(image)}
    if isinstance(image, str | os.PathLike):
        try:
            return {"image": Path(image).read_bytes()}
        except OSError as error:
            raise BadImage(f"cannot read {os.fspath(image)}: {error.strerror}") from None
    if hasattr(image, "dtype") and hasattr(image, "shape") and hasattr(image, "tobytes"):
        return _tensor(image)
    if hasattr(image, "save") and hasattr(image, "mode"):
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        return {"image": buffer.getvalue()}
    raise BadImage(f"an image is bytes, a path, a PIL image or a numpy array, not {type(image).__name__}")


def _tensor(array: Any) -> dict[str, Any]:
    if array.dtype.name not in ("uint8", "float32") or array.dtype.byteorder == ">":
        raise BadTensor(
            f"an array must be uint8 or little-endian float32, not {array.dtype}; convert it with .astype()"
        )
    return {"tensor": array.tobytes(), "dtype": array.dtype.name, "shape": ",".join(str(n) for n in array.shape)}


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


def options_of(**given: Any) -> dict[str, Any]:
    """The fields of a job that the caller did give; `outputs` may be a list of names."""
    outputs = given.get("outputs")
    if outputs is not None and not isinstance(outputs, str):
        given["outputs"] = ",".join(outputs)
    return {name: value for name, value in given.items() if value is not None}
