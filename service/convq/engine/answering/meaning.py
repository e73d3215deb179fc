"""What an output means, as the manifest says it of one: how its shape is looked at, and what a job is told of it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Final, Literal, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from convq.answers.embedding import EmbeddingFormat
from convq.answers.masks import MaskFormat
from convq.engine.answering.frame import Frame
from convq.repository.manifest import Output

MasksAsked = MaskFormat | Literal["none"]
Sides = Sequence[int | None]
"""A shape without the batch axis; None is a side that is not known before a run."""

LONGEST_ESCAPE: Final = 6
"""Bytes that one character of a label may become in a document."""
ENTRY_BYTES: Final = 100
"""Of a document: names, numbers and punctuation of one thing that is told."""


class Wish(NamedTuple):
    """How a job wants to be told what it is told: the words of its `format`."""

    masks: MasksAsked = "rle"
    embedding: EmbeddingFormat = "base64"
    network_size: bool = False
    """Of maps; otherwise that of the picture."""


@dataclass(slots=True)
class Told:
    """What a document says of one job besides predictions and the outputs that the job names."""

    keys: dict[str, Any] = field(default_factory=dict)
    """Keys of the document."""
    pictures: list[dict[str, Any]] = field(default_factory=list)
    """Entries of its `outputs` that are PNG files."""


@dataclass(frozen=True)
class Meaning(ABC):
    """One output that means something; threads may use it at the same time."""

    output: str

    key: ClassVar[str]
    """Where a document, and `answers` of the list of models, say it."""
    is_alone: ClassVar[bool] = True
    """Whether no other output of a model means the same; otherwise `key` has an entry for each."""
    is_placed: ClassVar[bool] = False
    """Whether it says something of places in a picture."""
    is_drawn: ClassVar[bool] = False
    """Whether telling it takes its time, as a picture is drawn for it."""

    @classmethod
    @abstractmethod
    def of(cls, output: Output, labels: Sequence[str]) -> Self:
        """As the manifest says it; `labels` are the lines of the output's file of labels, where it has one."""

    @abstractmethod
    def misfit(self, shape: Sides, dtype: str) -> str:
        """What keeps an output of this shape from meaning that, in words that go on after its name; or nothing."""

    @abstractmethod
    def tell(self, values: NDArray[Any], frame: Frame, wish: Wish, told: Told) -> None:
        """Add what is told of one job's output. Raises ModelFault for another shape, NonFinite as `convq.answers` does."""

    @abstractmethod
    def most_bytes(self, shape: Sequence[int], frame: Frame, wish: Wish) -> int:
        """At most what that takes in a document, of an output of this shape; 0 where none can be made of it."""

    @abstractmethod
    def describe(self, shape: Sides) -> dict[str, Any]:
        """What clients may want to know of it, as JSON-able values."""


def said(shape: Sides) -> str:
    """A shape for people, with its batch axis."""
    return f"[{', '.join(['n', *('any' if side is None else str(side) for side in shape)])}]"


def fits(shape: Sides, wanted: Sides) -> bool:
    """Whether two shapes may be one; None may be any side."""
    return len(shape) == len(wanted) and all(a == b or None in (a, b) for a, b in zip(shape, wanted, strict=True))


def is_whole(dtype: str | np.dtype[Any]) -> bool:
    """Whether numbers of that type are whole ones."""
    return np.dtype(dtype).kind in "iub"
