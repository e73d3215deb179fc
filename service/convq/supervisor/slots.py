"""One place for a worker process, and its history. Owned by the supervisor's loop; others only read it."""

from __future__ import annotations

import os
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from convq.host.procfs import usage_of
from convq.ipc.messages import PlanUpdate, WorkerConfig
from convq.ipc.plans import Plan
from convq.supervisor.overdue import Overdue

BACK_OFF_S = (0.1, 5.0)
KILLED_BACK_OFF_S = 0.5
"""The longest wait where SIGKILL ended it: from outside, so that a later start is no better than an early one."""
STABLE_S = 1.0
"""A worker that was ready this long is replaced at once when it dies; one that was not waits, longer each time."""


@dataclass(slots=True)
class Slot:
    """One place for a worker process, and its history."""

    number: int
    process: subprocess.Popen[bytes] | None = None
    ready_since_s: float | None = None
    failures: int = 0
    start_at_s: float = 0.0
    restarts: int = 0
    failure: dict[str, Any] | None = None
    stopped: bool = False
    stopped_at_s: float = 0.0
    """When it was last found stopped, by `time.monotonic`."""
    resumed_s: float = 0.0
    """When it last went on after a stop, by `time.monotonic`: no work of it has taken longer than since then."""
    away_s: float = 0.0
    """For how many seconds in all its workers were stopped, or the whole host stood still."""
    unwanted: str = ""
    """What its worker loads, model/version, where no plan holds that any more: it is killed for it, and nobody is blamed."""
    late: Overdue | None = None
    """What its worker did not come back from, and is killed for."""
    memory: tuple[int, int] = (0, 0)
    """Resident bytes of its worker: before it began with the pictures or the suspect that it works on, and when last seen."""
    models: dict[str, dict[str, Any]] = field(default_factory=dict)
    """Model -> what its worker last said that it has loaded."""
    plans: dict[str, Plan] = field(default_factory=dict)
    """Model -> the plan that its worker follows."""
    told: dict[str, tuple[Plan | None, float]] = field(default_factory=dict)
    """Model -> the plan that its worker was last told to follow, and when, by `time.monotonic`."""
    given: frozenset[str] = frozenset()
    """The models that its worker is started with; it may not have said yet that it has them."""

    account: tuple[int | None, float] = (None, 0.0)
    """The worker whose processor time still counts up, and the seconds of those before it. Replaced as one: a scrape reads it."""

    @property
    def pid(self) -> int | None:
        """The process id of the living worker."""
        return self.process.pid if self.process is not None else None

    @property
    def follows(self) -> bool:
        """Whether its worker can follow orders: it is ready and not stopped."""
        return self.ready_since_s is not None and not self.stopped and self.process is not None

    def may_have(self, model: str) -> bool:
        """Whether its worker has a model, or may have it soon."""
        return model in self.given or (self.process is not None and model in self.plans)

    def note_left(self, model: str) -> None:
        """Its worker serves a model no longer."""
        self.plans.pop(model, None)
        self.models.pop(model, None)
        self.told.pop(model, None)
        self.given -= {model}

    def tell(self, change: PlanUpdate) -> None:
        """Pass on a change of plan. A worker that is gone meanwhile is started with the new plan anyway."""
        self.told[change.model] = (change.plan, time.monotonic())
        self.send(change)

    def send(self, message: WorkerConfig | PlanUpdate) -> None:
        """Write a line to its worker; one that has ended needs none: the next tick finds it so."""
        if self.process is not None and self.process.stdin is not None:
            with suppress(OSError, ValueError):
                self.process.stdin.write(message.model_dump_json().encode() + b"\n")
                self.process.stdin.flush()

    def take_out(self) -> subprocess.Popen[bytes] | None:
        """Its ended worker, which has this place no longer."""
        process, self.process = self.process, None
        self.given = frozenset()
        if process is not None and process.stdin is not None:
            with suppress(OSError):  # what it died too early to read is still in the buffer, and closing writes it
                process.stdin.close()
        return process

    def forget(self) -> None:
        """Its worker is another one now."""
        self.account = (self.pid, self.account[1])
        self.ready_since_s, self.failure, self.stopped, self.late, self.unwanted = None, None, False, None, ""
        self.memory = (0, 0)
        self.models.clear()
        self.plans.clear()
        self.told.clear()

    def delay_next(self, was_ready_s: float | None, *, accused: bool, killed: bool) -> float:
        """Set when the next worker starts here, and return in how many seconds; the last one was ready since `was_ready_s`.

        `accused`: it ended of a job. What kills again and again is buried or suspended: its neighbours need not wait for it.
        """
        self.restarts += 1
        now_s = time.monotonic()
        stable = was_ready_s is not None and (accused or now_s - was_ready_s >= STABLE_S)
        self.failures = 0 if stable else self.failures + 1
        longest_s = KILLED_BACK_OFF_S if killed else BACK_OFF_S[1]
        delay_s = min(longest_s, BACK_OFF_S[0] * 2 ** min(self.failures - 1, 10)) if self.failures else 0.0
        self.start_at_s = now_s + delay_s
        return delay_s

    def cpu_s(self) -> float:
        """Processor seconds of all workers that had this place; never goes back."""
        while True:
            account = pid, before_s = self.account
            usage = usage_of(pid) if pid is not None else None
            if usage is not None:
                return before_s + usage.cpu_s
            if account is self.account or pid is None:
                return before_s

    def poll(self, *, wait: bool = False) -> int | None:
        """The exit status of its worker where that has ended, or, with `wait`, once it has.

        What it has used is taken down before the kernel forgets it.
        """
        if self.process is None:
            return None
        if hasattr(os, "waitid"):
            with suppress(ChildProcessError):  # waited for already
                if os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOWAIT | (0 if wait else os.WNOHANG)) is None:
                    return None
            self.account = (None, self.cpu_s())
        return self.process.wait() if wait else self.process.poll()

    @property
    def grown_bytes(self) -> int:
        """How much more memory its worker held, when last seen, than before what it works on."""
        return self.memory[1] - self.memory[0]

    def note_memory(self, *, working: bool) -> None:
        """Look at what its worker holds; `working`: on a picture or a suspect."""
        usage = usage_of(self.pid) if self.pid is not None else None
        if usage is not None and usage.resident_bytes:  # none: it is dead already
            now_bytes = usage.resident_bytes
            self.memory = (self.memory[0] if working and self.memory[0] else now_bytes, now_bytes)

    def note_absence(self, lasted_s: float) -> None:
        """Its worker could not work until now."""
        self.resumed_s = time.monotonic()
        self.away_s += lasted_s

    def note_stops(self) -> None:
        """A stopped worker (SIGSTOP, a debugger) makes no progress: its lease must run out, so that others take over."""
        if self.process is None or not hasattr(os, "waitid"):
            return
        try:
            news = os.waitid(os.P_PID, self.process.pid, os.WSTOPPED | os.WCONTINUED | os.WNOHANG)
        except ChildProcessError:
            return
        if news is not None:
            if news.si_code == os.CLD_CONTINUED:
                self.note_absence(time.monotonic() - self.stopped_at_s if self.stopped else 0.0)
            elif news.si_code == os.CLD_STOPPED and not self.stopped:
                self.stopped_at_s = time.monotonic()
            self.stopped = (
                news.si_code == os.CLD_STOPPED if news.si_code in (os.CLD_STOPPED, os.CLD_CONTINUED) else False
            )
