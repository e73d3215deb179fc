"""Every key that convq keeps in Redis: its name, its type, who writes it, how long it lives.

All keys of one shard carry one hash tag, so that every script is single-slot in Redis Cluster. Shard 0 of model M has the
tag ``{M}``, shard n > 0 has ``{M.n}``: going from one shard to many breaks no client.

======================== ========== ===================== ==========================================================
key                      type       written by            life
======================== ========== ===================== ==========================================================
convq:{M}:jobs           stream     clients               an entry is deleted when its result is published
convq:{M}:jobs:high      stream     clients               the same
convq:{M}:jobs:low       stream     clients               the same
convq:{M}:result:<id>    list       workers               result TTL, or until it is popped
convq:{M}:inbox:<client> list       workers               3600 s after the last push, bounded length
convq:{M}:dead           stream     workers               bounded length, until it is requeued or purged
convq:{M}:leases         sorted set workers, supervisors  while workers live
convq:{M}:job:<id>       string     clients, workers      dedup window; says where the job is, and that it was answered
convq:{M}:cancelled      set        clients               bounded; an id leaves when its job is answered
convq:{M}:suspects       hash       supervisors, workers  a day after the last death; a job leaves when it is answered
convq:{M}:refused        hash       supervisors           until a version's files change or go; bounded
convq:{M}:cfg            hash       supervisors, workers  while the shard is used: limits, drain rate, last beat, exporter
convq:{M}:door           hash       clients (submit)      while the shard is used: bytes since the last measure, refusals
convq:models             hash       supervisors           refreshed by live services, gone with them
convq:known              set        supervisors           for ever: models that were served or are expected, * for all
======================== ========== ===================== ==========================================================
"""

from __future__ import annotations

from dataclasses import dataclass, field

from convq.errors import BadField
from convq.protocol import MODEL_NAME, Priority

GROUP = "workers"
"""The consumer group of every job stream, made at id 0 (never ``$``: what was pushed before the first worker counts)."""

RETURNED = "returned-0-00000000"
"""A consumer of that group that never has a lease: what a worker gives back lies here until another takes it.

It is named as workers are, for whoever reads process ids out of such names; there is no process 0."""

MODELS = "convq:models"
KNOWN = "convq:known"

LANES: tuple[Priority, ...] = (Priority.HIGH, Priority.NORMAL, Priority.LOW)
"""The order in which workers look; a lane's number is its index here."""


def is_model_name(name: bytes) -> bool:
    """Whether a field of `convq:models` can be a model's name; anybody may have written anything there."""
    return MODEL_NAME.match(name.decode("ascii", "replace")) is not None


@dataclass(frozen=True, slots=True)
class Shard:
    """The keys of one shard of one model. Raises BadField for a name that cannot be a model's."""

    model: str
    number: int = 0
    prefix: str = field(init=False)
    streams: tuple[str, str, str] = field(init=False)
    leases: str = field(init=False)
    cfg: str = field(init=False)
    door: str = field(init=False)
    cancelled: str = field(init=False)
    dead: str = field(init=False)
    suspects: str = field(init=False)
    refused: str = field(init=False)
    result_prefix: str = field(init=False)
    inbox_prefix: str = field(init=False)
    job_prefix: str = field(init=False)

    def __post_init__(self) -> None:
        if not MODEL_NAME.match(self.model):
            raise BadField(f"a model's name is 1 to 64 characters of a-z 0-9 _ -, not {self.model!r}")
        tag = self.model if self.number == 0 else f"{self.model}.{self.number}"
        prefix = f"convq:{{{tag}}}:"
        for name, value in {
            "prefix": prefix,
            "streams": (f"{prefix}jobs:high", f"{prefix}jobs", f"{prefix}jobs:low"),
            "leases": f"{prefix}leases",
            "cfg": f"{prefix}cfg",
            "door": f"{prefix}door",
            "cancelled": f"{prefix}cancelled",
            "dead": f"{prefix}dead",
            "suspects": f"{prefix}suspects",
            "refused": f"{prefix}refused",
            "result_prefix": f"{prefix}result:",
            "inbox_prefix": f"{prefix}inbox:",
            "job_prefix": f"{prefix}job:",
        }.items():
            object.__setattr__(self, name, value)

    @property
    def types(self) -> dict[str, str]:
        """Each key that the shard has once -> what TYPE says of it, where it is there."""
        hashes = dict.fromkeys((self.cfg, self.door, self.suspects, self.refused), "hash")
        kinds = {self.leases: "zset", **hashes, self.cancelled: "set"}
        return {**dict.fromkeys((*self.streams, self.dead), "stream"), **kinds}

    def stream(self, priority: Priority) -> str:
        """The stream of that priority."""
        return self.streams[LANES.index(priority)]

    def result(self, job_id: str) -> str:
        """The list that holds the result of that job."""
        return self.result_prefix + job_id

    def inbox(self, client: str) -> str:
        """The inbox of that client."""
        return self.inbox_prefix + client

    def job(self, job_id: str) -> str:
        """The string that says where a job with its own id was put."""
        return self.job_prefix + job_id
