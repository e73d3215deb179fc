"""The command as people run it: real processes, a real server, a real model; what is printed and how it ends."""

from __future__ import annotations

import json
import os
import pty
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
import pytest
import redis

from convq import __version__, cli
from pace import Stopwatch
from servers import OwnServer, wait_until

MODELS = Path(__file__).resolve().parents[2] / "models"
SEVEN = MODELS / "lenet" / "sample" / "seven.png"
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("CONVQ_")}


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "convq", *map(str, arguments)]


def convq(*arguments: str | Path, stdin: bytes = b"", **variables: str) -> subprocess.CompletedProcess[bytes]:
    """Run one command to its end."""
    return subprocess.run(
        command(*arguments),
        input=stdin,
        capture_output=True,
        env=ENVIRONMENT | variables,
        timeout=250,
        check=False,
    )


def complaint(done: subprocess.CompletedProcess[bytes]) -> str:
    """What stands on standard error, which must be one line that begins with our name."""
    lines = [line for line in done.stderr.decode().splitlines() if not line.startswith("{")]
    assert 1 == len(lines), done.stderr.decode()
    assert lines[0].startswith("convq: ")
    return lines[0]


def documents(done: subprocess.CompletedProcess[bytes]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.stdout.splitlines()]


class Serving:
    """A running `convq serve` and its log."""

    def __init__(self, process: subprocess.Popen[bytes], log: Path) -> None:
        self.process = process
        self.log = log

    def events(self, message: str) -> list[dict[str, Any]]:
        complete = [line for line in self.log.read_text().splitlines(keepends=True) if line.endswith("}\n")]
        return [entry for entry in map(json.loads, complete) if entry["message"] == message]

    def wait_for(self, message: str) -> dict[str, Any]:
        def seen_or_ended() -> bool:
            return bool(self.events(message)) or self.process.poll() is not None

        wait_until(seen_or_ended, 30)
        assert self.events(message), self.log.read_text()
        return self.events(message)[0]

    def end(self, number: int = signal.SIGTERM) -> int:
        self.process.send_signal(number)
        return self.process.wait(250)


@contextmanager
def serving(tmp_path: Path, *flags: str | Path) -> Iterator[Serving]:
    with (tmp_path / "serve.log").open("wb") as log:
        process = subprocess.Popen(
            command("serve", "--http", "127.0.0.1:0", "--workers", "1", *flags),
            cwd=tmp_path,
            stderr=log,
            env=ENVIRONMENT,
        )
    try:
        yield Serving(process, tmp_path / "serve.log")
    finally:
        process.terminate()
        process.wait(250)


@pytest.fixture(scope="module")
def lonely(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnServer]:
    """A server that no worker ever asks for jobs."""
    with OwnServer(tmp_path_factory.mktemp("lonely")) as running:
        yield running


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """URL of a server on which lenet is served."""
    with OwnServer(tmp_path_factory.mktemp("served")) as running:
        with serving(tmp_path_factory.mktemp("serve"), "--redis", running.url, "--only", "lenet") as service:
            service.wait_for("ready")
            yield running.url


@pytest.fixture
def closed() -> str:
    """URL of a port where nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    return f"redis://127.0.0.1:{port}/0"


@pytest.fixture
def broken(tmp_path: Path) -> Path:
    """A model repository whose lenet was changed after its report was written."""
    root = tmp_path / "models"
    shutil.copytree(MODELS / "lenet", root / "lenet")
    with (root / "lenet" / "1" / "model.onnx").open("ab") as model:
        model.write(b"\0")
    return root


# -- usage and settings: exit code 2 ------------------------------------------------------------------------------------


def test_help_teaches_and_loads_nothing_heavy() -> None:
    heavy = "{'onnxruntime', 'numpy', 'rich', 'PIL', 'prometheus_client'}"
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            f"import sys, convq.cli as c; c.main(['--help']); print(sorted({heavy} & set(sys.modules)))",
        ],
        capture_output=True,
        text=True,
        check=True,
    )

    assert "[]" == done.stdout.splitlines()[-1]
    assert "convq demo" in done.stdout


@pytest.mark.parametrize(
    "name",
    [
        "demo",
        "serve",
        "submit",
        "models list",
        "models show",
        "jobs status",
        "jobs cancel",
        "doctor",
        "dead list",
        "dead show",
        "dead requeue",
        "dead purge",
    ],
)
def test_every_command_has_examples(name: str) -> None:
    done = convq(*name.split(), "--help")

    assert 0 == done.returncode
    assert 2 <= done.stdout.decode().count(f"convq {name}")


def test_the_version_is_that_of_the_package() -> None:
    assert f"convq {__version__}\n".encode() == convq("--version").stdout


def test_every_setting_is_a_flag_with_its_variable() -> None:
    page = convq("serve", "--help").stdout.decode()

    for name in cli.commands.commands["serve"].params:
        assert name.opts[0] in page
    assert "CONVQ_RESULT_TTL" in page


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["serve", "--wrokers", "2"], "--workers"),
        (["sumbit"], "submit"),
        (["submit", "not-there.png"], "not-there.png"),
        (["submit", "--id", "x", str(SEVEN), str(SEVEN)], "--id"),
        (["serve", "--workers", "0"], "--workers is '0'"),
        (["serve", "--device", "tpu"], "--device is 'tpu'"),
        (["serve", "--http", "9464"], "HOST:PORT"),
        (["submit", "--redis", "127.0.0.1:6379", str(SEVEN)], "redis://"),
    ],
)
def test_wrong_usage_ends_with_2_and_one_line(arguments: list[str], hint: str) -> None:
    done = convq(*arguments)

    assert 2 == done.returncode
    assert hint in complaint(done)


def test_no_command_shows_the_help() -> None:
    done = convq()

    assert 2 == done.returncode
    assert b"convq demo" in done.stderr


@pytest.mark.parametrize("arguments", [["serve"], ["submit", str(SEVEN)], ["models", "list"]])
def test_a_misspelt_variable_ends_with_2_and_names_the_right_one(arguments: list[str]) -> None:
    done = convq(*arguments, CONVQ_WORKRES="2")

    assert 2 == done.returncode
    assert "CONVQ_WORKRES" in complaint(done)
    assert "CONVQ_WORKERS" in complaint(done)


def test_a_malformed_variable_ends_with_2_and_names_it() -> None:
    done = convq("serve", CONVQ_WORKERS="many")

    assert 2 == done.returncode
    assert "CONVQ_WORKERS is 'many'" in complaint(done)


def test_an_unexpected_error_is_one_line_and_a_traceback_only_when_asked(capsys: pytest.CaptureFixture[str]) -> None:
    @click.command()
    def stumble() -> None:
        raise RuntimeError("over its feet")

    cli.commands.add_command(stumble)
    try:
        assert 1 == cli.main(["stumble"])
        assert "convq: unexpected RuntimeError: over its feet" in capsys.readouterr().err
        assert 1 == cli.main(["--debug", "stumble"])
        assert "Traceback" in capsys.readouterr().err
    finally:
        del cli.commands.commands["stumble"]


# -- models: exit code 3 ------------------------------------------------------------------------------------------------


def test_models_list_has_a_line_for_every_model() -> None:
    done = convq("models", "list", "--models", MODELS)

    assert 0 == done.returncode
    (lenet,) = [one for one in documents(done) if one["name"] == "lenet"]
    assert [{"version": 1, "state": "ok"}] == lenet["versions"]
    assert 10 == lenet["labels"]
    assert lenet["accuracy"]["share"] >= 0.99


def test_models_show_prints_facts_on_a_terminal() -> None:
    status, screen = on_terminal("models", "show", "lenet", "--models", MODELS)

    assert 0 == status
    assert "32 x 32 gray, uint8" in screen
    assert json.loads((MODELS / "lenet" / "1" / "report.json").read_text())["sha256"] in screen


def test_a_model_that_is_not_there_is_named_with_the_nearest() -> None:
    done = convq("models", "show", "lenett", "--models", MODELS)

    assert 3 == done.returncode
    assert "did you mean 'lenet'?" in complaint(done)


def test_serve_with_an_empty_repository_ends_with_3(tmp_path: Path) -> None:
    done = convq("serve", "--models", tmp_path)

    assert 3 == done.returncode
    assert "holds no models" in complaint(done)


def test_serve_with_a_damaged_model_ends_with_3(broken: Path, lonely: OwnServer) -> None:
    done = convq("serve", "--models", broken, "--redis", lonely.url, "--workers", "1", "--http", "127.0.0.1:0")

    assert 3 == done.returncode
    assert "SHA-256" in complaint(done)


# -- Redis: exit code 4 -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [["submit", str(SEVEN)], ["jobs", "status", "1-0"]])
def test_a_redis_that_is_not_there_ends_with_4(arguments: list[str], closed: str) -> None:
    done = convq(*arguments, CONVQ_REDIS_URL=closed)

    assert 4 == done.returncode
    assert closed in complaint(done)


def test_serve_without_its_redis_ends_with_4(closed: str) -> None:
    done = convq("serve", "--redis", closed, "--workers", "1", "--http", "127.0.0.1:0")

    assert 4 == done.returncode
    assert "Redis" in complaint(done)


def test_a_password_is_never_printed(closed: str) -> None:
    url = closed.replace("redis://", "redis://me:secret@")
    done = convq("submit", SEVEN, "--redis", url)

    assert 4 == done.returncode
    assert "me:***@127.0.0.1" in complaint(done)
    assert "secret" not in complaint(done)


# -- submit and jobs ----------------------------------------------------------------------------------------------------


def test_submit_writes_one_document_a_picture_into_a_pipe(served: str, tmp_path: Path) -> None:
    for name in ("b.png", "a.PNG", "notes.txt"):
        shutil.copy(SEVEN, tmp_path / name)
    done = convq("submit", tmp_path, SEVEN, "--redis", served, "--top-k", "2")

    assert 0 == done.returncode
    assert [str(tmp_path / "a.PNG"), str(tmp_path / "b.png"), str(SEVEN)] == [one["file"] for one in documents(done)]
    for one in documents(done):
        assert ("ok", "7", 2) == (one["status"], one["predictions"][0]["label"], len(one["predictions"]))


def test_submit_reads_a_picture_from_standard_input(served: str) -> None:
    done = convq("submit", "-", "--redis", served, stdin=SEVEN.read_bytes())

    (answer,) = documents(done)
    assert ("-", "7") == (answer["file"], answer["predictions"][0]["label"])


def test_a_job_that_fails_is_a_row_too_and_ends_with_1(served: str, tmp_path: Path) -> None:
    (tmp_path / "hello.txt").write_text("Hello")
    done = convq("submit", tmp_path / "hello.txt", SEVEN, "--redis", served)

    assert 1 == done.returncode
    assert ["error", "ok"] == [one["status"] for one in documents(done)]
    assert "bad_image" == documents(done)[0]["error"]["code"]
    assert "1 of 2" in complaint(done)


def test_submit_on_a_terminal_prints_a_table(served: str) -> None:
    status, screen = on_terminal("submit", SEVEN, "--redis", served)

    assert 0 == status
    header, row = screen.splitlines()[:2]
    assert ["file", "class", "score", "ms"] == header.split()
    assert ["7", "100.0%"] == row.split()[-3:-1]


def test_json_is_printed_on_a_terminal_where_it_is_asked_for(served: str) -> None:
    status, screen = on_terminal("submit", SEVEN, "--redis", served, "--json")

    assert 0 == status
    assert "7" == json.loads(screen)["predictions"][0]["label"]


def test_a_model_that_nobody_serves_is_said_at_once(served: str) -> None:
    with Stopwatch() as watch:
        done = convq("submit", SEVEN, "--redis", served, "--model", "lenett", "--timeout", "45")

    assert 1 == done.returncode
    assert "convq: no worker serves 'lenett'; served: lenet. Did you mean 'lenet'?" == complaint(done)
    assert watch.quiet_s < 15


def test_no_worker_at_all_is_said_with_the_command_that_starts_one(lonely: OwnServer) -> None:
    done = convq("submit", SEVEN, "--redis", lonely.url)

    assert 1 == done.returncode
    assert "convq serve" in complaint(done)


def test_jobs_that_are_not_waited_for_can_be_asked_for(served: str) -> None:
    done = convq("submit", SEVEN, "--redis", served, "--no-wait", "--id", "order-17")

    assert [{"file": str(SEVEN), "id": "order-17", "model": "lenet"}] == documents(done)
    wait_until(lambda: documents(convq("jobs", "status", "order-17", "--redis", served))[0]["state"] == "done", 20)
    assert "unknown" == documents(convq("jobs", "status", "order-18", "--redis", served))[0]["state"]


def test_jobs_can_be_withdrawn(lonely: OwnServer) -> None:
    to = ["--redis", lonely.url, "--model", "lenet"]
    (job,) = documents(convq("submit", SEVEN, "--no-wait", *to))

    (found,) = documents(convq("jobs", "cancel", job["id"], *to))
    assert {"id": job["id"], "model": "lenet", "state": "waiting", "cancel": "requested"} == found
    with redis.Redis.from_url(lonely.url) as connection:
        assert connection.sismember("convq:{lenet}:cancelled", job["id"])


# -- doctor -------------------------------------------------------------------------------------------------------------


def test_doctor_finds_nothing_wrong_where_nothing_is(served: str) -> None:
    done = convq("doctor", "--redis", served, "--models", MODELS)

    assert 0 == done.returncode, done.stdout.decode()
    assert "problem" not in {one["level"] for one in documents(done)}
    assert {"onnxruntime", "model lenet", "redis", "maxmemory", "persistence", "role", "clock", "served now"} <= {
        one["check"] for one in documents(done)
    }


def test_doctor_says_the_command_that_mends_redis(lonely: OwnServer) -> None:
    with redis.Redis.from_url(lonely.url) as connection:
        connection.config_set("maxmemory-policy", "allkeys-lru")
        try:
            status, screen = on_terminal("doctor", "--redis", lonely.url, "--models", MODELS)
        finally:
            connection.config_set("maxmemory-policy", "noeviction")

    assert 4 == status
    assert "✗ maxmemory" in screen
    assert f"redis-cli -p {lonely.port} CONFIG SET maxmemory-policy noeviction" in screen


def test_doctor_ends_with_the_code_of_the_only_kind_of_problem(served: str, broken: Path, closed: str) -> None:
    assert 3 == convq("doctor", "--redis", served, "--models", broken).returncode
    assert 4 == convq("doctor", "--redis", closed, "--models", MODELS).returncode
    assert 1 == convq("doctor", "--redis", closed, "--models", broken).returncode


# -- serve --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 0), (signal.SIGINT, 130)])
def test_serve_drains_and_ends_with_the_code_of_its_signal(
    tmp_path: Path, lonely: OwnServer, number: signal.Signals, code: int
) -> None:
    with serving(tmp_path, "--redis", lonely.url, "--models", MODELS) as service:
        service.wait_for("ready")

        assert code == service.end(number)


def test_serve_without_redis_prints_lines_that_work_as_they_are(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    with serving(tmp_path, "--data", tmp_path / "data", "--models", MODELS, "--only", "lenet") as service:
        said = service.wait_for("embedded server")
        service.wait_for("ready")
        pasted = subprocess.run(
            ["/bin/sh", "-c", said["submit"].replace("convq", f"{sys.executable} -m convq", 1)],
            cwd=tmp_path / "elsewhere",
            capture_output=True,
            env=ENVIRONMENT,
            check=False,
        )
        assert "7" == documents(pasted)[0]["predictions"][0]["label"]
        if shutil.which("redis-cli"):
            answer = subprocess.check_output(
                ["/bin/sh", "-c", "\n".join(said["redis_cli"])], cwd=tmp_path / "elsewhere"
            )
            assert "7" == json.loads(answer.splitlines()[-1])["predictions"][0]["label"]

        assert 0 == service.end()
    assert [] == list((tmp_path / "elsewhere").iterdir())
    assert not Path(said["socket"]).parent.exists()


def test_serve_ends_with_1_when_its_own_server_dies(tmp_path: Path) -> None:
    with serving(tmp_path, "--data", tmp_path / "data", "--models", MODELS) as service:
        where = service.wait_for("embedded server")
        service.wait_for("ready")
        with redis.Redis(unix_socket_path=where["socket"]) as connection:
            os.kill(connection.info("server")["process_id"], signal.SIGKILL)

        assert 1 == service.process.wait(250)
    assert "the embedded server ended" in service.log.read_text().splitlines()[-1]


def on_terminal(*arguments: str | Path) -> tuple[int, str]:
    """Run a command whose standard output is a terminal, 200 columns wide and without colours; its status and screen."""
    ours, theirs = pty.openpty()
    environment = ENVIRONMENT | {"TERM": "dumb", "COLUMNS": "200", "NO_COLOR": "1"}
    with subprocess.Popen(command(*arguments), stdout=theirs, stderr=subprocess.DEVNULL, env=environment) as process:
        os.close(theirs)
        screen = b""
        while True:
            try:
                part = os.read(ours, 65536)
            except OSError:  # how Linux says that the other end is closed
                break
            if not part:
                break
            screen += part
    os.close(ours)
    return process.returncode, screen.decode().replace("\r\n", "\n")
