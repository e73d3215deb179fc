"""When jobs that wait are called stalled, on a real board and by a clock of the test's own."""

from __future__ import annotations

import logging
import subprocess
from collections.abc import Iterator

import pytest

from convq.importer.dry_run import WITHIN_S as LOAD_WITHIN_S
from convq.ipc.series import LAYOUT
from convq.ipc.shared_memory import Board
from convq.supervisor.exposition.progress import BEGINS, ENDS, ProgressWatch
from convq.supervisor.overdue import Overdue
from convq.supervisor.slots import Slot

LEASE_S = 4.0
REPLY_S = 5.0
"""A reply of Redis may take so long."""
MODELS = ("lenet", "edges")


@pytest.fixture
def process() -> Iterator[subprocess.Popen[bytes]]:
    """What a slot takes for its living worker."""
    with subprocess.Popen(["sleep", "600"]) as running:
        yield running
        running.kill()


class Scene:
    """A service of two workers, as its supervisor sees it; time passes in steps of a quarter second."""

    def __init__(self, process: subprocess.Popen[bytes]) -> None:
        self.now_s = 1000.0
        self.board = Board(LAYOUT, workers=2, models=2)
        self.slots = [Slot(number, process, ready_since_s=1.0) for number in range(2)]
        self.watch = ProgressWatch(self.board, MODELS, 2, LEASE_S, lambda: self.now_s)
        self.jobs = {"lenet": 0, "edges": 0}
        self.moving: set[tuple[int, int]] = {(0, 0), (1, 0), (0, 1), (1, 1)}
        """Worker and model: whose threads go round."""
        self.suspended: set[str] = set()
        self.counted = True

    def passes(self, seconds: float) -> bool:
        """That time passes; whether the service is ready then."""
        until_s = self.now_s + seconds
        while self.now_s < until_s:
            self.now_s += 0.25
            for worker, model in self.moving:
                if not self.slots[worker].stopped:
                    self.board.row(worker, model).set("pulse_moved_s", self.now_s)
            counts = {model: (jobs, self.now_s if self.counted else 1.0) for model, jobs in self.jobs.items()}
            self.watch.look(self.slots, MODELS, counts, self.suspended)
        return self.watch.is_ready

    def stop(self, *workers: int, stopped: bool = True) -> None:
        for worker in workers:
            self.slots[worker].stopped = stopped
            if not stopped:
                self.slots[worker].resumed_s = self.now_s


@pytest.fixture
def scene(process: subprocess.Popen[bytes]) -> Scene:
    made = Scene(process)
    assert made.passes(1)
    return made


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [message for message in caplog.messages if message in (BEGINS, ENDS)]


def test_stopped_workers_and_jobs_that_wait(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    scene.jobs["lenet"] = 200
    scene.stop(0, 1)

    assert scene.passes(LEASE_S), "as long as that it may be a debugger"
    assert not scene.passes(0.5)
    assert {"lenet": "200 jobs wait, and no worker has moved for 4 s (2 stopped)"} == scene.watch.stalled()
    assert not scene.passes(120)
    assert [BEGINS] == said(caplog)
    scene.stop(0, 1, stopped=False)
    assert scene.passes(0.5)
    assert {} == scene.watch.stalled()
    assert [BEGINS, ENDS] == said(caplog)


def test_nothing_waits(scene: Scene) -> None:
    scene.stop(0, 1)

    assert scene.passes(120)


def test_the_first_job_for_workers_that_were_stopped_long_ago_waits_a_lease(scene: Scene) -> None:
    scene.stop(0, 1)
    scene.passes(100)
    scene.jobs["lenet"] = 1

    assert scene.passes(LEASE_S)
    assert not scene.passes(0.5)
    assert "1 job waits" in scene.watch.stalled()["lenet"]


def test_one_worker_that_moves_is_enough(scene: Scene) -> None:
    scene.jobs["lenet"] = 200
    scene.stop(0)

    assert scene.passes(120)


@pytest.mark.parametrize("mark", ["running", "answering", "decoding", "slow", "alone"])
def test_native_code_within_its_limit_is_progress_however_long_it_takes(scene: Scene, mark: str) -> None:
    scene.jobs["lenet"] = 200
    scene.moving = set()
    getattr(scene.board.row(0, 0), mark).set(b"1:1-0")

    assert scene.passes(120)
    scene.slots[0].late = Overdue(0, "network", ("1:1-0",))
    assert not scene.passes(LEASE_S + REPLY_S + 0.5), "it is over it, and cannot even be killed"


def test_native_code_of_a_stopped_worker_is_none(scene: Scene) -> None:
    scene.jobs["lenet"] = 200
    scene.board.row(0, 0).running.set(b"1:1-0")
    scene.stop(0, 1)

    assert not scene.passes(LEASE_S + 0.5)


def test_threads_that_stand_still_without_native_code(scene: Scene) -> None:
    """A connection that does not answer, threads that wait for one another: known to nobody but by what is missing."""
    scene.jobs["lenet"] = 200
    scene.moving = set()

    assert scene.passes(LEASE_S + REPLY_S)
    assert not scene.passes(0.5)
    assert "(2 running)" in scene.watch.stalled()["lenet"]


def test_jobs_that_wait_for_others_to_share_their_batch(scene: Scene) -> None:
    scene.jobs["lenet"] = 1
    scene.board.row(0, 0).set("pulse_wait_s", 10)
    scene.moving = set()

    assert scene.passes(LEASE_S + REPLY_S + 10)
    assert not scene.passes(0.5)


def test_one_of_two_models_is_named_while_the_other_goes_on(scene: Scene, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    scene.jobs |= {"lenet": 200, "edges": 3}
    scene.moving = {(0, 1)}

    assert scene.passes(60)
    assert ["lenet"] == list(scene.watch.stalled())
    scene.moving = set()
    assert not scene.passes(60)
    assert ["lenet", "edges"] == list(scene.watch.stalled())
    assert [BEGINS, BEGINS] == said(caplog)


def test_a_model_for_which_nothing_waits_does_not_make_frozen_workers_ready(scene: Scene) -> None:
    scene.jobs["lenet"] = 200
    scene.stop(0, 1)

    assert not scene.passes(60)
    assert ["lenet"] == list(scene.watch.stalled())


def test_a_job_of_another_model_that_has_the_process_for_itself(scene: Scene) -> None:
    scene.jobs["lenet"] = 5
    scene.moving = set()
    other = scene.board.row(0, 1)
    other.set("pulse_limit_s", 30)
    other.alone.set(b"1:1-0")

    scene.passes(LEASE_S + REPLY_S + 30)
    assert {} == scene.watch.stalled()
    scene.passes(1)
    assert ["lenet"] == list(scene.watch.stalled()), "longer than that nobody has it"


def test_a_suspended_model_is_said_to_be_that(scene: Scene) -> None:
    scene.jobs["lenet"] = 5
    scene.moving = {(0, 1), (1, 1)}
    scene.suspended = {"lenet"}

    assert scene.passes(60)
    assert scene.watch.stalled()["lenet"].endswith("(it is suspended)")


def test_loading_has_its_time(scene: Scene) -> None:
    scene.jobs["lenet"] = 5
    scene.moving = set()
    for slot in scene.slots:
        slot.ready_since_s = None

    scene.passes(LOAD_WITHIN_S)
    assert {} == scene.watch.stalled()
    scene.passes(1)
    assert "(2 starting)" in scene.watch.stalled()["lenet"]


def test_another_service_that_empties_the_queue_now_and_then_does_not_make_it_flap(
    scene: Scene, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    scene.jobs["lenet"] = 200
    scene.stop(0, 1)
    scene.passes(10)
    for _ in range(100):
        scene.jobs["lenet"] = 0
        scene.passes(2)
        scene.jobs["lenet"] = 7
        assert not scene.passes(2)

    assert [BEGINS] == said(caplog)
    scene.jobs["lenet"] = 0
    assert scene.passes(LEASE_S + 1)
    for _ in range(100):
        scene.jobs["lenet"] = 7
        assert scene.passes(2)
        scene.jobs["lenet"] = 0
        assert scene.passes(2)
    assert [BEGINS, ENDS] == said(caplog)


def test_what_is_not_counted_any_more_changes_nothing(scene: Scene) -> None:
    scene.jobs["lenet"] = 200
    scene.counted = False
    scene.stop(0, 1)

    assert scene.passes(60), "Redis is away: that is another reason, and said elsewhere"


def test_a_supervisor_that_stood_still_itself_blames_nobody(scene: Scene) -> None:
    scene.jobs["lenet"] = 200
    scene.passes(10)
    scene.now_s += 600
    for slot in scene.slots:
        slot.resumed_s = scene.now_s
    scene.moving = set()

    assert scene.passes(LEASE_S)
