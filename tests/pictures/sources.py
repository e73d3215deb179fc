"""All files of the sweep, made once a session."""

from __future__ import annotations

from functools import cache

from pictures import gifs, photos, pngs, tiffs
from pictures.cases import Case

SOURCES = {"TIFF": tiffs.every, "PNG": pngs.every, "GIF and BMP": gifs.every, "JPEG, WebP and AVIF": photos.every}


@cache
def cases_of(source: str) -> tuple[Case, ...]:
    """The files of one of SOURCES."""
    return tuple(SOURCES[source]())


def sound(kind: str, count: int) -> list[Case]:
    """`count` files of a format that can be read, evenly taken from all there are."""
    every = [case for source in SOURCES if kind in source for case in cases_of(source)]
    readable = [case for case in every if case.kind == kind and case.expected is not None]
    return readable[:: max(1, len(readable) // count)]
