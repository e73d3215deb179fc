"""Whether a graph can be served at all: what its answers are made of, whether they fit the labels.

Each check raises NetworkFaulty with the graph's file and the reason.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from convq.engine.answering.frame import NOWHERE, frame_of
from convq.engine.answering.meaning import Told, Wish
from convq.engine.onnx_session import MODEL, OpenedVersion
from convq.engine.postprocess import agrees, finite, rank
from convq.engine.tensors import Prepared
from convq.errors import ModelFault, NetworkFaulty, NonFinite
from convq.repository.manifest import FILE

Made = Mapping[str, NDArray[Any]]


def check_finite(
    file: Path, run: Callable[[Any], Made], noises: Iterable[Any], read: Collection[str] = frozenset()
) -> None:
    """At least one of `noises`, which `run` takes, gets an answer without NaN and infinity; the first that does is enough.

    What is defined for a part of all inputs only (such as the logarithm of what is above 1) needs a warm-up sample. Inputs
    that the graph refuses say nothing. Of outputs that are `read` for detections, rows may hold anything, but not all of them.
    """
    bad: tuple[str, ...] = ()
    tried = 0
    for noise in noises:
        try:
            made = run(noise)
        except ModelFault:
            continue
        bad = _not_finite(made, read)
        if not bad:
            return
        tried += 1
    if tried:
        named = ", ".join(bad)
        hint = "if others are answered, let warmup.sample name one"
        raise NetworkFaulty(f"{file}: {named} is NaN or infinity for each of {tried} inputs of noise; {hint}")


def _not_finite(made: Made, read: Collection[str]) -> tuple[str, ...]:
    """The outputs that hold NaN or infinity; of those that are `read` for detections, the ones that hold nothing else."""
    return tuple(
        name
        for name, rows in made.items()
        if not (finite({name: rows}).all() or (name in read and np.isfinite(rows).any()))
    )


def check_sample(opened: OpenedVersion, made: Made, sample: Prepared) -> None:
    """What the graph made of the warm-up sample is finite, and what the manifest says. Raises ModelFault too."""
    file, warmup, detector = opened.file, opened.manifest.warmup, opened.detector
    if warmup is None:
        return
    found = None if detector is None else detector.labels_found(made, sample.shape, [sample.placement], "rle")[0]
    told = told_of(opened, made, sample)
    read = frozenset[str]() if detector is None else detector.reads
    if _not_finite(made, read) or told is None or (detector is not None and found is None):
        raise NetworkFaulty(f"{file}: the warm-up sample {warmup.sample} gives NaN or infinity")
    if warmup.golden is None:
        return
    if opened.heads:
        output, labels, activation = opened.heads[0]
        said = labels[rank(made[output], activation, 1).indices[0, 0]]
    elif detector is not None and detector.labels:
        said = found[0] if found else "nothing that is detected"
    else:
        said = told.keys["text"]
    if said != warmup.golden:
        raise NetworkFaulty(f"{file}: {warmup.sample} is '{said}'; warmup.golden says '{warmup.golden}'")


def told_of(opened: OpenedVersion, made: Made, one: Prepared) -> Told | None:
    """What a job is told of what came of this input alone, detections left out; None where that is not finite.

    Raises ModelFault where an output has another shape than its meaning has, which a run alone may show.
    """
    meanings, frame = opened.meanings, NOWHERE
    if meanings.is_placed:
        frame = frame_of(one.shape, meanings.layout, one.placement)
    try:
        return meanings.tell(made, 0, frame, Wish())
    except NonFinite:
        return None


def check_classes(opened: OpenedVersion, made: Made) -> None:
    """There are as many labels as declared classes have values."""
    for declared, (output, labels, _) in zip(opened.manifest.heads, opened.heads, strict=True):
        if (count := made[output][0].size) != len(labels):
            there = f"there are {len(labels)} labels in {declared.labels}, which its {FILE} names"
            hint = 'for other classes see models/README.md, "Changing the classes"'
            raise NetworkFaulty(f"{opened.file}: {output} has {count} classes; {there}; {hint}")


def check_same(file: Path, plain: Made, featured: Made) -> None:
    """The graph with the feature maps is the same network as the other: for one input it gave `featured`, and that `plain`."""
    for name, expected in plain.items():
        if not agrees(expected, featured[name]):
            raise NetworkFaulty(f"{file}: {name} is not what {MODEL} gives for the same input: another network?")
