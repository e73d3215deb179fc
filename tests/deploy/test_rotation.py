"""A password is changed by deploy/redis/passwords.py: whatever ends at any moment, what remains works and can be gone on with."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import signal
import subprocess
import sys
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import redis
from guarded import HOST, ROOT, free_port, running

from convq import Address, Client
from convq.errors import ConvqError
from servers import binary_of, wait_until
from services import RunningService, seven

SCRIPT = ROOT / "deploy" / "redis" / "passwords.py"
PAGE = (ROOT / "deploy" / "README.md").read_text()
STEPS = ("--add", "--switch", "--drop")


def section() -> str:
    return PAGE[PAGE.index("### Changing a password") : PAGE.index("### Limits")]


@pytest.fixture
def passwords() -> ModuleType:
    """The script as a module, so that it can be ended in the middle."""
    spec = importlib.util.spec_from_file_location("passwords", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class Killed(BaseException):
    """The end of the process at that very moment."""


def is_taken(folder: Path, user: str) -> bool:
    """Whether a server that starts now takes the password that clients read now."""
    digest = hashlib.sha256((folder / user).read_text().strip().encode()).hexdigest()
    line = next(line for line in (folder / "users.acl").read_text().splitlines() if line.startswith(f"user {user} "))
    return f"#{digest}" in line.split()


def killed_at(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    """End whoever changes the disk, before its change of that number."""
    left = [number]

    def before(real: Any) -> Any:
        def change(*args: Any, **options: Any) -> Any:
            left[0] -= 1
            if left[0] < 0:
                raise Killed
            return real(*args, **options)

        return change

    for name in ("replace", "unlink", "chmod"):
        monkeypatch.setattr(Path, name, before(getattr(Path, name)))


@pytest.mark.parametrize("step", STEPS)
def test_a_step_may_end_before_any_change_that_it_makes_and_be_repeated(
    tmp_path: Path, passwords: ModuleType, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    for number in range(20):
        folder = tmp_path / str(number)
        passwords.main([str(folder)])
        before = (folder / "worker").read_text()
        for earlier in STEPS[: STEPS.index(step)]:
            passwords.main([str(folder), earlier, "worker"])
        with monkeypatch.context() as patch:
            killed_at(patch, number)
            try:
                passwords.main([str(folder), step, "worker"])
                ended = True
            except Killed:
                ended = False
        assert is_taken(folder, "worker"), f"after {number} changes of {step}"
        passwords.main([str(folder)])  # as compose does at each start
        assert is_taken(folder, "worker")
        for later in STEPS[STEPS.index(step) :]:
            passwords.main([str(folder), later, "worker"])
            assert is_taken(folder, "worker")
        assert before != (folder / "worker").read_text()
        assert not list(folder.glob("worker.*"))
        if ended:
            assert number > 1
            return
    pytest.fail("the step never came to its end")


def test_steps_in_a_wrong_order_are_refused_and_change_nothing(tmp_path: Path, passwords: ModuleType) -> None:
    passwords.main([str(tmp_path)])
    begun = (tmp_path / "worker").read_text()
    with pytest.raises(SystemExit, match="--add worker first"):
        passwords.main([str(tmp_path), "--switch", "worker"])
    passwords.main([str(tmp_path), "--add", "worker"])
    with pytest.raises(SystemExit, match="--switch worker first"):
        passwords.main([str(tmp_path), "--drop", "worker"])
    assert begun == (tmp_path / "worker").read_text()
    passwords.main([str(tmp_path), "--switch", "worker"])
    changed = (tmp_path / "worker").read_text()
    with pytest.raises(SystemExit, match="--drop worker first"):
        passwords.main([str(tmp_path), "--add", "worker"])
    passwords.main([str(tmp_path), "--switch", "worker"])
    assert changed == (tmp_path / "worker").read_text()
    with pytest.raises(SystemExit):
        passwords.main([str(tmp_path), "--add", "nobody"])


def test_the_commands_of_the_page_change_a_password_under_load_and_the_server_may_die_after_each(
    tmp_path: Path,
) -> None:
    """Each line of the page in its turn; behind each the server is killed and started with what lies in the folder."""
    block = section().partition("```sh\n")[2].partition("```")[0]
    lines = [line.partition("  #")[0].strip() for line in block.splitlines()]
    assert 6 == len(lines)
    folder, port = tmp_path / "secrets", free_port()
    subprocess.run([sys.executable, SCRIPT, folder], check=True, stdout=subprocess.DEVNULL)
    old = (folder / "worker").read_text().strip()
    url = f"redis://{{}}@{HOST}:{port}/0"
    files: dict[str, Any] = {
        "CONVQ_REDIS_URL": url.format("worker"),
        "CONVQ_REDIS_PASSWORD_FILE": str(folder / "worker"),
    }
    producer = Address(url.format("producer"), password_file=folder / "producer")

    options = ("--port", str(port), "--aclfile", str(folder / "users.acl"), "--appendfsync", "always")

    def answered(number: int) -> bool:
        try:
            with Client(producer, model="lenet") as client:
                return client.classify(seven(), id=f"job-{number}", timeout=20).label == "7"
        except ConvqError:  # while the server is away
            return False

    def do(line: str) -> None:
        line = line.replace("deploy/secrets", str(folder)).replace("deploy/redis", str(SCRIPT.parent))
        line = line.replace("redis-cli --user", f"redis-cli -p {port} --user").replace("python3 ", f"{sys.executable} ")
        done = subprocess.run(["bash", "-c", line], capture_output=True, text=True, check=True, timeout=60)
        assert "LOAD" not in line or done.stdout == "OK\n", done

    def kill() -> None:
        address = {"host": HOST, "port": port, "username": "admin", "password": (folder / "admin").read_text().strip()}
        with redis.Redis(**address, protocol=2, driver_info=None) as admin:  # type: ignore[arg-type]
            os.kill(int(admin.info("server")["process_id"]), signal.SIGKILL)

    def start(servers: ExitStack) -> None:
        servers.enter_context(running(binary_of("redis-server"), tmp_path, *options))

    with ExitStack() as servers, ExitStack() as services:
        start(servers)
        services.enter_context(RunningService(None, workers=1, **files))
        assert answered(0)
        for number, line in enumerate(lines, 1):
            do(line)
            assert wait_until(partial(answered, number), 30), line
            kill()
            start(servers)
            assert wait_until(partial(answered, 100 + number), 30), line
        with redis.Redis(host=HOST, port=port, protocol=2, driver_info=None) as connection:
            with pytest.raises(redis.exceptions.AuthenticationError):
                connection.execute_command("AUTH", "worker", old)
            assert connection.execute_command("AUTH", "worker", (folder / "worker").read_text().strip())
