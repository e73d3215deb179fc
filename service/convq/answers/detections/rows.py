"""From the outputs of a batch to the rows of each job: whatever the layout, a table [rows, columns] that is a view if it can."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from convq.answers.detections.columns import Column, Columns
from convq.answers.detections.spec import DetectionsSpec, Table
from convq.errors import ModelFault

_FLAT, _ROWS, _HEADS = 2, 3, 4
"""Ranks of outputs with a batch axis: a number a row, rows and columns, channels of a grid."""
_NUMBERS: Final = "fiu"


class JobRows:
    """What a graph said of one job: several tables with the same rows, read side by side by the words of their columns."""

    def __init__(self, tables: Sequence[tuple[Columns, NDArray[Any]]]) -> None:
        self._parts: dict[str, tuple[Column, NDArray[Any]]] = {
            column.word: (column, values) for columns, values in tables for column in columns.named
        }
        self.count = len(tables[0][1])
        """How many rows there are."""

    def __contains__(self, word: str) -> bool:
        return word in self._parts

    def block(self, word: str) -> NDArray[Any]:
        """The columns of a word: [rows, width], a view."""
        column, values = self._parts[word]
        return column.of(values)

    def column(self, word: str) -> NDArray[Any]:
        """The column of a word that has one: [rows], a view."""
        return self.block(word)[:, 0]

    def each(self, word: str) -> int:
        """Numbers a keypoint."""
        return self._parts[word][0].each


def rows_of(spec: DetectionsSpec, outputs: Mapping[str, NDArray[Any]], jobs: int) -> list[JobRows]:
    """The rows of each of so many jobs; what a graph says of more, with which a fixed batch was filled, is left out.

    Raises ModelFault where an output has another shape than the description says.
    """
    if spec.batch == "none" and jobs != 1:
        raise ModelFault(f"the graph answers one job at a time, and has been given {jobs}")
    whole = [(table, _joined(table, outputs, spec)) for table in spec.tables]
    rows = {table.outputs[0]: values.shape[1] for table, values in whole}
    if len(set(rows.values())) > 1:
        shown = ", ".join(f"{name} has {count}" for name, count in rows.items())
        raise ModelFault(f"outputs that are read side by side have different numbers of rows: {shown}")
    count = next(iter(rows.values()))
    if spec.batch == "first":
        return [_of_job(whole, job, slice(0, end)) for job, end in enumerate(_ends(spec, outputs, whole, jobs))]
    return [_of_job(whole, 0, part) for part in _parts(spec, outputs, whole, jobs, count)]


def _of_job(whole: Sequence[tuple[Table, NDArray[Any]]], job: int, part: slice | NDArray[np.intp]) -> JobRows:
    return JobRows([(table.columns, values[job][part]) for table, values in whole])


def _ends(
    spec: DetectionsSpec, outputs: Mapping[str, NDArray[Any]], whole: Sequence[tuple[Table, NDArray[Any]]], jobs: int
) -> list[int]:
    """Where the rows of each job end, for outputs whose first axis is the batch."""
    for table, values in whole:
        if len(values) < jobs:
            name = table.outputs[0]
            raise ModelFault(
                f"output {name} has shape {list(outputs[name].shape)} for a batch of {jobs}; expected that first"
            )
    rows = whole[0][1].shape[1]
    if spec.counts is None:
        return [rows] * jobs
    return [min(rows, count) for count in _counts(spec.counts, outputs, jobs)]


def _parts(
    spec: DetectionsSpec,
    outputs: Mapping[str, NDArray[Any]],
    whole: Sequence[tuple[Table, NDArray[Any]]],
    jobs: int,
    rows: int,
) -> Iterator[slice | NDArray[np.intp]]:
    """Which rows of outputs without a batch axis are each job's."""
    if spec.batch == "counts" and spec.counts is not None:
        ends = np.cumsum([0, *_counts(spec.counts, outputs, jobs)])
        if ends[-1] > rows:
            raise ModelFault(f"output {spec.counts} counts {ends[-1]} rows; there are {rows}")
        yield from (slice(int(start), int(end)) for start, end in pairwise(ends))
    elif spec.batch == "column":
        owner = JobRows([(table.columns, values[0]) for table, values in whole]).column("batch")
        yield from (np.flatnonzero(owner == job) for job in range(jobs))
    else:
        yield slice(0, rows)


def _counts(name: str, outputs: Mapping[str, NDArray[Any]], jobs: int) -> list[int]:
    """How many rows each job has."""
    counts = _output(name, outputs).reshape(-1)[:jobs]
    if len(counts) < jobs or not np.isfinite(counts).all() or (counts < 0).any() or (counts > 2**31).any():
        raise ModelFault(
            f"output {name} holds {len(counts)} counts for a batch of {jobs}; expected one each, not below 0"
        )
    return [int(count) for count in counts]


def _joined(table: Table, outputs: Mapping[str, NDArray[Any]], spec: DetectionsSpec) -> NDArray[Any]:
    """[n or 1, rows, columns]: the outputs of a table, one below the other."""
    parts = [_shaped(name, _output(name, outputs), table, spec) for name in table.outputs]
    if len(parts) == 1:
        return parts[0]
    if len({len(part) for part in parts}) > 1:
        raise ModelFault(f"outputs {', '.join(table.outputs)} are joined along the rows, and have different batches")
    return np.concatenate(parts, axis=1)


def _output(name: str, outputs: Mapping[str, NDArray[Any]]) -> NDArray[Any]:
    if name not in outputs:
        raise ModelFault(f"output {name} is missing; there are {', '.join(outputs) or 'none'}")
    if outputs[name].dtype.kind not in _NUMBERS:
        raise ModelFault(f"output {name} is {outputs[name].dtype}; expected numbers")
    return outputs[name]


def _shaped(name: str, values: NDArray[Any], table: Table, spec: DetectionsSpec) -> NDArray[Any]:
    """[n, rows, columns] of one output, a view but for heads with several rows a cell."""
    columns, shape = table.columns, values.shape
    if spec.batch != "first":
        values = _without_batch(values, columns.width, heads=spec.grid is not None)
    if values.ndim == _FLAT and columns.width == 1:
        return values[:, :, None]
    if values.ndim == _ROWS:
        try:
            axis = columns.axis_of(name, values.shape, table.axis)
        except ValueError as err:
            raise ModelFault(str(err)) from None
        return values.swapaxes(1, 2) if axis == 1 else values
    if values.ndim == _HEADS and values.shape[1] and values.shape[1] % columns.width == 0:
        per_cell = values.shape[1] // columns.width
        cells = values.shape[2] * values.shape[3]
        split = values.reshape(len(values), per_cell, columns.width, cells)
        # a row's cell counts before its place in the cell
        return split.transpose(0, 3, 1, 2).reshape(len(values), cells * per_cell, columns.width)
    raise ModelFault(f"output {name} has shape {list(shape)}; expected rows of {columns.width} columns: {columns.text}")


def _without_batch(values: NDArray[Any], width: int, *, heads: bool) -> NDArray[Any]:
    """With one batch of all rows in front, whether the graph has such an axis or not; axes of 1 before it go."""
    one_batch = len(values) == 1 if values.ndim else False
    if heads and values.ndim == _HEADS and one_batch:
        return values
    if heads and values.ndim == _HEADS - 1 and not (one_batch and width in values.shape[1:]):
        return values[None]
    while values.ndim > _FLAT and len(values) == 1:
        values = values[0]
    return values[None]
