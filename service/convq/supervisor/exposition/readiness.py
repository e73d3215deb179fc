"""What /readyz says: whether jobs are answered here, and in one line what keeps which of them from it."""

from __future__ import annotations

from collections.abc import Sequence

from convq.supervisor.beat.heartbeat import Heartbeat
from convq.supervisor.exposition.progress import ProgressWatch
from convq.supervisor.long_loads import LongLoads
from convq.supervisor.rollout.lineup import Lineup
from convq.supervisor.slots import Slot


def readiness(
    slots: Sequence[Slot],
    heartbeat: Heartbeat,
    lineup: Lineup,
    progress: ProgressWatch,
    long_loads: LongLoads,
) -> tuple[bool, str]:
    """Whether this service answers jobs, and the line for whoever asks."""
    unserved = lineup.unserved() | heartbeat.unserved
    served = [model for model in lineup.plans() if model not in unserved]
    whys = "".join(f"; not {model}: {why}" for model, why in unserved.items())
    whys += "".join(f"; {model} is stalled: {why}" for model, why in progress.stalled().items())
    if heartbeat.beats and (named := heartbeat.foreign_keys.named(served)):
        whys += f"; though {named}"
    for model, unfit in lineup.unfit().items():
        whys += "".join(f"; though {model} {one} could not be loaded again: {why}" for one, why in unfit.items())
    whys += "".join(f"; {load}" for load in long_loads.named())
    problem = _problem(slots, heartbeat, lineup, progress)
    if problem is not None:
        return False, f"{problem}{whys}"
    return True, f"{len(slots)} workers serve {', '.join(served)}{whys}"


def _problem(slots: Sequence[Slot], heartbeat: Heartbeat, lineup: Lineup, progress: ProgressWatch) -> str | None:
    """What keeps the whole service from answering jobs; None where it does what it can."""
    missing = [slot.number for slot in slots if slot.ready_since_s is None]
    if missing:
        return f"{len(slots) - len(missing)} of {len(slots)} workers are ready"
    if not heartbeat.beats:
        return f"Redis does not answer: {heartbeat.trouble}"
    if not lineup.plans():
        return "no model can be served; files that are put right are"
    if not heartbeat.has_announced(lineup.expected()):
        return "the workers are ready; their models are not in the list of those served yet"
    return None if progress.is_ready else "no jobs are answered"
