"""One worker process: loads its models, runs one pipeline per model, drains on SIGTERM, dies with its supervisor.

Started by the supervisor as ``python -m convq.worker.process``: the first line of standard input is its `WorkerConfig` as JSON,
each later one a `PlanUpdate`; the end of standard input means that the supervisor is gone. What it reports goes to standard output, one JSON line each.
"""

from __future__ import annotations

import gc
import json
import logging
import os
import queue
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

from convq import logs
from convq.errors import ConvqError
from convq.host import allocator
from convq.host.death_signal import die_with
from convq.host.procfs import resident_bytes
from convq.ipc.crash_marks import Gate
from convq.ipc.messages import PlanUpdate, WorkerConfig, worker_name
from convq.ipc.series import LAYOUT, STATES, reset_gauges
from convq.ipc.shared_memory import Board, StatsRow
from convq.logs import event
from convq.outlet import LAST_WORDS_S, Outlet
from convq.queue import Commits, Shard, WorkQueue
from convq.threads import Watch
from convq.worker.plan_updates import pass_on

if TYPE_CHECKING:
    from collections.abc import Mapping

    from convq.ipc.plans import Plan
    from convq.worker.admission.memory import Memory
    from convq.worker.job_log import JobLog
    from convq.worker.loaded_model import LoadedModel
    from convq.worker.pipeline import Pipeline
    from convq.worker.tracing.handover import Tracing

log = logging.getLogger("convq.worker")

MOST_REPORTED_BYTES = 1 << 28
"""Reports that a supervisor has not read yet: it may be stopped, and is never so far behind."""
CLIENTS_EVERY_S = 1.0
"""How often the supervisor is told who sent the jobs."""
DEFECT = 70
"""Exit status of a worker whose thread ended by a defect."""


class Worker:
    """The pipelines of one process."""

    def __init__(self, orders: WorkerConfig) -> None:
        self._board = Board(LAYOUT, orders.service.workers, len(orders.models), orders.service.board)
        self._orders, self._service = orders, orders.service
        self._rows = {model: self._board.row(orders.slot, index) for index, model in enumerate(orders.models) if model}
        self._pipelines: dict[str, Pipeline] = {}
        self._lock = threading.Lock()
        self._changes: queue.SimpleQueue[PlanUpdate] = queue.SimpleQueue()
        self._stop = threading.Event()
        self._watch = Watch(log)
        self._name, self._gate = worker_name(os.getpid()), Gate()
        self._clients_s = 0.0
        self._job_log: JobLog | None = None
        self._tracing: Tracing | None = None
        self._memory: Memory | None = None

    def run(self) -> int:
        """Load, serve until told to stop, drain. Returns the exit status."""
        for one in (signal.SIGINT, signal.SIGHUP):  # Ctrl-C, a closed terminal: they reach all, the supervisor decides
            signal.signal(one, signal.SIG_IGN)
        signal.signal(signal.SIGTERM, lambda *_: self._stop.set())
        self._watch.start("orders", _listen, self._changes)
        for row in self._rows.values():
            _reset(row)
        allocator.keep_little()
        if self._load():
            # What is loaded stays: the collector need not look at it again, nor run every few hundred jobs.
            gc.freeze()
            gc.set_threshold(50_000, 20, 20)
            self._wait_until_asking()
            self._say("ready")
            self._watch.start("follow", pass_on, self._changes, self._follow_one, self._watch)
        idle = allocator.Idle(self._let_go)
        while not self._stop.wait(0.1):
            if self._job_log is not None:
                self._job_log.summarise()
            self._report_clients()
            idle.look(nothing_in_hand=all(pipeline.is_idle for pipeline in self._pipelines.values()))
            if self._watch.fallen is not None:  # the supervisor starts another worker, others take over its jobs
                return DEFECT
        return self._drain()

    def _load(self) -> bool:
        """Load, report and serve every model. False where it is told to stop meanwhile. Raises ConvqError."""
        from convq.worker.job_log import JobLog  # noqa: PLC0415 - all of these bring onnxruntime
        from convq.worker.loading import Loading  # noqa: PLC0415
        from convq.worker.tracing.handover import Tracing  # noqa: PLC0415

        if self._service.log_jobs != "none":
            self._job_log = JobLog(self._service.log_jobs)
        self._tracing = Tracing.start(self._service.otlp, self._name, self._rows, self._watch)
        loading = Loading(
            self._orders, self._rows, self._watch, lambda: not (self._stop.is_set() or self._watch.fallen)
        )
        try:
            for servings in loading.load():
                self._serve(servings)
        except ConvqError:
            if self._pipelines:  # what was begun is finished
                self._drain()
            raise
        return loading.goes_on()

    def _serve(self, servings: Mapping[str, LoadedModel]) -> None:
        """Begin with what is loaded, where that has not begun."""
        self._memory = self._memory or self._memory_left()
        for model, serving in servings.items():
            if model not in self._pipelines:
                _report_serving(model, serving)
                self._add_pipeline(model, serving, self._memory).start()

    def _add_pipeline(self, model: str, serving: LoadedModel, memory: Memory) -> Pipeline:
        """What serves a model that is loaded."""
        from convq.worker.pipeline import Pipeline  # noqa: PLC0415 - brings onnxruntime

        service, row = self._service, self._rows[model]
        work = WorkQueue(service.redis, Shard(model), worker=self._name, lease_ms=service.lease_ms)
        commits = Commits(service.redis, Shard(model), result_ttl_ms=service.result_ttl_ms)
        made = Pipeline(
            serving, work, commits, row, self._name, self._gate, self._watch, memory, self._job_log, self._tracing
        )
        with self._lock:
            self._pipelines = {**self._pipelines, model: made}  # replaced as one: another thread may look at it
        return made

    def _memory_left(self) -> Memory:
        """What this worker may have, less what its models take already."""
        from convq.worker.admission.memory import Memory  # noqa: PLC0415

        memory = Memory(self._service.memory, len(self._orders.plans), resident_bytes())
        self._complain_of(memory)
        return memory

    def _report_clients(self, *, at_once: bool = False) -> None:
        """Tell the supervisor, which counts over workers and their deaths, who sent what was answered lately."""
        if not at_once and time.monotonic() < self._clients_s:
            return
        self._clients_s = time.monotonic() + CLIENTS_EVERY_S
        for model, pipeline in self._pipelines.items():
            if jobs := pipeline.clients():
                _report(event="clients", model=model, jobs=jobs)

    def _complain_of(self, memory: Memory) -> None:
        if memory.too_small and memory.base_bytes:
            facts = {"worker_memory": self._service.memory.planned_bytes, "models": memory.base_bytes}
            event(log, logging.WARNING, "the models alone take nearly all memory of a worker", **facts)

    def _divide_memory(self, base_bytes: int) -> None:
        """Among the models that there are now: what each may claim and keep waiting changes with their number."""
        if self._memory is not None:
            self._memory.divide(len(self._pipelines), base_bytes)
            self._complain_of(self._memory)
            for pipeline in self._pipelines.values():
                pipeline.adopt(pipeline.serving)

    def _let_go(self) -> None:
        for pipeline in self._pipelines.values():
            pipeline.let_go()

    def _follow_one(self, changes: queue.SimpleQueue[PlanUpdate]) -> None:
        """Follow one model's changes, one after the other, beside the work. What cannot be loaded changes nothing."""
        while True:
            change = changes.get()
            if change.plan is None:
                self._leave(change.model)
                continue
            try:
                serving = self._serving_of(change, change.plan)
            except ConvqError as error:
                facts = {"plan": change.plan.model_dump(), "version": getattr(error, "version", None)}
                _report(event="refused", model=change.model, message=str(error), **facts)
                continue
            _report_serving(change.model, serving)

    def _serving_of(self, change: PlanUpdate, plan: Plan) -> LoadedModel:
        """What a change asks for, in force; a model that is new here gets its pipeline."""
        pipeline, folder = self._pipelines.get(change.model), self._service.repository / change.model
        if pipeline is None:
            return self._begin(change, plan)
        serving = pipeline.serving.follow(plan, folder, self._service.device, change.checked)
        pipeline.adopt(serving)
        return serving

    def _begin(self, change: PlanUpdate, plan: Plan) -> LoadedModel:
        """Load a model that came while this worker ran, or was passed over before, and claim its jobs."""
        from convq.worker.loaded_model import LoadedModel  # noqa: PLC0415 - brings onnxruntime

        before_bytes = resident_bytes()
        folder = self._service.repository / change.model
        row = self._rows[change.model] = self._board.row(self._orders.slot, change.place)
        _reset(row)
        together_bytes = self._service.memory.together_bytes
        serving = LoadedModel.load(folder, plan, self._service.device, change.checked, row, together_bytes)
        _set_state(row, "ready")
        memory = self._memory = self._memory or self._memory_left()
        pipeline = self._add_pipeline(change.model, serving, memory)
        self._divide_memory(memory.base_bytes + max(0, resident_bytes() - before_bytes))
        pipeline.start()
        return serving

    def _leave(self, model: str) -> None:
        """Serve a model no longer, beside the others: its last jobs may take a while."""
        self._watch.start(f"{model}-leave", self._let_model_go, model)

    def _let_model_go(self, model: str) -> None:
        """Finish what is in hand of a model and claim nothing more; then free what its networks took."""
        pipeline = self._pipelines.get(model)
        if pipeline is not None:
            pipeline.drain()
            pipeline.join(None)
            with self._lock:
                self._pipelines = {name: one for name, one in self._pipelines.items() if name != model}
            del pipeline
            gc.unfreeze()  # what was loaded at the start holds itself in circles
            gc.collect()
            gc.freeze()
            allocator.give_back()
            self._divide_memory(min(self._memory.base_bytes if self._memory else 0, resident_bytes()))
        row = self._rows.pop(model, None)
        if row is not None:
            reset_gauges(row)
        _report(event="left", model=model)

    def _wait_until_asking(self) -> None:
        """Until every pipeline has its lease and asks Redis for jobs: only then is the worker ready."""
        pipelines = self._pipelines.values()
        while not self._stop.is_set() and not all(pipeline.wait_ready(0.05) for pipeline in pipelines):
            if self._watch.fallen is not None:
                return

    def _drain(self) -> int:
        """Stop claiming first, so that nothing new comes; then finish, publish and give the leases back."""
        self._say("draining")
        deadline = time.monotonic() + self._service.drain_s
        pipelines = self._pipelines.values()
        for pipeline in pipelines:
            pipeline.drain()
        done = [pipeline.join(max(0.0, deadline - time.monotonic())) for pipeline in pipelines]
        self._report_clients(at_once=True)
        if self._job_log is not None:
            self._job_log.summarise(at_once=True)
        if self._tracing is not None:
            self._tracing.close(max(0.0, deadline - time.monotonic()))
        return 0 if all(done) and self._watch.fallen is None else DEFECT

    def _say(self, state: str) -> None:
        for row in list(self._rows.values()):
            _set_state(row, state)
        _report(event=state)


def _set_state(row: StatsRow, state: str) -> None:
    for one in STATES:
        row.set("convq_worker_state", float(one == state), one)


def _report_serving(model: str, serving: LoadedModel) -> None:
    """Tell the supervisor what is loaded now, and what clients may know of it."""
    for version, engine in serving.engines.items():
        if engine.remark:
            event(log, logging.WARNING, engine.remark, model=model, version=version)
    description = {"shards": 1, **serving.engine.describe()}
    engines = list(serving.describe())
    facts = {"plan": serving.plan.model_dump(), "seals": {one: engine.seal for one, engine in serving.engines.items()}}
    _report(event="loaded", model=model, description=description, engines=engines, **facts)


def _reset(row: StatsRow) -> None:
    """The row describes this process now, not the one that had it before; counters go on."""
    reset_gauges(row)
    row.clear_marks()
    row.set("convq_worker_state", 1.0, "starting")


def _report(**facts: Any) -> None:
    """One line to the supervisor; never waits for it."""
    if REPORTS:
        REPORTS[0].put(json.dumps(facts).encode() + b"\n")


REPORTS: list[Outlet] = []
"""The way to the supervisor, once `_own_streams` has opened it."""


def _own_streams() -> None:
    """Keep standard output for reports, whatever libraries print, and let neither stream wait for a stopped supervisor."""
    reports = os.dup(1)
    os.dup2(2, 1)
    for descriptor in (reports, 2):
        os.set_blocking(descriptor, False)  # both are pipes that the supervisor has made for this process alone
    REPORTS.append(Outlet(reports, lambda _: b"", MOST_REPORTED_BYTES))


def _listen(changes: queue.SimpleQueue[PlanUpdate]) -> None:
    """Pass on what the supervisor says. When it is gone, whatever killed it, this worker must not go on claiming."""
    with os.fdopen(0, "rb", closefd=False) as lines:
        for line in lines:
            changes.put(PlanUpdate.model_validate_json(line))
    logs.flush(0.1)
    os._exit(1)


def main() -> int:
    """Serve as the supervisor orders; the exit status is the error's exit code."""
    line = bytearray()
    while not line.endswith(b"\n"):
        byte = os.read(0, 1)
        if not byte:
            return 1
        line += byte
    orders = WorkerConfig.model_validate_json(bytes(line))
    die_with(orders.service.supervisor)
    _own_streams()
    logs.set_up(orders.service.log, orders.slot, orders.service.log_mark)
    try:
        return Worker(orders).run()
    except ConvqError as error:
        where = {"model": getattr(error, "model", None), "version": getattr(error, "version", None)}
        _report(event="failed", code=error.code, message=str(error), exit_code=error.exit_code, **where)
        return error.exit_code


if __name__ == "__main__":
    try:
        status = main()
    except Exception as error:  # noqa: BLE001 - said before this process ends
        sys.excepthook(type(error), error, error.__traceback__)
        status = DEFECT
    for way in REPORTS:
        way.flush(LAST_WORDS_S)
    logs.flush()
    os._exit(status)  # threads that a drain could not end must not hold the process
