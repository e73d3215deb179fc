"""What stands in convq's keys that convq has not written: looked at for `convq doctor`, each with what would mend it."""

from __future__ import annotations

import hashlib
import shlex
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

from convq.errors import RedisRefused
from convq.queue.diagnosis.health import CLOCK_SLACK_S, CheckResult
from convq.queue.diagnosis.lately import LOOK_AGAIN, asked_lately_s, leases_ran_out
from convq.queue.diagnosis.mending import Rights, caller
from convq.queue.diagnosis.unserved import Unserved, look_once
from convq.queue.keys import MODELS, Shard, is_model_name
from convq.queue.supervision import FAR_AHEAD_S
from convq.queue.transport.address import Address
from convq.queue.transport.link import Link, text_of

CHECK, UNSERVED = "strange key", "not served"
MOST_UNSERVED = 10
SHOWN_BYTES = 80
Cli = Callable[[str], str]
"""Name of a command -> how redis-cli is called by somebody who may run it."""
_PLAIN = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 .,:;_-+*/=@#%&()[]{}<>!?|~^$`")
"""What a name may hold that is written as it is inside the double quotes of redis-cli and the single ones of a shell."""
_BY_DIGEST = (
    'for _, name in ipairs(redis.call("HKEYS", KEYS[1])) do if redis.sha1hex(name) == ARGV[1] then '
    'return redis.call("HDEL", KEYS[1], name) end end return 0'
)
"""Takes out a field by the digest of its name, which may be of any length."""


def look_for_strangers(address: Address, models: Iterable[str]) -> Iterator[CheckResult]:
    """Remarks on the list of models and on the keys of these models; nothing where all is as convq writes it.

    What the user may not read is passed over. Raises RedisUnavailable.
    """
    link = Link(address)
    cli = partial(caller, address, Rights(link))
    try:
        kind, served, now = link.flush([("TYPE", MODELS), ("HGETALL", MODELS), ("TIME",)])
        yield from _list(kind, served, cli)
        if isinstance(now, list):
            for model in sorted(set(models)):
                yield from _shard(link, Shard(model), int(now[0]), cli)
    finally:
        link.close()


def look_for_unserved(address: Address) -> Iterator[CheckResult]:
    """Remarks on streams that hold jobs and that nobody serves, the fullest first. Raises RedisUnavailable."""
    link = Link(address)
    try:
        found = look_once(link)
        lately = {one.model: asked_lately_s(link, Shard(one.model)) for one in (found or ()) if one.model is not None}
    except RedisRefused as refused:
        yield CheckResult("warning", UNSERVED, f"not looked for: {refused}", "name a user that has the right +scan")
        return
    finally:
        link.close()
    if found is None:
        yield CheckResult("warning", UNSERVED, "not looked for in all keys: there are too many", None)
    for one in (found or ())[:MOST_UNSERVED]:
        last_s = None if one.model is None else lately.get(one.model)
        if last_s is not None:
            yield CheckResult(
                "warning", UNSERVED, f"{one.key} holds jobs ({one.jobs}): {leases_ran_out(last_s)}", LOOK_AGAIN
            )
        else:
            yield CheckResult("warning", UNSERVED, f"{one} ({one.jobs} jobs)", _remedy(one))
    if len(found or ()) > MOST_UNSERVED:
        yield CheckResult("warning", UNSERVED, f"{len(found or ()) - MOST_UNSERVED} more streams like these", None)


def _remedy(one: Unserved) -> str:
    """What was served here before waits for its service: nothing of it is to be deleted."""
    if one.known:
        return "start a service for it: it was served here before, or is expected"
    if one.nearest is not None:
        return f"submit its jobs again to {one.nearest} and delete the stream, or start a service for it"
    return "start a service for it, or submit its jobs again elsewhere and delete the stream"


def wrong_types(address: Address, model: str | None) -> list[CheckResult]:
    """Remarks on keys of another type alone: the list of models, and what that model (None: each that is listed) has.

    Raises RedisUnavailable.
    """
    link = Link(address)
    try:
        served = link.flush([("HGETALL", MODELS)])[0]
    finally:
        link.close()
    listed = served[::2] if isinstance(served, list) else []
    models = {name.decode() for name in listed if is_model_name(name)} if model is None else {model}
    return [one for one in look_for_strangers(address, models) if one.level == "problem" and one.check == CHECK]


def take_out(name: bytes, cli: str) -> str:
    """The command that takes this field out of the list of models, in printable ASCII, for any shell."""
    if len(name) > SHOWN_BYTES:
        digest = hashlib.sha1(name, usedforsecurity=False).hexdigest()
        return f"{cli} EVAL {shlex.quote(_BY_DIGEST)} 1 {MODELS} {digest}"
    quoted = "".join(chr(byte) if byte in _PLAIN else f"\\x{byte:02x}" for byte in name)
    return f"{cli} --quoted-input HDEL {MODELS} '\"{quoted}\"'"


def _list(kind: Any, served: Any, cli: Cli) -> Iterator[CheckResult]:
    if isinstance(kind, bytes) and kind not in (b"hash", b"none"):
        yield _wrong_type(MODELS, kind, "hash", cli)
    elif isinstance(served, Exception) and "WRONGTYPE" in str(served):  # a client may read it, and not ask for its type
        yield _wrong_type(MODELS, b"value of another type", "hash", cli)
    for name in served[::2] if isinstance(served, list) else ():
        if not is_model_name(name):
            found = f"{MODELS} has a field that names no model: {repr(name[:SHOWN_BYTES])[1:]}"
            yield CheckResult("warning", CHECK, found, take_out(name, cli("HDEL")))


def _shard(link: Link, shard: Shard, now_s: int, cli: Cli) -> Iterator[CheckResult]:
    wanted = shard.types
    kinds = link.flush([("TYPE", key) for key in wanted])
    for (key, good), kind in zip(wanted.items(), kinds, strict=True):
        if isinstance(kind, bytes) and text_of(kind) not in (good, "none"):
            yield _wrong_type(key, kind, good, cli)
    for stream in shard.streams:
        facts = link.flush([("XINFO", "STREAM", stream)])[0]
        ahead_s = _last_ms(facts) / 1e3 - now_s
        if ahead_s > CLOCK_SLACK_S:
            yield _ahead(stream, ahead_s)


def _last_ms(facts: Any) -> int:
    """The first part of the id that the next entry must exceed; 0 where there is no such stream."""
    if not isinstance(facts, list):
        return 0
    known = dict(zip(facts[::2], facts[1::2], strict=False))
    ms = text_of(known.get(b"last-generated-id", b"0")).partition("-")[0]
    return int(ms) if ms.isascii() and ms.isdigit() else 0


def _wrong_type(key: str, kind: bytes, good: str, cli: Cli) -> CheckResult:
    found = f"{key} holds a {text_of(kind)}, and must hold a {good}"
    then = "RENAME it instead where somebody wants it; its model is served again within seconds"
    return CheckResult("problem", CHECK, found, f"{cli('DEL')} DEL '{key}'", then)


def _ahead(stream: str, ahead_s: float) -> CheckResult:
    found = f"{stream} has an entry id {ahead_s:,.0f} s ahead of the server's clock, and so has every later one: their age is unknown"
    if ahead_s > FAR_AHEAD_S:
        return CheckResult(
            "warning", "entry ids", found, "a running service puts a new stream in its place once it is empty"
        )
    return CheckResult("warning", "entry ids", found, "nothing: in so many seconds the clock has passed it")
