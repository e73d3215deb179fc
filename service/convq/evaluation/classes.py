"""Which class of the model a name in the user's data means. A name that means none, or two, ends it: nothing is guessed."""

from __future__ import annotations

import difflib
import re
import unicodedata
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

from convq.errors import BadDataset

SYNSET: Final = re.compile(r"n[0-9]{8}")
"""WordNet's names of classes, as ImageNet's folders have them."""
_SHOWN: Final = 5


def read_names(file: Path, labels: Sequence[str]) -> list[str]:
    """The names that the user's data has for the classes, a line each in the model's order. Raises BadDataset."""
    try:
        names = file.read_text(encoding="utf-8-sig").splitlines()
    except OSError as error:
        raise BadDataset(f"{file}: cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise BadDataset(f"{file}: is no UTF-8 text") from None
    while names and not names[-1].strip():
        names.pop()
    if len(names) != len(labels):
        raise BadDataset(
            f"{file}: has {len(names)} names; the model has {len(labels)} classes, in whose order they stand"
        )
    return names


def resolve(wanted: Iterable[str], names: Sequence[str], model: str) -> tuple[dict[str, int], list[str]]:
    """The index of each wanted name, and remarks on names that were taken for others. Raises BadDataset.

    `names` are those of the classes, in order. A name is, in this order: a class, written alike but for the form of Unicode;
    the WordNet id with which a class begins; a class but for case, `_` and `-`; the index of a class, where no class has a number
    for its name.
    """
    exact, loose, synsets = (defaultdict[str, list[int]](list) for _ in range(3))
    for index, name in enumerate(names):
        exact[_form(name)].append(index)
        loose[_fold(name)].append(index)
        if SYNSET.match(name):
            synsets[name.split()[0]].append(index)
    numbers = not any(name.strip().isdecimal() for name in names)
    found: dict[str, int] = {}
    remarks: list[str] = []
    unknown: list[str] = []
    for name in sorted(set(wanted)):
        meant = exact.get(_form(name)) or synsets.get(name) or loose.get(_fold(name)) or []
        if not meant and numbers and name.isascii() and name.isdecimal() and int(name) < len(names):
            meant = [int(name)]
        if len(meant) > 1:
            raise BadDataset(f"{name!r} names {len(meant)} classes of {model}, {meant[0]} and {meant[1]}; {_WAY_OUT}")
        if not meant:
            unknown.append(name)
            continue
        found[name] = meant[0]
        if _form(name) != _form(names[meant[0]]):
            remarks.append(f"{name} is taken for class {meant[0]}, {names[meant[0]]}")
    if unknown:
        raise BadDataset(_refusal(unknown, names, model, hopeless=not found))
    return found, remarks


_WAY_OUT: Final = "--classes FILE says what your data calls them, a line each in the model's order"


def _refusal(unknown: Sequence[str], names: Sequence[str], model: str, *, hopeless: bool) -> str:
    folded = {_fold(name): name for name in names}
    said = []
    for name in unknown[:_SHOWN]:
        near = difflib.get_close_matches(_fold(name), folded, n=1)
        said.append(repr(name) + (f" (did you mean {folded[near[0]]!r}?)" if near else ""))
    more = f" and {len(unknown) - _SHOWN} more" if len(unknown) > _SHOWN else ""
    few = ", ".join(names[: 2 * _SHOWN]) + (", …" if len(names) > 2 * _SHOWN else "")
    text = f"no class of {model}: {', '.join(said)}{more}; it has {len(names)}: {few}"
    if hopeless and not all(map(SYNSET.fullmatch, unknown)):
        text += "; a class is a folder right below the one that was named, or stands in the CSV file"
    return f"{text}; {_WAY_OUT}" if hopeless else text


def _form(name: str) -> str:
    """Alike for a name as macOS writes it into a file system, and as an editor does."""
    return unicodedata.normalize("NFC", name.strip())


def _fold(name: str) -> str:
    return " ".join(_form(name).casefold().replace("_", " ").replace("-", " ").split())
