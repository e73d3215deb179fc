"""What `convq submit` says of an answer in one row of a table, and of the outputs in it."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any, Final

from convq.detected import Output
from convq.printable import printable
from convq.protocol import Result

NUMBERS: Final = 8
CODES: Final = {
    "float16": "e",
    "float32": "f",
    "float64": "d",
    "bool": "?",
    "int8": "b",
    "uint8": "B",
    "int16": "h",
    "uint16": "H",
    "int32": "i",
    "uint32": "I",
    "int64": "q",
    "uint64": "Q",
}
"""dtype -> the letter of `struct`."""


COLUMNS: Final = ("class", ">score", "outputs", "input", ">ms")


def cells(result: Result, saved: Mapping[str, Any]) -> list[str]:
    """A cell for each of `COLUMNS`: what it is or what went wrong, score, outputs, the file with the input, milliseconds."""
    given = saved.get("input", {})
    best = result.predictions[0] if result.ok and result.predictions else None
    first = [best.label, f"{best.score:.1%}"] if best else [said(result) if result.ok else result.explain(), ""]
    return [
        *first,
        "\n".join(printable(summary(one)) for one in result.outputs or ()),
        Path(given.get("png") or given.get("npy") or "").name,
        f"{result.timing_ms.total:.1f}",
    ]


def said(result: Result) -> str:
    """What was found, read or measured, in a few words; empty where the outputs say it."""
    return result.counted() if result.detections is not None else result.told()


def summary(output: Output) -> str:
    """Name, type and size of an output, and the first of its numbers where these are in a row."""
    if output.format is not None:
        width, height = struct.unpack(">II", output.png()[16:24])  # where a PNG says so
        return f"{output.name} {output.format} {width}x{height}"
    said = f"{output.name} {output.dtype} {'x'.join(map(str, output.shape or ())) or 'number'}"
    numbers = _numbers(output)
    return f"{said}: {numbers}" if numbers else said


def _numbers(output: Output) -> str:
    """Up to NUMBERS numbers, with an ellipsis where there are more; nothing of pictures, maps and types of another kind."""
    shape, code = output.shape or (), CODES.get(output.dtype or "")
    if code is None or sum(side != 1 for side in shape) > 1:
        return ""
    first = struct.unpack(
        f"<{min(prod(shape), NUMBERS)}{code}", output.bytes()[: min(prod(shape), NUMBERS) * struct.calcsize(code)]
    )
    return " ".join(f"{number:.6g}" if isinstance(number, float) else str(number) for number in first) + (
        " …" if prod(shape) > NUMBERS else ""
    )
