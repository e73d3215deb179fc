"""What `convq submit` writes into folders: answers drawn, image outputs, maps as one grid each, what the network was given."""

from __future__ import annotations

import re
import tempfile
import warnings
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import click

from convq.cli.display.drawing import draw, npy
from convq.cli.display.output import print_line
from convq.detected import Output
from convq.errors import BadField, BadImage
from convq.host.extras import install_packages
from convq.protocol import PREPARED, Result

MAP_AXES = 3
MAPS = ("matte", "depth")
"""Meanings of outputs that every job gets as a picture, whatever it names."""
UNASKED = ("classes", "feature_map", "detections", "segments", "embedding", "text", "keypoints", "value", *MAPS)
"""Meanings of outputs whose numbers no job gets unless it names them."""
NAMED = 10
"""Pictures of which is said why they were not drawn; the others are counted."""


def saving_options(command: Any) -> Any:
    """`--save`, `--font`, `--save-maps`, `--save-input`, `--npy`."""
    folder, file = click.Path(file_okay=False, path_type=Path), click.Path(exists=True, dir_okay=False, path_type=Path)
    texts = {
        "--save": "Draw each answer on its upright picture there (PNG); needs Pillow.",
        "--save-maps": "Write image outputs there, and each set of maps as one grid of tiles (PNG).",
        "--save-input": "Write what the network was given there, as DIR/<job id>.png.",
    }
    drawn, maps, inputs = (click.option(flag, metavar="DIR", type=folder, help=text) for flag, text in texts.items())
    font = click.option("--font", metavar="FILE", type=file, help="With --save: a TrueType font for labels and text.")
    arrays = click.option("--npy", is_flag=True, help="With --save-input: the array as DIR/<job id>.npy too.")
    for option in (arrays, inputs, maps, font, drawn):
        command = option(command)
    return command


class PictureSaver:
    """Writes each answer, drawn on its picture, into a folder, which it makes: DIR/street.png for street.jpg.

    A drawing is written over an older one, and over nothing else.
    """

    def __init__(self, folder: Path, files: Collection[str], served: Mapping[str, Any], font: Path | None) -> None:
        """`files` are all pictures of the run, whatever they were once; `served` is what the service says of the model.

        Raises click.UsageError where there can be no drawings, before anything is submitted.
        """
        try:
            from convq import drawing  # noqa: PLC0415 - the base install has no Pillow
        except ModuleNotFoundError as error:
            if error.name != "PIL":
                raise
            how = install_packages("pillow")
            raise click.UsageError(f"--save needs Pillow, as the extra cpu brings it: {how}") from None
        try:
            drawing.check_font(font)
        except BadField as error:
            raise click.UsageError(f"--font: {error}") from None
        self.folder = folder
        self.written = 0
        self.trouble = ""
        """Why nothing more is written: answers are shown all the same."""
        self._drawing, self._served, self._font = drawing, served, font
        self._names: set[str] = set()
        self._originals = {Path(one).resolve() for one in files if one != "-"}
        self._undrawn: list[str] = []
        make_folder(folder, "--save")

    def save(self, file: str, picture: Callable[[], Any], result: Result) -> str | None:
        """Draw one answer on what `picture` gives; the name of the file. None where nothing was drawn, or nothing could be written."""
        if not result.ok or self.trouble:
            return None
        try:
            content = self._drawn(picture(), result)
        except (BadImage, BadField, ValueError, OSError, click.ClickException) as error:
            self._undrawn.append(f"{file} is not drawn: {error}")
            return None
        stem = "stdin" if file == "-" else Path(file).stem
        target = self.folder / free_name(stem, self._names, self._is_others)
        try:
            write_whole(target, content)
        except OSError as error:
            self.trouble = f"cannot write {target}: {error.strerror}"
            return None
        self.written += 1
        return str(target)

    def _drawn(self, picture: Any, result: Result) -> bytes:
        """The PNG file."""
        document = result.model_dump(mode="json", exclude_none=True, by_alias=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, about oddities of the file
            drawn = self._drawing.draw(document, picture, self._served, self._font)
        return self._drawing.png_of(drawn)

    def _is_others(self, name: str) -> bool:
        """Whether there is a file of that name that must stay, wherever links lead."""
        target = self.folder / name
        return target.resolve() in self._originals or (target.exists() and not self._drawing.is_drawing(target))

    def summary(self) -> str:
        """What a person wants to know after the table."""
        return f"{self.written} picture{'' if self.written == 1 else 's'} drawn into {self.folder}"

    def say_what_was_not_drawn(self) -> None:
        """On standard error, once all is done."""
        for line in self._undrawn[:NAMED]:
            print_line(line, err=True)
        if len(self._undrawn) > NAMED:
            print_line(f"and {len(self._undrawn) - NAMED} more are not drawn", err=True)


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
        self._given = {one["name"] for one in served.get("outputs", ())}
        _check(asked, served)
        make_folder(folder, "--save-maps")

    def save(self, file: str, result: Result) -> list[str]:
        """Write what a result holds of pictures and maps; the names of the files, in the order of the outputs."""
        if not result.ok:
            return []
        stem = "stdin" if file == "-" else Path(file).stem
        saved = []
        for output in result.outputs or ():
            if output.name == PREPARED and PREPARED not in self._given:
                continue
            content = self._picture(Path(file).name, output)
            if content is None:
                continue
            target = self.folder / free_name(f"{stem}.{re.sub(r'[^A-Za-z0-9._-]', '_', output.name)}", self._names)
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
        from convq.engine.mosaic import mosaic  # noqa: PLC0415 - brings numpy and Pillow

        maps = output.array()
        if self._channels_last:
            maps = maps.transpose(2, 0, 1)
        count, height, width = maps.shape
        try:
            return mosaic(maps, f"{output.name} of {file}: {count} maps of {height} x {width}")
        except ValueError as error:
            raise click.ClickException(f"{output.name}: {error}") from None

    def summary(self) -> str:
        """What a person wants to know after the table."""
        return f"{self.written} file{'' if self.written == 1 else 's'} written to {self.folder}"


class InputSaver:
    """Writes what the network was given for each job: DIR/<job id>.png, and DIR/<job id>.npy where that is wanted.

    That is the job's output `prepared`: a copy of what the worker put into the batch, not made again by anybody.
    """

    def __init__(self, folder: Path, served: Mapping[str, Any], *, arrays: bool) -> None:
        """`served` is what the service says of the model. Raises click.UsageError before anything is submitted."""
        self.folder = folder
        self.written = 0
        self.stretched = 0
        self.trouble = ""
        """Why nothing more is written: answers are shown all the same."""
        self._arrays = arrays
        self._input: Mapping[str, Any] = next(iter(served.get("inputs", ())), {})
        if any(one["name"] == PREPARED for one in served.get("outputs", ())):
            raise click.UsageError(
                f"--save-input: this model has an output {PREPARED} of its own, which hides its input"
            )
        make_folder(folder, "--save-input")

    def save(self, result: Result) -> dict[str, Any] | None:
        """Write the input of one job; which files that are, and how it is drawn. None where there is none."""
        output = next((one for one in result.outputs or () if one.name == PREPARED), None)
        if output is None or self.trouble:
            return None
        drawing = draw(output, self._input)
        said: dict[str, Any] = {"dtype": output.dtype, "shape": output.shape}
        try:
            if drawing is not None:
                said["png"] = self._write(f"{result.id}.png", drawing.png)
                said |= {"drawn": "levels" if drawing.levels else "stretched", "low": drawing.low, "high": drawing.high}
                self.stretched += not drawing.levels
            if self._arrays or drawing is None:
                said["npy"] = self._write(f"{result.id}.npy", npy(output))
        except OSError as error:
            self.trouble = f"cannot write {self.folder / result.id}.*: {error.strerror}"
            return None
        return said

    def _write(self, name: str, content: bytes) -> str:
        target = self.folder / name
        write_whole(target, content)
        self.written += 1
        return str(target)

    def summary(self) -> str:
        """What a person wants to know after the table."""
        files = f"{self.written} file{'' if self.written == 1 else 's'}"
        text = f"{files} with what the network was given written to {self.folder}"
        if self.stretched:
            text += f"\n{self.stretched} of the pictures show no levels from 0 to 255, but lowest to highest value"
        return text


def free_name(stem: str, taken: set[str], is_others: Callable[[str], bool] = lambda _: False) -> str:
    """A name for a PNG file that this run has not given yet, and adds it: two pictures may be called alike, in two folders.

    Names that differ by case alone are one on some systems. `is_others` says of which there are files that must stay.
    """
    name, number = f"{stem}.png", 2
    while name.lower() in taken or is_others(name):
        name, number = f"{stem}-{number}.png", number + 1
    taken.add(name.lower())
    return name


def write_whole(target: Path, content: bytes) -> None:
    """All of the file or nothing of it. Raises OSError."""
    try:
        target.write_bytes(content)
    except OSError:
        with suppress(OSError):
            target.unlink()
        raise


def make_folder(folder: Path, flag: str) -> None:
    """Make the folder and see that files can be written there. Raises click.UsageError."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise click.UsageError(f"{flag}: cannot make {folder}: {error.strerror}") from None
    try:
        with tempfile.TemporaryFile(dir=folder) as proof:
            proof.write(b"\0")
    except OSError as error:
        raise click.UsageError(f"{flag}: cannot write into {folder}: {error.strerror}") from None


def _check(asked: Sequence[str], served: Mapping[str, Any]) -> None:
    """Raise click.UsageError where what is asked for, or comes by itself, is no picture and no map."""
    known = {one["name"]: one for one in served.get("outputs", ())}
    for name in asked:
        if name in known and not _may_be_map(known[name]):
            raise click.UsageError(f"--save-maps: {_no_map(name, known[name]['shape'])}")
    come = [one for one in known.values() if one.get("meaning") in MAPS or one.get("meaning") not in UNASKED]
    if known and not asked and not any(map(_may_be_map, come)):
        maps = [name for name, one in known.items() if one.get("meaning") == "feature_map"]
        there = f"name some with --outputs: {', '.join(maps)}" if maps else "and the model has no feature maps"
        raise click.UsageError(f"--save-maps: this model gives no image and no map by itself; {there}")


def _may_be_map(output: Mapping[str, Any]) -> bool:
    """Whether its shape is that of maps, or not known before a run."""
    return output.get("meaning") in ("image", *MAPS) or len(output["shape"]) in (0, MAP_AXES)


def _no_map(name: str, shape: Sequence[int | None]) -> str:
    sides = " x ".join("any" if side is None else str(side) for side in shape) or "one number"
    return f"{name} is no map: its shape is {sides}; expected channels x height x width"
