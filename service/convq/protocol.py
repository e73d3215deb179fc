"""The words that clients and workers share: a job (one stream entry), a result (one JSON document), protocol version 1.

Knows nothing of Redis, images or networks. What a worker does with an entry that a client wrote is in `queue.entries`.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Mapping
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from convq.detected import Detection, Output, PictureSize, Segments, Vector
from convq.host.extras import install_packages

if TYPE_CHECKING:
    import numpy as np
    from PIL import Image

VERSION = 1
"""Version of the wire protocol; every result carries it as `v`."""

MODEL_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}\Z")

PREPARED = "prepared"
"""The name in `outputs` for the network's own input, as it was put into the batch; an output of the graph of that name wins."""
VERSION_DIGITS = 9
LAST_VERSION = 10**VERSION_DIGITS - 1
"""A version of a model is a number from 1 to this one, written without zeros before it."""

DEFAULT_TOP_K = 5
MOST_DETECTIONS = 1000
"""Of one job."""

FORMATS = {"masks": ("rle", "polygon", "png", "none"), "embedding": ("base64", "list"), "maps": ("picture", "network")}
"""What `format` of a job may say: of each group one word, the first where it says none."""
_DECIMAL = r"^(0|1|0\.[0-9]{1,6})$"


RESULT_TTL_S = 300
INBOX_TTL_S = 3600
INBOX_LENGTH = 100_000
"""An inbox keeps at most this many unread results; the oldest go first."""
DEDUP_WINDOW_S = 600
CANCELLED_TTL_S = 3600
CANCELLED_LENGTH = 100_000
DEAD_LENGTH = 1000


class Priority(StrEnum):
    """The lane that a job waits in."""

    HIGH = "high"
    NORMAL = "normal"
    LOW = "low"


class JobState(StrEnum):
    """Where a job is. `unknown`: never seen, or done and its result read or expired."""

    WAITING = "waiting"
    RUNNING = "running"
    DONE = "done"
    UNKNOWN = "unknown"


class Status(StrEnum):
    """How a job ended."""

    OK = "ok"
    ERROR = "error"
    EXPIRED = "expired"
    CANCELLED = "cancelled"
    POISONED = "poisoned"


class Job(BaseModel):
    """One job as a client writes it: the fields of one stream entry. Exactly one of `image` and `tensor`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    image: bytes | None = Field(
        None, description="an encoded image: PNG, JPEG, WebP, BMP, GIF, TIFF or AVIF; of several pictures the first"
    )
    tensor: bytes | None = Field(
        None,
        description="instead of image: raw little-endian C-order array in the model's input layout, without batch axis",
    )
    dtype: str | None = Field(None, description="of the tensor: uint8 or float32")
    shape: str | None = Field(None, description="of the tensor, without the batch axis, like 1,32,32")
    id: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._:-]{1,64}$")] | None = Field(
        None, description="the client's own id; without it the entry id is the job id"
    )
    ttl_ms: int | None = Field(
        None, ge=0, description="result wanted within this many milliseconds of the entry's time"
    )
    reply_to: str | None = Field(None, description="inbox key of the same shard; the result goes there instead")
    top_k: int | None = Field(None, ge=1, description="number of predictions, default 5, at most the number of classes")
    outputs: str | None = Field(
        None,
        description="comma-separated names of raw outputs wanted besides predictions; `prepared` is the network's input",
    )
    version: int | None = Field(None, ge=1, description="pins a model version; default is the newest ready one")
    traceparent: str | None = Field(None, description="W3C trace context")
    client: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._:-]{1,64}$")] | None = Field(
        None, description="who sends it, for operators: counted by name, and shown by convq top"
    )
    min_score: Annotated[str, StringConstraints(pattern=_DECIMAL)] | None = Field(
        None, description="detections and predictions below this score are left out: 0, 1 or like 0.25"
    )
    iou: Annotated[str, StringConstraints(pattern=_DECIMAL)] | None = Field(
        None, description="boxes of one class that overlap by more than this are one object: 0, 1 or like 0.45"
    )
    max_detections: int | None = Field(
        None, ge=1, le=MOST_DETECTIONS, description="at most so many detections, best first"
    )
    labels: str | None = Field(None, description="comma-separated labels: only these are detections")
    format: str | None = Field(
        None,
        description="comma-separated: rle, polygon, png or none for masks; base64 or list for an embedding; network or "
        "picture for the size of a map",
    )

    @model_validator(mode="after")
    def _one_input(self) -> Job:
        if (self.image is None) == (self.tensor is None):
            raise ValueError("exactly one of image and tensor must be there")
        if self.tensor is not None and (self.dtype is None or self.shape is None):
            raise ValueError("a tensor needs dtype and shape")
        return self

    def fields(self) -> list[bytes | str | int]:
        """The entry as a flat list name, value, name, value…, as XADD takes it."""
        flat: list[bytes | str | int] = []
        for name in _FIELD_NAMES:
            value = getattr(self, name)
            if value is not None:
                flat += (name, value)
        return flat


_FIELD_NAMES = tuple(Job.model_fields)


class Prediction(BaseModel):
    """One class of a classifier's answer."""

    model_config = ConfigDict(frozen=True)

    label: str
    index: int
    score: float = Field(description="between 0 and 1; the scores of all classes sum to 1")


class ErrorBody(BaseModel):
    """Why a job did not succeed."""

    model_config = ConfigDict(frozen=True)

    code: str
    message: str


class Timing(BaseModel):
    """Where the milliseconds of a job went. `queue` is measured by the server's clock alone."""

    model_config = ConfigDict(frozen=True)

    queue: float = Field(0.0, description="from the entry's time to its delivery to a worker")
    decode: float = Field(0.0, description="decoding and preparing this image")
    batch: float = Field(0.0, description="waiting for the batch to run")
    infer: float = Field(0.0, description="the batch in onnxruntime")
    answer: float = Field(0.0, description="from the network's end to the finished answer")
    total: float = Field(0.0, description="from the entry's time to the writing of this result")


class Result(BaseModel):
    """One result document."""

    model_config = ConfigDict(frozen=True, populate_by_name=True)

    v: int = VERSION
    id: str
    entry: str
    model: str
    version: int | None = Field(None, description="of the network that answered; absent where none ran")
    status: Status
    predictions: tuple[Prediction, ...] | None = None
    heads: dict[str, tuple[Prediction, ...]] | None = Field(
        None,
        description="predictions by output, of a model that has several with classes; predictions are of the first",
    )
    image: PictureSize | None = Field(None, description="there where the answer has coordinates or maps")
    detections: tuple[Detection, ...] | None = Field(
        None, description="best score first; empty where nothing was found"
    )
    truncated: bool | None = Field(
        None, description="true where there were more than max_detections, or no room for all masks"
    )
    segments: Segments | None = Field(None, description="which class each pixel belongs to")
    vector: Vector | None = Field(None, alias="embedding", description="what the picture is like")
    text: str | None = Field(None, description="what a line of text reads; may be empty")
    text_score: float | None = Field(None, description="between 0 and 1; 0 of an empty text")
    keypoints: tuple[tuple[float, ...], ...] | None = Field(
        None,
        description="x, y and perhaps a score each, in the order of the model's names; may lie outside the picture",
    )
    values: dict[str, float] | None = Field(None, description="what was measured, by output")
    outputs: tuple[Output, ...] | None = None
    error: ErrorBody | None = None
    timing_ms: Timing = Timing()
    batch: int | None = Field(None, description="how many jobs shared the run")
    attempt: int = 1
    worker: str = ""
    ignored: tuple[str, ...] | None = Field(
        None, description="fields of the job that the protocol does not know: the first 10, shortened"
    )

    @property
    def ok(self) -> bool:
        """Whether the job was computed."""
        return self.status is Status.OK

    @property
    def label(self) -> str:
        """The best class. ValueError where there are no predictions."""
        if not self.predictions:
            raise ValueError(f"job {self.id} has no predictions: {self.explain()}")
        return self.predictions[0].label

    @property
    def embedding(self) -> np.ndarray:
        """What the picture is like, [size] of float32, made anew each time. Needs numpy; ValueError where there is none."""
        if self.vector is None:
            raise ValueError(f"job {self.id} has no embedding: {self.explain()}")
        return self.vector.array()

    def output(self, name: str) -> Output:
        """The output of that name. KeyError where it was not asked for.

        Of a matte or depth whose numbers the job has named in `outputs`, these; `picture` is what comes by itself.
        """
        return self._find(name, arrays_first=True)

    def picture(self, name: str) -> Output:
        """The image, matte or depth of that name, as a PNG. KeyError where there is none."""
        found = self._find(name, arrays_first=False)
        if found.format is None:
            raise KeyError(f"output {name!r} of job {self.id} is an array")
        return found

    def _find(self, name: str, *, arrays_first: bool) -> Output:
        named = [output for output in self.outputs or () if output.name == name]
        if not named:
            raise KeyError(f"job {self.id} has no output {name!r}")
        return min(named, key=lambda output: (output.format is not None) == arrays_first)

    def draw(
        self, picture: Any, described: Mapping[str, Any] | None = None, font: str | os.PathLike[str] | None = None
    ) -> Image.Image:
        """This answer drawn on the picture that was submitted, upright; arguments and what it looks like: `convq.drawing.draw`.

        Needs Pillow (ModuleNotFoundError says how to get it). Raises BadImage where Pillow cannot decode the picture or it is
        another one, BadField where `font` is none, ValueError where there is nothing to draw.
        """
        if not self.ok:
            raise ValueError(f"job {self.id} has no answer to draw: {self.explain()}")
        try:
            from convq.drawing import draw  # noqa: PLC0415 - the base install has no Pillow
        except ModuleNotFoundError as error:
            if error.name != "PIL":
                raise
            wanted = f"drawing needs Pillow, as the extra cpu brings it: {install_packages('pillow')}"
            raise ModuleNotFoundError(wanted, name="PIL") from None
        return draw(self.model_dump(mode="json", exclude_none=True, by_alias=True), picture, described, font)

    def counted(self) -> str:
        """What was detected, for people: `3 person, 1 dog`, the most first."""
        counts = Counter(one.label for one in self.detections or ())
        return ", ".join(f"{count} {label}" for label, count in counts.most_common()) or "nothing found"

    def told(self) -> str:
        """What the network saw besides classes and detections, for people: text, values, classes of pixels, the size of a vector."""
        parts = []
        if self.text is not None:
            parts.append(f"{self.text!r}")
        parts += [f"{name} {value:.6g}" for name, value in (self.values or {}).items()]
        if self.segments is not None:
            parts.append(self.segments.told())
        if self.keypoints is not None:
            parts.append(f"{len(self.keypoints)} points")
        if self.vector is not None:
            parts.append(f"{self.vector.size} numbers")
        return ", ".join(parts)

    def explain(self) -> str:
        """One line for people: the best class, what was detected or else seen, or what went wrong."""
        if self.error is not None:
            return f"{self.status}: {self.error.code}: {self.error.message}"
        if self.predictions:
            return f"{self.predictions[0].label} ({self.predictions[0].score:.1%})"
        if self.detections is not None:
            return self.counted()
        return self.told() or str(self.status)


def decode_result(document: bytes | str) -> Result:
    """The typed form of a result document. Raises ValueError where it is none."""
    return Result.model_validate_json(document)


def schemas() -> dict[str, dict[str, Any]]:
    """The JSON Schemas of the protocol by file name, as they are kept in `service/schema/`."""
    job = Job.model_json_schema()
    for name in ("image", "tensor"):
        job["properties"][name]["anyOf"][0] = {"type": "string", "contentEncoding": "binary"}
    return {"job.schema.json": job, "result.schema.json": Result.model_json_schema(mode="serialization")}
