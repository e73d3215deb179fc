"""Nothing outside stops the work: logs that nobody reads, streams that are closed, terminals that hang up, odd surroundings."""

from __future__ import annotations

import json
import os
import pty
import resource
import shutil
import signal
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from guarded import free_port

from servers import PATIENCE, OwnServer, wait_until
from services import MODELS, Plain, children_of, seven

ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("CONVQ_")}
BAD_INBOX = "convq:{lenet}:inbox:bad"
BAD: dict[str, str | bytes | int] = {"image": b"no image", "reply_to": BAD_INBOX}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnServer]:
    with OwnServer(tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture
def plain(server: OwnServer) -> Iterator[Plain]:
    with Plain(server.url) as connection:
        connection.redis.flushall()
        yield connection


class Service:
    """`convq serve`, known by its HTTP port alone: nobody may be there to read what it says."""

    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self.process = process
        self._port = port

    def get(self, page: str) -> tuple[int, str]:
        try:
            with urllib.request.urlopen(f"http://127.0.0.1:{self._port}/{page}", timeout=10) as reply:
                return reply.status, reply.read().decode()
        except urllib.error.HTTPError as refused:
            with refused:
                return refused.code, refused.read().decode()
        except OSError:
            return 0, ""

    def wait_ready(self) -> None:
        wait_until(lambda: self.get("readyz")[0] == 200 or self.process.poll() is not None, 40)
        assert self.process.poll() is None, f"it ended with {self.process.returncode}"

    def dropped(self) -> float:
        line = next(
            one for one in self.get("metrics")[1].splitlines() if one.startswith("convq_log_lines_dropped_total")
        )
        return float(line.split()[1])


@contextmanager
def serving(*flags: str, shell: str = "", **options: Any) -> Iterator[Service]:
    """`shell`: redirections of a shell, for what subprocess cannot express."""
    port = free_port()
    command = [sys.executable, "-m", "convq", "serve", "--models", str(MODELS), "--only", "lenet"]
    command += ["--workers", "1", "--http", f"127.0.0.1:{port}", *flags]
    if shell:
        command = ["/bin/sh", "-c", f'exec "$@" {shell}', "sh", *command]
    process: subprocess.Popen[Any] = subprocess.Popen(command, **({"env": ENVIRONMENT} | options))
    try:
        yield Service(process, port)
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        process.wait(30 * PATIENCE)


def answers_good_and_bad(plain: Plain, bad: int = 500) -> None:
    """Bad jobs, each of them a line for the log, and good ones between them: all are answered."""
    pushed = []
    for _ in range(5):
        plain.burst([BAD] * (bad // 5))
        pushed.append(plain.push({"image": seven()}))
    assert ["7"] * len(pushed) == [plain.answer(one, 30).label for one in pushed]
    wait_until(lambda: plain.redis.llen(BAD_INBOX) == bad, 30)


# -- logs that nobody reads ---------------------------------------------------------------------------------------------


@contextmanager
def full_pipe() -> Iterator[int]:
    """A pipe that takes nothing more, so that it does not matter how fast a machine would have filled it."""
    ours, theirs = os.pipe()
    fill(theirs)
    yield theirs
    os.close(theirs)
    os.close(ours)


@contextmanager
def broken_pipe() -> Iterator[int]:
    ours, theirs = os.pipe()
    os.close(ours)
    yield theirs
    os.close(theirs)


@contextmanager
def full_disk() -> Iterator[int]:
    descriptor = os.open("/dev/full", os.O_WRONLY)
    yield descriptor
    os.close(descriptor)


@contextmanager
def stopped_terminal() -> Iterator[int]:
    """A terminal whose user has pressed Ctrl-S, so to say: its buffer is full."""
    ours, theirs = pty.openpty()
    fill(theirs)
    yield theirs
    os.close(theirs)
    os.close(ours)


def fill(descriptor: int) -> None:
    os.set_blocking(descriptor, False)
    for size in (4096, 1):
        with suppress(BlockingIOError):
            while True:
                os.write(descriptor, b"-" * size)
    os.set_blocking(descriptor, True)


@pytest.mark.parametrize("log", [full_pipe, broken_pipe, full_disk, stopped_terminal], ids=lambda one: one.__name__)
def test_a_log_that_takes_nothing_stops_nothing(log: Callable[[], Any], server: OwnServer, plain: Plain) -> None:
    with log() as descriptor, serving("--redis", server.url, "--log-jobs", "all", stderr=descriptor) as service:
        service.wait_ready()
        answers_good_and_bad(plain)
        assert service.get("readyz")[0] == 200

        service.process.send_signal(signal.SIGTERM)
        assert 0 == service.process.wait(30 * PATIENCE)


def test_a_start_that_fails_ends_although_nobody_reads_why() -> None:
    with (
        full_pipe() as descriptor,
        serving("--redis", "redis://127.0.0.1:6379/0", "--lease", "nan", stderr=descriptor) as service,
    ):
        assert 2 == service.process.wait(30 * PATIENCE)


def test_what_was_not_read_at_first_is_there_in_its_order_for_who_reads_later(server: OwnServer, plain: Plain) -> None:
    ours, theirs = os.pipe()
    fill(theirs)
    with serving("--redis", server.url, "--log", "json", stderr=theirs) as service:
        os.close(theirs)
        service.wait_ready()
        answers_good_and_bad(plain, 50)
        assert 0 == service.dropped()

        with os.fdopen(ours, "rb") as reading:
            service.process.send_signal(signal.SIGTERM)
            said = [json.loads(line.lstrip(b"-")) for line in reading]
        assert 0 == service.process.wait(30 * PATIENCE)
    messages = [line["message"] for line in said]
    assert messages.index("listening") < messages.index("a job ended as error") < messages.index("draining")
    assert sorted(line["time"] for line in said if line.get("worker") is None) == [
        line["time"] for line in said if line.get("worker") is None
    ]


def test_a_worker_does_not_wait_for_a_supervisor_that_is_stopped(server: OwnServer, plain: Plain) -> None:
    with serving("--redis", server.url, "--log-jobs", "all", "--lease", "60", stderr=subprocess.DEVNULL) as service:
        service.wait_ready()
        service.process.send_signal(signal.SIGSTOP)
        try:
            answers_good_and_bad(plain)
        finally:
            service.process.send_signal(signal.SIGCONT)
        service.process.send_signal(signal.SIGTERM)
        assert 0 == service.process.wait(30 * PATIENCE)


def test_the_last_words_of_a_worker_that_crashes_are_a_line_of_the_log(server: OwnServer, tmp_path: Path) -> None:
    """What the worker itself never wrote through its log: the C library says it on the way down."""
    with (tmp_path / "log").open("wb") as log, serving("--redis", server.url, "--log", "json", stderr=log) as service:
        service.wait_ready()
        (pid,) = children_of(service.process.pid)
        with open(f"/proc/{pid}/fd/2", "wb", buffering=0) as theirs:  # noqa: PTH123
            theirs.write(b'{"message": "forged"}\nterminate called, \x1b[2J he said')
        os.kill(pid, signal.SIGKILL)

        def raw() -> list[dict[str, Any]]:
            lines = [json.loads(line) for line in (tmp_path / "log").read_text(encoding="utf-8").splitlines()]
            return [line for line in lines if line["message"] == "a library wrote"]

        wait_until(lambda: len(raw()) == 2, 30)
        assert ['{"message": "forged"}', "terminate called, \x1b[2J he said"] == [line["text"] for line in raw()]
        assert {pid} == {line["pid"] for line in raw()}


# -- streams, signals, surroundings -------------------------------------------------------------------------------------


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&-", "<&- >&- 2>&-"])
def test_it_serves_with_streams_that_are_closed(closed: str, server: OwnServer, plain: Plain) -> None:
    with serving("--redis", server.url, shell=closed) as service:
        service.wait_ready()
        answers_good_and_bad(plain, 50)
        service.process.send_signal(signal.SIGTERM)
        assert 0 == service.process.wait(30 * PATIENCE)


def heed_hangups() -> None:
    """Also where the tests themselves were started by nohup."""
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def test_a_terminal_that_is_closed_drains(server: OwnServer, plain: Plain) -> None:
    """All of its processes are told, and the shell's own word follows: neither is a second signal."""
    ours, theirs = pty.openpty()
    with serving("--redis", server.url, stderr=theirs, start_new_session=True, preexec_fn=heed_hangups) as service:
        os.close(theirs)
        service.wait_ready()
        pushed = plain.burst([{"image": seven()}] * 50)
        os.close(ours)
        os.killpg(service.process.pid, signal.SIGHUP)
        os.kill(service.process.pid, signal.SIGHUP)
        assert 0 == service.process.wait(30 * PATIENCE)
    answered = sum(plain.redis.exists(f"convq:{{lenet}}:result:{one}") for one in pushed)
    assert 50 == answered + plain.redis.xlen("convq:{lenet}:jobs")
    assert 0 == plain.pending()


def ignore_hangups() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)


def test_nohup_keeps_its_word(server: OwnServer, plain: Plain) -> None:
    with serving("--redis", server.url, stderr=subprocess.DEVNULL, preexec_fn=ignore_hangups) as service:
        service.wait_ready()
        service.process.send_signal(signal.SIGHUP)
        answers_good_and_bad(plain, 50)


SURROUNDINGS: dict[str, dict[str, str]] = {
    "ASCII": {"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"},
    "POSIX": {"LC_ALL": "POSIX", "LANG": ""},
    "an unknown locale": {"LC_ALL": "xx_YY.nothing"},
    "UTF-16": {"PYTHONIOENCODING": "utf-16"},
    "ASCII, strictly": {"PYTHONIOENCODING": "ascii:strict"},
    "warnings as errors": {"PYTHONWARNINGS": "error"},
    "no home": {"HOME": ""},
    "a tiny terminal": {"TERM": "dumb", "COLUMNS": "1", "LINES": "1"},
}


@pytest.mark.parametrize("variables", SURROUNDINGS.values(), ids=list(SURROUNDINGS))
def test_it_serves_in_odd_surroundings(variables: dict[str, str], server: OwnServer, plain: Plain) -> None:
    with serving("--redis", server.url, stderr=subprocess.DEVNULL, env=ENVIRONMENT | variables) as service:
        service.wait_ready()
        answers_good_and_bad(plain, 10)
        service.process.send_signal(signal.SIGTERM)
        assert 0 == service.process.wait(30 * PATIENCE)


def test_it_serves_from_a_folder_that_was_deleted(server: OwnServer, plain: Plain, tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    with serving("--redis", server.url, shell="", cwd=gone, stderr=subprocess.DEVNULL) as service:
        shutil.rmtree(gone)
        service.wait_ready()
        answers_good_and_bad(plain, 10)


@pytest.mark.parametrize("own", [False, True], ids=["a server that is there", "its own"])
@pytest.mark.parametrize("most_bytes", [0, 200])
def test_files_that_may_not_grow_are_one_clear_line(
    most_bytes: int, *, own: bool, server: OwnServer, tmp_path: Path
) -> None:
    def limit() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))

    where = ("--data", str(tmp_path)) if own else ("--redis", server.url)
    with serving(*where, stderr=subprocess.PIPE, preexec_fn=limit) as service:
        _, said = service.process.communicate(timeout=250)

    lines = [line for line in said.decode().splitlines() if not line.startswith("{")]
    assert service.process.returncode in (1, 4)
    assert 1 == len(lines)
    assert "ulimit -f" in lines[0]


# -- the working folder -------------------------------------------------------------------------------------------------

MODULES = [
    "redis",
    "numpy",
    "queue",
    "PIL",
    "onnxruntime",
    "click",
    "json",
    "logging",
    "socket",
    "ssl",
    "pydantic",
    "rich",
    "hiredis",
    "orjson",
    "prometheus_client",
    "convq_extra",
    "typing_extensions",
    "opentelemetry",
    "select",
    "random",
    "tomllib",
]


@pytest.fixture
def trapped(tmp_path: Path) -> Path:
    """A folder with files named like modules; whoever imports one of them leaves a trace in `ran`."""
    folder = tmp_path / "trapped"
    folder.mkdir()
    for name in MODULES:
        trap = f"import os\nopen({str(folder / 'ran')!r}, 'a').write({name!r} + ' ')\n"
        (folder / f"{name}.py").write_text(trap, encoding="utf-8")
    return folder


def test_the_traps_work(trapped: Path) -> None:
    subprocess.run([sys.executable, "-c", "import redis"], cwd=trapped, check=True, timeout=250)

    assert "redis " == (trapped / "ran").read_text(encoding="utf-8")


@pytest.mark.parametrize("path", [None, "", ":", ".", "nothing:"], ids=str)
def test_a_service_runs_no_file_of_the_working_folder(
    path: str | None, trapped: Path, server: OwnServer, plain: Plain
) -> None:
    environment = ENVIRONMENT | ({} if path is None else {"PYTHONPATH": path})
    with serving("--redis", server.url, cwd=trapped, stderr=subprocess.DEVNULL, env=environment) as service:
        service.wait_ready()
        answers_good_and_bad(plain, 10)

    assert not (trapped / "ran").exists()


@pytest.mark.parametrize(
    "arguments",
    ["doctor", "models list", "models check lenet", "models show lenet", "submit {seven} --redis {url}", "demo --json"],
)
def test_no_command_runs_a_file_of_the_working_folder(arguments: str, trapped: Path, server: OwnServer) -> None:
    seven_png = str(MODELS / "lenet" / "sample" / "seven.png")
    words = [word.format(seven=seven_png, url=server.url) for word in arguments.split()]
    words += ["--models", str(MODELS)] if words[0] in ("models", "doctor") else []
    subprocess.run(
        [sys.executable, "-m", "convq", *words],
        cwd=trapped,
        check=False,
        timeout=250,
        capture_output=True,
        env=ENVIRONMENT,
    )

    assert not (trapped / "ran").exists()


def test_whoever_only_imports_convq_keeps_the_working_folder(trapped: Path) -> None:
    subprocess.run(
        [sys.executable, "-c", "import sys; sys.path.append(sys.path.pop(0)); import convq, sys; import convq_extra"],
        cwd=trapped,
        check=True,
        timeout=250,
    )

    assert "convq_extra" in (trapped / "ran").read_text(encoding="utf-8").split()
