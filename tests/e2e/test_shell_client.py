"""service/clients/convq.sh, as copied by a stranger: by dash and bash, with the redis-cli of this machine, on real servers."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from guarded import Certificates, guarded_server, password_of, tls_server

from convq.queue.functions import SOURCE
from servers import PATIENCE, OwnServer, binary_of, skip_or_fail, wait_until
from services import LANES, SAMPLE, Plain, RunningService, digits, tensor_of

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "service" / "clients" / "convq.sh"
SEVEN = SAMPLE / "seven.png"
LONG = str(60 * PATIENCE)


@pytest.fixture(params=["dash", "bash"])
def shell(request: pytest.FixtureRequest) -> str:
    """The name of a shell that is installed here."""
    return _installed(request.param)


@pytest.fixture
def sh() -> str:
    """Where two shells would say no more than one."""
    return _installed("sh")


def _installed(name: str) -> str:
    for program in (name, "redis-cli"):
        if shutil.which(program) is None:
            skip_or_fail(f"no {program} on PATH")
    return name


def begun(shell: str, url: str, *words: str | Path, cwd: Path = SAMPLE, **variables: str) -> subprocess.Popen[str]:
    """The client with these words, started; the URL travels as a variable."""
    return subprocess.Popen(
        [shell, str(SCRIPT), *map(str, words)],
        cwd=cwd,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env={**os.environ, "CONVQ_REDIS_URL": url, **variables},
    )


def run(shell: str, url: str, *words: str | Path, **more: Any) -> tuple[int, list[dict[str, Any]], str]:
    """What it ended with: exit code, the documents that it printed, what it said."""
    return ended(begun(shell, url, *words, **more))


def ended(process: subprocess.Popen[str]) -> tuple[int, list[dict[str, Any]], str]:
    """The same of one that was started before."""
    out, said = process.communicate(timeout=250)
    return process.returncode, [json.loads(line) for line in out.splitlines()], said


@pytest.fixture
def url(service_server: OwnServer, plain: Plain) -> Iterator[str]:
    """The session's service; afterwards nothing may be left in its queue."""
    yield service_server.url
    wait_until(plain.nothing_left)


def jobs_in(url: str) -> int:
    """Jobs in the queue of lenet."""
    with redis.Redis.from_url(url) as connection:
        return sum(int(connection.xlen(lane)) for lane in LANES)


def labels(documents: list[dict[str, Any]]) -> list[str]:
    return [one["predictions"][0]["label"] for one in documents]


# -- answers ----------------------------------------------------------------------------------------------------------------


def test_pictures_of_any_name_are_classified_and_bad_ones_are_told_beside_them(
    shell: str, url: str, tmp_path: Path
) -> None:
    names = ["a b.png", "-c.png", "new\nline.png", "quo\"te'\\.png", "star*.png", "ümlaut.png", "$(id).png"]
    for name in names:
        shutil.copy(SEVEN, tmp_path / name)
    (tmp_path / "bad\x1b]0;name.png").write_text("Hello")

    code, documents, said = run(shell, url, "-m", "lenet", "-t", LONG, "--", *names, "bad\x1b]0;name.png", cwd=tmp_path)

    by_file = {one["file"]: one for one in documents}
    assert (1, {*names, "bad\x1b]0;name.png"}) == (code, set(by_file))
    assert ["7"] * len(names) == labels([by_file[name] for name in names])
    assert "convq.sh: bad?]0;name.png: bad_image: not an image" in said
    assert "\x1b" not in said


def test_the_options_are_obeyed(shell: str, url: str) -> None:
    own = uuid.uuid4().hex
    options = ["-m", "lenet", "-i", own, "-p", "high", "-k", "2", "-e", "60000", "-o", "conv1", "-v", "1"]
    code, (answer,), said = run(shell, url, *options, "-t", LONG, "seven.png")

    assert (0, "", own, "seven.png") == (code, said, answer["id"], answer["file"])
    assert (2, ["conv1"]) == (len(answer["predictions"]), [one["name"] for one in answer["outputs"]])


def test_standard_input_and_pipes_and_tensors_are_taken(sh: str, url: str, tmp_path: Path) -> None:
    with SEVEN.open("rb") as seven:
        command = [sh, str(SCRIPT), "-m", "lenet", "-"]
        done = subprocess.run(
            command,
            stdin=seven,
            capture_output=True,
            check=True,
            timeout=250,
            env={**os.environ, "CONVQ_REDIS_URL": url},
        )
    assert ["7"] == labels([json.loads(done.stdout)])

    (tmp_path / "tensor").write_bytes(tensor_of(digits()[0]))  # NUL bytes, line ends, all of it
    code, documents, _ = run(sh, url, "-m", "lenet", "-d", "uint8", "-s", "1,32,32", "tensor", cwd=tmp_path)
    assert (0, ["7"]) == (code, labels(documents))


@pytest.mark.parametrize(
    ("words", "what"),
    [
        ((), "-m names the model"),
        (("-m", "lenet"), "name an image"),
        (("-m", "Lenet", "seven.png"), "-m names the model"),
        (("-m", "lenet", "seven.png", "nowhere.png"), "no such file: nowhere.png"),
        (("-m", "lenet", "."), "no such file: ."),
        (("-m", "lenet", "-t", "soon", "seven.png"), "not a whole number: soon"),
        (("-m", "lenet", "-p", "urgent", "seven.png"), "-p is high, normal or low"),
        (("-m", "lenet", "-i", "a", "seven.png", "seven.png"), "-i names one job"),
        (("-m", "lenet", "-i", "a b", "seven.png"), "-i is 1 to 64 characters"),
        (("-m", "lenet", "-d", "uint8", "seven.png"), "a tensor needs -d and -s"),
        (("-m", "lenet", "-q", "seven.png"), "-q"),
        (("-m", "lenet", "-u", "http://:hush@h/", "seven.png"), "the URL begins with redis://"),
        (("-m", "lenet", "-u", "redis://:hush%2@h/", "seven.png"), "a % that is not followed by"),
        (("-m", "lenet", "-u", "redis://:hush@h/x", "seven.png"), "the database of the URL"),
        (("-m", "lenet", "-u", "redis://:hush@h:x/0", "seven.png"), "the port of the URL"),
    ],
)
def test_wrong_usage_ends_with_2_and_sends_nothing(sh: str, url: str, words: tuple[str, ...], what: str) -> None:
    code, documents, said = run(sh, url, *words)

    assert (2, []) == (code, documents)
    assert what in said
    assert "hush" not in said


# -- the door, waiting, withdrawing -------------------------------------------------------------------------------------------


def test_a_queue_that_is_full_again_and_again_takes_all_jobs_in_the_end(sh: str, fresh_server: OwnServer) -> None:
    with RunningService(fresh_server.url, "--max-jobs", "1"):
        both = [begun(sh, fresh_server.url, "-m", "lenet", "-t", LONG, *["seven.png"] * 15) for _ in range(2)]

        assert [(0, ["7"] * 15, "")] * 2 == [
            (code, labels(documents), said) for code, documents, said in map(ended, both)
        ]


@pytest.mark.parametrize(
    ("reply", "code"),
    [("QUEUEFULL 1 jobs are in the queue", 1), ("ANSWERED that id", 1), ("UNKNOWNMODEL lenet", 1), ("NOPERM no", 4)],
)
def test_what_the_door_refuses_is_said_with_its_word(sh: str, fresh_server: OwnServer, reply: str, code: int) -> None:
    body = f"redis.register_function('convq_submit', function() return redis.error_reply('{reply}') end)"
    with redis.Redis.from_url(fresh_server.url) as connection:
        connection.function_load(f"#!lua name=door\n{body}")

    assert (code, [], f"convq.sh: {reply}\n") == run(sh, fresh_server.url, "-m", "lenet", "-t", "1", "seven.png")


def test_where_nobody_serves_it_says_so_and_withdraws_the_job(shell: str, fresh_server: OwnServer) -> None:
    code, documents, said = run(shell, fresh_server.url, "-m", "lenet", "-i", "mine", "-t", "1", "seven.png")

    assert (1, [], "convq.sh: no worker serves 'lenet'; served: nothing\n") == (code, documents, said)
    with redis.Redis.from_url(fresh_server.url) as connection:
        assert {b"mine"} == connection.smembers("convq:{lenet}:cancelled")


def test_a_job_that_is_withdrawn_before_it_runs_ends_as_cancelled(shell: str, url: str) -> None:
    own = uuid.uuid4().hex
    assert (0, [], "") == run(shell, url, "-m", "lenet", "-c", own)
    code, (answer,), said = run(shell, url, "-m", "lenet", "-i", own, "-t", LONG, "seven.png")

    assert (1, "cancelled", "convq.sh: seven.png: cancelled\n") == (code, answer["status"], said)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_withdraws_what_is_on_its_way(
    shell: str, fresh_server: OwnServer, number: signal.Signals, status: int
) -> None:
    process = begun(shell, fresh_server.url, "-m", "lenet", "-t", LONG, "seven.png", "seven.png")
    wait_until(lambda: jobs_in(fresh_server.url) == 2)
    if (
        number == signal.SIGINT
    ):  # a terminal tells all that runs in it; bash alone takes it that its child wanted the signal
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)

    assert (status, []) == ended(process)[:2]
    with redis.Redis.from_url(fresh_server.url) as connection:
        assert 2 == connection.scard("convq:{lenet}:cancelled")


# -- what breaks ----------------------------------------------------------------------------------------------------------------


def test_jobs_that_wait_on_one_connection_when_the_server_is_killed_are_answered(sh: str, tmp_path: Path) -> None:
    with OwnServer(tmp_path) as server:
        with redis.Redis.from_url(server.url) as connection:
            connection.function_load(SOURCE)
            process = begun(sh, server.url, "-m", "lenet", "-t", LONG, *["seven.png"] * 20)
            wait_until(lambda: jobs_in(server.url) == 20)
            wait_until(lambda: [one["cmd"] for one in connection.client_list()].count("blpop") == 1)
            (lost, _), *_ = connection.xrange(LANES[1])
            connection.xdel(LANES[1], lost)  # as one whose result went into a connection that broke
        server.restart()
        with RunningService(server.url):
            code, documents, said = ended(process)

    assert (0, ["7"] * 20, "") == (code, labels(documents), said)


def test_a_server_that_is_not_there_ends_with_4(shell: str) -> None:
    code, documents, said = run(shell, "redis://:hush@127.0.0.1:1/0", "-m", "lenet", "-t", "1", "seven.png")

    assert (4, [], "convq.sh: Could not connect to Redis at 127.0.0.1:1: Connection refused\n") == (
        code,
        documents,
        said,
    )


def test_a_producer_needs_no_other_right_and_no_command_line_holds_the_password(sh: str, tmp_path: Path) -> None:
    with guarded_server(binary_of("redis-server"), tmp_path) as guarded:
        producer, secret = guarded.url("producer"), password_of("producer")
        with redis.Redis.from_url(guarded.url("admin"), decode_responses=True) as admin:
            admin.function_load(SOURCE)
            admin.acl_log_reset()
            process = begun(sh, producer, "-m", "lenet", "-t", LONG, "seven.png")
            wait_until(lambda: any(one["cmd"] == "blpop" for one in admin.client_list()))
            lines = [path.read_bytes() for path in Path("/proc").glob("[0-9]*/cmdline") if os.access(path, os.R_OK)]
            assert [] == [line for line in lines if secret.encode() in line]
            with RunningService(guarded.url("worker")):
                assert 0 == ended(process)[0]
                (tmp_path / "password").write_text(secret + "\n")
                named = producer.replace(f":{secret}", "")
                variables = {"CONVQ_REDIS_PASSWORD_FILE": str(tmp_path / "password")}
                assert 0 == run(sh, named, "-m", "lenet", "-t", LONG, "seven.png", **variables)[0]
            assert [] == admin.acl_log()
            code, documents, said = run(sh, producer.replace(secret, "Wr%40ng"), "-m", "lenet", "seven.png")
            assert (4, [], True, False) == (code, documents, "WRONGPASS" in said, "Wr@ng" in said or "Wr%40" in said)
            assert 0 == admin.xlen(LANES[1])


def test_tls_takes_the_certificates_and_refuses_a_stranger_s(sh: str, tmp_path: Path) -> None:
    certificates = Certificates.make(tmp_path / "certificates")
    (tmp_path / "data").mkdir()
    files = {"CA": "ca.pem", "CERT": "client.pem", "KEY": "client.key"}
    variables = {f"CONVQ_REDIS_{name}": str(certificates / file) for name, file in files.items()}
    with tls_server(tmp_path / "data", certificates) as port:
        url = f"rediss://127.0.0.1:{port}/0"
        assert (0, [], "") == run(sh, url, "-m", "lenet", "-c", "any", **variables)
        assert 4 == run(sh, url, "-m", "lenet", "-c", "any")[0]


def test_the_lines_of_the_page_do_what_they_say(sh: str, url: str, tmp_path: Path) -> None:
    page = (SCRIPT.parent / "README.md").read_text()
    (lines,) = re.findall(r"```sh\n(.*?)```", page, re.DOTALL)
    shutil.copy(SCRIPT, tmp_path)
    shutil.copy(SEVEN, tmp_path)

    done = subprocess.run(
        [sh, "-eu", "-c", lines], cwd=tmp_path, capture_output=True, text=True, check=False, timeout=250,
        env={**os.environ, "CONVQ_REDIS_URL": url},
    )  # fmt: skip

    assert ("", 0) == (done.stderr, done.returncode)
    assert ["7", "7"] == labels([json.loads(line) for line in done.stdout.splitlines()])
    assert ["7"] == labels([json.loads(line) for line in (tmp_path / "answers.jsonl").read_text().splitlines()])


def test_the_options_that_the_help_lists_are_those_that_it_takes(sh: str) -> None:
    text = SCRIPT.read_text()
    shown = subprocess.run([sh, str(SCRIPT), "-h"], capture_output=True, text=True, check=True).stdout
    (taken,) = re.findall(r"getopts (\S+) option", text)

    assert set(taken.replace(":", "")) - {"h"} == set(re.findall(r"(?:^|\s)-([a-z])\b", shown))
