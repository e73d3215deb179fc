"""A password changes under a running service, and stands nowhere that a service writes to."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from guarded import HOST, Guarded, free_port, guarded_server, password_of, running

from convq import Address, AsyncClient, Client, ConvqError, RedisRefused
from convq.cli import main
from servers import binary_of, wait_until
from services import Ledger, Plain, RunningService, children_of, seven

BURST = 100
WRONG = "s3cret-of-nobody"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    with guarded_server(binary_of("redis-server"), tmp_path_factory.mktemp("guarded")) as server:
        yield server


@pytest.fixture(scope="module")
def admin(guarded: Guarded) -> Iterator[Any]:
    with redis.Redis.from_url(guarded.url("admin")) as connection:
        yield connection


@pytest.fixture(scope="module")
def password_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("secret") / "worker"
    file.write_text(password_of("worker") + "\n")
    return file


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where the service writes whatever it writes."""
    return tmp_path_factory.mktemp("written")


@pytest.fixture(scope="module")
def service(guarded: Guarded, password_file: Path, written: Path) -> Iterator[RunningService]:
    flags = ["--redis-password-file", str(password_file), "--data", str(written), "--lease", "2"]
    url = guarded.address("worker", password_file).url
    with RunningService(url, *flags, TMPDIR=str(written)) as serving:
        yield serving


@pytest.fixture
def ledger(guarded: Guarded) -> Iterator[Ledger]:
    with Plain(guarded.url("admin")) as plain:
        yield Ledger(plain, secrets.token_hex(4))


def replace(file: Path, password: str) -> None:
    """As Kubernetes and every careful script do it: at once."""
    new = file.with_suffix(".new")
    new.write_text(password + "\n")
    new.replace(file)


def under_load(ledger: Ledger, steps: list[Callable[[], object]]) -> None:
    """Submit a burst before each step and after the last one, and see that each job gets exactly one answer."""
    for step in steps:
        ledger.submit(BURST)
        step()
        ledger.read()
    ledger.submit(BURST)
    ledger.settle()
    assert BURST * (len(steps) + 1) == len(ledger.answers)


# -- changed --------------------------------------------------------------------------------------------------------------


def test_a_password_is_changed_under_load_without_a_restart(
    service: RunningService, admin: Any, ledger: Ledger, password_file: Path
) -> None:
    """In the order of deploy/README.md: first both are valid, then the file, then the old one ends."""
    workers, old, new = service.worker_pids(), password_file.read_text().strip(), secrets.token_hex(16)
    marks = len(service.log)

    under_load(
        ledger,
        [
            lambda: admin.execute_command("ACL", "SETUSER", "worker", f">{new}"),
            lambda: replace(password_file, new),
            lambda: admin.execute_command("ACL", "SETUSER", "worker", f"<{old}"),
            lambda: admin.execute_command("CLIENT", "KILL", "USER", "worker"),
        ],
    )

    wait_until(service.is_ready)
    assert workers == service.worker_pids()
    assert sum(service.metrics()["convq_redis_reconnects_total"].values()) > 0
    assert [] == [line for line in service.log[marks:] if "refused" in line["message"]]


def test_a_password_that_changes_before_its_file_is_waited_out(
    service: RunningService, admin: Any, ledger: Ledger, password_file: Path
) -> None:
    workers, old, new = service.worker_pids(), password_file.read_text().strip(), secrets.token_hex(16)
    marks = len(service.log)

    def refusals() -> list[dict[str, Any]]:
        return [line for line in service.log[marks:] if "refused the credentials" in line["message"]]

    under_load(
        ledger,
        [
            lambda: admin.execute_command("ACL", "SETUSER", "worker", f">{new}", f"<{old}"),
            lambda: admin.execute_command("CLIENT", "KILL", "USER", "worker"),
            lambda: wait_until(refusals),
            lambda: replace(password_file, new),
        ],
    )

    wait_until(service.is_ready)
    assert workers == service.worker_pids()


def test_a_password_file_that_is_gone_for_a_moment_is_waited_for(
    service: RunningService, admin: Any, ledger: Ledger, password_file: Path
) -> None:
    held, marks = password_file.read_text().strip(), len(service.log)

    under_load(
        ledger,
        [
            password_file.unlink,
            lambda: admin.execute_command("CLIENT", "KILL", "USER", "worker"),
            lambda: wait_until(lambda: any("no password in" in line["message"] for line in service.log[marks:])),
            lambda: replace(password_file, held),
        ],
    )


def test_a_client_reads_its_file_again_when_it_connects_again(guarded: Guarded, admin: Any, tmp_path: Path) -> None:
    file, new = tmp_path / "producer", secrets.token_hex(16)
    replace(file, password_of("producer"))
    with Client(guarded.address("producer", file)) as client:
        client.served()
        admin.execute_command("ACL", "SETUSER", "producer", f">{new}", f"<{password_of('producer')}")
        try:
            client.served()  # who is in stays in
            admin.execute_command("CLIENT", "KILL", "USER", "producer")
            with pytest.raises(RedisRefused, match="refused the credentials"):
                client.served()
            replace(file, new)
            client.served()
        finally:
            admin.execute_command("ACL", "SETUSER", "producer", f">{password_of('producer')}", f"<{new}")


def test_an_asyncio_client_takes_its_password_from_a_file(
    service: RunningService, guarded: Guarded, tmp_path: Path
) -> None:
    async def classify() -> str | None:
        async with AsyncClient(guarded.address("producer", tmp_path / "producer"), model="lenet") as client:
            return (await client.classify(seven())).label

    replace(tmp_path / "producer", password_of("producer"))
    wait_until(service.is_ready)
    assert "7" == asyncio.run(classify())


def test_a_server_with_one_password_for_all_takes_it_from_a_file_too(tmp_path: Path) -> None:
    replace(tmp_path / "password", WRONG)
    port = free_port()
    with running(binary_of("redis-server"), tmp_path, "--port", str(port), "--requirepass", WRONG):
        with Client(Address(f"redis://{HOST}:{port}/0", password_file=tmp_path / "password")) as client:
            assert {} == client.served()


# -- shown nowhere --------------------------------------------------------------------------------------------------------


def everything_written(service: RunningService, *folders: Path) -> str:
    """Logs, pages, command lines, and all files below `folders`."""
    parts = [repr(service.log), *(service.get(page)[1] for page in ("/metrics", "/readyz", "/livez"))]
    pids = [service.process.pid, *children_of(service.process.pid)]
    parts += [Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace") for pid in pids]
    files = [path for folder in folders for path in folder.rglob("*") if path.is_file()]
    return "\n".join(parts + [path.read_bytes().decode(errors="replace") for path in files])


def test_a_password_of_a_file_is_shown_nowhere(
    service: RunningService, admin: Any, password_file: Path, written: Path
) -> None:
    """After refusals and broken connections: the words for these are part of what is looked at."""
    marks = len(service.log)
    admin.execute_command("ACL", "SETUSER", "worker", "off")
    admin.execute_command("CLIENT", "KILL", "USER", "worker")
    wait_until(lambda: any("refused" in line["message"] for line in service.log[marks:]))
    admin.execute_command("ACL", "SETUSER", "worker", "on")
    wait_until(service.is_ready)
    os.kill(service.worker_pids()[0], signal.SIGKILL)
    service.wait_for("a worker died")
    wait_until(service.is_ready)

    found = everything_written(service, written)

    assert "worker@" in found
    assert password_file.read_text().strip() not in found
    assert password_of("worker") not in found


def test_a_password_of_a_url_is_shown_nowhere(guarded: Guarded, admin: Any, tmp_path: Path) -> None:
    url, password = guarded.url("operator").replace("operator", "tester"), password_of("tester")
    admin.execute_command("ACL", "SETUSER", "tester", "on", f">{password}", "~*", "+@all")
    settings = {"CONVQ_REDIS_URL": url.replace(password_of("operator"), password), "TMPDIR": str(tmp_path)}
    with RunningService(None, "--data", str(tmp_path), workers=1, **settings) as service:  # type: ignore[arg-type]
        marks = len(service.log)
        admin.execute_command("ACL", "SETUSER", "tester", "off")
        admin.execute_command("CLIENT", "KILL", "USER", "tester")
        wait_until(lambda: any("refused" in line["message"] for line in service.log[marks:]))
        found = everything_written(service, tmp_path)
        inherited = [Path(f"/proc/{pid}/environ").read_bytes() for pid in children_of(service.process.pid)]
        admin.execute_command("ACL", "SETUSER", "tester", "on")
        wait_until(service.is_ready)

    assert "convq_jobs_total" in found
    assert password not in found
    assert password not in repr(service.log)
    assert inherited
    assert not [one for one in inherited if password.encode() in one or b"CONVQ_" in one]


def test_a_url_is_looked_at_before_the_models(tmp_path: Path) -> None:
    url = f"redis://worker:{WRONG}@{HOST}:port"
    for given in ([url], [f"redis://{HOST}:1/{WRONG}"], [f"redis://{HOST}:1/0", "--redis-password-file", "/none"]):
        line = [sys.executable, "-m", "convq", "serve", "--models", str(tmp_path / "none"), "--redis", *given]
        done = subprocess.run(line, capture_output=True, text=True, timeout=60, check=False)

        assert 2 == done.returncode
        assert "edis" in done.stderr
        assert WRONG not in done.stderr


def test_no_command_and_no_exception_repeats_a_password(
    guarded: Guarded, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "seven.png").write_bytes(seven())
    for place in (f"{HOST}:{free_port()}", f"{HOST}:{guarded.port}", f"{HOST}:port", "/x@h"):
        url = f"redis://producer:{WRONG}@{place}/0"
        for line in (["jobs", "status", "x"], ["submit", str(tmp_path / "seven.png")], ["doctor"]):
            code = main([*line, "--redis", url])
            said = capfd.readouterr()
            assert code in (1, 2, 4)
            assert WRONG not in said.out + said.err
        with pytest.raises(ConvqError) as error, Client(url) as client:
            client.served()
        assert WRONG not in chained(error.value)


def test_a_service_that_is_refused_ends_without_repeating_the_password(guarded: Guarded, tmp_path: Path) -> None:
    (tmp_path / "password").write_text(WRONG)
    named = f"redis://worker@{HOST}:{guarded.port}/0"
    for url, flags in (
        (named, ["--redis-password-file", str(tmp_path / "password")]),
        (f"redis://worker:{WRONG}@{HOST}:{guarded.port}/0", []),
    ):
        service = RunningService(url, *flags, workers=1, wait=False)
        service.start()

        assert 4 == service.wait()
        assert any("refused the credentials" in str(line) for line in service.log)
        assert WRONG not in repr(service.log)


def chained(error: BaseException | None) -> str:
    """An exception and all that it came from."""
    return "" if error is None else repr(error) + chained(error.__cause__ or error.__context__)


def test_a_password_on_the_command_line_is_warned_of(guarded: Guarded) -> None:
    with RunningService(guarded.url("admin"), workers=1) as service:
        said = service.wait_for("the password in --redis can be read in the list of processes")

    assert "--redis-password-file" in said["instead"]
    assert password_of("admin") not in repr(service.log)
