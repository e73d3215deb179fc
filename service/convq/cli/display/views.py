"""What `convq top` knows after two looks at a queue: rates, hosts and clients, as JSON-able facts."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from convq.queue.diagnosis.glance import Glance
from convq.queue.keys import LANES

SHOWN_CLIENTS = 50
SHOWN_HOSTS = 200
UNNAMED = "unnamed"


@dataclass(frozen=True, slots=True)
class View:
    """One model: the last look at it, and the one before, where there was one."""

    now: Glance
    before: Glance | None

    @property
    def waiting(self) -> int:
        """Jobs that no worker holds."""
        return sum(lane.waiting for lane in self.now.lanes)

    @property
    def held(self) -> int:
        """Jobs that workers hold."""
        return sum(lane.pending for lane in self.now.lanes)

    @property
    def in_per_s(self) -> float | None:
        """Jobs added a second, by whomever."""
        return self._rate(lambda glance: sum(lane.added for lane in glance.lanes))

    @property
    def out_per_s(self) -> float | None:
        """Jobs answered a second."""
        return self._rate(lambda glance: glance.answered or 0)

    @property
    def failed_per_s(self) -> float | None:
        """Of them with an error, or as poisoned."""
        return self._rate(lambda glance: glance.failed or 0)

    @property
    def refused_per_s(self) -> float | None:
        """Jobs refused at the door a second."""
        return self._rate(lambda glance: glance.refused)

    def hosts(self) -> dict[str, tuple[int, int]]:
        """Host -> live workers on it, and jobs that they hold."""
        found: dict[str, tuple[int, int]] = {}
        for worker in self.now.alive:
            workers, held = found.get(worker.host, (0, 0))
            found[worker.host] = workers + 1, held + worker.held
        return found

    def clients(self) -> dict[str, float]:
        """Client -> its share of the entries that were looked at, the largest first."""
        counts = sorted(self.now.clients.items(), key=lambda one: -one[1])
        return {name or UNNAMED: count / self.now.sampled for name, count in counts}

    def facts(self) -> dict[str, Any]:
        """For programs. Rates are None without a look before; `jobs` of a client is an estimate where not all were looked at."""
        now = self.now
        hosts = sorted(self.hosts().items())[:SHOWN_HOSTS]
        return {
            "model": now.model,
            "waiting": {str(lane): one.waiting for lane, one in zip(LANES, now.lanes, strict=True)},
            "held": self.held,
            "oldest_age_s": now.oldest_age_s,
            "in_per_s": self.in_per_s,
            "out_per_s": self.out_per_s,
            "failed_per_s": self.failed_per_s,
            "refused_per_s": self.refused_per_s,
            "dead_letters": now.dead_letters,
            "limit_jobs": now.limit_jobs,
            "full": now.is_full,
            "workers": len(now.alive),
            "hosts": [{"host": host, "workers": workers, "held": held} for host, (workers, held) in hosts],
            "clients": [
                {"client": name, "share": round(share, 4), "jobs": round(share * now.jobs)}
                for name, share in list(self.clients().items())[:SHOWN_CLIENTS]
            ],
            "sampled": now.sampled,
        }

    def _rate(self, count: Callable[[Glance], int]) -> float | None:
        """None without a look before, and where the counter has begun anew meanwhile."""
        if self.before is None:
            return None
        elapsed_ms, gained = self.now.at_ms - self.before.at_ms, count(self.now) - count(self.before)
        return round(gained * 1e3 / elapsed_ms, 2) if elapsed_ms > 0 and gained >= 0 else None


def hosts_of(views: Mapping[str, View]) -> dict[str, tuple[int, int, int]]:
    """Host -> workers (the same process once), jobs held, models, over all models; most jobs first."""
    found: dict[str, tuple[int, int, int]] = {}
    for view in views.values():
        for host, (workers, held) in view.hosts().items():
            most, so_far, models = found.get(host, (0, 0, 0))
            found[host] = max(most, workers), so_far + held, models + 1
    return dict(sorted(found.items(), key=lambda one: (-one[1][1], one[0])))
