"""The words that clients and workers share: a job (one stream entry), a result (one JSON document), protocol version 1.

Knows nothing of Redis, images or networks. `Job` and `Result` are the typed forms; `receive` decodes what a worker was
handed, and `ResultEncoder` writes result documents from a template, because both run once per job.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

from convq.errors import BadField, JobError

if TYPE_CHECKING:
    import numpy as np

VERSION = 1
"""Version of the wire protocol; every result carries it as `v`."""

MODEL_NAME = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}\Z")
JOB_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}\Z")

DEFAULT_TOP_K = 5
MAX_INTEGER_DIGITS = 15
"""Integers on the wire have at most this many digits: enough for 31,000 years in milliseconds, exact in every language."""

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

    image: bytes | None = Field(None, description="an encoded image: PNG, JPEG, WebP, BMP, GIF (first frame) or TIFF")
    tensor: bytes | None = Field(
        None, description="instead of image: raw little-endian C-order array in the model's input layout, without batch axis"
    )
    dtype: str | None = Field(None, description="of the tensor: uint8 or float32")
    shape: str | None = Field(None, description="of the tensor, without the batch axis, like 1,32,32")
    id: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9._:-]{1,64}$")] | None = Field(
        None, description="the client's own id; without it the entry id is the job id"
    )
    ttl_ms: int | None = Field(None, ge=0, description="result wanted within this many milliseconds of the entry's time")
    reply_to: str | None = Field(None, description="inbox key of the same shard; the result goes there instead")
    top_k: int | None = Field(None, ge=1, description="number of predictions, default 5, at most the number of classes")
    outputs: str | None = Field(None, description="comma-separated names of raw outputs wanted besides predictions")
    version: int | None = Field(None, ge=1, description="pins a model version; default is the newest ready one")
    traceparent: str | None = Field(None, description="W3C trace context")

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


@dataclass(slots=True, eq=False)
class Received:
    """One delivered entry as a worker sees it.

    Always addressable: `id` and `reply_to` are usable even where `problem` says why the job itself is not.
    """

    entry: str
    lane: int
    attempt: int
    id: str
    reply_to: str | None = None
    problem: JobError | None = None
    image: bytes | None = None
    tensor: bytes | None = None
    dtype: str = ""
    shape: str = ""
    ttl_ms: int | None = None
    top_k: int = DEFAULT_TOP_K
    outputs: tuple[str, ...] = ()
    version: int | None = None
    traceparent: str | None = None

    @property
    def submitted_ms(self) -> int:
        """When the entry was added, in milliseconds of the server's clock: the first part of its id."""
        return int(self.entry.partition("-")[0])


def shown(value: bytes) -> str:
    """At most 40 bytes of a client's value, as text that is safe in a message."""
    text = value[:40].decode("utf-8", "replace")
    return repr(text) + ("…" if len(value) > 40 else "")


def _text(name: str, value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise BadField(f"{name} must be UTF-8 text; got {shown(value)}") from None


def _integer(name: str, value: bytes, least: int) -> int:
    if value.isdigit() and len(value) <= MAX_INTEGER_DIGITS and int(value) >= least:
        return int(value)
    raise BadField(f"{name} must be an integer of at least {least}; got {shown(value)}")


def _parse_outputs(value: bytes) -> tuple[str, ...]:
    names = tuple(name.strip() for name in _text("outputs", value).split(","))
    if not all(names):
        raise BadField(f"outputs must be names with commas between them; got {shown(value)}")
    return names


def _parse_id(value: bytes) -> str:
    text = _text("id", value)
    if not JOB_ID.match(text):
        raise BadField(f"id must be 1 to 64 characters of A-Z a-z 0-9 . _ : -; got {shown(value)}")
    return text


_PARSERS: dict[bytes, Any] = {
    b"image": bytes,
    b"tensor": bytes,
    b"dtype": lambda value: _text("dtype", value),
    b"shape": lambda value: _text("shape", value),
    b"id": _parse_id,
    b"ttl_ms": lambda value: _integer("ttl_ms", value, 0),
    b"reply_to": lambda value: _text("reply_to", value),
    b"top_k": lambda value: _integer("top_k", value, 1),
    b"outputs": _parse_outputs,
    b"version": lambda value: _integer("version", value, 1),
    b"traceparent": lambda value: _text("traceparent", value),
}


class Receiver:
    """Decodes entries of one shard.

    Clients write the same field names in the same order again and again, so what depends on the names alone (which
    parser, what is missing, what contradicts) is worked out once per layout and remembered; a layout that is hostile
    or new costs one dictionary more, and the memory of layouts is bounded.
    """

    MAX_LAYOUTS = 256

    def __init__(self, inbox_prefix: str) -> None:
        self._inbox_prefix = inbox_prefix
        self._layouts: dict[tuple[bytes, ...], _Layout] = {}

    def receive(self, entry: bytes, flat: Sequence[bytes], *, lane: int, attempt: int) -> Received:
        """Decode one entry: `flat` is name, value, name, value…. Never raises for what a client wrote.

        A malformed `id` is answered under the entry id, an unusable `reply_to` under the result key; both leave a
        `BadField` in `problem`, as everything else does that is wrong with the entry.
        """
        names = tuple(flat[::2])
        layout = self._layouts.get(names)
        if layout is None:
            if len(self._layouts) >= self.MAX_LAYOUTS:
                self._layouts.clear()
            layout = self._layouts[names] = _Layout.of(names)
        entry_id = entry.decode()
        received = Received(entry_id, lane, attempt, entry_id, problem=layout.problem)
        for index, name, parse in layout.plan:
            try:
                setattr(received, name, parse(flat[index]))
            except BadField as problem:
                received.problem = received.problem or problem
        if received.reply_to is not None:
            self._check_inbox(received)
        return received

    def _check_inbox(self, received: Received) -> None:
        inbox = received.reply_to or ""
        if not inbox.startswith(self._inbox_prefix) or not 0 < len(inbox) - len(self._inbox_prefix) <= 256:
            received.reply_to = None
            refuse_inbox(received, f"reply_to must be an inbox of this model, {self._inbox_prefix}<client>; got {inbox[:80]!r}")


def refuse_inbox(received: Received, message: str) -> None:
    """Answer this job under its result key, with `bad_field`: its inbox cannot take the result."""
    received.reply_to = None
    received.problem = BadField(message)


@dataclass(slots=True, frozen=True)
class _Layout:
    """What the field names of an entry alone decide."""

    plan: tuple[tuple[int, str, Any], ...]
    problem: JobError | None

    @classmethod
    def of(cls, names: tuple[bytes, ...]) -> _Layout:
        known = [(2 * i + 1, name.decode(), _PARSERS[name]) for i, name in enumerate(names) if name in _PARSERS]
        return cls(tuple(known), cls._problem([name for _, name, _ in known]))

    @staticmethod
    def _problem(names: Sequence[str]) -> JobError | None:
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            return BadField(f"{twice[0]} must be given once; it is there {names.count(twice[0])} times")
        if "image" in names and "tensor" in names:
            return BadField("exactly one of image and tensor must be there; both are")
        if "image" not in names and "tensor" not in names:
            return BadField("exactly one of image and tensor must be there; neither is")
        missing = [name for name in ("dtype", "shape") if "tensor" in names and name not in names]
        if missing:
            return BadField(f"a tensor needs dtype and shape; {' and '.join(missing)} is missing")
        return None


class Prediction(BaseModel):
    """One class of a classifier's answer."""

    model_config = ConfigDict(frozen=True)

    label: str
    index: int
    score: float = Field(description="between 0 and 1; the scores of all classes sum to 1")


class Output(BaseModel):
    """One raw output: an array (`dtype`, `shape`) or an image (`format`), base64 in `data`."""

    model_config = ConfigDict(frozen=True)

    name: str
    data: str = Field(description="base64 of little-endian C-order bytes, or of the encoded image")
    dtype: str | None = None
    shape: tuple[int, ...] | None = None
    format: Literal["png"] | None = None

    def bytes(self) -> bytes:
        """The decoded bytes."""
        return base64.b64decode(self.data)

    def array(self) -> np.ndarray:
        """The array, of `dtype` and `shape` (without the batch axis). Needs numpy; ValueError for an image output."""
        import numpy as np  # noqa: PLC0415 - the base install has no numpy

        if self.dtype is None or self.shape is None:
            raise ValueError(f"output {self.name} is an image ({self.format}): use bytes()")
        return np.frombuffer(self.bytes(), np.dtype(self.dtype).newbyteorder("<")).reshape(self.shape)


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
    total: float = Field(0.0, description="from the entry's time to the writing of this result")


class Result(BaseModel):
    """One result document."""

    model_config = ConfigDict(frozen=True)

    v: int = VERSION
    id: str
    entry: str
    model: str
    version: int | None = Field(None, description="of the network that answered; absent where none ran")
    status: Status
    predictions: tuple[Prediction, ...] | None = None
    outputs: tuple[Output, ...] | None = None
    error: ErrorBody | None = None
    timing_ms: Timing = Timing()
    batch: int | None = Field(None, description="how many jobs shared the run")
    attempt: int = 1
    worker: str = ""

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

    def output(self, name: str) -> Output:
        """The output of that name. KeyError where it was not asked for."""
        for output in self.outputs or ():
            if output.name == name:
                return output
        raise KeyError(f"job {self.id} has no output {name!r}")

    def explain(self) -> str:
        """One line for people: the best class, or what went wrong."""
        if self.error is not None:
            return f"{self.status}: {self.error.code}: {self.error.message}"
        if self.predictions:
            return f"{self.predictions[0].label} ({self.predictions[0].score:.1%})"
        return str(self.status)


def decode_result(document: bytes | str) -> Result:
    """The typed form of a result document. Raises ValueError where it is none."""
    return Result.model_validate_json(document)


@dataclass(slots=True)
class Spent:
    """Milliseconds of one job by stage, gathered on its way through the worker."""

    queue: float = 0.0
    decode: float = 0.0
    batch: float = 0.0
    infer: float = 0.0
    total: float = 0.0


class ResultEncoder:
    """Writes the result documents of one worker for one version of one model.

    A template, not a general JSON dump: 128 documents are written per batch, and everything but numbers is known
    beforehand. Job ids, entry ids and model names hold no character that JSON escapes, by their patterns.
    """

    def __init__(self, model: str, version: int | None, labels: Sequence[str], worker: str) -> None:
        self._labels = [f'{{"label":{json.dumps(label)},"index":{i},"score":' for i, label in enumerate(labels)]
        versioned = "" if version is None else f',"version":{version}'
        self._model = f'"model":"{model}"{versioned},"status":'
        self._worker = f',"worker":{json.dumps(worker)}}}'

    def ok(
        self,
        job: Received,
        spent: Spent,
        batch: int,
        predictions: tuple[Iterable[int], Iterable[float]] | None,
        outputs: Mapping[str, np.ndarray] | None = None,
    ) -> bytes:
        """The document of a computed job: `predictions` are class indices and scores, best first."""
        body = '"ok"'
        if predictions is not None:
            labels = self._labels
            rows = [f"{labels[i]}{score:.7g}}}" for i, score in zip(*predictions, strict=True)]
            body += f',"predictions":[{",".join(rows)}]'
        if outputs is not None:
            body += f',"outputs":[{",".join(_array_output(name, value) for name, value in outputs.items())}]'
        return self._document(job, spent, f'{body},"batch":{batch}').encode()

    def refused(self, job: Received, spent: Spent, status: Status, error: JobError | None = None) -> bytes:
        """The document of a job that was not computed; `error` goes with the statuses error and poisoned."""
        body = f'"{status}"'
        if error is not None:
            body += f',"error":{json.dumps({"code": error.code, "message": str(error)}, ensure_ascii=False)}'
        return self._document(job, spent, body).encode("utf-8", "replace")

    def _document(self, job: Received, spent: Spent, body: str) -> str:
        return (
            f'{{"v":{VERSION},"id":"{job.id}","entry":"{job.entry}",{self._model}{body}'
            f',"timing_ms":{{"queue":{spent.queue:.3f},"decode":{spent.decode:.3f},"batch":{spent.batch:.3f}'
            f',"infer":{spent.infer:.3f},"total":{spent.total:.3f}}},"attempt":{job.attempt}{self._worker}'
        )


def _array_output(name: str, value: np.ndarray) -> str:
    little = value.astype(value.dtype.newbyteorder("<"), copy=False)
    data = base64.b64encode(little.tobytes()).decode()
    return f'{{"name":{json.dumps(name)},"dtype":"{value.dtype.name}","shape":{list(value.shape)},"data":"{data}"}}'


def schemas() -> dict[str, dict[str, Any]]:
    """The JSON Schemas of the protocol by file name, as they are kept in `service/schema/`."""
    job = Job.model_json_schema()
    for name in ("image", "tensor"):
        job["properties"][name]["anyOf"][0] = {"type": "string", "contentEncoding": "binary"}
    return {"job.schema.json": job, "result.schema.json": Result.model_json_schema(mode="serialization")}
