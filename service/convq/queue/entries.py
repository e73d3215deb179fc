"""What a worker makes of an entry that a client wrote: a job that can always be answered, and what is wrong with it.

Decoded by hand and not by a model, because it happens once per job; the fields are those of `convq.protocol.Job`.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, NamedTuple, TypeVar

from convq.errors import BadField, JobError
from convq.printable import printable
from convq.protocol import DEFAULT_TOP_K, FORMATS, MOST_DETECTIONS

T = TypeVar("T")

JOB_ID = re.compile(r"[A-Za-z0-9._:-]{1,64}\Z")
CLIENT_NAME = re.compile(r"[A-Za-z0-9._:-]{1,64}\Z")
DECIMAL = re.compile(rb"(?:[01]|0\.[0-9]{1,6})\Z")
"""A share from 0 to 1 on the wire."""
MAX_INTEGER_DIGITS = 15
"""Integers on the wire have at most this many digits: 31,000 years in milliseconds, and exact in every language."""
MAX_INBOX_NAME = 256
"""Characters of the part of an inbox key that the client chooses."""
MAX_TEXT_BYTES = 16_384
"""Of what is worked on as it is: names of some hundred outputs. All else is compared with what it must be."""
SHOWN_BYTES = 40
"""How much of a client's value a message repeats."""
MAX_IGNORED = 10
"""How many unknown fields an answer names."""


class Asked(NamedTuple):
    """What a job asks of detections and the like; what it does not say is None or empty, and the model's affair."""

    min_score: float | None = None
    iou: float | None = None
    max_detections: int | None = None
    labels: tuple[str, ...] = ()
    format: tuple[str, ...] = ()
    """Words of `FORMATS`, at most one of each group."""

    def form_of(self, group: str) -> str:
        """The word that it says of this group of `FORMATS`, or the one that goes without saying: the first."""
        words = FORMATS[group]
        return next((word for word in self.format if word in words), words[0])


_NOTHING_ASKED = Asked()


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
    client: str = ""
    """Who sent it, as it says itself; empty where it does not."""
    asked: Asked = _NOTHING_ASKED
    suspicion: int = 0
    """Points: how much this job is suspected of having killed a worker."""
    slow: int = 0
    """How often its decoding was over its time."""
    unread: bool = False
    """Its payload is still where it was: see `Holdings.read_payload`."""
    ignored: tuple[str, ...] = ()
    """Names of its fields that the protocol does not know: the first few, cut, fit to be shown."""

    @property
    def submitted_ms(self) -> int:
        """When the entry was added, in milliseconds of the server's clock: the first part of its id."""
        return int(self.entry.partition("-")[0])


def shown(value: bytes) -> str:
    """The first bytes of a client's value, as text that is safe in a message."""
    text = value[:SHOWN_BYTES].decode("utf-8", "replace")
    return repr(text) + ("…" if len(value) > SHOWN_BYTES else "")


def _name_shown(name: bytes) -> str:
    """The name of a field that may hold anything, as its client finds it again: cut, and without what no terminal shows."""
    text = name[:SHOWN_BYTES].decode("utf-8", "replace")
    return printable(text) + ("…" if len(name) > SHOWN_BYTES else "")


def _text(name: str, value: bytes) -> str:
    try:
        return value.decode()
    except UnicodeDecodeError:
        raise BadField(f"{name} must be UTF-8 text; got {shown(value)}") from None


def _bounded(name: str, value: bytes) -> str:
    if len(value) > MAX_TEXT_BYTES:
        raise BadField(f"{name} may be at most {MAX_TEXT_BYTES} bytes; got {len(value)}")
    return _text(name, value)


def _integer(name: str, value: bytes, least: int) -> int:
    if value.isdigit() and len(value) <= MAX_INTEGER_DIGITS and int(value) >= least:
        return int(value)
    raise BadField(f"{name} must be an integer of at least {least}; got {shown(value)}")


def _names(name: str, value: bytes) -> tuple[str, ...]:
    names = tuple(one.strip() for one in _bounded(name, value).split(","))
    if not all(names):
        raise BadField(f"{name} must be names with commas between them; got {shown(value)}")
    return names


def _decimal(name: str, value: bytes) -> float:
    if DECIMAL.match(value):
        return float(value)
    raise BadField(f"{name} must be a decimal from 0 to 1, 0.25 for example, of at most 6 digits; got {shown(value)}")


def _parse_max_detections(value: bytes) -> int:
    most = _integer("max_detections", value, 1)
    if most > MOST_DETECTIONS:
        raise BadField(f"max_detections must be an integer from 1 to {MOST_DETECTIONS}; got {shown(value)}")
    return most


def _parse_format(value: bytes) -> tuple[str, ...]:
    words = tuple(word.strip() for word in _bounded("format", value).split(","))
    groups = [next((group for group, known in FORMATS.items() if word in known), "") for word in words]
    if not all(groups) or len({*groups}) < len(groups):
        expected = "; ".join(" ".join(known) for known in FORMATS.values())
        raise BadField(f"format must be words with commas between them, one of each of {expected}; got {shown(value)}")
    return words


def _parse_id(value: bytes) -> str:
    text = _text("id", value)
    if not JOB_ID.match(text):
        raise BadField(f"id must be 1 to 64 characters of A-Z a-z 0-9 . _ : -; got {shown(value)}")
    return text


def _parse_client(value: bytes) -> str:
    text = _text("client", value)
    if not CLIENT_NAME.match(text):
        raise BadField(f"client must be 1 to 64 characters of A-Z a-z 0-9 . _ : -; got {shown(value)}")
    return text


_OWN: dict[bytes, Any] = {
    b"image": None,
    b"tensor": None,
    b"id": _parse_id,
    b"traceparent": lambda value: _bounded("traceparent", value),
}
_HEADER: dict[bytes, Any] = {
    b"dtype": lambda value: _text("dtype", value),
    b"shape": lambda value: _text("shape", value),
    b"ttl_ms": lambda value: _integer("ttl_ms", value, 0),
    b"reply_to": lambda value: _text("reply_to", value),
    b"top_k": lambda value: _integer("top_k", value, 1),
    b"outputs": lambda value: _names("outputs", value),
    b"version": lambda value: _integer("version", value, 1),
    b"client": _parse_client,
    b"min_score": lambda value: _decimal("min_score", value),
    b"iou": lambda value: _decimal("iou", value),
    b"max_detections": _parse_max_detections,
    b"labels": lambda value: _names("labels", value),
    b"format": _parse_format,
}

PAYLOADS = ("image", "tensor")
ADDRESS = ("id", "reply_to")
"""What says where the answer goes: given twice, it says nothing."""
PROTOCOL_FIELDS = tuple(name.decode() for name in (*_OWN, *_HEADER))
KNOWN_FIELDS = frozenset(PROTOCOL_FIELDS)
"""What has a meaning in the protocol, whether or not a worker reads it."""
_KNOWN = frozenset(name.encode() for name in KNOWN_FIELDS)


@dataclass(slots=True, frozen=True)
class _Header:
    """What an entry says besides its payload and its own id: clients write the same again and again."""

    reply_to: str | None = None
    dtype: str = ""
    shape: str = ""
    ttl_ms: int | None = None
    top_k: int = DEFAULT_TOP_K
    outputs: tuple[str, ...] = ()
    version: int | None = None
    client: str = ""
    asked: Asked = _NOTHING_ASKED
    problem: JobError | None = None


class Receiver:
    """Decodes entries of one shard.

    Clients write the same field names in the same order, and mostly the same values besides payload and id. So what
    depends on the names alone is worked out once per layout, and what depends on those values once per header; an
    entry that is new or hostile costs more, and what is remembered is bounded.
    """

    MAX_REMEMBERED = 64
    MAX_REMEMBERED_BYTES = 512
    """What clients repeat is short; what is long is parsed each time, so that it costs no memory for good."""

    def __init__(self, inbox_prefix: str) -> None:
        self._inbox_prefix = inbox_prefix
        self._layouts: dict[tuple[bytes, ...], _Layout] = {}

    def receive(self, entry: bytes, flat: Sequence[bytes], *, lane: int, attempt: int) -> Received:
        """Decode one entry: `flat` is name, value, name, value…. Never raises for what a client wrote.

        A malformed `id` is answered under the entry id, an unusable `reply_to` under the result key, and so is one that is
        given twice; all leave a `BadField` in `problem`, as everything else does that is wrong with the entry.
        """
        names = tuple(flat[::2])
        layout = self._layouts.get(names)
        if layout is None:
            layout = _remember(self._layouts, names, _Layout.of(names))
        values = tuple([flat[i] for i in layout.header])
        header = layout.headers.get(values)
        if header is None:
            header = _remember(layout.headers, values, self._header(layout, values))
        entry_id = entry.decode()
        received = Received(
            entry_id, lane, attempt, entry_id, header.reply_to, header.problem, None, None,
            header.dtype, header.shape, header.ttl_ms, header.top_k, header.outputs, header.version, None, header.client,
            header.asked,
        )  # fmt: skip
        if layout.ignored:
            received.ignored = layout.ignored
        for index, name, parse in layout.own:
            try:
                setattr(received, name, parse(flat[index]) if parse is not None else flat[index])
            except BadField as problem:
                received.problem = received.problem or problem.at_rest()
        return received

    def _header(self, layout: _Layout, values: Sequence[bytes]) -> _Header:
        parsed: dict[str, Any] = {"problem": layout.problem}
        for index, value in zip(layout.header, values, strict=True):
            name, parse = layout.header[index]
            try:
                parsed[name] = parse(value)
            except BadField as problem:
                parsed["problem"] = parsed["problem"] or problem.at_rest()
        inbox = parsed.get("reply_to")
        if inbox is not None and not self._is_inbox(inbox):
            parsed["reply_to"] = None
            expected = f"an inbox of this model, {self._inbox_prefix}<client>"
            parsed["problem"] = BadField(f"reply_to must be {expected}; got {inbox[:80]!r}")
        asked = {name: parsed.pop(name) for name in Asked._fields if name in parsed}
        return _Header(**parsed, asked=Asked(**asked) if asked else _NOTHING_ASKED)

    def _is_inbox(self, key: str) -> bool:
        return key.startswith(self._inbox_prefix) and 0 < len(key) - len(self._inbox_prefix) <= MAX_INBOX_NAME


def _remember(memory: dict[tuple[bytes, ...], T], key: tuple[bytes, ...], value: T) -> T:
    if sum(map(len, key)) <= Receiver.MAX_REMEMBERED_BYTES:
        if len(memory) >= Receiver.MAX_REMEMBERED:
            memory.clear()
        memory[key] = value
    return value


def refuse_inbox(received: Received, message: str) -> None:
    """Answer this job under its result key, with `bad_field`: its inbox cannot take the result."""
    received.reply_to = None
    received.problem = BadField(message)


@dataclass(slots=True, frozen=True)
class _Layout:
    """What the field names of an entry alone decide: where each field is, and whether they contradict each other."""

    header: dict[int, tuple[str, Any]]
    """Index of the value -> name and parser, for what clients repeat."""
    own: tuple[tuple[int, str, Any], ...]
    """Index, name and parser (None: taken as it is) of what belongs to this job alone."""
    problem: JobError | None
    ignored: tuple[str, ...] = ()
    headers: dict[tuple[bytes, ...], _Header] = field(default_factory=dict)

    @classmethod
    def of(cls, names: tuple[bytes, ...]) -> _Layout:
        known = [(2 * i + 1, name.decode()) for i, name in enumerate(names) if name in _OWN or name in _HEADER]
        counts = Counter(name for _, name in known)
        unclear = {name for name in ADDRESS if counts[name] > 1}  # nobody can say which of them the client looks at
        read = [(i, name) for i, name in known if name not in unclear]
        own = tuple((i, name, _OWN[name.encode()]) for i, name in read if name.encode() in _OWN)
        header = {i: (name, _HEADER[name.encode()]) for i, name in read if name.encode() in _HEADER}
        return cls(header, own, cls._problem(counts), cls._ignored(names))

    @staticmethod
    def _ignored(names: tuple[bytes, ...]) -> tuple[str, ...]:
        unknown = dict.fromkeys(name for name in names if name not in _KNOWN)
        return tuple(_name_shown(name) for name in islice(unknown, MAX_IGNORED))

    @staticmethod
    def _problem(names: Mapping[str, int]) -> JobError | None:
        twice = sorted(name for name, count in names.items() if count > 1)
        if twice:
            return BadField(f"{twice[0]} must be given once; it is there more than once")
        if "image" in names and "tensor" in names:
            return BadField("exactly one of image and tensor must be there; both are")
        if "image" not in names and "tensor" not in names:
            return BadField("exactly one of image and tensor must be there; neither is")
        missing = [name for name in ("dtype", "shape") if "tensor" in names and name not in names]
        if missing:
            return BadField(f"a tensor needs dtype and shape; {' and '.join(missing)} is missing")
        return None
