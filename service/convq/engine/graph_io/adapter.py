"""Between a batch of jobs and a graph that does not take [jobs, ...] alone, or does not give it back."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from convq.engine.graph_io.extra_inputs import ExtraInput, extra_inputs_of
from convq.engine.graph_io.nodes import HALF, Node, sides_of
from convq.errors import ModelFault
from convq.printable import brief
from convq.repository.manifest import BatchAxis, Manifest


@dataclass(frozen=True, slots=True)
class Adapter:
    """What is done to a batch before a graph runs, and to its outputs after."""

    name: str
    """The graph's name of its input."""
    fixed_batch: int | None
    """The size of the graph's batch axis where that is fixed above 1: what jobs leave is filled with zeros."""
    half: bool
    """Whether the graph takes float16."""
    extra: Mapping[str, ExtraInput]
    batch_axes: Mapping[str, BatchAxis]
    """Of the outputs whose first axis is not the batch."""
    channels_last: bool

    @property
    def needed(self) -> bool:
        """Whether there is anything to do; nothing is for most graphs."""
        return bool(self.fixed_batch or self.half or self.extra or self.batch_axes)

    def or_none(self) -> Self | None:
        """Itself where there is anything to do."""
        return self if self.needed else None

    def most_jobs(self, limit: int) -> int:
        """How many may share a batch, of the `limit` of a manifest."""
        if "none" in self.batch_axes.values():
            return 1
        return min(limit, self.fixed_batch or limit)

    def misfit(self, name: str, output: Node) -> str:
        """What keeps the batch from being where it should be in an output, in words that go on after a file's name; or nothing."""
        axis, sides = self.batch_axes.get(name, 0), sides_of(output)
        where = f"output {brief(name)} is {['any' if side is None else side for side in sides]}"
        fixed = f"the batch axis of input {brief(self.name)} is fixed at {self.fixed_batch}"
        if axis == "none":
            return f"{fixed}, and {where} with batch_axis = 'none'; expected one axis of it" if self.fixed_batch else ""
        if sides and len(sides) <= axis:
            return f"{where}; the manifest says batch_axis = {axis}"
        if self.fixed_batch and sides and sides[axis] not in (None, self.fixed_batch):
            hint = ", or its batch_axis in [[outputs]]" if self.fixed_batch in sides and axis == 0 else ""
            return f"{fixed}, and {where}; expected {self.fixed_batch} {_place(axis)}{hint}"
        return ""

    def feeds(self, batch: NDArray[Any]) -> dict[str, NDArray[Any]]:
        """All inputs of the graph for a batch [jobs, ...] of what jobs bring."""
        rows, sides = len(batch), batch.shape[1:]
        if self.fixed_batch is not None and rows < self.fixed_batch:
            filled = np.zeros((self.fixed_batch, *sides), dtype=np.float16 if self.half else batch.dtype)
            with np.errstate(over="ignore"):
                filled[:rows] = batch
            batch = filled
        elif self.half:
            with np.errstate(over="ignore"):  # beyond 65504 it is infinity, as it would be inside of the graph
                batch = batch.astype(np.float16)
        feeds = {self.name: batch}
        if self.extra:
            size = sides[:2] if self.channels_last else sides[1:3]
            feeds |= {name: one.values(len(batch), size) for name, one in self.extra.items()}
        return feeds

    def jobs_first(self, outputs: Mapping[str, NDArray[Any]], jobs: int) -> dict[str, NDArray[Any]]:
        """The same outputs as [jobs, ...], all of them views. Raises ModelFault for one whose batch axis has another length."""
        rows = self.fixed_batch or jobs
        made = {}
        for name, raw in outputs.items():
            axis = self.batch_axes.get(name, 0)
            if axis == "none":
                made[name] = raw[None]
                continue
            if raw.ndim <= axis or raw.shape[axis] != rows:
                there = f"output {name} has shape {list(raw.shape)} for a batch of {rows}"
                raise ModelFault(f"{there}; expected {rows} {_place(axis)}")
            made[name] = np.moveaxis(raw, axis, 0)[:jobs] if axis else raw[:jobs]
        return made


def adapter_for(
    manifest: Manifest, inputs: Sequence[Node], picture: Node, whole: Collection[str] = frozenset()
) -> Adapter:
    """What a graph needs whose jobs bring `picture`. Raises ModelBroken, in words that go on after the file's name.

    `whole` are outputs without a batch axis, as is known from elsewhere than `[[outputs]]`.
    """
    spec, batch = manifest.input, picture.shape[0] if picture.shape else None
    return Adapter(
        name=picture.name,
        fixed_batch=batch if isinstance(batch, int) and batch > 1 else None,
        half=picture.type == HALF,
        extra=extra_inputs_of(inputs, manifest.extra_inputs, picture, takes_images=spec.color != "none"),
        batch_axes={
            **{one.name: one.jobs_axis for one in manifest.outputs if one.jobs_axis != 0},
            **dict.fromkeys(whole, "none"),
        },
        channels_last=spec.layout == "NHWC",
    )


def _place(axis: int) -> str:
    return "first" if axis == 0 else f"as axis {axis}"
