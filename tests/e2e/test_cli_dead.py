"""`convq dead` as people run it, and how `convq serve` starts on servers that it must not trust."""

from __future__ import annotations

import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from convq.cli import main
from convq.protocol import Job
from convq.queue import BlockingWire, Commits, Completion, Producer, Shard, Submission, WorkQueue, at_once
from servers import PATIENCE, OwnServer, wait_until
from services import MODELS, RunningService, seven

ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("CONVQ_")}
SHARD = Shard("lenet")


def convq(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "convq", *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, env=ENVIRONMENT, timeout=250, check=False)


def on_terminal(*arguments: str | Path) -> tuple[int, str]:
    """Exit status and screen, without its colours, of a command that runs on a terminal of 160 columns."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "convq", *map(str, arguments)]
    process = subprocess.Popen(
        command, stdout=theirs, stderr=theirs, env=ENVIRONMENT | {"COLUMNS": "160", "TERM": "xterm"}
    )
    os.close(theirs)
    screen = b""
    try:
        while piece := os.read(ours, 4096):
            screen += piece
    except OSError:  # how Linux says that the other end is closed
        pass
    os.close(ours)
    return process.wait(30 * PATIENCE), re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", screen.decode())


def lines(done: subprocess.CompletedProcess[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in done.stdout.splitlines()]


def bury(url: str, *ids: str) -> None:
    """Dead letters of these job ids, as a worker makes them."""
    wire, work = BlockingWire(url), WorkQueue(url, SHARD, worker="w", lease_ms=60_000)
    commits, lease = Commits(url, SHARD, result_ttl_ms=60_000), work.take()
    at_once(Producer(wire, SHARD).submit([Submission(Job(image=seven(), id=one)) for one in ids]))
    buried = 0
    while buried < len(ids):
        for job in work.claim(lease, 100, 100).jobs:
            document = {"v": 1, "id": job.id, "entry": job.entry, "status": "poisoned"}
            completion = Completion(job, json.dumps(document).encode())
            buried += commits.bury(lease, completion, "crash", "signal 11 while it ran alone")
    work.release(lease)
    work.close()
    commits.close()
    at_once(wire.close())


@pytest.fixture
def url(redis_url: str) -> str:
    """One server program is enough here: what the commands call is tested with each."""
    return redis_url


@pytest.fixture
def stored(url: str) -> Iterator[Any]:
    with redis.Redis.from_url(url, decode_responses=True) as connection:
        yield connection


def test_list_prints_json_lines_in_a_pipe_and_a_table_on_a_terminal(url: str) -> None:
    bury(url, "a", "b")

    done = convq("dead", "list", "--redis", url, "--model", "lenet")
    status, screen = on_terminal("dead", "list", "--redis", url, "--model", "lenet")

    assert ["b", "a"] == [letter["job"] for letter in lines(done)]
    assert {"crash"} == {letter["reason"] for letter in lines(done)}
    assert {len(seven())} == {letter["bytes"] for letter in lines(done)}
    header, *rows = screen.splitlines()
    assert (0, ["id", "model", "job", "when", "(UTC)", "bytes", "reason", "message"]) == (status, header.split())
    assert 2 == len(rows)
    assert "signal 11 while it ran alone" in rows[0]


def test_nothing_dead_is_said_to_people_and_is_nothing_for_programs(url: str) -> None:
    done = convq("dead", "list", "--redis", url, "--model", "lenet")
    status, screen = on_terminal("dead", "list", "--redis", url, "--model", "lenet")

    assert (0, "", "") == (done.returncode, done.stdout, done.stderr)
    assert (0, "no dead letters of lenet, and no worker serves it now") == (status, screen.strip())


def test_show_tells_all_fields_and_saves_the_image(url: str, tmp_path: Path) -> None:
    bury(url, "a")
    (letter,) = lines(convq("dead", "list", "--redis", url, "--model", "lenet"))

    done = convq("dead", "show", letter["id"], "--redis", url, "--model", "lenet", "--save", tmp_path / "culprit.png")
    _, screen = on_terminal("dead", "show", letter["id"], "--redis", url, "--model", "lenet")

    assert [{**letter, "fields": {"id": "a"}}] == lines(done)
    assert seven() == (tmp_path / "culprit.png").read_bytes()
    assert f"{len(seven()):,} bytes; --save FILE writes it" in screen
    assert "signal 11" in screen


def test_requeue_all_keeps_ids_and_every_job_gets_its_answer(url: str, stored: Any) -> None:
    bury(url, *(f"j{n}" for n in range(30)))

    done = convq("dead", "requeue", "--all", "--redis", url, "--model", "lenet")

    assert 0 == done.returncode, done.stderr
    assert [f"j{n}" for n in range(30)] == [one["job"] for one in lines(done)]
    assert {"requeued"} == {one["state"] for one in lines(done)}
    with RunningService(url, workers=1):
        wait_until(lambda: all(stored.llen(SHARD.result(f"j{n}")) for n in range(30)), 20)
    answers = [json.loads(stored.lpop(SHARD.result(f"j{n}"))) for n in range(30)]
    assert {"ok"} == {answer["status"] for answer in answers}
    assert [0, 0] == [stored.xlen(SHARD.dead), stored.xlen(SHARD.streams[1])]


def test_requeue_shows_its_progress_and_a_table_on_a_terminal(url: str) -> None:
    bury(url, "a", "b")

    status, screen = on_terminal("dead", "requeue", "--all", "--redis", url, "--model", "lenet")

    assert 0 == status
    assert "requeueing" in screen
    assert 2 == screen.count("requeued")


def test_a_letter_that_is_gone_is_an_error_that_says_where_to_look(url: str) -> None:
    bury(url, "a")
    (letter,) = lines(convq("dead", "list", "--redis", url, "--model", "lenet"))

    for command in ("requeue", "purge"):
        done = convq("dead", command, letter["id"], "1-1", "--redis", url, "--model", "lenet")
        assert 1 == done.returncode
        assert "not there: requeued or purged, or of another model than lenet" in done.stderr
        assert f"convq dead list --redis {url} shows those of all models" in done.stderr
        assert 1 == len(done.stderr.splitlines())
    assert 1 == convq("dead", "show", "1-1", "--redis", url, "--model", "lenet").returncode


def test_purge_takes_ids_ages_or_all(url: str, stored: Any) -> None:
    bury(url, "a", "b", "c")
    (newest, *_) = lines(convq("dead", "list", "--redis", url, "--model", "lenet"))
    common = ("--redis", url, "--model", "lenet")

    assert [{"model": "lenet", "purged": 1}] == lines(convq("dead", "purge", newest["id"], *common))
    assert [{"model": "lenet", "purged": 0}] == lines(convq("dead", "purge", "--older-than", "7d", *common))
    status, screen = on_terminal("dead", "purge", "--all", *common)
    assert (0, "2 dead letters of lenet deleted") == (status, screen.strip())
    assert 0 == stored.xlen(SHARD.dead)


@pytest.mark.parametrize(
    ("arguments", "hint"),
    [
        (["requeue"], "their ids, or --all"),
        (["requeue", "1-1", "--all"], "only one of these"),
        (["purge", "--all", "--older-than", "7d"], "only one of these"),
        (["purge", "--older-than", "a week"], "expected a number and s, m, h or d, like 12h"),
    ],
)
def test_wrong_usage_says_what_was_expected(arguments: list[str], hint: str) -> None:
    done = convq("dead", *arguments, "--model", "lenet")

    assert 2 == done.returncode
    assert hint in done.stderr
    assert 1 == len(done.stderr.splitlines())


@pytest.mark.parametrize("command", [["requeue", "--all"], ["purge", "--all"], ["purge", "--older-than", "7d"]])
def test_many_letters_at_a_time_are_those_of_a_model_that_is_named(url: str, command: list[str]) -> None:
    done = convq("dead", *command, "--redis", url)

    assert 2 == done.returncode
    assert "say whose dead letters: --model NAME, or --all-models" in done.stderr


# -- of several models --------------------------------------------------------------------------------------------------


Here = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def here(capsys: pytest.CaptureFixture[str]) -> Here:
    """As `convq`, in this process: a second less."""

    def run(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
        status = main([*map(str, arguments)])
        said = capsys.readouterr()
        return subprocess.CompletedProcess([], status, said.out, said.err)

    return run


def served(stored: Any, *models: str) -> None:
    """As if services with these models were there."""
    for model in models:
        stored.hset("convq:models", model, json.dumps({"classes": 10} if model == "lenet" else {}))


def letter_of(stored: Any, model: str, job: str, entry: str = "*") -> str:
    """One dead letter of that model, as a worker writes it."""
    shard = Shard(model)
    head = {"dead_reason": "crash", "dead_message": "why", "dead_stream": shard.streams[1], "dead_entry": "1-1"}
    return str(stored.xadd(shard.dead, {**head, "image": "pixels", "id": job}, id=entry))


def test_a_letter_is_found_by_its_id_whichever_model_it_is_of(
    url: str, stored: Any, here: Here, tmp_path: Path
) -> None:
    """Nobody serves `gone` any more: that may be why it has dead letters. lenet is the only one with classes."""
    served(stored, "lenet", "edges")
    of_edges, of_gone = letter_of(stored, "edges", "a", "1-1"), letter_of(stored, "gone", "b", "2-1")
    last = letter_of(stored, "edges", "c", "3-1")

    listed = here("dead", "list", "--redis", url)
    assert {("edges", "a"), ("gone", "b"), ("edges", "c")} == {(one["model"], one["job"]) for one in lines(listed)}
    shown = here("dead", "show", of_gone, "--save", tmp_path / "saved", "--redis", url)
    assert ["gone"] == [one["model"] for one in lines(shown)]
    assert b"pixels" == (tmp_path / "saved").read_bytes()
    done = here("dead", "requeue", of_gone, of_edges, "--redis", url)
    assert {"edges": "a", "gone": "b"} == {one["model"]: one["job"] for one in lines(done)}
    assert [1, 1] == [stored.xlen(Shard(model).streams[1]) for model in ("edges", "gone")]
    assert [{"model": "edges", "purged": 1}] == lines(here("dead", "purge", last, "--redis", url))
    assert 0 == stored.xlen(Shard("edges").dead)


def test_an_id_of_two_models_is_ambiguous_and_nothing_is_done(url: str, stored: Any, here: Here) -> None:
    served(stored, "lenet", "edges")
    for model in ("lenet", "edges"):
        letter_of(stored, model, "a", "5-5")
    alone = letter_of(stored, "lenet", "b")

    for command in ("show", "requeue", "purge"):
        done = here("dead", command, "5-5", *([alone] if command != "show" else []), "--redis", url)
        assert 1 == done.returncode
        assert "models edges, lenet have a dead letter 5-5 each: say which is meant, with --model NAME" in done.stderr
    assert [1, 2] == [stored.xlen(Shard(model).dead) for model in ("edges", "lenet")]
    assert 0 == here("dead", "purge", "5-5", "--model", "edges", "--redis", url).returncode
    assert [0, 2] == [stored.xlen(Shard(model).dead) for model in ("edges", "lenet")]


def test_a_letter_that_no_model_has_is_looked_for_in_all_and_said(url: str, stored: Any, here: Here) -> None:
    served(stored, "lenet", "edges")
    there = letter_of(stored, "edges", "a")

    for command in ("requeue", "purge"):
        done = here("dead", command, "9-9", "--redis", url)
        assert 1 == done.returncode
        assert "dead letter 9-9 is not there: requeued or purged, or of another model than " in done.stderr
        assert "edges" in done.stderr
        assert "lenet" in done.stderr
    assert [there] == [entry for entry, _ in stored.xrange(Shard("edges").dead)]


def test_a_purge_of_a_model_that_is_none_is_an_error_with_the_nearest(url: str, stored: Any, here: Here) -> None:
    served(stored, "lenet", "edges")

    for command in (["purge", "--all"], ["purge", "--older-than", "7d"], ["requeue", "--all"]):
        done = here("dead", *command, "--model", "lennet", "--redis", url)
        assert 1 == done.returncode
        assert (
            "no worker serves 'lennet', and there never was a dead letter of it; did you mean 'lenet'?" in done.stderr
        )


def test_the_letters_of_all_models_go_where_that_is_said(url: str, stored: Any, here: Here) -> None:
    served(stored, "lenet", "edges")
    for model in ("edges", "gone"):
        letter_of(stored, model, "a", "1-1")

    nothing = here("dead", "purge", "--all", "--model", "lenet", "--redis", url)
    assert (0, [{"model": "lenet", "purged": 0}]) == (nothing.returncode, lines(nothing))
    assert f"no dead letters of lenet; convq dead list --redis {url} shows those of all models" in nothing.stderr
    done = here("dead", "purge", "--older-than", "7d", "--all-models", "--redis", url)
    assert [{"model": "edges", "purged": 1}, {"model": "gone", "purged": 1}] == lines(done)
    assert 2 == here("dead", "purge", "--all", "--all-models", "--model", "lenet", "--redis", url).returncode
    assert 2 == here("dead", "purge", "1-1", "--all-models", "--redis", url).returncode


@pytest.mark.parametrize("classes", [True, False], ids=["one with classes", "none with classes"])
def test_a_job_is_looked_for_in_all_models_that_are_served(url: str, stored: Any, here: Here, *, classes: bool) -> None:
    """Where one model alone yields classes, that was taken, and a job of another was unknown."""
    served(stored, "lenet", "edges")
    if not classes:
        served(stored, "edges", "blur")
        stored.hdel("convq:models", "lenet")
    entry = stored.xadd(Shard("edges").streams[1], {"image": "x", "id": "mine"}, id="7-7")
    stored.set(Shard("edges").job("mine"), f"{Shard('edges').streams[1]} {entry}")

    found = lines(here("jobs", "status", "mine", "nobody", "--redis", url))
    assert [("mine", "edges", "waiting"), ("nobody", None, "unknown")] == [
        (one["id"], one["model"], one["state"]) for one in found
    ]
    done = here("jobs", "cancel", "mine", "--redis", url)
    assert (0, ["edges"]) == (done.returncode, [one["model"] for one in lines(done)])
    assert ["mine"] == list(stored.smembers(Shard("edges").cancelled))


def test_a_job_of_no_model_is_not_withdrawn_anywhere_and_one_of_two_asks(url: str, stored: Any, here: Here) -> None:
    served(stored, "lenet", "edges")
    for model in ("lenet", "edges"):
        stored.xadd(Shard(model).streams[1], {"image": "x"}, id="7-7")

    nobody = here("jobs", "cancel", "nobody", "--redis", url)
    both = here("jobs", "cancel", "7-7", "--redis", url)

    assert (1, 1) == (nobody.returncode, both.returncode)
    assert "job nobody is of none of edges, lenet: it was answered and read, or never was" in nobody.stderr
    assert "models edges, lenet have a job 7-7 each: say which is meant, with --model NAME" in both.stderr
    assert 0 == sum(stored.exists(Shard(model).cancelled) for model in ("lenet", "edges"))
    assert {"edges", "lenet"} == {one["model"] for one in lines(here("jobs", "status", "7-7", "--redis", url))}


# -- servers that serve must not trust ----------------------------------------------------------------------------------


def serve(url: str) -> subprocess.CompletedProcess[str]:
    flags = ("--models", MODELS, "--only", "lenet", "--workers", "1", "--http", "127.0.0.1:0", "--log", "json")
    return convq("serve", "--redis", url, *flags)


def refusals(done: subprocess.CompletedProcess[str]) -> list[str]:
    return [line for line in done.stderr.splitlines() if not line.startswith("{")]


def test_serve_refuses_a_server_that_evicts(fresh_server: OwnServer) -> None:
    with redis.Redis.from_url(fresh_server.url) as connection:
        connection.config_set("maxmemory-policy", "allkeys-lru")

        done = serve(fresh_server.url)

    assert 4 == done.returncode, done.stderr
    (line,) = refusals(done)
    command = f"redis-cli -p {fresh_server.port} CONFIG SET maxmemory-policy noeviction"
    assert line.partition("mend it: ")[2].startswith(f"{command}; for its next start: ")


def test_requeue_of_all_passes_by_what_is_no_letter_and_says_how_to_delete_it(url: str, stored: Any) -> None:
    first = stored.xadd(SHARD.dead, {"foreign": "x"})
    bury(url, "a")
    second = stored.xadd(SHARD.dead, {"dead_stream": SHARD.cfg, "dead_entry": "1-1"})
    bury(url, "b")

    done = convq("dead", "requeue", "--all", "--redis", url, "--model", "lenet")
    again = convq("dead", "requeue", "--all", "--redis", url, "--model", "lenet")

    assert ["no dead letter", "requeued", "no dead letter", "requeued"] == [line["state"] for line in lines(done)]
    assert 1 == done.returncode
    remedy = f"convq dead purge {first} {second} --model lenet"
    assert "2 of 4 entries are no dead letters of convq" in done.stderr
    assert remedy in done.stderr
    assert 1 == again.returncode
    assert "2 of 2 entries" in again.stderr
    assert 2 == stored.xlen(SHARD.streams[1])
    assert 0 == convq(*remedy.split()[1:], "--redis", url).returncode
    nothing = convq("dead", "requeue", "--all", "--redis", url, "--model", "lenet")
    assert (0, "") == (nothing.returncode, nothing.stdout)


def test_serve_refuses_a_replica(fresh_server: OwnServer, server: OwnServer) -> None:
    with redis.Redis.from_url(fresh_server.url) as connection:
        connection.replicaof("127.0.0.1", server.port)

        done = serve(fresh_server.url)

    assert 4 == done.returncode, done.stderr
    (line,) = refusals(done)
    assert "it is a replica" in line


def test_serve_warns_of_what_it_can_live_with_and_loads_the_function(fresh_server: OwnServer) -> None:
    with redis.Redis.from_url(fresh_server.url, decode_responses=True) as connection:
        connection.config_set("appendonly", "no")
        connection.config_set("maxmemory", 0)

        with RunningService(fresh_server.url, workers=1) as service:
            warned = {line.get("check") for line in service.log if line["level"] == "warning"}
            entry = connection.fcall("convq_submit", 1, SHARD.streams[1], "image", seven())
            _, document = connection.blpop([SHARD.result(entry)], 10)
            connection.function_flush()
            wait_until(connection.function_list, 10)

    assert {"persistence", "maxmemory"} <= warned
    assert "7" == json.loads(document)["predictions"][0]["label"]
