"""One job inside one worker: what it is, where it stands, and how long each phase took."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass

import numpy as np

from convq.answers.coordinates import Placement
from convq.engine.engine import Engine, Prepared
from convq.engine.tensors import is_finite
from convq.errors import InternalFault, JobError
from convq.ipc.crash_marks import CRASH_POINTS, SLOW_DECODES
from convq.protocol import Status
from convq.queue import Lease, Received
from convq.worker.admission.batcher import Batcher
from convq.worker.admission.memory import Memory
from convq.worker.loaded_model import LoadedModel
from convq.worker.tracing.trace_context import trace_context

NEVER_S = float("inf")


@dataclass(slots=True, eq=False)
class Ticket:
    """One job on its way through this worker.

    `arrived_s` and `expires_s` are moments of `time.perf_counter`, the others durations, all in seconds.
    """

    job: Received
    lease: Lease
    arrived_s: float
    queue_s: float
    engine: Engine | None = None
    """The version that answers it, once that is known."""
    prepared: Prepared | None = None
    placement: Placement | None = None
    """How its picture lies in the input, once it ran in a network whose answers have coordinates."""
    expires_s: float = NEVER_S
    cancelled: bool = False
    pixels: int = 0
    """As the picture's header says, where that was asked."""
    alone: bool = False
    """A suspect: prepared and run with nobody else in native code."""
    status: Status = Status.OK
    blameless: bool = False
    """It failed, and its own tensor held NaN or infinity: no version is to blame."""
    fetch_s: float = 0.0
    decode_s: float = 0.0
    prepare_s: float = 0.0
    wait_s: float = 0.0
    infer_s: float = 0.0
    answer_s: float = 0.0
    total_s: float = 0.0

    @property
    def placed(self) -> Placement:
        """`placement`, of a job that ran in a network whose answers have coordinates."""
        assert self.placement is not None  # noqa: S101 - the runner gives it to each such job
        return self.placement

    def refuse(self, problem: JobError) -> None:
        """This job ends as an error; nobody needs its payload any more."""
        self.job.problem, self.status = problem.at_rest(), Status.ERROR
        self.job.image = self.job.tensor = None

    def fail(self, problem: JobError) -> None:
        """The network failed on this job. Looks at its tensor, which nobody did before: most are sound."""
        tensor = self.job.tensor
        self.blameless = tensor is not None and not is_finite(tensor, self.job.dtype)
        self.refuse(problem)

    def condemn(self) -> None:
        """This job has killed its workers and is not run again."""
        job = self.job
        if job.slow >= SLOW_DECODES:
            why = f"decoding this job took too long {job.slow} times, and ended its worker; it is a dead letter"
        else:  # no death counts more than a crash
            times = -(-job.suspicion // CRASH_POINTS)
            why = f"this job ended its worker {times} times or more, the last time alone; it is a dead letter"
        job.problem, self.status = InternalFault(why), Status.POISONED

    @property
    def name(self) -> str:
        """What suspicion calls this job."""
        return f"{self.job.lane}:{self.job.entry}"

    def names(self) -> dict[str, str]:
        """What people look for this job by in a log: its id, and its trace where the client is in one."""
        context = trace_context(self.job.traceparent)
        return {"job": self.job.id} if context is None else {"job": self.job.id, "trace_id": context.trace_id}

    @property
    def payload_bytes(self) -> int:
        """What it holds until it is decoded."""
        return len(self.job.image or self.job.tensor or b"")

    @property
    def input_bytes(self) -> int:
        """What it holds while it waits for its batch."""
        data = b"" if self.prepared is None else self.prepared.data
        return data.nbytes if isinstance(data, np.ndarray) else len(data)

    @property
    def batch_key(self) -> Hashable:
        """Only tickets of one key share a batch: one version, inputs of one shape; a suspect shares with nobody."""
        return self.name if self.alone or self.prepared is None else (self.engine, self.prepared.shape)


def batcher_for(serving: LoadedModel, memory: Memory) -> Batcher[Ticket]:
    """Where tickets of a model wait for their batch, within what the worker's memory has room for."""
    return Batcher(
        serving.max_batch,
        serving.engine.manifest.batching.max_wait_ms / 1e3,
        key=lambda ticket: ticket.batch_key,
        weight=lambda ticket: ticket.input_bytes,
        max_bytes=memory.waiting_bytes,
    )
