"""How people write the names of fields who do not write them as the protocol does."""

from __future__ import annotations

from convq.queue.entries import KNOWN_FIELDS

_SAID_INSTEAD = {
    "ttl_ms": ("ttl", "ttl_s", "ttl_sec", "ttl_secs", "ttl_second", "ttl_msec", "ttl_milli", "ttl_millisecond"),
    "reply_to": ("reply",),
    "top_k": ("top", "top_n"),
    "traceparent": ("trace_context",),
}
"""Field -> what people write for it who know it from elsewhere."""
OTHERS = frozenset({"label"})
"""Bare names that are near a field's, and were fields of callers' own before there was that field: what a picture is said to be."""


def bare(name: str) -> str:
    """Letters and digits alone, small."""
    return "".join(filter(str.isalnum, name)).lower()


def spellings() -> dict[str, str]:
    """Bare names as people may write them, in the singular or plural -> the field that is meant."""
    found: dict[str, str] = {}
    for name in sorted(KNOWN_FIELDS):
        for word in map(bare, (name, *_SAID_INSTEAD.get(name, ()))):
            found |= dict.fromkeys({word, f"{word}s", word.removesuffix("s")} - OTHERS, name)
    return found
