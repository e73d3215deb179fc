"""Which model has which place on the board. Models come and go while a service runs; a place is a model's until it is left."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, overload

SPARE: Final = 64
"""Places beyond the models of the start: memory of the board that nobody writes to is not taken."""
EMPTY: Final = ""


class Roster(Sequence[str]):
    """The name of the model in each place, `EMPTY` where there is none. One thread changes it, any may read."""

    def __init__(self, models: Sequence[str], spare: int = SPARE) -> None:
        self._places: tuple[str, ...] = (*models, *[EMPTY] * spare)

    @property
    def places(self) -> tuple[str, ...]:
        """All of them as they are at this moment."""
        return self._places

    def take(self, model: str) -> int | None:
        """A place for a model, its own where it has one; None where all are taken."""
        if model in self._places:
            return self._places.index(model)
        if EMPTY not in self._places:
            return None
        index = self._places.index(EMPTY)
        self._set(index, model)
        return index

    def leave(self, model: str) -> None:
        """Nobody writes to its place any more."""
        if model in self._places:
            self._set(self._places.index(model), EMPTY)

    def _set(self, index: int, model: str) -> None:
        self._places = (*self._places[:index], model, *self._places[index + 1 :])

    @overload
    def __getitem__(self, index: int) -> str: ...
    @overload
    def __getitem__(self, index: slice) -> Sequence[str]: ...
    def __getitem__(self, index: int | slice) -> str | Sequence[str]:
        """The model in a place."""
        return self._places[index]

    def __iter__(self) -> Iterator[str]:
        """The places in their order, as they are at this moment."""
        return iter(self._places)

    def __len__(self) -> int:
        """How many places there are, taken or not."""
        return len(self._places)
