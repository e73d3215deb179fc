"""Pictures whose decoding takes for ever, or more memory than there is, or the process: their neighbours are answered."""

from __future__ import annotations

import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest

from convq.host.procfs import usage_of
from faults.books import Books, connect
from faults.stage import Fault, Stage, Staged
from faults.test_poison import DEAD, TRAP, buried
from servers import OwnServer, wait_until
from services import MODELS, RunningService, children_of

SLOW, GREEDY, FATAL = b"slow for real", b"greedy for real", b"fatal for real"  # see e2e/poison
EXPENSIVE = bytes(300 << 10)
"""Behind a digit: a file that large is not decoded among the cheap ones."""
LIMIT_BYTES = 512 << 20

trapped = {"PYTHONPATH": os.pathsep.join([str(TRAP), *filter(None, [os.environ.get("PYTHONPATH")])])}


def models(folder: Path, max_decode_s: float) -> str:
    """lenet, with so many seconds for a picture."""
    shutil.copytree(MODELS / "lenet", folder / "lenet")
    manifest = folder / "lenet" / "manifest.toml"
    manifest.write_text(manifest.read_text().replace("[limits]", f"[limits]\nmax_decode_s = {max_decode_s}"))
    return str(folder)


@contextmanager
def limited(pids: Callable[[], list[int]], kill: Callable[[int], None]) -> Iterator[list[int]]:
    """While inside, `kill` is called with whichever of the processes holds more than `LIMIT_BYTES`, as a kernel would.

    Yields the list of those that were killed.
    """
    over, killed = threading.Event(), []

    def watch() -> None:
        while not over.wait(0.002):
            for pid in pids():
                usage = usage_of(pid)
                if usage is not None and usage.resident_bytes > LIMIT_BYTES and pid not in killed:
                    killed.append(pid)
                    kill(pid)

    thread = threading.Thread(target=watch)
    thread.start()
    try:
        yield killed
    finally:
        over.set()
        thread.join()


def slay(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def said_of(stage: Stage, ids: list[str]) -> set[tuple[str, int]]:
    """Status and attempt of each of these jobs."""
    stage.books.read()
    return {(stage.books.said[one]["status"], stage.books.said[one]["attempt"]) for one in ids}


@pytest.mark.fault(29, "B1: slow decode", "an expensive picture whose decoder does not come back, among 40; one worker")
def test_a_decode_without_end_holds_nobody_up(on_stage: Staged, fault: Fault, tmp_path: Path) -> None:
    with on_stage("--models", models(tmp_path / "models", 8), workers=1, **trapped) as stage:
        digits = stage.books.submit(20, ending=b"")
        (slow,) = stage.books.submit(1, ending=EXPENSIVE + SLOW)
        digits += stage.books.submit(20, ending=b"")
        fault.strike()
        fault.recovered_when(lambda: stage.books.answered(digits), within_s=6)
        assert {("ok", 1)} == said_of(stage, digits), "before the slow one was stopped"

        def redone() -> bool:
            """The second decode runs: the worker is another one, and the job is in it."""
            held = stage.held().get(next(iter(stage.service.worker_pids()), 0), [])
            return stage.count("convq_worker_restarts_total") == 1 and stage.books.accepted[slow] in held

        wait_until(redone, 20)
        later = stage.books.submit(20, ending=b"")
        wait_until(lambda: stage.books.answered(later), 6)
        assert {("ok", 1)} == said_of(stage, later), "nor does it hold anybody up the second time"
        assert not stage.books.answered([slow])
        wait_until(lambda: stage.books.answered([slow]), 20)
        stage.check()
        assert "decoding this job took too long 2 times" in stage.books.said[slow]["error"]["message"]
        assert {slow} == buried(stage)
        assert 2 == stage.count("convq_worker_restarts_total")
        fault.outcome = "poisoned after two decodes of 8 s; 60 digits answered meanwhile, at their first attempt"


@pytest.mark.fault(29, "B1: slow decode of a small file", "a picture of 300 bytes whose decoder does not come back")
def test_a_decode_without_end_that_no_header_tells_of_costs_its_limit(
    on_stage: Staged, fault: Fault, tmp_path: Path
) -> None:
    with on_stage("--models", models(tmp_path / "models", 3), workers=1, **trapped) as stage:
        digits = stage.books.submit(20, ending=b"")
        (slow,) = stage.books.submit(1, ending=SLOW)
        digits += stage.books.submit(20, ending=b"")
        fault.strike()
        fault.recovered_when(lambda: stage.books.answered(digits), within_s=10)
        fault.outcome = "poisoned after two decodes of 3 s; the others once more, after the first"
        wait_until(lambda: stage.books.answered([slow]), 20)
        stage.check()
        assert {"ok": 40, "poisoned": 1} == stage.books.statuses()
        assert {slow} == buried(stage)


def test_what_waits_behind_a_slow_decode_goes_to_an_idle_worker(on_stage: Staged, tmp_path: Path) -> None:
    with on_stage("--models", models(tmp_path / "models", 60), workers=2, **trapped) as stage:
        slow, *sound = (stage.books.submit(1, ending=EXPENSIVE + one)[0] for one in (SLOW, b"", b"", b"", b""))
        wait_until(lambda: stage.books.answered(sound), 20)
        assert {("ok", 1)} == said_of(stage, sound)
        assert not stage.books.answered([slow])
        assert 0 == stage.count("convq_worker_restarts_total")
        for pid in stage.service.worker_pids():
            slay(pid)
        stage.redis.xdel("convq:{lenet}:jobs", stage.books.accepted.pop(slow))
        wait_until(stage.service.is_whole, 20)


@pytest.mark.fault(29, "B1: drain during a slow decode", "SIGTERM while a decoder does not come back; drain 2 s")
def test_a_drain_does_not_wait_for_a_slow_decode(on_stage: Staged, fault: Fault, tmp_path: Path) -> None:
    folder = models(tmp_path / "models", 60)
    with on_stage("--models", folder, workers=1, CONVQ_DRAIN="2", **trapped) as stage:
        (slow,) = stage.books.submit(1, ending=EXPENSIVE + SLOW)
        behind = stage.books.submit(2, ending=EXPENSIVE)
        digits = stage.books.submit(40, ending=b"")
        wait_until(lambda: stage.books.answered(digits), 20)
        stage.service.signal(signal.SIGTERM)
        fault.strike()
        fault.recovered_when(lambda: stage.service.process.poll() is not None, within_s=6)
        assert 0 == stage.service.wait()
        assert not stage.books.answered([slow])
        with RunningService(stage.server.url, "--models", folder, workers=1) as second:  # without the trap
            wait_until(lambda: stage.books.answered([slow, *behind]), 20)
            assert 0 == sum(second.metrics()["convq_worker_restarts_total"].values())
        assert {"ok": 43} == stage.books.statuses()
        fault.outcome = "ended within the drain; what was not done was answered by the next service"
        stage.service.start()
        stage.check()


@pytest.mark.fault(29, "poison: a picture that kills its decoder", "four of them, SIGSEGV, and nothing else to answer")
def test_pictures_that_kill_their_decoder_do_not_suspend_the_model(on_stage: Staged, fault: Fault) -> None:
    with on_stage(workers=1, **trapped) as stage:
        fatal = stage.books.submit(4, ending=FATAL)
        fault.strike()
        fault.recovered_when(lambda: stage.books.answered(fatal), within_s=40)
        digits = stage.books.submit(40, ending=b"")
        wait_until(lambda: stage.books.answered(digits), 20)
        stage.check()
        assert {"ok": 40, "poisoned": 4} == stage.books.statuses()
        assert 0 == stage.count("convq_model_suspended")
        assert 8 == stage.count("convq_worker_restarts_total"), "each dies once in company and once alone"
        fault.outcome = "4 poisoned, each after two deaths; the model was served all the time"


@pytest.mark.fault(29, "E2: greedy decodes", "three pictures that take memory without end, then 40; SIGKILL at 512 MB")
def test_greedy_pictures_are_buried_and_no_innocent_is(on_stage: Staged, fault: Fault) -> None:
    with on_stage(workers=1, **trapped) as stage, limited(stage.service.worker_pids, slay) as killed:
        greedy = stage.books.submit(3, ending=EXPENSIVE + GREEDY)
        digits = stage.books.submit(40, ending=b"")
        fault.strike()
        fault.recovered_when(lambda: stage.books.answered(digits), within_s=30)
        wait_until(lambda: stage.books.answered(greedy), 90)
        stage.check()
        assert {"ok": 40, "poisoned": 3} == stage.books.statuses()
        assert set(greedy) == buried(stage)
        assert len(killed) <= 18, "six kills each at most, fewer where the supervisor saw the memory grow"
        fault.outcome = f"40 answered, 3 poisoned and buried; {len(killed)} workers died of it"


def serve_until_dead(server: OwnServer, is_over: Callable[[], bool]) -> None:
    """A service with one worker, with which its supervisor dies, where it is killed for its memory."""
    with RunningService(server.url, workers=1, wait=False, **trapped) as service:
        supervisor = service.process

        def die(worker: int) -> None:
            supervisor.kill()
            slay(worker)

        with limited(lambda: children_of(supervisor.pid), die):
            wait_until(lambda: supervisor.poll() is not None or is_over(), 30)
        if supervisor.poll() is not None:
            service.wait()


@pytest.mark.fault(
    29, "E2: greedy decode, nobody lives", "as above, with SIGKILL to supervisor and worker; started anew"
)
def test_a_greedy_picture_is_buried_though_nobody_lives_to_accuse_it(fresh_server: OwnServer, fault: Fault) -> None:
    with closing(Books(fresh_server.url, "job")) as books, closing(connect(fresh_server.url)) as client:
        (greedy,) = books.submit(1, ending=EXPENSIVE + GREEDY)
        digits = books.submit(20, ending=b"")
        fault.strike()
        services = 0
        while not books.answered([greedy, *digits]):
            assert services < 8, "two that run it with others, three alone, and one that buries it"
            services += 1
            serve_until_dead(fresh_server, lambda: books.answered([greedy, *digits]))
        assert {"ok": 20, "poisoned": 1} == books.statuses()
        assert [greedy.encode()] == [letter[b"id"] for _, letter in client.xrange(DEAD)]
        fault.outcome = f"buried by the service after {services - 1} that died; 20 digits answered"
