"""The user's own pictures and what they show: a folder of folders, or a CSV file. Reads names, not pictures."""

from __future__ import annotations

import csv
import os
import stat
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from convq.client.inputs import SUFFIXES
from convq.errors import BadDataset

ARRAY: Final = ".npy"
"""A tensor in NumPy's file format, for models of tensors."""
PATHS: Final = frozenset(
    ["path", "file", "filename", "file_name", "filepath", "file_path", "image", "image_path", "picture"]
)
LABELS: Final = frozenset(["label", "class", "classname", "class_name", "category", "target"])
"""Names of the two columns, in whatever case."""
_SHOWN: Final = 5


@dataclass(slots=True)
class Dataset:
    """Pictures in a fixed order, and the name of the class of each."""

    root: Path
    """What names are relative to."""
    names: list[str] = field(default_factory=list)
    labels: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    """What lies there and is not counted, in words."""

    def __len__(self) -> int:
        return len(self.names)

    def add(self, name: str, label: str) -> None:
        """One more picture."""
        self.names.append(name)
        self.labels.append(label)

    def path(self, number: int) -> Path:
        """Where a picture lies."""
        return self.root / self.names[number]


def read_dataset(where: Path) -> Dataset:
    """A folder whose folders are classes, at any depth below them, or a CSV file with a path and a class in each line.

    Links are followed. Raises BadDataset where that cannot be read, and where there are no pictures.
    """
    try:
        is_folder = stat.S_ISDIR(where.stat().st_mode)
    except OSError as error:
        raise BadDataset(f"{where}: {error.strerror}") from None
    return _of_folder(where) if is_folder else _of_csv(where)


# -- a folder of folders -------------------------------------------------------------------------------------------------


def _of_folder(root: Path) -> Dataset:
    dataset, passed = Dataset(root), _Passed()
    for name, is_folder in _entries(root):
        if not is_folder:
            passed.beside(name)
            continue
        before = len(dataset)
        for file in _files(root / name):
            if _is_picture(file):
                dataset.add(f"{name}/{file}", name)
            else:
                passed.other(file)
        if len(dataset) == before:
            passed.empty.append(name)
    if not len(dataset):
        found = (
            f"{passed.stray} pictures lie in it, in no folder that says their class"
            if passed.stray
            else "there are no pictures"
        )
        raise BadDataset(
            f"{root}: {found}; expected {root}/CLASS/picture.png, or a CSV file with a path and a class a line"
        )
    dataset.notes += passed.notes()
    return dataset


@dataclass(slots=True)
class _Passed:
    """What is in a folder and does not count."""

    stray: int = 0
    """Pictures beside the folders."""
    empty: list[str] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)

    def beside(self, name: str) -> None:
        if _is_picture(name):
            self.stray += 1
        else:
            self.other(name)

    def other(self, file: str) -> None:
        self.others[Path(file).suffix or file] += 1

    def notes(self) -> Iterator[str]:
        if self.stray:
            yield f"pictures beside the folders have no class and do not count: {self.stray}"
        if self.empty:
            more = f" and {len(self.empty) - _SHOWN} more" if len(self.empty) > _SHOWN else ""
            yield f"no pictures in {', '.join(self.empty[:_SHOWN])}{more}"
        if self.others:
            kinds = ", ".join(f"{kind} ({count})" for kind, count in self.others.most_common(_SHOWN))
            yield f"other files do not count: {kinds}{', …' if len(self.others) > _SHOWN else ''}"


def _files(folder: Path) -> Iterator[str]:
    """Every file below a folder, relative to it, in a fixed order; a link back to a folder above leads nowhere."""
    waiting = [("", frozenset[tuple[int, int]]())]
    while waiting:
        inner, above = waiting.pop()
        at = folder / inner
        here = _identity(at)
        if here in above:
            continue
        folders = []
        for name, is_folder in _entries(at):
            way = f"{inner}/{name}" if inner else name
            if is_folder:
                folders.append((way, above | {here}))
            else:
                yield way
        waiting += reversed(folders)


def _entries(folder: Path) -> Sequence[tuple[str, bool]]:
    """Names that are not hidden, in order, and whether each is a folder. Raises BadDataset: half a folder is none."""
    try:
        with os.scandir(folder) as found:
            return sorted((one.name, one.is_dir()) for one in found if not one.name.startswith("."))
    except OSError as error:
        raise BadDataset(f"{folder}: cannot be read: {error.strerror}") from None


def _identity(folder: Path) -> tuple[int, int]:
    try:
        found = folder.stat()
    except OSError as error:
        raise BadDataset(f"{folder}: cannot be read: {error.strerror}") from None
    return found.st_dev, found.st_ino


def _is_picture(name: str) -> bool:
    return Path(name).suffix.lower() in SUFFIXES or name.lower().endswith(ARRAY)


# -- a CSV file ----------------------------------------------------------------------------------------------------------


def _of_csv(file: Path) -> Dataset:
    dataset = Dataset(file.parent)
    try:
        with file.open(encoding="utf-8-sig", newline="") as lines:
            first = lines.readline()
            lines.seek(0)
            rows = csv.reader(lines, delimiter=_delimiter(file, first), skipinitialspace=True, strict=True)
            _read_rows(file, rows, dataset)
    except OSError as error:
        raise BadDataset(f"{file}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise BadDataset(f"{file}: is no UTF-8 text; expected a folder of folders, or lines of path,label") from None
    if not len(dataset):
        raise BadDataset(f"{file}: names no pictures; expected a path and a class in each line")
    return dataset


def _delimiter(file: Path, first: str) -> str:
    if file.suffix.lower() == ".tsv":
        return "\t"
    return next((sign for sign in ",;\t" if sign in first), ",")


def _read_rows(file: Path, rows: Any, dataset: Dataset) -> None:
    columns: tuple[int, int] | None = None
    wide = 0
    interned: dict[str, str] = {}
    try:
        for row in rows:
            cells = [cell.strip() for cell in row]
            if not any(cells):
                continue
            where = f"{file}, line {rows.line_num}"
            if columns is None:
                columns, is_header = _columns(cells, where)
                wide = len(cells)
                if is_header:
                    continue
            if len(cells) != wide:
                raise BadDataset(f"{where}: has {len(cells)} cells; the first line has {wide}")
            path, label = (cells[column] for column in columns)
            if not path or not label or "\0" in path:
                raise BadDataset(f"{where}: {'the path' if not path or label else 'the class'} is missing or no text")
            dataset.add(path, interned.setdefault(label, label))
    except csv.Error as error:
        raise BadDataset(f"{file}, line {rows.line_num}: {error}") from None


def _columns(cells: Sequence[str], where: str) -> tuple[tuple[int, int], bool]:
    """Which column holds the path and which the class, and whether the first line only says so."""
    names = [cell.casefold() for cell in cells]
    paths = [i for i, name in enumerate(names) if name in PATHS]
    labels = [i for i, name in enumerate(names) if name in LABELS]
    if paths and labels:
        return (paths[0], labels[0]), True
    if len(cells) != 2:  # noqa: PLR2004
        raise BadDataset(
            f"{where}: has {len(cells)} cells; expected a path and a class, or a line that names the columns path and label"
        )
    return (0, 1), False
