"""What is done to the service, and when: a pure function of the seed. Touches nothing."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from convq.errors import SettingsError

TOGETHER = 0.25
"""So often the next fault does not wait until this one may be over."""
TOGETHER_S = (0.05, 0.5)
STOP_LEASES = (0.5, 3.0)


class Kind(StrEnum):
    """One kind of fault; the help of `convq chaos` has them too."""

    WORKER = "worker"
    """kill -9 of a worker, its supervisor lives."""
    STOP = "stop"
    """SIGSTOP of a worker for half a lease to three, then SIGCONT."""
    SERVICE = "service"
    """kill -9 of the whole service, started again."""
    SERVER = "server"
    """kill -9 of the server, started again on its data."""
    CONNECTIONS = "connections"
    """CLIENT KILL of some of all connections."""
    SCRIPTS = "scripts"
    """SCRIPT FLUSH."""
    GUEST = "guest"
    """A second service joins and leaves by SIGTERM."""
    PICTURES = "pictures"
    """Pictures of 15 MB come at once, as jobs among the others."""
    LOG = "log"
    """Nobody reads the service's log while damaged pictures fill it."""
    KEYS = "keys"
    """Bytes that are no text, no number and no name stand in convq's own keys, and go again."""


DEFAULT_MIX: Mapping[Kind, int] = {
    Kind.WORKER: 4,
    Kind.STOP: 2,
    Kind.SERVICE: 1,
    Kind.SERVER: 1,
    Kind.CONNECTIONS: 2,
    Kind.SCRIPTS: 1,
    Kind.GUEST: 1,
    Kind.PICTURES: 1,
    Kind.LOG: 1,
    Kind.KEYS: 1,
}


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault, `at_s` seconds after the disturbance began.

    `pick`, from 0 to 1, chooses among the targets that are there then. `lasts_s`: how long a worker is stopped, a killed
    process stays away, or a guest stays. `alone`: whether it has time to be over before the next one, and the one before
    had; only then its recovery says something about this kind.
    """

    at_s: float
    kind: Kind
    pick: float
    lasts_s: float
    alone: bool


def parse_mix(text: str) -> dict[Kind, int]:
    """The shares in "worker=4,stop=2": kinds that are not named do not happen. Raises SettingsError."""
    mix: dict[Kind, int] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, _, share = part.partition("=")
        if name not in list(Kind) or not (share or "1").isdigit():
            raise SettingsError(f"--mix has {part!r}; expected KIND=SHARE with a kind of {', '.join(Kind)}")
        mix[Kind(name)] = int(share or "1")
    if not any(mix.values()):
        raise SettingsError(f"--mix {text!r} asks for no fault at all; kinds are {', '.join(Kind)}")
    return mix


def plan(seed: int, mix: Mapping[Kind, int], lease_s: float, duration_s: float) -> list[Fault]:
    """The faults of one run, in order.

    Kinds come as from a pack of cards: each as often as its share in the mix before the pack is shuffled anew, so that a
    short run meets them all.
    """
    rng = random.Random(seed)  # noqa: S311 - it must be replayed, not guessed
    pack: list[Kind] = []
    faults: list[Fault] = []
    at_s, alone_so_far = rng.uniform(0.2, 0.7), True
    while True:
        if not pack:
            pack = [kind for kind, share in mix.items() for _ in range(share)]
            rng.shuffle(pack)
        kind = pack.pop()
        lasts_s = _lasts_s(rng, kind, lease_s)
        if at_s + lasts_s > duration_s:
            return faults
        together = rng.random() < TOGETHER
        faults.append(Fault(at_s, kind, rng.random(), lasts_s, alone_so_far and not together))
        at_s += rng.uniform(*TOGETHER_S) if together else lasts_s + _over_s(kind, lease_s) + rng.uniform(0, lease_s / 2)
        alone_so_far = not together


def _lasts_s(rng: random.Random, kind: Kind, lease_s: float) -> float:
    ranges = {
        Kind.STOP: (STOP_LEASES[0] * lease_s, STOP_LEASES[1] * lease_s),
        Kind.SERVICE: (0.0, 0.5),
        Kind.SERVER: (0.0, 1.0),
        Kind.GUEST: (1.0, 5.0),
        Kind.LOG: (1.0, 4.0),
        Kind.KEYS: (0.5, 2.0),
    }
    return rng.uniform(*ranges.get(kind, (0.0, 0.0)))


def _over_s(kind: Kind, lease_s: float) -> float:
    """How long, once it has lasted, a fault may have consequences."""
    return {Kind.SERVICE: lease_s + 2.0, Kind.SERVER: lease_s / 2 + 1.5, Kind.WORKER: 1.5}.get(kind, 1.0)
