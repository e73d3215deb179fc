"""What `convq submit --save-maps` writes: image outputs as they came, maps as one labelled grid each."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from convq.protocol import Output, Result

MAP_AXES = 3


class MapSaver:
    """Writes the pictures of results into a folder, which it makes."""

    def __init__(self, folder: Path, asked: Sequence[str], served: Mapping[str, Any]) -> None:
        """`asked` are the outputs that jobs name, `served` is what the service says of the model.

        Raises click.UsageError where there can be no pictures, before anything is submitted.
        """
        self.folder = folder
        self.written = 0
        self._asked = tuple(asked)
        self._channels_last = any(one.get("layout") == "NHWC" for one in served.get("inputs", ()))
        self._names: set[str] = set()
        _check(asked, served)
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise click.UsageError(f"--save-maps: cannot make {folder}: {error.strerror}") from None

    def save(self, file: str, result: Result) -> list[str]:
        """Write what a result holds of pictures and maps; the names of the files, in the order of the outputs."""
        if not result.ok:
            return []
        stem = "stdin" if file == "-" else Path(file).stem
        saved = []
        for output in result.outputs or ():
            content = self._picture(Path(file).name, output)
            if content is None:
                continue
            target = self.folder / self._free_name(f"{stem}.{re.sub(r'[^A-Za-z0-9._-]', '_', output.name)}")
            try:
                target.write_bytes(content)
            except OSError as error:
                raise click.ClickException(f"cannot write {target}: {error.strerror}") from None
            saved.append(str(target))
        self.written += len(saved)
        return saved

    def _picture(self, file: str, output: Output) -> bytes | None:
        """The PNG file for one output; None for what was not asked for and is no map."""
        if output.format is not None:
            return output.png()
        if output.shape is None or len(output.shape) != MAP_AXES:
            if output.name in self._asked:
                raise click.ClickException(_no_map(output.name, output.shape or ()))
            return None
        from convq.inference.mosaic import mosaic  # noqa: PLC0415 - brings numpy and Pillow

        maps = output.array()
        if self._channels_last:
            maps = maps.transpose(2, 0, 1)
        count, height, width = maps.shape
        try:
            return mosaic(maps, f"{output.name} of {file}: {count} maps of {height} x {width}")
        except ValueError as error:
            raise click.ClickException(f"{output.name}: {error}") from None

    def _free_name(self, name: str) -> str:
        """A file name that this run has not written yet: two pictures may be called alike, in two folders."""
        candidate, number = f"{name}.png", 2
        while candidate in self._names:
            candidate, number = f"{name}-{number}.png", number + 1
        self._names.add(candidate)
        return candidate


def _check(asked: Sequence[str], served: Mapping[str, Any]) -> None:
    """Raise click.UsageError where what is asked for, or comes by itself, is no picture and no map."""
    known = {one["name"]: one for one in served.get("outputs", ())}
    for name in asked:
        if name in known and not _may_be_map(known[name]):
            raise click.UsageError(f"--save-maps: {_no_map(name, known[name]['shape'])}")
    come = [one for one in known.values() if one.get("meaning") not in ("classes", "feature_map")]
    if known and not asked and not any(map(_may_be_map, come)):
        maps = [name for name, one in known.items() if one.get("meaning") == "feature_map"]
        there = f"name some with --outputs: {', '.join(maps)}" if maps else "and the model has no feature maps"
        raise click.UsageError(f"--save-maps: this model gives no image and no map by itself; {there}")


def _may_be_map(output: Mapping[str, Any]) -> bool:
    """Whether its shape is that of maps, or not known before a run."""
    return output.get("meaning") == "image" or len(output["shape"]) in (0, MAP_AXES)


def _no_map(name: str, shape: Sequence[int | None]) -> str:
    sides = " x ".join("any" if side is None else str(side) for side in shape) or "one number"
    return f"{name} is no map: its shape is {sides}; expected channels x height x width"
