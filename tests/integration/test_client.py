"""`Client` and `AsyncClient` against a running service: what users import, doing what its docstrings say."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
import redis
from PIL import Image

from convq import AsyncClient, Client
from convq.errors import BadField, BadImage, BadTensor, JobFailed, QueueFull, RedisUnavailable, ResultTimeout
from convq.protocol import JobState, Result, Status
from pace import Stopwatch
from servers import OwnServer, wait_until
from services import SAMPLE, Ledger, Plain, RunningService, digit_labels, digits, image_of, seven, tensor_of

WORKERS = 2


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server of this module's own."""
    with OwnServer(tmp_path_factory.mktemp("client")) as server:
        yield server.url


@pytest.fixture(scope="module")
def service(url: str) -> Iterator[RunningService]:
    with RunningService(url, workers=WORKERS) as running:
        yield running


@pytest.fixture
def client(service: RunningService, url: str) -> Iterator[Client]:
    """A client that names no model: there is only one."""
    assert service.process.poll() is None
    with Client(url) as made:
        yield made


@pytest.fixture
def idle(fresh_server: OwnServer) -> Iterator[Client]:
    """A client of a server without a service."""
    with Client(fresh_server.url, model="lenet") as made:
        yield made


def test_it_classifies_whatever_people_call_an_image(client: Client) -> None:
    tensor = np.frombuffer(tensor_of(digits()[0]), np.uint8).reshape(1, 32, 32)
    path = SAMPLE / "seven.png"

    for image in (
        seven(),
        bytearray(seven()),
        memoryview(seven()),
        path,
        str(path),
        Image.open(path),
        tensor,
        tensor.copy(),
    ):
        assert "7" == client.classify(image).label


def test_a_submitted_job_has_a_state_and_one_result(client: Client) -> None:
    job_id = client.submit(seven(), priority="high", top_k=2, outputs=["logits"])
    wait_until(lambda: JobState.DONE == client.status(job_id))
    result = client.result(job_id)

    assert (job_id, True, "7", 2) == (result.id, result.ok, result.label, len(result.predictions or ()))
    assert 7 == int(result.output("logits").array().argmax())
    assert JobState.UNKNOWN == client.status(job_id)
    assert "7" == result.explain()[0]


def test_many_jobs_go_in_one_call(client: Client) -> None:
    ids = client.submit_many([image_of(digit) for digit in digits()[:150]])

    assert 150 == len(set(ids))
    assert digit_labels()[:5] == [client.result(job_id).label for job_id in ids[:5]]


def test_it_says_what_is_served(client: Client) -> None:
    served = client.served()

    assert ["lenet"] == list(served)
    assert (10, "logits") == (served["lenet"]["labels"], served["lenet"]["classes"])


def test_a_job_that_fails_raises_with_its_result(client: Client) -> None:
    with pytest.raises(JobFailed, match="bad_image") as caught:
        client.classify(b"seven")

    assert Status.ERROR == caught.value.result.status
    with pytest.raises(JobFailed, match="expired"):
        client.classify(seven(), ttl_ms=0)


@pytest.mark.parametrize(
    ("image", "options", "expected"),
    [
        (7, {}, BadImage),
        ("no/such/file.png", {}, BadImage),
        (np.zeros((1, 32, 32), np.int64), {}, BadTensor),
        (seven(), {"top_k": 0}, BadField),
        (seven(), {"id": "with spaces"}, BadField),
        (seven(), {"colour": "blue"}, BadField),
        (seven(), {"model": "No Such Name"}, BadField),
    ],
)
def test_a_wrong_argument_is_refused_before_anything_is_sent(
    client: Client, image: object, options: dict[str, object], expected: type[Exception]
) -> None:
    with pytest.raises(expected):
        client.classify(image, **options)  # type: ignore[arg-type]


def test_a_wait_for_a_model_that_nobody_serves_says_so(client: Client) -> None:
    with pytest.raises(ResultTimeout) as caught:
        client.classify(seven(), model="lenett", timeout=0.2)

    assert "no worker serves 'lenett'; served: lenet. Did you mean 'lenet'?" == str(caught.value)


def test_a_wait_for_a_result_that_is_gone_says_that_the_model_is_served(client: Client) -> None:
    with Stopwatch() as watch:
        with pytest.raises(ResultTimeout, match="a worker serves 'lenet', the job is unknown"):
            client.result("1-1", timeout=0.2)
    assert watch.took_s >= 0.2
    assert watch.quiet_s < 2


def test_without_a_service_a_job_waits_and_may_be_cancelled(idle: Client, fresh_server: OwnServer) -> None:
    job_id = idle.submit(seven(), id="mine")

    assert "mine" == job_id
    assert JobState.WAITING == idle.status(job_id)
    assert {} == idle.served()
    with pytest.raises(ResultTimeout, match="no worker serves 'lenet'; served: nothing"):
        idle.result(job_id, timeout=0.1)
    idle.cancel(job_id)
    with RunningService(fresh_server.url, workers=1):
        assert Status.CANCELLED == idle.result(job_id, timeout=30).status


def test_a_client_without_a_model_asks_which(fresh_server: OwnServer) -> None:
    with Client(fresh_server.url) as client, pytest.raises(BadField, match="no worker serves any now"):
        client.submit(seven())


# -- map --------------------------------------------------------------------------------------------------------------


def test_map_keeps_the_order_of_more_images_than_may_be_in_flight(client: Client) -> None:
    results = list(client.map((image_of(digit) for digit in digits()[:300]), in_flight=50))

    assert 300 == len(results)
    right = sum(result.label == label for result, label in zip(results, digit_labels(), strict=False))
    assert right >= 295


def test_map_gives_failures_in_their_place(client: Client) -> None:
    results = list(client.map([seven(), b"", seven(), b"text", seven()]))

    assert ["ok", "error", "ok", "error", "ok"] == [str(result.status) for result in results]


def test_map_goes_on_over_images_that_cannot_be_read(client: Client, url: str) -> None:
    unfit: list[object] = ["no/such/file.png", seven(), 7, np.zeros((1, 32, 32), np.int64), np.zeros((0,), np.uint8)]
    expected = ["bad_image", "", "bad_image", "bad_tensor", "bad_tensor"] * 40

    async def gathered() -> list[Result]:
        async with AsyncClient(url, model="lenet") as other:
            return [result async for result in other.map(unfit * 40, in_flight=7)]

    for results in (list(client.map(unfit * 40, in_flight=7)), asyncio.run(gathered())):
        assert expected == [result.error.code if result.error else "" for result in results]
        assert ["7"] * 40 == [result.label for result in results if result.ok]
        assert "no/such/file.png" in results[0].explain()
    assert ["bad_image"] * 3 == [result.error.code for result in client.map(["nope.png"] * 3) if result.error]


def test_map_of_nothing_is_nothing(client: Client) -> None:
    assert [] == list(client.map([]))


def test_map_leaves_nothing_behind(client: Client, url: str) -> None:
    assert 70 == len(list(client.map([seven()] * 70)))
    with Plain(url) as plain:
        assert [] == list(plain.redis.scan_iter("convq:{lenet}:inbox:map-*"))
        assert plain.nothing_left()


def test_map_keeps_the_order_while_a_worker_is_killed(client: Client, service: RunningService) -> None:
    tensors = [np.frombuffer(tensor_of(digit), np.uint8).reshape(1, 32, 32) for digit in digits()]
    results = client.map(tensors * 3, in_flight=300)
    labels = [next(results).label for _ in range(500)]
    pids = service.worker_pids()
    os.kill(pids[0], signal.SIGKILL)
    labels += [result.label for result in results]

    assert labels[:1000] == labels[1000:2000] == labels[2000:]
    assert sum(one == other for one, other in zip(labels, digit_labels(), strict=False)) >= 985
    wait_until(lambda: WORKERS == len(service.worker_pids()) and service.is_ready())


def test_map_of_a_model_that_nobody_serves_says_so(client: Client) -> None:
    with pytest.raises(ResultTimeout, match="Did you mean 'lenet'"):
        list(client.map([seven()] * 3, model="lenett", timeout=0.3))


def test_a_full_queue_refuses_submit_and_map_waits_for_room(fresh_server: OwnServer) -> None:
    with redis.Redis.from_url(fresh_server.url) as connection, Client(fresh_server.url, model="lenet") as client:
        connection.hset("convq:{lenet}:cfg", mapping={"max_jobs": 70})
        client.submit_many([seven()] * 40)
        with pytest.raises(QueueFull, match="40 jobs are in the queue, 70 may be"):
            client.submit_many([seven()] * 40)
        with pytest.raises(QueueFull):
            list(client.map([seven()] * 200, timeout=0.3))
        assert 40 == connection.xlen("convq:{lenet}:jobs")

        with RunningService(fresh_server.url, "--max-jobs", "70", workers=1):
            assert 300 == len(list(client.map([seven()] * 300)))


def test_map_fits_through_a_door_that_is_smaller_than_its_calls(fresh_server: OwnServer) -> None:
    with (
        Client(fresh_server.url, model="lenet") as client,
        RunningService(fresh_server.url, "--max-jobs", "5", workers=1),
    ):
        assert 50 == len(list(client.map([seven()] * 50, timeout=20)))


def test_map_knocks_again_when_the_door_says_that_there_is_room(fresh_server: OwnServer) -> None:
    with redis.Redis.from_url(fresh_server.url) as connection, Client(fresh_server.url, model="lenet") as client:
        client.submit(seven())
        ahead_ms = (connection.time()[0] + 5) * 1000
        connection.hset(
            "convq:{lenet}:cfg", mapping={"max_jobs": 1, "drain_per_s": 2.5, "drain_full": 1, "drain_ms": ahead_ms}
        )
        connection.config_resetstat()

        with pytest.raises(QueueFull, match=r"try again in 0\.4 s"), Stopwatch() as watch:
            list(client.map([seven()], timeout=1.0))

        # at 0, 0.4, 0.8 and 1.0 s; a late one leaves less time for the others
        assert 4 / watch.slowdown <= connection.info("commandstats")["cmdstat_evalsha"]["calls"] <= 4


def test_map_pushes_no_image_twice_where_only_a_part_of_a_call_fits(fresh_server: OwnServer) -> None:
    large = seven() + bytes(3 << 20)  # what stands behind the end of a PNG is ignored; two of them fill a call
    with (
        Client(fresh_server.url, model="lenet") as client,
        RunningService(fresh_server.url, "--max-jobs", "3") as service,
    ):
        answers = list(client.map([large] * 12, timeout=20))

        assert ["7"] * 12 == [answer.label for answer in answers]
        wait_until(lambda: sum(service.metrics()["convq_jobs_total"].values()) >= 12)
        assert 12 == sum(service.metrics()["convq_jobs_total"].values())


def test_one_client_serves_many_threads(client: Client) -> None:
    def classify(number: int) -> bool:
        return client.classify(image_of(digits()[number])).label == digit_labels()[number]

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(classify, range(200))) >= 196


def test_a_server_that_went_and_came_back_needs_no_new_client(fresh_server: OwnServer) -> None:
    with Client(fresh_server.url, model="lenet") as client:
        client.submit(seven())
        fresh_server.restart()

        def again() -> str | None:
            with suppress(RedisUnavailable):
                return client.submit(seven())
            return None

        assert wait_until(again)


# -- asyncio ----------------------------------------------------------------------------------------------------------


def test_the_async_client_does_the_same(service: RunningService, url: str, tmp_path: Path) -> None:
    file = tmp_path / "one.png"
    file.write_bytes(image_of(digits()[2]))

    async def story() -> None:
        async with AsyncClient(url) as client:
            assert "lenet" in await client.served()
            assert "1" == (await client.classify(file)).label
            job_id = await client.submit(seven(), priority="low")
            assert "7" == (await client.result(job_id, timeout=15)).label
            assert JobState.UNKNOWN == await client.status(job_id)
            assert 20 == len(await client.submit_many([seven()] * 20))
            await client.cancel("never-there")
            with pytest.raises(JobFailed, match="bad_image"):
                await client.classify(b"")
            with pytest.raises(ResultTimeout, match="Did you mean 'lenet'"):
                await client.classify(seven(), model="lenett", timeout=0.2)

    assert service.process.poll() is None
    asyncio.run(story())


def test_async_map_keeps_the_order_and_many_waits_share_one_client(service: RunningService, url: str) -> None:
    async def story() -> tuple[list[str], list[str]]:
        async with AsyncClient(url, model="lenet") as client:
            mapped = [
                result.label async for result in client.map([image_of(one) for one in digits()[:200]], in_flight=30)
            ]
            waited = await asyncio.gather(*(client.classify(image_of(one)) for one in digits()[:50]))
            return mapped, [result.label for result in waited]

    assert service.process.poll() is None
    mapped, waited = asyncio.run(story())
    assert sum(one == other for one, other in zip(mapped, digit_labels(), strict=False)) >= 196
    assert mapped[:50] == waited


def test_a_thousand_strangers_jobs_do_not_delay_a_map_for_ever(client: Client, url: str) -> None:
    with Plain(url) as plain:
        ledger = Ledger(plain, "stranger")
        ledger.submit(5_000)
        assert ["7"] * 100 == [result.label for result in client.map([seven()] * 100)]
        ledger.settle()
