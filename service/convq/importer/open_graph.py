"""A graph that nobody knows yet, and a session of it that takes batches of any number of jobs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from convq.engine.graph_io.adapter import Adapter
from convq.engine.graph_io.extra_inputs import KNOWN, extra_inputs_of, picture_of
from convq.engine.graph_io.nodes import DTYPES, HALF, Node, dtype_of
from convq.engine.signature import NUMERIC, beyond
from convq.errors import ModelBroken, ModelFault
from convq.printable import brief
from convq.repository.manifest import Given

CHANNELS = ([1], [3])
NUMBERS = {1: "one", 2: "two", 3: "three"}  # axes, where a picture has four


class OpenGraph(Protocol):
    """A graph that can be asked and run."""

    @property
    def inputs(self) -> Sequence[Node]: ...  # noqa: D102
    @property
    def outputs(self) -> Sequence[Node]: ...  # noqa: D102

    def run(self, batch: NDArray[Any]) -> list[Any]:
        """The outputs, in order, [jobs, ...] where they count jobs, for so many of `picture_input`. Raises ModelFault where the graph refuses it."""
        ...


def known_extra(inputs: Sequence[Node]) -> dict[str, Given]:
    """Those of several inputs that are no picture by their names, and what they are given."""
    return {node.name: KNOWN[node.name] for node in inputs if len(inputs) > 1 and node.name in KNOWN}


def picture_input(graph: OpenGraph) -> Node:
    """The one input that jobs bring. Raises ModelBroken where convq cannot feed the graph."""
    node = picture_of(graph.inputs, known_extra(graph.inputs))
    if misfit := beyond(node.name, [output.name for output in graph.outputs]):
        raise ModelBroken(misfit)
    if node.type not in DTYPES:
        raise ModelBroken(f"input {node.name} is a {brief(node.type)}; expected {' or '.join(DTYPES)}")
    if not node.shape:
        raise ModelBroken(f"input {node.name} has no axes; expected the batch first")
    if isinstance(node.shape[0], int) and node.shape[0] != 1 and (len(node.shape) in NUMBERS or node.shape[0] < 1):
        axes = len(node.shape)
        lacks = f" (it has {NUMBERS[axes]} axes, expected four: is the batch missing?)" if axes in NUMBERS else ""
        raise ModelBroken(
            f"the batch axis of input {node.name} is fixed at {node.shape[0]}{lacks}; expected free, or 1"
        )
    return node


def fixed_batch(node: Node) -> int | None:
    """The size of an input's batch axis where that is fixed above 1."""
    first = node.shape[0] if node.shape else None
    return first if isinstance(first, int) and first > 1 else None


def batch_axis_of(picture: Node, output: Node) -> int:
    """1 where the second axis of an output is called as the batch is, and the first is not; else 0.

    Only names tell: a number may be that of the jobs, or of channels.
    """
    batch, declared = picture.shape[0], list(output.shape)
    return 1 if isinstance(batch, str) and len(declared) > 1 and declared[0] != batch == declared[1] else 0


def is_numeric(node: Node) -> bool:
    """Whether an output is a tensor of numbers, and no sequence, map or text."""
    return dtype_of(node) in NUMERIC


class Session:
    """An onnxruntime session as an `OpenGraph`: fills a fixed batch, casts, gives what is known of the other inputs."""

    def __init__(self, session: Any, *, refused: Callable[[str], str]) -> None:
        """`refused` makes a message of what onnxruntime raises. Raises ModelBroken where the graph cannot be fed."""
        self._session, self._refused = session, refused
        self.inputs: Sequence[Node] = session.get_inputs()
        self.outputs: Sequence[Node] = session.get_outputs()
        picture = picture_input(self)
        self._axes: Mapping[str, int] = {one.name: batch_axis_of(picture, one) for one in self.outputs}
        self._adapter = Adapter(
            name=picture.name,
            fixed_batch=fixed_batch(picture),
            half=picture.type == HALF,
            extra=extra_inputs_of(self.inputs, known_extra(self.inputs), picture, takes_images=True),
            batch_axes={},
            channels_last=list(picture.shape[1:2]) not in CHANNELS and list(picture.shape[-1:]) in CHANNELS,
        )

    def run(self, batch: NDArray[Any]) -> list[Any]:
        """See `OpenGraph.run`."""
        try:
            made = self._session.run(None, self._adapter.feeds(batch))
        except Exception as error:  # noqa: BLE001 - onnxruntime's exceptions share no base class
            raise ModelFault(self._refused(str(error))) from None
        return [self._jobs_first(node, rows, len(batch)) for node, rows in zip(self.outputs, made, strict=True)]

    def _jobs_first(self, node: Node, rows: Any, jobs: int) -> Any:
        """As far as it can be told: what is no array stays as it is, and what counts something else."""
        if not isinstance(rows, np.ndarray):
            return rows
        if self._axes[node.name] and rows.ndim > 1:
            rows = np.moveaxis(rows, 1, 0)
        return rows[:jobs] if rows.ndim and len(rows) == self._adapter.fixed_batch else rows
