"""`[detections]` of a manifest as a type: which outputs of a graph say where objects are, and what their numbers mean.

Types and ranges of single values are checked here. Whether they make sense together is for `convq.answers.detections`,
which fills in the `family`; whether the graph has such outputs is found out when it is loaded.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from convq.protocol import MOST_DETECTIONS
from convq.repository.bounds import InnerPath, NodeName, Number, PointName, PointNumber, Table, as_tuple, as_tuples

Share = Annotated[float, Field(ge=0, le=1)]
Names = Annotated[tuple[NodeName, ...], BeforeValidator(as_tuple), Field(min_length=1, max_length=64)]
Stride = Annotated[int, Field(ge=1, le=4096)]
Prior = Annotated[float, Field(gt=0, le=65535)]


def _as_tables(value: Any) -> Any:
    if not isinstance(value, list | tuple):
        raise ValueError("[[detections.tables]], once for each table")  # noqa: TRY004  (pydantic takes no TypeError)
    return tuple(value)


class RowsTable(Table):
    """One of `[[detections.tables]]`: an output whose rows are candidates, or several that are joined along the rows."""

    output: NodeName | None = None
    outputs: Names | None = None
    columns: Annotated[str, Field(min_length=1, max_length=1000)]
    """What the numbers of a row are, in order, as `cx cy w h objectness classes`."""
    axis: Literal[1, 2] | None = None
    """Along which axis the columns run, where their number fits both."""


class Masks(Table):
    """`[detections.masks]`: what the columns `masks` are weights of."""

    prototypes: NodeName


class Grid(Table):
    """`[detections.grid]`: how boxes follow from cells, for graphs that leave that out."""

    decode: Literal["exp", "distance", "dfl", "prior", "offset"] | None = None
    strides: Annotated[tuple[Stride, ...], BeforeValidator(as_tuple), Field(min_length=1, max_length=16)] | None = None
    per_cell: Annotated[int, Field(ge=1, le=64)] = 1
    point: Share = 0.0
    bins: Annotated[int, Field(ge=1, le=256)] = 1
    variances: Annotated[tuple[Number, Number], BeforeValidator(as_tuple)] = (0.1, 0.2)
    min_sizes: Annotated[tuple[tuple[Prior, ...], ...], BeforeValidator(as_tuples), Field(max_length=16)] = ()


class Regions(Table):
    """`[detections.regions]`: objects are the connected regions of a map, as text lines are."""

    output: NodeName
    threshold: Number = 0.3
    grow: Annotated[float, Field(ge=0, le=100)] = 1.5
    min_side: Annotated[float, Field(ge=0, le=65535)] = 3.0


class Detections(Table):
    """`[detections]`: what is left out is the family's, and where there is none, as the fields of `DetectionsSpec` say."""

    family: Annotated[str, Field(min_length=1, max_length=64)] | None = None
    labels: InnerPath | None = None
    """A file with one name a line, in the order of the classes."""
    min_score: Share = 0.25
    iou: Share = 0.45
    max_detections: Annotated[int, Field(ge=1, le=MOST_DETECTIONS)] = 300
    nms: Literal["class", "agnostic", "weighted", "none"] = "class"
    activation: Literal["none", "sigmoid", "softmax"] = "none"
    background: Literal["none", "first", "last"] = "none"
    units: Literal["pixels", "unit", "cells"] = "pixels"
    combine: Literal["product", "sqrt"] = "product"
    class_base: Annotated[int, Field(ge=0, le=1000)] = 0
    multi_label: bool = False
    keypoints: Annotated[tuple[PointName, ...], BeforeValidator(as_tuple), Field(max_length=1000)] = ()
    skeleton: Annotated[tuple[tuple[PointNumber, PointNumber], ...], BeforeValidator(as_tuples)] = ()
    batch: Literal["first", "column", "counts", "none"] = "first"
    counts: NodeName | None = None
    tables: Annotated[tuple[RowsTable, ...], BeforeValidator(_as_tables), Field(min_length=1, max_length=64)] = ()
    masks: Masks | None = None
    grid: Grid | None = None
    regions: Regions | None = None

    @model_validator(mode="after")
    def _lines_join_points(self) -> Self:
        if any(max(line) >= len(self.keypoints) for line in self.skeleton):
            raise ValueError(f"a skeleton of numbers below {len(self.keypoints)}, as there are so many keypoints")
        return self

    def given(self) -> dict[str, Any]:
        """What the manifest says, and nothing that it does not: the rest is the family's."""
        return self.model_dump(exclude_unset=True, exclude_none=True)
