"""How clients wait: many at a time on few connections, cancelled and interrupted at the worst moment, across breaks."""

from __future__ import annotations

import asyncio
import copy
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import aclosing, suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from convq import AsyncClient, Client
from convq.errors import Answered, BadField, JobFailed, RedisUnavailable, ResultGone, ResultTimeout
from convq.protocol import JobState, Status
from servers import OwnServer, wait_until
from services import SAMPLE, Plain, RunningService, digit_labels, digits, image_of, seven

PREFIX = "convq:{lenet}:result:"
DOCUMENT = '{"v":1,"id":"%s","entry":"1-1","model":"lenet","status":"ok","worker":"w"}'


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OwnServer]:
    """A server of this module's own."""
    with OwnServer(tmp_path_factory.mktemp("waits")) as made:
        yield made


@pytest.fixture(scope="module")
def service(server: OwnServer) -> Iterator[RunningService]:
    with RunningService(server.url) as running:
        yield running


@pytest.fixture
def plain(server: OwnServer) -> Iterator[Plain]:
    with Plain(server.url) as made:
        yield made


def publish(plain: Plain, *job_ids: str) -> None:
    """Results of these jobs, as a worker publishes them."""
    pipeline = plain.redis.pipeline(transaction=False)
    for job_id in job_ids:
        pipeline.rpush(PREFIX + job_id, DOCUMENT % job_id).expire(PREFIX + job_id, 300)
    pipeline.execute()


# -- many at a time ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1000, 10_000])
def test_any_number_of_calls_waits_on_few_connections(server: OwnServer, plain: Plain, count: int) -> None:
    names = [f"many-{count}-{n}" for n in range(count)]
    connections: list[int] = []

    async def story() -> list[str]:
        async with AsyncClient(server.url, model="lenet") as client:
            calls = [asyncio.create_task(client.result(name, timeout=120)) for name in names]
            await asyncio.sleep(0)
            for at in range(0, count, 500):
                await asyncio.to_thread(publish, plain, *reversed(names[at : at + 500]))
            connections.append(len(await asyncio.to_thread(plain.redis.client_list)))
            return [result.id for result in await asyncio.gather(*calls)]

    assert names == asyncio.run(story())
    assert connections[0] <= 17 + 12  # the client, and those of the tests and the service
    assert [] == list(plain.redis.scan_iter(PREFIX + f"many-{count}-*", count=5000))


def test_a_thousand_images_are_classified_at_once(service: RunningService, server: OwnServer) -> None:
    async def story() -> list[str]:
        async with AsyncClient(server.url, model="lenet") as client:
            results = await asyncio.gather(*(client.classify(image_of(one), timeout=60) for one in digits()))
            return [result.label for result in results]

    assert service.process.poll() is None
    assert sum(one == other for one, other in zip(asyncio.run(story()), digit_labels(), strict=True)) >= 985


def test_those_that_wait_in_vain_do_not_hold_up_the_others(server: OwnServer, plain: Plain) -> None:
    async def story() -> None:
        async with AsyncClient(server.url, model="lenet") as client:
            vain = [asyncio.create_task(client.result(f"vain-{n}", timeout=300)) for n in range(999)]
            call = asyncio.create_task(client.result("comes", timeout=300))
            await asyncio.sleep(0)
            await asyncio.to_thread(publish, plain, "comes")
            assert "comes" == (await asyncio.wait_for(call, 60)).id
            assert not any(one.done() for one in vain)
            for one in vain:
                one.cancel()

    asyncio.run(story())


def test_each_call_has_its_own_end_of_patience(server: OwnServer) -> None:
    async def story() -> None:
        async with AsyncClient(server.url, model="lenet") as client:
            long = asyncio.create_task(client.result("long", timeout=300))
            began = time.monotonic()
            with pytest.raises(ResultTimeout):
                await client.result("short", timeout=0.1)
            with pytest.raises(ResultTimeout):
                await client.result("none", timeout=0)
            assert 0.1 <= time.monotonic() - began
            assert not long.done()
            long.cancel()

    asyncio.run(story())


def test_two_calls_for_one_job_share_out_what_comes(server: OwnServer, plain: Plain) -> None:
    async def story() -> None:
        async with AsyncClient(server.url, model="lenet") as client:
            first, second = (asyncio.create_task(client.result("shared", timeout=300)) for _ in range(2))
            await asyncio.sleep(0)
            for _ in range(2):
                await asyncio.to_thread(publish, plain, "shared")
                done, _rest = await asyncio.wait([first, second], return_when=asyncio.FIRST_COMPLETED)
                if len(done) == 1:
                    await asyncio.to_thread(wait_until, lambda: not plain.redis.exists(PREFIX + "shared"))
            assert ["shared"] * 2 == [(await one).id for one in (first, second)]

    asyncio.run(story())


def test_two_hundred_threads_share_one_client(service: RunningService, server: OwnServer) -> None:
    start = threading.Barrier(200)

    def classify(number: int) -> bool:
        start.wait()
        return client.classify(image_of(digits()[number]), timeout=60).label == digit_labels()[number]

    assert service.process.poll() is None
    with Client(server.url, model="lenet") as client, ThreadPoolExecutor(200) as pool:
        assert sum(pool.map(classify, range(200))) >= 196


def test_without_the_right_to_be_told_results_are_asked_for(
    server: OwnServer, plain: Plain, caplog: pytest.LogCaptureFixture
) -> None:
    plain.redis.acl_setuser("old", enabled=True, nopass=True, keys=["convq:*"], commands=["+@all", "-client|tracking"])
    url = server.url.replace("redis://", "redis://old:any@")

    async def story() -> list[str]:
        async with AsyncClient(url, model="lenet") as client:
            calls = [asyncio.create_task(client.result(f"old-{n}", timeout=60)) for n in range(300)]
            await asyncio.sleep(0)
            await asyncio.to_thread(publish, plain, *(f"old-{n}" for n in range(300)))
            return [result.id for result in await asyncio.gather(*calls)]

    with caplog.at_level(logging.INFO, "convq.client"):
        assert [f"old-{n}" for n in range(300)] == asyncio.run(story())
    assert 1 == len([one for one in caplog.records if "CLIENT TRACKING" in one.message])
    publish(plain, "old")
    with Client(url, model="lenet") as client:
        assert "old" == client.result("old", timeout=60).id
    assert not plain.redis.exists(PREFIX + "old")


def test_one_long_wait_without_that_right_costs_a_bounded_number_of_questions(server: OwnServer, plain: Plain) -> None:
    plain.redis.acl_setuser("old", enabled=True, nopass=True, keys=["convq:*"], commands=["+@all", "-client|tracking"])

    async def story() -> float:
        began_s = time.monotonic()
        async with AsyncClient(server.url.replace("redis://", "redis://old:any@"), model="lenet") as client:
            with pytest.raises(ResultTimeout):
                await client.result("never", timeout=2)
        return time.monotonic() - began_s

    plain.redis.config_resetstat()
    took_s = asyncio.run(story())
    asked = plain.redis.info("commandstats")["cmdstat_exists"]["calls"]
    # Each pause is a tenth of the wait so far, from 1 to 10 ms: some tens until they are 10 ms long, and then 100 a second.
    assert 5 < asked <= 50 + 101 * took_s


# -- ended by force ---------------------------------------------------------------------------------------------------


def test_a_cancelled_call_loses_no_result(server: OwnServer, plain: Plain) -> None:
    """Aimed at the moment: the wait is cancelled about when its result comes, a thousand times."""
    late = 0

    async def story() -> None:
        nonlocal late
        async with AsyncClient(server.url, model="lenet") as client:
            pause_s = 0.0005
            for n in range(1000):
                name = f"cancelled-{n}"
                call = asyncio.create_task(client.result(name, timeout=60))
                await asyncio.sleep(0)
                pushed = asyncio.create_task(asyncio.to_thread(publish, plain, name))
                await asyncio.wait([call], timeout=pause_s * (n % 40) / 10)
                call.cancel()
                with suppress(asyncio.CancelledError):
                    assert name == (await call).id
                    await pushed
                    continue
                await pushed
                late += 1
                assert name == (await client.result(name, timeout=60)).id

    asyncio.run(story())
    assert late > 100
    assert [] == list(plain.redis.scan_iter(PREFIX + "cancelled-*", count=5000))


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # Python ignores it in a destructor
def test_an_interrupted_call_loses_no_result(server: OwnServer, plain: Plain) -> None:
    """The same for Ctrl-C: a signal while the result is taken, from the first to the last instruction."""
    interrupts = 0
    before = signal.signal(signal.SIGALRM, signal.default_int_handler)
    try:
        with Client(server.url, model="lenet") as client:
            takes_s = 60.0
            for n in range(20):  # the quickest: a call that the machine held up would aim the signals behind most calls
                publish(plain, f"before-{n}")
                began = time.monotonic()
                client.result(f"before-{n}", timeout=60)
                takes_s = min(takes_s, time.monotonic() - began)
            for n in range(1000):
                name = f"interrupted-{n}"
                publish(plain, name)
                result = None
                try:
                    signal.setitimer(signal.ITIMER_REAL, max(1e-6, takes_s * (n % 50) / 50))
                    result = client.result(name, timeout=60)
                    signal.setitimer(signal.ITIMER_REAL, 0)
                except KeyboardInterrupt:
                    interrupts += result is None
                result = result or client.result(name, timeout=10)
                assert name == result.id
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert interrupts > 0
    assert [] == list(plain.redis.scan_iter(PREFIX + "interrupted-*", count=5000))


def test_what_is_kept_is_given_once(server: OwnServer, plain: Plain) -> None:
    with Client(server.url, model="lenet") as client:
        publish(plain, "once")
        assert "once" == client.result("once", timeout=60).id
        with pytest.raises(ResultTimeout):
            client.result("once", timeout=0)


def test_a_broken_connection_ends_every_wait_and_the_next_one_works(server: OwnServer, plain: Plain) -> None:
    async def story() -> None:
        async with AsyncClient(server.url, model="lenet") as client:
            calls = [asyncio.create_task(client.result(f"broken-{n}", timeout=300)) for n in range(20)]

            def waiting() -> list[Any]:
                return [one for one in plain.redis.client_list() if one["cmd"] == "exists"]

            victim = (await asyncio.to_thread(wait_until, waiting))[0]
            plain.redis.client_kill_filter(_id=victim["id"])
            ends = await asyncio.gather(*calls, return_exceptions=True)
            assert {RedisUnavailable} == {type(end) for end in ends}
            publish(plain, "broken-7")
            assert "broken-7" == (await client.result("broken-7", timeout=60)).id

    asyncio.run(story())


def test_closing_ends_what_waits(server: OwnServer) -> None:
    async def story() -> None:
        client = AsyncClient(server.url, model="lenet")
        call = asyncio.create_task(client.result("closed", timeout=300))
        await asyncio.sleep(0.05)
        await client.close()
        await client.close()
        with pytest.raises(RedisUnavailable, match="closed"):
            await call
        assert JobState.UNKNOWN == await client.status("closed")  # it connects again when it is used
        await client.close()

    asyncio.run(story())


# -- an id that was answered ------------------------------------------------------------------------------------------


def test_an_id_that_was_answered_is_said_so_at_once(service: RunningService, server: OwnServer) -> None:
    assert service.process.poll() is None
    with Client(server.url, model="lenet") as client:
        assert "7" == client.classify(seven(), id="order-17").label
        said = "the id order-17 was answered already within the last 600 s"
        with pytest.raises(ResultGone, match=said):
            client.classify(seven(), id="order-17", timeout=3600)
        with pytest.raises(ResultGone, match=said):
            client.result("order-17", timeout=0)
        with pytest.raises(Answered, match=said):
            client.submit(seven(), id="order-17")

    async def story() -> None:
        async with AsyncClient(server.url, model="lenet") as other:
            with pytest.raises(ResultGone, match="order-17 was answered already"):
                await other.classify(seven(), id="order-17", timeout=3600)

    asyncio.run(story())


def test_an_id_whose_call_was_cut_short_is_still_the_same_job(service: RunningService, server: OwnServer) -> None:
    async def story() -> None:
        async with AsyncClient(server.url, model="lenet") as client:
            for n in range(50):
                call = asyncio.create_task(client.classify(seven(), id=f"cut-{n}", timeout=60))
                await asyncio.wait([call], timeout=n / 10_000)
                call.cancel()
                with suppress(asyncio.CancelledError):
                    await call
                    continue
                assert "7" == (await client.classify(seven(), id=f"cut-{n}", timeout=60)).label

    assert service.process.poll() is None
    asyncio.run(story())


# -- the loop, threads, processes -------------------------------------------------------------------------------------


def test_encoding_a_photograph_does_not_hold_up_the_loop(service: RunningService, server: OwnServer) -> None:
    """Everything that is slow happens in another thread than the loop's."""
    threads: set[int] = set()

    class Photograph(Image.Image):
        def load(self) -> Any:
            threads.add(threading.get_ident())
            return super().load()

    async def story() -> None:
        noise = np.random.default_rng(7).integers(0, 256, (700, 900, 3), dtype=np.uint8)
        image = Image.fromarray(noise)
        image.__class__ = Photograph
        async with AsyncClient(server.url, model="lenet") as client:
            results = await asyncio.gather(*(client.classify(image, timeout=60) for _ in range(4)))
            results += [result async for result in client.map([image] * 3, timeout=60)]
        assert [True] * 7 == [result.ok for result in results]

    assert service.process.poll() is None
    asyncio.run(story())
    assert threads
    assert threading.get_ident() not in threads


LOOPS = """
import asyncio, sys
from convq import AsyncClient

client = AsyncClient(sys.argv[1], model="lenet")

async def once():
    print((await client.classify(sys.argv[2], timeout=60)).label)

async def elsewhere():
    await once()
    try:
        await asyncio.to_thread(asyncio.run, once())
    except RuntimeError as error:
        print(error)
    await client.close()

asyncio.run(once())
asyncio.run(once())
asyncio.run(elsewhere())
"""


def test_a_client_may_be_used_in_one_loop_after_the_other(service: RunningService, server: OwnServer) -> None:
    """In a process of its own, which may leave connections of a loop that has ended to the collector."""
    assert service.process.poll() is None
    ran = subprocess.run(
        [sys.executable, "-c", LOOPS, server.url, SAMPLE / "seven.png"], capture_output=True, text=True, check=False
    )

    assert ["7", "7", "7"] == ran.stdout.splitlines()[:3], ran.stderr
    assert "belongs to another event loop" in ran.stdout.splitlines()[3]
    assert "" == ran.stderr


def test_a_client_survives_a_fork(service: RunningService, server: OwnServer) -> None:
    assert service.process.poll() is None
    with Client(server.url, model="lenet") as client:
        client.status("1-1")
        child = os.fork()
        if child == 0:
            code = 1
            with suppress(BaseException):
                code = 0 if all(client.classify(seven(), timeout=60).label == "7" for _ in range(20)) else 2
            os._exit(code)
        assert ["7"] * 20 == [client.classify(seven(), timeout=60).label for _ in range(20)]
        assert 0 == os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def test_a_client_is_closed_twice_used_again_and_not_pickled(server: OwnServer) -> None:
    client = Client(server.url, model="lenet")
    client.close()
    client.close()
    assert JobState.UNKNOWN == client.status("1-1")
    client.close()
    for one in (client, AsyncClient(server.url)):
        with pytest.raises(TypeError, match="cannot be pickled: make one in each process"):
            copy.copy(one)  # asks the same method as pickling does


# -- map --------------------------------------------------------------------------------------------------------------


def blocking_labels(url: str, labels: list[str]) -> None:
    """A map of the digits three times over."""
    with Client(url, model="lenet") as client:
        images = [image_of(one) for one in digits()] * 3
        labels.extend(answer.label for answer in client.map(images, in_flight=300, timeout=60))


def asyncio_labels(url: str, labels: list[str]) -> None:
    """The same, for asyncio."""

    async def story() -> None:
        async with AsyncClient(url, model="lenet") as client:
            images = [image_of(one) for one in digits()] * 3
            async for answer in client.map(images, in_flight=300, timeout=60):
                labels.append(answer.label)  # noqa: PERF401 - the test looks at them while they come

    asyncio.run(story())


def reaches(labels: list[str], count: int, done: Future[None]) -> bool:
    """Whether there are so many labels, or the map has ended."""
    return len(labels) >= count or done.done()


@pytest.mark.parametrize("mapped", [blocking_labels, asyncio_labels])
@pytest.mark.parametrize("appendfsync", ["always", "everysec"])
def test_map_survives_a_killed_server(
    tmp_path: Path, appendfsync: Any, mapped: Callable[[str, list[str]], None]
) -> None:
    labels: list[str] = []
    with OwnServer(tmp_path, appendfsync=appendfsync) as own, RunningService(own.url), ThreadPoolExecutor(1) as pool:
        done = pool.submit(mapped, own.url, labels)
        for reached in (400, 1600):
            wait_until(partial(reaches, labels, reached, done), 60)
            own.restart()
        done.result(60)
        assert labels[:1000] == labels[1000:2000] == labels[2000:]
        assert sum(one == other for one, other in zip(labels, digit_labels(), strict=False)) >= 985
        with Plain(own.url) as plain:
            wait_until(plain.nothing_left, 60)


def test_map_submits_again_what_the_server_forgot(fresh_server: OwnServer) -> None:
    with Client(fresh_server.url, model="lenet") as client, Plain(fresh_server.url) as plain:
        answers = client.map([seven()] * 100, timeout=60)
        labels: list[str] = []
        reader = threading.Thread(target=lambda: labels.extend(answer.label for answer in answers))
        reader.start()
        wait_until(lambda: plain.redis.xlen("convq:{lenet}:jobs") == 100)
        plain.redis.flushall()
        plain.redis.client_kill_filter(_type="normal", skipme=True)
        with RunningService(fresh_server.url):
            reader.join(60)
        assert ["7"] * 100 == labels


def test_a_map_that_is_closed_early_leaves_nothing_behind(
    service: RunningService, server: OwnServer, plain: Plain
) -> None:
    assert service.process.poll() is None
    with Client(server.url, model="lenet") as client:
        for count in (1, 30):
            answers = client.map([seven()] * 2000, timeout=60)
            assert ["7"] * count == [next(answers).label for _ in range(count)]
            answers.close()
            wait_until(plain.nothing_left, 60)
            assert [] == list(plain.redis.scan_iter("convq:{lenet}:inbox:map-*", count=5000))

    async def story() -> None:
        async with AsyncClient(server.url, model="lenet") as other:
            async with aclosing(other.map([seven()] * 2000, timeout=60)) as results:
                assert "7" == (await anext(results)).label

    asyncio.run(story())
    wait_until(plain.nothing_left, 60)
    assert [] == list(plain.redis.scan_iter("convq:{lenet}:inbox:map-*", count=5000))


def test_a_map_that_gives_up_withdraws_its_jobs(fresh_server: OwnServer) -> None:
    with Client(fresh_server.url, model="lenet") as client, Plain(fresh_server.url) as plain:
        with pytest.raises(ResultTimeout, match="no worker serves 'lenet'"):
            list(client.map([seven()] * 5, timeout=0.2))
        assert 5 == plain.redis.scard("convq:{lenet}:cancelled")
        with RunningService(fresh_server.url) as service:
            wait_until(plain.nothing_left, 60)
            wait_until(lambda: sum(service.metrics()["convq_jobs_total"].values()) >= 5)
            cancelled = {
                dict(labels)["outcome"]: count
                for labels, count in service.metrics()["convq_jobs_total"].items()
                if count
            }
        assert {"cancelled": 5} == cancelled


def test_map_says_that_the_server_is_away(fresh_server: OwnServer) -> None:
    with Client(fresh_server.url, model="lenet") as client:
        fresh_server.kill()
        with pytest.raises(RedisUnavailable):
            list(client.map([seven()], timeout=0.3))
        fresh_server.start()


def test_a_failed_job_with_an_id_is_answered_once_too(service: RunningService, server: OwnServer) -> None:
    assert service.process.poll() is None
    with Client(server.url, model="lenet") as client:
        with pytest.raises(JobFailed) as failed:
            client.classify(b"x", id="bad-1")
        assert Status.ERROR == failed.value.result.status
        with pytest.raises(ResultGone):
            client.classify(b"x", id="bad-1")
        with pytest.raises(BadField):
            client.classify(b"x", id="")
