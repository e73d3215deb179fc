"""Whether jobs wait in vain, or the door refuses them: looked at from outside, from Redis alone, for `convq doctor`."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from typing import Any

from convq.errors import RedisRefused
from convq.queue.diagnosis.glance import Glance, Glances
from convq.queue.diagnosis.health import CheckResult
from convq.queue.diagnosis.lately import LOOK_AGAIN, asked_lately_s, leases_ran_out
from convq.queue.keys import Shard
from convq.queue.transport.address import Address

MOMENT_S = 1.0
"""Between two looks at a queue that may stand still."""
QUIET_S = 5.0
"""A worker with nothing to do asks for jobs several times a second; one that has not for so long works, or stands still."""
LIMITS_S = {"max_batch_s": 30.0, "max_decode_s": 10.0}
"""Of a model that does not say its own."""


def look_for_standstills(address: Address, models: Mapping[str, Mapping[str, Any]]) -> Iterator[CheckResult]:
    """Remarks on the queues of these models in which there are jobs. `models`: name -> what `convq:models` says of it, or {}.

    Nothing where this user may not look. Raises RedisUnavailable.
    """
    glances = Glances(address)
    try:
        for model in sorted(models):
            shard = Shard(model)
            first = glances.look(shard, 0, 0)
            if first.jobs and first.leases_known and (not first.alive or _quiet_s(first) > QUIET_S):
                time.sleep(MOMENT_S)
                then = glances.look(shard, 0, 0)
                yield _remark(first, then, models[model], asked_lately_s(glances.link, shard))
            elif first.jobs and first.leases_known:
                yield CheckResult("ok", f"queue {model}", f"{_jobs(first)}; {_workers(first)} at work")
            if first.is_full:
                yield _full(first)
    except RedisRefused:
        return
    finally:
        glances.close()


def _remark(first: Glance, then: Glance, described: Mapping[str, Any], lately_s: float | None) -> CheckResult:
    """On a queue that seemed to stand still at the first look. `lately_s`: since a worker asked, with a lease or without one."""
    check, quiet_s, longest_s = f"queue {then.model}", _quiet_s(then), _longest_s(described)
    if not then.jobs or then.answered != first.answered or (then.alive and quiet_s <= QUIET_S):
        return CheckResult("ok", check, f"{_jobs(then)}; {_workers(then)} at work")
    if (
        not then.alive and lately_s is not None and lately_s <= MOMENT_S
    ):  # since the first look: no worker that is stopped
        return CheckResult("problem", check, f"{_jobs(then)}; {leases_ran_out(lately_s)}", LOOK_AGAIN)
    if not then.alive:
        mend = (
            "start convq serve; where one runs, its workers are stopped or starting: its /readyz and its log say which"
        )
        return CheckResult("problem", check, f"{_jobs(then)}, and no worker is alive", mend)
    if quiet_s > longest_s:
        found = f"{_jobs(then)}; {_workers(then)} alive, and none has asked for a job for {quiet_s:.0f} s"
        return CheckResult("problem", check, found, "/readyz and the log of the service say more; start it anew")
    found = f"{_jobs(then)}; no worker has asked for a job for {quiet_s:.0f} s: a batch may take that long"
    return CheckResult("warning", check, found, f"look again: more than {longest_s:.0f} s are too long")


def _longest_s(described: Mapping[str, Any]) -> float:
    """How long a worker that does what it may can go without asking: a batch, its answers, and a picture before them."""
    limits = described.get("limits")
    known = dict(limits) if isinstance(limits, Mapping) else {}
    found = {name: known.get(name, usual) for name, usual in LIMITS_S.items()}
    batch_s, decode_s = (
        found[name] if isinstance(found[name], int | float) else usual for name, usual in LIMITS_S.items()
    )
    return float(2 * batch_s + decode_s + QUIET_S)


def _quiet_s(glance: Glance) -> float:
    """Seconds since the last living worker asked for jobs."""
    return min((worker.asked_s for worker in glance.alive if worker.asked_s is not None), default=0.0)


def _jobs(glance: Glance) -> str:
    count = "1 job is" if glance.jobs == 1 else f"{glance.jobs:,} jobs are"
    return f"{count} in it, the oldest for {glance.oldest_age_s or 0.0:,.0f} s"


def _workers(glance: Glance) -> str:
    return "1 worker is" if len(glance.alive) == 1 else f"{len(glance.alive)} workers are"


def _full(glance: Glance) -> CheckResult:
    if glance.limit_jobs is not None and glance.jobs >= glance.limit_jobs:
        limit = f"{glance.jobs:,} of {glance.limit_jobs:,} jobs"
    else:
        limit = f"{(glance.held_bytes or 0) / 2**20:,.0f} of {(glance.limit_bytes or 0) / 2**20:,.0f} MiB"
    mend = "start more workers, or raise --max-jobs and --max-bytes; convq top shows who fills it"
    return CheckResult("warning", f"queue {glance.model}", f"it is full: {limit}, and submit refuses more", mend)
