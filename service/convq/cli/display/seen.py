"""What a network saw in one picture besides its best class, at the command line: tables and lines for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from convq.cli.display.detections import print_detections
from convq.cli.display.output import print_facts, print_line, print_table
from convq.protocol import Result

_FIRST: Final = 4
"""Numbers of a vector that are shown where they are there as such."""
_SCORED: Final = 3
"""Numbers of a point with a score."""
KEYS: Final = ("heads", "segments", "text", "embedding", "keypoints", "values")
"""Of a document."""


def is_seen(result: Result) -> bool:
    """Whether there is anything to be shown of it but a class and outputs."""
    return result.detections is not None or bool(seen_in(result).keys() & {*KEYS})


def seen_in(result: Result) -> dict[str, Any]:
    """What a result says of that, as its document does."""
    included = {*KEYS, "predictions", "text_score", "vector"}
    return result.model_dump(mode="json", exclude_none=True, by_alias=True, include=included)


def print_result(result: Result, drawn: str = "") -> None:
    """All of it, and how long it took; `drawn` is the file with the drawing."""
    print_seen(seen_in(result))
    if result.detections is not None:
        print_detections(result, drawn)
    else:
        print_line(f"in {result.timing_ms.total:.1f} ms{f' · {drawn}' if drawn else ''}")


def print_seen(said: Mapping[str, Any]) -> None:
    """A table for each head, classes of pixels and points, lines for the rest; `said` has keys of a document."""
    for output, ranked in (said.get("heads") or {"label": said.get("predictions", ())}).items():
        rows = [[one["label"], str(one["index"]), f"{one['score']:.1%}"] for one in ranked]
        if rows:
            print_table([output, ">index", ">score"], rows)
    if "segments" in said:
        found = said["segments"]["classes"]
        print_table(
            ["label", ">index", ">share"], [[one["label"], str(one["index"]), f"{one['share']:.1%}"] for one in found]
        )
    if "keypoints" in said:
        print_table([">point", ">x", ">y", ">score"], [_point(*one) for one in enumerate(said["keypoints"])])
    print_facts(_facts(said))


def _facts(said: Mapping[str, Any]) -> dict[str, str]:
    facts = {name: f"{value:.7g}" for name, value in said.get("values", {}).items()}
    if "text" in said:
        facts |= {"text": said["text"], "score": f"{said['text_score']:.1%}"}
    if "segments" in said:
        facts["class map"] = f"{said['segments']['width']} x {said['segments']['height']} pixels"
    if "embedding" in said:
        facts["embedding"] = _vector(said["embedding"])
    return facts


def _vector(said: Mapping[str, Any]) -> str:
    first = " ".join(f"{one:.6g}" for one in said.get("values", ())[:_FIRST])
    length = ", of length 1" if said["normalized"] else ""
    return f"{said['size']} numbers{length}" + (f": {first}{' …' * (said['size'] > _FIRST)}" if first else "")


def _point(number: int, place: Sequence[float]) -> list[str]:
    score = f"{place[2]:.4g}" if len(place) == _SCORED else ""
    return [str(number), f"{place[0]:.1f}", f"{place[1]:.1f}", score]
