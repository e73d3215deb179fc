"""Whether workers asked for jobs lately, though their leases ran out: a stopped supervisor renews none, and its workers go on."""

from __future__ import annotations

from convq.queue.keys import GROUP, KNOWN, Shard, is_model_name
from convq.queue.transport.link import Link, text_of

LATELY_S = 30.0
"""A worker asks several times a second when it is idle; one with a long batch may be silent for so long."""
MOST_MODELS = 100


def asked_lately_s(link: Link, shard: Shard) -> float | None:
    """Seconds since a worker last asked for jobs of this shard; None where that is longer ago, never was, or may not be read."""
    idle_ms = []
    for reply in link.flush([("XINFO", "CONSUMERS", stream, GROUP) for stream in shard.streams]):
        for consumer in reply if isinstance(reply, list) else ():
            known = dict(zip(consumer[::2], consumer[1::2], strict=False))
            if isinstance(idle := known.get(b"idle"), int):
                idle_ms.append(idle)
    last_s = min(idle_ms, default=None)
    return None if last_s is None or last_s > LATELY_S * 1e3 else last_s / 1e3


def models_asked_lately(link: Link) -> dict[str, float]:
    """Of the models that were ever served here, those whose workers asked lately -> seconds since."""
    known = link.flush([("SMEMBERS", KNOWN)])[0]
    names = sorted(text_of(name) for name in known if is_model_name(name)) if isinstance(known, list | set) else []
    found = {name: asked_lately_s(link, Shard(name)) for name in names[:MOST_MODELS]}
    return {name: last_s for name, last_s in found.items() if last_s is not None}


def leases_ran_out(last_s: float) -> str:
    """What is to be said of such a model."""
    return f"leases ran out, but workers asked for jobs {last_s:.0f} s ago: is a supervisor stopped?"


LOOK_AGAIN = "let it go on (kill -CONT), or start the service anew; its jobs stay where they are"
