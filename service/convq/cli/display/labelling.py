"""`convq submit --format`: detections for labelling tools, on standard output or, for YOLO, as a file for each picture."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any, Final, NamedTuple

import click

from convq.cli.display.output import print_line, write_file_text
from convq.cli.saving import make_folder, write_whole
from convq.client.labelling import NAMES, STREAMS, yolo
from convq.protocol import Result

CLASSES: Final = "classes.txt"
"""Beside YOLO's files: the names of the classes, one a line."""
_TAKES_MASKS: Final = {"coco": ("rle", "polygon", "none"), "labelstudio": ("polygon", "none")}


class Given(NamedTuple):
    """One picture that is submitted."""

    name: str
    """As a user calls it."""
    within: str
    """Its path within the folder that was given, or the last part of its own."""
    known_as: str
    """What labelling tools are told."""


def format_option(command: Any) -> Any:
    """`--format`."""
    text = "Write detections for labelling tools, of upright pictures; yolo goes into the DIR of --save."
    return click.option("--format", type=click.Choice(NAMES), help=text)(command)


class LabelWriter:
    """Writes the detections of one run in the words of a labelling tool; what is left out is said on standard error."""

    def __init__(
        self,
        given: Mapping[str, Any],
        pictures: Sequence[Given],
        model: str,
        served: Mapping[str, Any],
        options: dict[str, Any],
    ) -> None:
        """`given` are the flags of the command, `served` is what the service says of the model.

        Adds to the `options` of the jobs which masks are wanted. Raises click.UsageError before anything is submitted.
        """
        self._kind: str = given["format"]
        self._folder: Path | None = None
        self._described: Mapping[str, Any] = served.get("answers", {}).get("detections", {})
        self._is_turned = _turned()
        self._failed = 0
        if served and not self._described:
            raise click.UsageError(f"--format: {model} is no detector; `convq models show {model}` says what it yields")
        taken = _TAKES_MASKS.get(self._kind, ("none",))
        if given["masks"] is not None and given["masks"] not in taken:
            raise click.UsageError(
                f"--format {self._kind} takes no masks as {given['masks']}; it takes {', '.join(taken)}"
            )
        if self._kind == "yolo":
            self._folder = _folder_of(given["save"], pictures)
        is_drawn = given["save"] is not None and self._folder is None
        if given["masks"] is None and not is_drawn and taken[0] != "rle":
            options["format"] = "none"

    def write(self, answers: Iterable[tuple[Given, Result]]) -> int:
        """Write all that is ok, and return how many jobs were not. Raises ClickException where that cannot be written."""
        whole = self._ok(answers)
        if self._folder is not None:
            self._write_files(self._folder, whole)
        else:
            told = ((one.known_as, result) for one, result in whole)
            for text in STREAMS[self._kind](told, self._described):
                write_file_text(text)
        return self._failed

    def _write_files(self, folder: Path, answers: Iterable[tuple[Given, Result]]) -> None:
        count = 0
        # what the service says of the model has only the first labels, where they are long; answers have those that were found
        names = {index: str(label) for index, label in enumerate(self._described.get("labels", ()))}
        for one, result in answers:
            _write(folder / _label_file(one), yolo(result))
            names |= {found.index: found.label for found in result.detections or () if found.index not in names}
            count += 1
        every = (names.get(index, f"#{index}") for index in range(max(names, default=-1) + 1))
        _write(folder / CLASSES, "".join(f"{name}\n" for name in every))
        print_line(f"{count} file{'' if count == 1 else 's'} with labels, and {CLASSES}, written to {folder}", err=True)

    def _ok(self, answers: Iterable[tuple[Given, Result]]) -> Iterator[tuple[Given, Result]]:
        """Those with an answer; of the others, and of what tools may show otherwise, a line."""
        for one, result in answers:
            if not result.ok or result.detections is None:
                self._failed += 1
                why = "its answer has no detections" if result.ok else result.explain()
                print_line(f"{one.name} is not in the output: {why}", err=True)
                continue
            if result.truncated:
                print_line(f"{one.name}: there was more than its answer holds; see --max-detections", err=True)
            if Path(one.name).is_file() and self._is_turned(Path(one.name)):
                turned = "is turned by its EXIF orientation: its labels are those of the upright picture"
                print_line(f"{one.name} {turned}, which not every tool shows", err=True)
            yield one, result


def _turned() -> Callable[[Path], bool]:
    """What tells pictures with an orientation; where there is no Pillow, that nobody looks for them is said once."""
    try:
        from convq.drawing import is_turned  # noqa: PLC0415 - the base install has no Pillow
    except ModuleNotFoundError as error:
        if error.name != "PIL":
            raise
        print_line("without Pillow, pictures that their EXIF orientation turns are not named", err=True)
        return lambda _: False
    return is_turned


def _write(target: Path, text: str) -> None:
    """Raises ClickException."""
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_whole(target, text.encode())
    except OSError as error:
        raise click.ClickException(f"cannot write {target}: {error.strerror}") from None


def _label_file(one: Given) -> str:
    return PurePosixPath(one.within).with_suffix(".txt").as_posix()


def _folder_of(folder: Path | None, pictures: Sequence[Given]) -> Path:
    """Where YOLO's files go. Raises click.UsageError where two pictures would have one file, or one is there already."""
    if folder is None:
        raise click.UsageError("--format yolo writes a file for each picture: give --save DIR")
    counts = Counter([_label_file(one).lower() for one in pictures] + [CLASSES])
    name, count = counts.most_common(1)[0]
    if count > 1:
        alike = ", ".join(one.name for one in pictures if _label_file(one).lower() == name)
        raise click.UsageError(f"--format yolo: more than one file would be called {name}: {alike}; submit them apart")
    there = [name for name in (CLASSES, *map(_label_file, pictures)) if (folder / name).exists()]
    if there:
        more = f" and {len(there) - 1} more" if len(there) > 1 else ""
        raise click.UsageError(f"--format yolo: {folder / there[0]}{more} is there already: no labels are written over")
    make_folder(folder, "--save")
    return folder
