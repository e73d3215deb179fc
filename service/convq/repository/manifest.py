"""`manifest.toml` as a type: everything that serving needs to know about a model besides its graph.

It knows nothing of onnxruntime: what the manifest claims is held against the graph in `signature.py`.
"""

from __future__ import annotations

import math
import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import BeforeValidator, Field, PlainValidator, ValidationError, model_validator

from convq.errors import ModelBroken
from convq.protocol import LAST_VERSION
from convq.repository.bounds import MOST_OUTPUTS, InnerPath, NodeName, Table
from convq.repository.detections_table import Detections
from convq.repository.files import MOST_BYTES, read_inside, text_of
from convq.repository.manifest_errors import explain
from convq.repository.tables.input import Input, objection
from convq.repository.tables.outputs import OF_PICTURES, ONCE, BatchAxis, Output

__all__ = ["FILE", "BatchAxis", "Input", "Limits", "Manifest", "Output", "Rollout", "objection"]

FILE = "manifest.toml"
_LONG_KEY = re.compile(r"""(?<![\w-])(?:(?:"[^"\n]*"|'[^'\n]*'|[\w-]+)[ \t]*\.[ \t]*){16}""")
"""A dotted key of so many parts: tomllib takes the square of their number, minutes for a file of a megabyte."""


RULES: Final = ("size", "size_wh", "ones")
MOST_GIVEN: Final = 64
"""Numbers for one extra input."""


def _as_list_of_tables(value: Any) -> Any:
    """`[[outputs]]` as a tuple. One table is no list of one: whoever writes `[outputs]` may have meant its keys as names."""
    if not isinstance(value, list | tuple):
        raise ValueError("[[outputs]], once for each output")  # noqa: TRY004  (pydantic takes no TypeError)
    return tuple(value)


def _given(value: Any) -> str | tuple[float, ...]:
    """What an extra input is given: a word, or numbers."""
    if isinstance(value, str) and value in RULES:
        return value
    numbers = tuple(value) if isinstance(value, list | tuple) else (value,)
    if 0 < len(numbers) <= MOST_GIVEN and all(type(one) in (int, float) and math.isfinite(one) for one in numbers):
        return tuple(float(one) for one in numbers)
    raise ValueError(f"{', '.join(map(repr, RULES))}, or 1 to {MOST_GIVEN} numbers")


Given = Annotated[Literal["size", "size_wh", "ones"] | tuple[float, ...], PlainValidator(_given)]
VersionNumber = Annotated[int, Field(ge=1, le=LAST_VERSION)]


class Limits(Table):
    """`[limits]`: what is refused, and when a batch or a picture counts as hung."""

    max_bytes: Annotated[int, Field(ge=1, le=512 * 2**20)] = 16 * 2**20
    """Bytes of one encoded image; 16 MiB. Redis itself takes no value above 512 MB."""
    max_pixels: Annotated[int, Field(ge=1, le=2**31 - 1)] = 50_000_000
    """Width times height of one image, as its header says and as it is scaled to."""
    max_batch: Annotated[int, Field(ge=1, le=4096)] = 64
    """Jobs in one call of the graph."""
    max_batch_s: Annotated[float, Field(gt=0, le=3600)] = 30.0
    """Seconds that one batch may run, and that making its answers may take, before its worker counts as hung."""
    max_decode_s: Annotated[float, Field(gt=0, le=3600)] = 10.0
    """Seconds that decoding and preparing one job may take before its worker counts as hung; what it waits for a processor
    is left out, as far as that is known."""


class Batching(Table):
    """`[batching]`: 0 takes what is there and never waits; more trades latency for larger batches."""

    max_wait_ms: Annotated[float, Field(ge=0, le=10_000)] = 0.0


class Runtime(Table):
    """`[runtime]`: where the graph runs when the service is not told, and on how many threads."""

    device: Literal["auto", "cpu", "cuda"] = "auto"
    threads: Annotated[int, Field(ge=1, le=1024)] = 1


class WarmUp(Table):
    """`[warmup]`: an image, or a tensor as a `.npy` file, that goes through the engine before the model counts as ready."""

    sample: InnerPath
    golden: str | None = None
    """The label that the sample must get: of the best class, or of the best detection where there are no classes."""


class Versions(Table):
    """`[versions]`: which versions stay loaded."""

    keep: Annotated[int, Field(ge=1, le=16)] = 1
    """The newest so many that are good: the newest of them answers, the others answer jobs that pin them."""
    require: VersionNumber | None = None
    """This one answers or none does. Left out: the newest good one, and what is not good is passed over."""


class Rollout(Table):
    """`[rollout]`: try one version on live jobs before it becomes the one that answers."""

    version: VersionNumber
    """The candidate. The newest good version but this one answers everything else."""
    percent: Annotated[float, Field(ge=0, le=100)] = 0.0
    """Share of the jobs that pin no version and go to the candidate, sticky by job id."""
    shadow: bool = False
    """The candidate runs beside what answers, on the same inputs; its answers are compared, never published."""
    max_failure_ratio: Annotated[float, Field(gt=0, le=1)] = 0.05
    """Above this share of failed jobs (`model_error`, `non_finite`, `internal`) the candidate is taken back.

    Those whose own tensor held NaN or infinity do not count.
    """
    min_jobs: Annotated[int, Field(ge=1)] = 20
    """Not before it has had this many."""

    @model_validator(mode="after")
    def _one_of_two(self) -> Self:
        if self.shadow and self.percent:
            raise ValueError("percent or shadow, not both: a shadow answers no jobs")
        return self


class Manifest(Table):
    """The whole of one `manifest.toml`. Every table may be left out; the defaults are those of the fields above."""

    description: Annotated[str, Field(max_length=4000)] = ""
    input: Input = Input()
    extra_inputs: dict[NodeName, Given] = Field(default_factory=dict)
    """What the graph takes besides the picture, and is given the same for every job of a batch. size: height and width of the
    network's input, in pixels; size_wh: width and height; ones: nothing but 1; else the numbers themselves."""
    outputs: Annotated[tuple[Output, ...], BeforeValidator(_as_list_of_tables)] = ()
    """Left out: every output of the graph, as tensors; with detections those that they are made of."""
    detections: Detections | None = None
    feature_maps: dict[NodeName, NodeName] = Field(default_factory=dict)
    """Name that a job asks for -> output of the graph, or of `features.onnx` of the version where it has one: the same
    network with these outputs. They are computed or fetched only for batches in which a job asks."""
    limits: Limits = Limits()
    batching: Batching = Batching()
    runtime: Runtime = Runtime()
    warmup: WarmUp | None = None
    versions: Versions = Versions()
    rollout: Rollout | None = None

    @model_validator(mode="after")
    def _names_are_unique(self) -> Self:
        names = [output.name for output in self.outputs] + list(self.feature_maps)
        if len(names) > MOST_OUTPUTS:
            raise ValueError(f"at most {MOST_OUTPUTS} outputs and feature maps, found {len(names)}")
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"every output and feature map once: {', '.join(twice)}")
        if self.input.name is not None and self.input.name in self.extra_inputs:
            raise ValueError(f"input.name to be none of extra_inputs: {self.input.name} is both")
        if self.rollout is not None and self.rollout.version == self.versions.require:
            raise ValueError(
                "versions.require and rollout.version to be two versions: a candidate is none that must answer"
            )
        return self

    @model_validator(mode="after")
    def _answers_make_sense(self) -> Self:
        meanings = [output.meaning for output in self.outputs]
        for meaning in ONCE:
            if meanings.count(meaning) > 1:
                raise ValueError(f"at most one output that means {meaning}: an answer has one place for it")
        named = self.detections is not None and self.detections.labels is not None
        if (
            self.warmup is not None
            and self.warmup.golden is not None
            and not ({"classes", "text"} & {*meanings} or named)
        ):
            raise ValueError(
                "an output that means classes or text, or detections with labels, as warmup.golden names one"
            )
        if self.input.color == "none":
            if self.detections is not None:
                raise ValueError("no detections, as input.color is none: there are no images")
            if placed := next((meaning for meaning in meanings if meaning in OF_PICTURES), None):
                raise ValueError(f"no output that means {placed}, as input.color is none: there are no images")
        return self

    @property
    def classes(self) -> Output | None:
        """The output that holds the classes: of several the first, whose best are a job's `predictions`."""
        return next(iter(self.heads), None)

    @property
    def heads(self) -> tuple[Output, ...]:
        """All outputs that hold classes."""
        return tuple(output for output in self.outputs if output.meaning == "classes")

    @property
    def labels_files(self) -> tuple[str, ...]:
        """The files with labels that it names."""
        named = [*(output.labels for output in self.outputs), self.detections and self.detections.labels]
        return tuple(dict.fromkeys(name for name in named if name))

    @classmethod
    def read(cls, folder: Path, version: int | None = None) -> Manifest:
        """Read `manifest.toml` of a model's folder, or of the folder of one of its versions.

        Raises ModelBroken, which names the file, the line where it is known, the key, and what was expected.
        """
        file = (folder if version is None else folder / str(version)) / FILE
        text = text_of(read_inside(file, folder, MOST_BYTES[FILE]), file)
        if _LONG_KEY.search(text):
            raise ModelBroken(f"{file}: is nested too deeply for a manifest")
        try:
            return cls.model_validate(tomllib.loads(text))
        except ValidationError as err:
            raise ModelBroken(explain(file, text, err)) from None
        except ValueError as err:  # TOMLDecodeError, and what int() says of a number with thousands of digits
            raise ModelBroken(f"{file}: is not TOML: {err}") from None
        except RecursionError:
            raise ModelBroken(f"{file}: is nested too deeply for a manifest") from None
