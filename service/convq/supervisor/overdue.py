"""What a worker does not come back from: work of one model that has taken longer than its manifest allows."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from convq.ipc.crash_marks import CrashMark
from convq.ipc.shared_memory import StatsRow

LOOK_FROM = 0.1
"""From this part of its time on a decode or a load is asked how long it has waited for a processor."""
MOST_WAITING = {"decoding": 0.9, "loading": 0.5}
"""At most this part of what it has taken is let off: a load ends after twice its time, however busy the host is."""


@dataclass(frozen=True, slots=True)
class Overdue:
    """What has gone over its time in a worker: of which model (its number), in which phase, with which jobs."""

    model: int
    phase: str
    jobs: tuple[str, ...]

    @property
    def is_loading(self) -> bool:
        """Whether a version is at fault, and no job."""
        return self.phase == "loading"

    @property
    def is_decoding(self) -> bool:
        """Whether a picture is at fault, and not the model."""
        return self.phase == "decoding"


def overdue(
    row: StatsRow,
    model: int,
    now_s: float,
    resumed_s: float = 0.0,
    waited: Callable[[CrashMark, float], float] = lambda *_: 0.0,
    load_s: float = 0.0,
    away: Callable[[CrashMark], float] = lambda _: 0.0,
) -> Overdue | None:
    """What one worker has worked on for one model for longer than that model's manifest allows.

    Before `resumed_s`, a moment of `time.monotonic` as `now_s` is, the worker could not work at all. `waited` says how many
    seconds what is marked has waited for a processor since a moment: a sound picture is not slow for a busy host. A load
    may take `load_s`; it is long, and does not begin anew with each stop: `away` says for how many seconds of it the worker
    could not work.
    """
    batch_s, decode_s = row.get("pulse_limit_s"), row.get("pulse_decode_limit_s")
    for mark, phase, limit_s in (
        (row.running, "network", batch_s),
        (row.answering, "answer", batch_s),
        (row.decoding, "decoding", decode_s),
        (row.slow, "decoding", decode_s),
        (row.loading, "loading", load_s),
    ):
        since_s = mark.since_s
        if not (since_s and limit_s):
            continue
        from_s = since_s if phase == "loading" else max(since_s, resumed_s)
        spent_s = now_s - from_s - (away(mark) if phase == "loading" else 0.0)
        if phase in MOST_WAITING and spent_s > limit_s * LOOK_FROM:
            spent_s -= min(waited(mark, from_s), spent_s * MOST_WAITING[phase])
        if spent_s > limit_s:
            jobs = () if phase == "loading" else tuple(mark.read())
            if mark.since_s == since_s:  # it is still the same one
                return Overdue(model, phase, jobs)
    return None
