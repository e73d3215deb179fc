"""What the server keeps is destroyed, refused or has no room: groups, streams, memory, disks."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from faults.books import UNREACHABLE
from faults.stage import Fault, Stage, Staged, passes
from servers import wait_until
from services import JOBS, LANES


@pytest.mark.fault(10, "consumer group destroyed", "XGROUP DESTROY on all streams, 3 times under load")
def test_a_destroyed_group_is_made_again_and_undone_jobs_run(on_stage: Staged, fault: Fault) -> None:
    with on_stage() as stage:
        with stage.books.load():
            for _ in range(3):
                before = stage.books.read()
                wait_until(lambda: stage.books.read() > before + 200)  # noqa: B023 - called in this turn
                for lane in LANES:
                    stage.redis.xgroup_destroy(lane, "workers")
                fault.strike()
                fault.recovered_when(stage.books.goes_on, within_s=2)
        stage.check()


@pytest.mark.fault(10, "consumer deleted with jobs in hand", "worker stopped with jobs, XGROUP DELCONSUMER, SIGCONT")
def test_jobs_of_a_deleted_consumer_run_again(on_stage: Staged, fault: Fault) -> None:
    with on_stage(lease=5.0) as stage:
        holder = stage.stop_a_holder()
        held = stage.in_flight_of(holder)
        for row in stage.redis.xinfo_consumers(JOBS, "workers"):
            if f"-{holder}-".encode() in row["name"]:
                stage.redis.xgroup_delconsumer(JOBS, "workers", row["name"])
        os.kill(holder, signal.SIGCONT)
        fault.strike()
        fault.recovered_when(lambda: stage.books.answered(held), within_s=8)
        stage.check()


@pytest.mark.fault(10, "one stream deleted", "DEL of the normal lane while workers wait")
def test_a_deleted_stream_is_made_again(on_stage: Staged, fault: Fault) -> None:
    with on_stage() as stage:
        stage.books.submit(500)
        stage.settle()
        stage.redis.delete(JOBS)
        fault.strike()
        fault.recovered_when(stage.books.goes_on, within_s=2)
        stage.check()


@pytest.mark.fault(10, "one stream overwritten with a string", "SET on the normal lane; DEL after 1 s")
def test_a_stream_that_became_a_string_is_said_loudly_and_healed_by_deleting_it(on_stage: Staged, fault: Fault) -> None:
    with on_stage() as stage:
        workers = stage.service.worker_pids()
        stage.redis.set(JOBS, "not a stream")
        stage.books.submit(1)
        assert 1 == len(stage.books.refused), "WRONGTYPE at the door"
        wait_until(lambda: [line for line in said(stage) if line["level"] == "error" and JOBS in str(line["keys"])])
        passes(1.0)
        assert len(said(stage)) < 60, "a busy loop"
        stage.redis.delete(JOBS)
        fault.strike()
        fault.recovered_when(stage.books.goes_on, within_s=3)
        stage.check()
        assert workers == stage.service.worker_pids()


def said(stage: Stage) -> list[dict[str, Any]]:
    """What the service has said of keys that are no streams."""
    return [line for line in stage.service.log if "holds something else" in line["message"] or "WRONGTYPE" in str(line)]


@pytest.mark.fault(11, "stream trimmed under pending jobs", "XTRIM MAXLEN 0 while a stopped worker holds jobs; kill -9")
def test_entries_that_somebody_trimmed_are_acknowledged_away(on_stage: Staged, fault: Fault) -> None:
    with on_stage() as stage:
        holder = stage.stop_a_holder()
        gone = stage.in_flight_of(holder)
        stage.redis.xtrim(JOBS, maxlen=0, approximate=False)
        os.kill(holder, signal.SIGKILL)
        fault.strike()
        fault.recovered_when(lambda: not stage.held(), within_s=5)
        stage.run_down()
        trimmed = stage.books.lost
        for job_id in trimmed:
            del stage.books.accepted[job_id]
        wait_until(stage.books.goes_on)
        stage.check()
        assert set(gone) <= set(trimmed)
        fault.outcome = f"{len(trimmed)} trimmed jobs acknowledged away, the others answered once"


@pytest.mark.fault(
    13, "maxmemory reached, noeviction", "CONFIG SET maxmemory 1 with jobs waiting; back after the drain"
)
def test_a_full_server_refuses_new_jobs_and_its_workers_drain_it(on_stage: Staged, fault: Fault) -> None:
    with on_stage() as stage:
        for pid in stage.service.worker_pids():
            os.kill(pid, signal.SIGSTOP)
        stage.books.submit(2000)
        stage.redis.config_set("maxmemory", 1)
        stage.books.submit(10)
        assert 10 == sum("OOM" in said or "maxmemory" in said for said in stage.books.refused.values())
        for pid in stage.service.worker_pids():
            os.kill(pid, signal.SIGCONT)
        fault.strike()
        fault.recovered_when(lambda: stage.books.answered(stage.books.accepted), within_s=20)
        stage.redis.config_set("maxmemory", 256 << 20)
        wait_until(stage.books.goes_on)
        stage.check()
        fault.outcome = "10 refused with OOM, each accepted job answered once at maxmemory"


@pytest.mark.fault(14, "evicting maxmemory-policy", "CONFIG SET maxmemory-policy allkeys-lru before the start")
def test_a_server_that_evicts_is_refused_at_the_start(on_stage: Staged, fault: Fault) -> None:
    with on_stage() as stage:
        stage.redis.config_set("maxmemory-policy", "allkeys-lru")
        command = [sys.executable, "-m", "convq", "serve", "--redis", stage.server.url, "--http", "127.0.0.1:0"]
        with subprocess.Popen([*command, "--workers", "1"], stderr=subprocess.PIPE, text=True) as second:
            assert second.stderr is not None
            said: list[str] = []
            reader = threading.Thread(target=lambda: said.extend(second.stderr or ()), daemon=True)
            reader.start()
            fault.strike()
            try:
                fault.recovered_when(lambda: second.poll() is not None, within_s=15)
            finally:
                second.kill()
                reader.join(5)
        assert 4 == second.returncode
        assert any("allkeys-lru" in line for line in said), said
        stage.redis.config_set("maxmemory-policy", "noeviction")
        stage.books.submit(10)
        stage.check()
        fault.outcome = "refused at the start with exit 4; the service that ran already goes on"


@pytest.mark.fault(
    14, "policy made evicting under a running service", "CONFIG SET, then CLIENT KILL of its connections"
)
def test_a_server_that_begins_to_evict_is_said_loudly_when_it_is_met_again(on_stage: Staged, fault: Fault) -> None:
    with on_stage() as stage:
        stage.redis.config_set("maxmemory-policy", "allkeys-lru")
        stage.redis.client_kill_filter(_type="normal")
        fault.strike()
        fault.recovered_when(
            lambda: any(
                "ERROR" == line["level"].upper() and "allkeys-lru" in line["message"] for line in stage.service.log
            ),
            within_s=5,
        )
        stage.books.submit(10)
        stage.check()
        fault.outcome = "an error in the log that says how to mend it; each job answered once"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 24 MB, where the rights to mount one are there."""
    folder = tmp_path / "server"
    folder.mkdir()
    if not sys.platform.startswith("linux") or os.geteuid() != 0:
        pytest.skip("mounting a small file system needs Linux and root")
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", folder], check=False)
    if mounted.returncode:
        pytest.skip("this root may not mount")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def fill(folder: Path) -> Path:
    """Take all the room that is left."""
    ballast = folder / "ballast"
    with ballast.open("ab", buffering=0) as file, suppress(OSError):
        while file.write(bytes(4096)):
            pass
    return ballast


@pytest.mark.fault(15, "disk full, appendfsync everysec", "a tmpfs filled under load; emptied after 3 s of MISCONF")
@pytest.mark.usefixtures("small_disk")
def test_while_the_disk_is_full_finished_results_wait_and_are_published_once(on_stage: Staged, fault: Fault) -> None:
    with on_stage() as stage:
        stage.redis.config_set("auto-aof-rewrite-percentage", 0)
        stage.books.submit(200)
        stage.settle()
        ballast = fill(stage.server.data)

        def misconf() -> bool:
            stage.books.submit(20)
            return any("MISCONF" in said for said in stage.books.refused.values())

        wait_until(misconf, 20)
        passes(3.0)
        ballast.unlink()
        fault.strike()
        fault.recovered_when(stage.books.goes_on, within_s=8)
        stage.check()
        fault.outcome = f"{len(stage.books.refused)} refused with MISCONF, each accepted job answered once"


@pytest.mark.fault(16, "disk full, appendfsync always", "a tmpfs filled under load: the server exits; room, restart")
@pytest.mark.usefixtures("small_disk")
def test_a_server_that_exits_on_a_full_disk_comes_back_with_all_that_it_answered(
    on_stage: Staged, fault: Fault
) -> None:
    with on_stage(appendfsync="always") as stage:
        stage.redis.config_set("auto-aof-rewrite-percentage", 0)
        stage.books.submit(200)
        stage.settle()
        ballast = fill(stage.server.data)

        def gone() -> bool:
            stage.books.submit(20)
            try:
                return not stage.redis.ping()
            except UNREACHABLE:
                return True

        wait_until(gone, 20)
        ballast.unlink()
        stage.server.restart()
        fault.strike()
        fault.recovered_when(stage.books.goes_on, within_s=6)
        stage.books.rewind()
        stage.check()


@pytest.mark.fault(17, "bgsave fails", "dump.rdb is a folder, save point set: stop-writes-on-bgsave-error")
def test_while_snapshots_fail_finished_results_wait_and_are_published_once(on_stage: Staged, fault: Fault) -> None:
    with on_stage() as stage:
        (stage.server.data / "dump.rdb" / "in the way").mkdir(parents=True)
        stage.redis.config_set("save", "3600 1")
        stage.redis.config_set("stop-writes-on-bgsave-error", "yes")
        with stage.books.load():
            wait_until(lambda: stage.books.read() > 200)
            stage.redis.bgsave()
            wait_until(lambda: any("MISCONF" in said for said in list(stage.books.refused.values())))
            passes(2.0)
            stage.redis.config_set("save", "")
            fault.strike()
            fault.recovered_when(stage.books.goes_on, within_s=6)
        stage.check()
        fault.outcome = f"{len(stage.books.refused)} refused with MISCONF, each accepted job answered once"
