"""The life of a job in one worker, for one model: claim, decode, collect, run, rank, publish.

Three threads, so that fetching the next batch, running this one and publishing the last overlap (onnxruntime and sockets
let go of the interpreter lock). Between fetching and running stands the batcher, between running and publishing a
hand-over of one batch; nothing else queues, so a worker that dies takes about three batches with it, and others redo them.

Beside them, expensive pictures have a lane with a thread of its own, and what may have killed a worker waits until it can
run alone: then the fetching thread runs it, so that nothing is claimed meanwhile.
"""

from __future__ import annotations

import math
import queue
import time
from functools import partial

from convq.ipc.crash_marks import Gate
from convq.ipc.shared_memory import StatsRow
from convq.queue import Commits, WorkQueue
from convq.threads import Watch
from convq.worker.admission.intake import Intake
from convq.worker.admission.memory import Memory
from convq.worker.admission.preprocessor import Preprocessor
from convq.worker.counters import Counters
from convq.worker.fetching import FetchLoop
from convq.worker.job_log import JobLog
from convq.worker.loaded_model import LoadedModel
from convq.worker.postprocessor import BatchResult, Postprocessor
from convq.worker.publisher import Publisher
from convq.worker.runner import Runner
from convq.worker.ticket import batcher_for
from convq.worker.tracing.handover import Tracing


class Pipeline:
    """One model in one worker. `start`, then `drain` and `join`; what ends it otherwise, `watch` knows."""

    def __init__(
        self,
        serving: LoadedModel,
        work: WorkQueue,
        commits: Commits,
        row: StatsRow,
        worker: str,
        gate: Gate,
        watch: Watch,
        memory: Memory,
        job_log: JobLog | None = None,
        tracing: Tracing | None = None,
    ) -> None:
        self.model = serving.engine.name
        self._work = work
        self._commits = commits
        self._row = row
        self._gate = gate
        self._memory = memory
        self._admission = Preprocessor(serving, memory)
        answerer = Postprocessor(self.model, worker, row.answering)
        self._runner = Runner(self._admission, answerer, row, gate, memory)
        self._tally = Counters(row)
        witnesses = [one for one in (job_log, tracing) if one is not None]
        self._publisher = Publisher(self.model, answerer, commits, self._tally, gate, witnesses)
        self._batcher = batcher_for(serving, memory)
        self._handover: queue.Queue[BatchResult | None] = queue.Queue(maxsize=1)
        self._intake = Intake(
            work,
            self._admission,
            self._runner,
            self._batcher,
            self._handover,
            row,
            gate,
            memory,
            partial(watch.thread, f"{self.model}-slow"),
        )
        self._fetching = FetchLoop(self.model, work, commits, self._admission, self._intake, row, self._tally, job_log)
        self._threads = [
            watch.thread(f"{self.model}-{name}", work)
            for name, work in (("fetch", self._fetching.run), ("run", self._run), ("publish", self._publish))
        ]

    # -- life -----------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start the three threads."""
        self.adopt(self.serving)
        for thread in self._threads:
            thread.start()

    @property
    def serving(self) -> LoadedModel:
        """What jobs that are admitted now are admitted for."""
        return self._admission.serving

    def adopt(self, serving: LoadedModel) -> None:
        """Follow another plan from the next job on; what is admitted already ends with the version that it was given."""
        self._row.set("pulse_limit_s", max(serving.max_batch_s, self.serving.max_batch_s))
        self._row.set("pulse_decode_limit_s", max(serving.max_decode_s, self.serving.max_decode_s))
        self._row.set("pulse_wait_s", serving.engine.manifest.batching.max_wait_ms / 1e3)
        self._row.set("convq_model_load_duration_seconds", serving.engine.load_s)
        self._batcher.resize(serving.max_batch, self._memory.waiting_bytes)
        self._work.holdings.bounds = self._memory.bounds(serving)
        self._admission.serving = serving

    def clients(self) -> dict[str, int]:
        """Who sent the jobs that were answered since the last call: name -> jobs. For another thread."""
        return self._tally.clients.take()

    @property
    def is_idle(self) -> bool:
        """Whether no job is in hand."""
        return self._fetching.holds_nothing

    def let_go(self) -> None:
        """Free what the networks keep for their next run. For another thread, while nothing is in hand."""
        with self._gate.shared():
            for engine in self.serving.engines.values():
                engine.let_go()

    def wait_ready(self, timeout_s: float) -> bool:
        """Whether the worker has its lease and asks for jobs, waiting up to `timeout_s`."""
        return self._fetching.ready.wait(timeout_s)

    def drain(self) -> None:
        """Claim nothing more; what is held is finished and published, then the threads end."""
        self._fetching.drain()

    def join(self, timeout_s: float | None) -> bool:
        """Wait for the end, as long as it takes without `timeout_s`; whether it came."""
        deadline = math.inf if timeout_s is None else time.monotonic() + timeout_s
        for thread in self._threads:
            thread.join(None if timeout_s is None else max(0.0, deadline - time.monotonic()))
        return not any(thread.is_alive() for thread in self._threads)

    # -- run ------------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while self._run_next():  # nothing of a batch outlives it in a variable of this thread
            pass
        self._fetching.over.wait()
        self._handover.put(None)

    def _run_next(self) -> bool:
        batch = self._batcher.collect()
        for answers in () if batch is None else self._runner.run(batch):
            self._pass_on(answers)
            del answers  # before the next part of the batch runs
        return batch is not None

    def _pass_on(self, answers: BatchResult) -> None:
        inputs, answers.inputs = answers.inputs, None
        self._handover.put(answers)
        self._runner.compare(answers, inputs)

    # -- publish --------------------------------------------------------------------------------------------------

    def _publish(self) -> None:
        while self._publish_next():
            pass
        self._fetching.release()
        self._commits.close()

    def _publish_next(self) -> bool:
        answers = self._handover.get()
        if answers is not None:
            self._publisher.publish(answers)
            self._memory.let_go(answers.held_bytes)
            self._intake.published.set()
        return answers is not None
