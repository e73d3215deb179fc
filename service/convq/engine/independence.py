"""Whether jobs may share a batch: each must be answered as it is alone, in every place of batches of several sizes.

A graph can be wrong in any row and at any size. So all rows are compared, with those of distinct inputs alone, in an order
drawn anew each time: at 1, 2, 3, 7 and the largest size always, and at as many others, drawn too, as there is time for. That is
the processor's time, so that a busy machine tries no fewer. Then some of them share batches with an input of quite other magnitude, as a job's tensor may hold any numbers.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from convq.engine.samples import FEW, inputs_for, wild
from convq.errors import ModelFault, NetworkFaulty
from convq.repository.manifest import Limits

Run = Callable[[Sequence[int]], Mapping[str, NDArray[Any]]]
"""Runs one batch of inputs, named by their numbers; the outputs by name. Raises ModelFault where the graph refuses them."""

SIZES: Final = (2, 3, 7)
TOLERANCE: Final = 0.005
"""Of the largest number of an answer: so far may rounding lead, where a device computes with few bits otherwise for each size."""
ROUNDING: Final = {2: 4e-3, 4: 3e-5, 8: 3e-5}
"""Bytes of a floating point number -> part of the largest that is surely rounding, and the most between two equal runs."""
AGAIN: Final = 3
"""So often a batch runs again whose answers are not those of its jobs alone."""
LARGEST_S: Final = 2.0
"""Of a graph that nobody knows no batch is run that takes longer; the model that is made of it is tried as a whole anyway."""
STEP_BYTES: Final = 1 << 20
"""So much of a batch is compared at once."""


@dataclass(frozen=True, slots=True)
class Fault:
    """One answer that is not what it should be; as text it goes on after the graph's name."""

    output: str
    size: int
    """Jobs of the batch."""
    place: int | None
    """Where it stands in the batch, from 0; None for a graph that answers one input in several ways."""
    beside: str = ""
    """What another job of the batch holds, where it takes that to show."""

    @property
    def is_random(self) -> bool:
        """It is no matter of other jobs."""
        return self.place is None

    def __str__(self) -> str:
        if self.place is None:
            return (
                f"{self.output} is not the same for the same input twice: the graph draws random numbers or keeps something "
                "from run to run (such as Dropout in training mode, RandomUniform, Multinomial); export it for inference"
            )
        beside = f" beside {self.beside}" if self.beside else ""
        which = f"of {self.size} jobs, number {self.place + 1} is answered otherwise than alone{beside}"
        return f"{self.output} depends on the other jobs of its batch ({which}); limits.max_batch = 1 keeps them apart"


def dependence(run: Run, inputs: int, largest: int, spare_s: float = 0.0, beside: Sequence[str] = ()) -> Fault | None:
    """What is wrong with batches of up to `largest` jobs; None where nothing is.

    `run` knows `inputs` distinct inputs; those that the graph refuses alone are left out. After them it knows one for each
    of `beside`, which says what that holds: others are to be answered beside it as they are alone. Sizes that are not always
    tried get `spare_s` seconds of this process's processor time. Raises ModelFault where the graph refuses a batch.
    """
    alone: dict[int, Mapping[str, NDArray[Any]]] = {}
    problem: ModelFault | None = None
    for number in range(inputs):
        try:
            alone[number] = run([number])
        except ModelFault as error:
            problem = error
        if alone and largest == 1:
            break
    if not alone:
        raise problem or ModelFault("there is no input to try")
    proof = _Proof(run, alone)
    wrong = proof.repeat(spare_s) or next(filter(None, map(proof.attempt, _sizes(largest, spare_s))), None)
    if wrong is not None or largest == 1:
        return wrong
    strangers = dict(enumerate(beside, start=inputs))
    if proof.stands_beside(list(strangers), largest):
        return None
    return next(filter(None, (proof.attempt_beside(one, held, largest) for one, held in strangers.items())), None)


def check_independence(
    file: Path, run: Run, inputs: int, largest: int, spare_s: float, beside: Sequence[str] = ()
) -> None:
    """Raise NetworkFaulty where `dependence` finds anything wrong with the graph of `file`, or the graph refuses a batch."""
    try:
        wrong = dependence(run, inputs, largest, spare_s, beside)
    except ModelFault as error:
        raise NetworkFaulty(f"{file}: warm-up failed: {error}") from None
    if wrong is not None:
        raise NetworkFaulty(f"{file}: {wrong}")


def disturbance(
    run: Callable[[NDArray[Any]], Mapping[str, NDArray[Any]]], inputs: NDArray[Any], most: int | None
) -> str:
    """Why the jobs of a graph that nobody knows may not share a batch of up to `most`; empty where they may.

    `run` gives the outputs of a batch by name; `inputs` are [8, ...]. Raises NetworkFaulty where one input is answered in several ways.
    """
    began_s = time.monotonic()
    try:
        together, single = run(inputs[:2]), run(inputs[:1])
    except ModelFault as error:
        return f"it refuses a batch of 2 ({error})"
    took_s = time.monotonic() - began_s
    for name, rows in together.items():
        if rows.shape[:1] != (2,):
            return f"the first axis of output {name} is not the batch"
        if rows.shape[1:] != single[name].shape[1:]:
            return f"output {name} has another shape in a batch than alone"
    largest = most or Limits().max_batch
    if took_s * largest > LARGEST_S:
        largest = min(largest, max(SIZES))
    try:
        tried = inputs_for(largest)
        strange = wild(inputs.shape[1:], inputs.dtype.name)
        every = np.concatenate([inputs[:tried], np.stack(list(strange.values()))])
        wrong = dependence(lambda numbers: run(every[list(numbers)]), tried, largest, beside=list(strange))
    except ModelFault as error:
        return f"it refuses larger batches ({error})"
    if wrong is not None and wrong.is_random:
        raise NetworkFaulty(str(wrong))
    return "" if wrong is None else f"output {wrong.output} of a job depends on the other jobs of its batch"


def _sizes(largest: int, spare_s: float) -> Iterable[int]:
    """The sizes to try: small ones, the largest, then others until the time is over."""
    always = sorted({size for size in SIZES if size < largest} | {largest}) if largest > 1 else []
    yield from always
    give_up_at = time.process_time() + spare_s
    for size in np.random.default_rng().permutation(np.arange(2, largest)):
        if time.process_time() >= give_up_at:
            return
        if size not in always:
            yield int(size)


def _beside(strangers: Sequence[int], others: Sequence[int], largest: int) -> Iterator[list[int]]:
    """Batches in which each of the others has the strangers beside it: before it and behind it in turns."""
    room = largest - len(strangers)
    for turn, first in enumerate(range(0, len(others), room)):
        some = others[first : first + room]
        yield [*some, *strangers] if turn % 2 else [*strangers, *some]


class _Proof:
    """The answers of single inputs, against which batches are held."""

    def __init__(self, run: Run, alone: Mapping[int, Mapping[str, NDArray[Any]]]) -> None:
        self._run = run
        self._alone = alone
        self._usable = list(alone)
        self._most_edges = max(1, len(alone) // 4)
        self._rng = np.random.default_rng()
        names = next(iter(alone.values()))
        for name, made in names.items():
            if made.shape[:1] != (1,):
                raise ModelFault(f"output {name} has not one row for each job")
        self._answers = {name: _Answers({number: made[name][0] for number, made in alone.items()}) for name in names}

    def repeat(self, spare_s: float) -> Fault | None:
        """The same input twice gives the same answer: tried with one, and with others while there is time."""
        give_up_at = time.process_time() + spare_s
        for number in self._usable:
            if wrong := self._wrong([number], self._run([number]), strict=True):
                return Fault(wrong[number][0], 1, None)
            if time.process_time() >= give_up_at:
                break
        return None

    def attempt(self, size: int) -> Fault | None:
        """One batch of this size. What is wrong is tried once more with other inputs in all places.

        An input on the edge of two answers, such as one whose two best classes are equal, may fall to either side by
        rounding: that is no matter of places. A few such inputs are left out from then on.
        """
        order = self._order(size)
        wrong = self._wrong(order, self._run(order))
        if not wrong:
            return None
        turn = int(self._rng.integers(1, max(2, len(self._usable))))
        following = {one: self._usable[(i + turn) % len(self._usable)] for i, one in enumerate(self._usable)}
        other = [following[one] for one in order]
        again = self._wrong(other, self._run(other))
        edges = set(wrong)
        left = len(self._usable) - len(edges)
        if again.keys() <= edges and len(self._alone) - left <= self._most_edges and left > 1:
            self._usable = [one for one in self._usable if one not in edges]
            return None
        output, place = next(iter(wrong.values()))
        return self._random(order) or Fault(output, size, place)

    def stands_beside(self, strangers: Sequence[int], largest: int) -> bool:
        """Whether a few others are answered as alone beside all of these, as many at once as a batch holds beside two of them."""
        at_once = max(1, min(len(strangers), largest - 2))
        for first in range(0, len(strangers), at_once):
            some = strangers[first : first + at_once]
            others = self._rng.permutation(self._usable).tolist()[:FEW]
            try:
                if any(
                    self._wrong(order, self._run(order), apart_from=some) for order in _beside(some, others, largest)
                ):
                    return False
            except ModelFault:
                return False
        return True

    def attempt_beside(self, stranger: int, held: str, largest: int) -> Fault | None:
        """The others are answered beside the input `stranger` as alone; nothing is said of its own answer.

        A few of them may be on an edge, as in `attempt`. A batch that the graph refuses is no fault: a worker runs its jobs
        one by one then.
        """
        edges: dict[int, tuple[str, int]] = {}
        order: list[int] = []
        for _ in range(2):
            usable = self._rng.permutation([one for one in self._usable if one not in edges]).tolist()[:FEW]
            found: dict[int, tuple[str, int]] = {}
            for order in _beside([stranger], usable, largest):
                try:
                    made = self._run(order)
                except ModelFault:
                    return None
                found |= self._wrong(order, made, apart_from=[stranger])
            if not found:
                return None
            if edges or len(found) > self._most_edges:
                output, place = next(iter(found.values()))
                return self._random(order) or Fault(output, len(order), place, held)
            edges = found
        return None

    def _order(self, size: int) -> list[int]:
        """Inputs for a batch: all of them as often as they fit, in any order; neighbours differ, and so do first and last."""
        order: list[int] = []
        while len(order) < size:
            part = self._rng.permutation(self._usable).tolist()
            if order and part[0] == order[-1]:
                part.reverse()
            order += part
        if len(self._usable) > 1 and size > 1 and order[size - 1] == order[0]:
            order[size - 1] = next((one for one in self._usable if one not in (order[0], order[size - 2])), order[0])
        return order[:size]

    def _wrong(
        self,
        order: Sequence[int],
        made: Mapping[str, NDArray[Any]],
        *,
        strict: bool = False,
        apart_from: Collection[int] = (),
    ) -> dict[int, tuple[str, int]]:
        """Inputs that were answered otherwise than alone -> the output and the place where that showed.

        Nothing is said of the inputs `apart_from`.
        """
        found: dict[int, tuple[str, int]] = {}
        places = [place for place, one in enumerate(order) if one not in apart_from]
        for name, answers in self._answers.items():
            rows = made[name]
            if len(places) < len(order) == len(rows):
                rows = rows[places]
            for seen in np.flatnonzero(answers.apart([order[one] for one in places], rows, strict=strict)).tolist():
                found.setdefault(order[places[seen]], (name, places[seen]))
        return found

    def _random(self, order: Sequence[int]) -> Fault | None:
        """Whether the very same batch is answered in several ways: what is random looks as if it came of the other jobs."""
        before = {name: _Answers(dict(enumerate(rows))) for name, rows in self._run(order).items()}
        for _ in range(AGAIN):
            for name, rows in self._run(order).items():
                if before[name].apart(range(len(rows)), rows, strict=True).any():
                    return Fault(name, len(order), None)
        return None


class _Answers:
    """One output of each input alone, without the batch axis, and how far another answer may be away from it."""

    def __init__(self, alone: Mapping[int, NDArray[Any]]) -> None:
        self._of = alone
        most = {number: _largest(row) for number, row in alone.items()}
        usual = float(np.median(list(most.values())))
        surely = ROUNDING.get(next(iter(alone.values())).dtype.itemsize, 0.0)
        self._limits, self._strict = {}, {}
        for number, row in alone.items():
            scale = max(most[number], usual)
            self._strict[number] = surely * scale
            others = (_distance(row, other) for one, other in alone.items() if one != number)
            nearest = min((far for far in others if far > surely * scale), default=np.inf)
            self._limits[number] = min(TOLERANCE * scale, max(nearest / 2, surely * scale))

    def apart(self, order: Sequence[int], rows: NDArray[Any], *, strict: bool = False) -> NDArray[np.bool_]:
        """[n] of bool: which rows of a batch, [n, ...], are not what the input of that number gives alone.

        `strict`: the very same was run, so that nothing but the order of sums may have changed.
        """
        if len(rows) != len(order):
            raise ModelFault(f"an output has {len(rows)} rows for a batch of {len(order)}")
        step = max(1, STEP_BYTES // max(1, rows.nbytes // len(rows)))
        limits = self._strict if strict else self._limits
        found = [self._apart(order[i : i + step], rows[i : i + step], limits) for i in range(0, len(rows), step)]
        return np.concatenate(found)

    def _apart(self, order: Sequence[int], rows: NDArray[Any], limit_of: Mapping[int, float]) -> NDArray[np.bool_]:
        fits = np.array([self._of[number].shape == rows.shape[1:] for number in order])
        if not fits.all():
            return ~fits
        limits = np.array([limit_of[number] for number in order])
        return _distances(np.stack([self._of[number] for number in order]), rows) > limits


def _distance(one: NDArray[Any], other: NDArray[Any]) -> float:
    return float(_distances(one[None], other[None])[0]) if one.shape == other.shape else float(np.inf)


def _distances(expected: NDArray[Any], found: NDArray[Any]) -> NDArray[Any]:
    """[n]: the largest difference of each row; infinity where other numbers than floating point ones differ at all."""
    expected, found = (rows.reshape(len(rows), -1) for rows in (expected, found))
    if expected.dtype.kind != "f":
        return np.where((expected != found).any(axis=1), np.inf, 0.0)
    wide = expected.dtype if expected.itemsize > 2 else np.float32  # noqa: PLR2004 - a half ends at 65504
    with np.errstate(all="ignore"):
        apart = np.abs(expected.astype(wide, copy=False) - found.astype(wide, copy=False))
    odd = ~np.isfinite(apart)
    if odd.any():  # NaN or infinity in one of them: the same in both is no difference
        same = (expected == found) | (np.isnan(expected) & np.isnan(found))
        apart = np.where(odd, np.where(same, 0.0, np.inf), apart)
    return np.asarray(apart.max(axis=1, initial=0.0))


def _largest(row: NDArray[Any]) -> float:
    return float(np.abs(row[np.isfinite(row)]).max(initial=0)) if row.dtype.kind == "f" else 0.0
