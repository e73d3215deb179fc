"""What a call may be given beside the image: one table for both clients, looked at before anything is sent.

A value that the service would refuse is refused here, with BadField, and so is one that has no meaning in that call.
"""

from __future__ import annotations

import difflib
import math
import mmap
import numbers
import operator
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from convq.errors import BadField
from convq.protocol import FORMATS, MOST_DETECTIONS, Priority
from convq.queue.entries import CLIENT_NAME, JOB_ID, MAX_INBOX_NAME, MAX_INTEGER_DIGITS, MAX_TEXT_BYTES
from convq.queue.spelling import bare, spellings

SHOWN = 80
"""Characters of a caller's value that a message repeats."""


def shown(value: object) -> str:
    """A caller's value, shortened, for a message."""
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


def _whole(name: str, value: Any, least: int) -> int:
    try:
        number = None if isinstance(value, bool) else operator.index(value)
    except TypeError:
        number = None
    if number is None or number < least or number >= 10**MAX_INTEGER_DIGITS:
        expected = f"an integer of at least {least} and at most {MAX_INTEGER_DIGITS} digits"
        raise BadField(f"{name}: expected {expected}, not {shown(value)}")
    return number


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise BadField(f"{name}: expected text, not {shown(value)}")
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise BadField(f"{name}: {shown(value)} holds what UTF-8 cannot write") from None
    if size > MAX_TEXT_BYTES:
        raise BadField(f"{name}: expected at most {MAX_TEXT_BYTES} bytes, not {size}")
    return value


def job_id_of(value: Any, name: str = "id") -> str:
    """An id of the caller's own, or one that `submit` returned. Raises BadField."""
    if not isinstance(value, str) or not JOB_ID.match(value):
        raise BadField(f"{name}: expected 1 to 64 characters of A-Z a-z 0-9 . _ : -, not {shown(value)}")
    return value


def client_name_of(value: Any, name: str = "client") -> str:
    """How a client calls itself. Raises BadField."""
    if not isinstance(value, str) or not CLIENT_NAME.match(value):
        raise BadField(f"{name}: expected 1 to 64 characters of A-Z a-z 0-9 . _ : -, not {shown(value)}")
    return value


def _outputs(name: str, value: Any) -> str | None:
    """Names with commas between them; None for an empty list of names."""
    expected = f"names of {name}, as a list or with commas between them"
    if not isinstance(value, str):
        if isinstance(value, bytes | bytearray | Mapping) or not isinstance(value, Iterable):
            raise BadField(f"{name}: expected {expected}, not {shown(value)}")
        names = [_text(name, one) for one in value]
        if not names:
            return None
        value = ",".join(names)
    if not all(one.strip() for one in _text(name, value).split(",")):
        raise BadField(f"{name}: expected {expected}, not {shown(value)}")
    return str(value)


def _decimal(name: str, value: Any) -> str:
    """A share from 0 to 1, as the wire has it: six digits at most."""
    number = float(value) if isinstance(value, numbers.Real) and not isinstance(value, bool) else math.nan
    if not 0 <= number <= 1:
        raise BadField(f"{name}: expected a number from 0 to 1, not {shown(value)}")
    return f"{number:.6f}".rstrip("0").rstrip(".")


def _most_detections(name: str, value: Any) -> int:
    if _whole(name, value, 1) > MOST_DETECTIONS:
        raise BadField(f"{name}: expected an integer from 1 to {MOST_DETECTIONS}, not {shown(value)}")
    return operator.index(value)


def _format(name: str, value: Any) -> str | None:
    """Words of the protocol's groups, one of each."""
    said = _outputs(name, value)
    words = [] if said is None else [word.strip() for word in said.split(",")]
    groups = [next((group for group, known in FORMATS.items() if word in known), "") for word in words]
    if not all(groups) or len({*groups}) < len(groups):
        expected = "; ".join(" ".join(known) for known in FORMATS.values())
        raise BadField(f"{name}: expected one word of each of {expected}, not {shown(value)}")
    return said


_OPTIONS: dict[str, Callable[[str, Any], Any]] = {
    "id": lambda name, value: job_id_of(value, name),
    "ttl_ms": lambda name, value: _whole(name, value, 0),
    "reply_to": _text,
    "top_k": lambda name, value: _whole(name, value, 1),
    "outputs": _outputs,
    "version": lambda name, value: _whole(name, value, 1),
    "traceparent": _text,
    "client": lambda name, value: client_name_of(value, name),
    "min_score": _decimal,
    "iou": _decimal,
    "max_detections": _most_detections,
    "labels": _outputs,
    "format": _format,
}
"""Option of a job -> what makes its field of the value that a caller gave. None is as good as not given."""

_MEANINGLESS: dict[str, dict[str, str]] = {
    "submit": {},
    "submit_many": {"id": "one id is one job; submit each image that has an id of its own with `submit`"},
    "classify": {"reply_to": "it waits at the result key, and the result would go to the inbox; use `submit`"},
    "map": {
        "id": "one id is one job; `map` names its jobs itself",
        "reply_to": "`map` reads its results from an inbox of its own",
    },
}
"""Call -> option that it does not take -> why."""


def options_of(call: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a job that the caller of `call` did give. Raises BadField."""
    fields: dict[str, Any] = {}
    for name, value in given.items():
        if name not in _OPTIONS:
            meant = spellings().get(bare(name))
            close = [meant] if meant in _OPTIONS else difflib.get_close_matches(name, _OPTIONS, n=1)
            hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(_OPTIONS)} and priority"
            raise BadField(f"{call} has no option {name!r}; {hint}")
        if value is None:
            continue
        if name in _MEANINGLESS[call]:
            raise BadField(f"{name}: {call} takes none: {_MEANINGLESS[call][name]}")
        fields[name] = _OPTIONS[name](name, value)
    return {name: value for name, value in fields.items() if value is not None}


def inbox_of(prefix: str, reply_to: str) -> None:
    """Raises BadField unless that key is an inbox of the model whose inboxes begin with `prefix`."""
    if not reply_to.startswith(prefix) or not 0 < len(reply_to) - len(prefix) <= MAX_INBOX_NAME:
        raise BadField(f"reply_to: expected an inbox of this model, {prefix}<client>, not {shown(reply_to)}")


def priority_of(value: Any) -> Priority:
    """The lane that `value` names. Raises BadField."""
    try:
        return Priority(value)
    except ValueError:
        raise BadField(f"priority: expected {', '.join(Priority)}, not {shown(value)}") from None


def timeout_of(value: Any) -> float:
    """Seconds, 0 or more. None and infinity are refused too: a wait without an end hides what keeps it waiting."""
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        seconds = float(value)
        if math.isfinite(seconds) and seconds >= 0:
            return seconds
    raise BadField(f"timeout: expected a number of seconds, 0 or more, not {shown(value)}")


def in_flight_of(value: Any) -> int:
    """How many jobs may be on their way. Raises BadField."""
    return _whole("in_flight", value, 1)


def model_of(value: Any) -> str:
    """A model's name, as far as it can be told here: text. Raises BadField."""
    if not isinstance(value, str):
        raise BadField(f"model: expected its name as text, not {shown(value)}")
    return value


def several(call: str, images: Any) -> Iterable[Any]:
    """Many images. Raises BadField for what is one image, though it could be iterated over: bytes, a path."""
    single = (
        isinstance(images, str | bytes | bytearray | memoryview | mmap.mmap) or getattr(images, "shape", None) == ()
    )
    if single or not isinstance(images, Iterable):
        raise BadField(f"{call} takes many images, a list for example, not {type(images).__name__}")
    return images
