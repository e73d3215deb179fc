"""Who sends jobs: named by clients, counted by workers with bounded labels, refused where the name cannot be one."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Iterator

import pytest

from convq import AsyncClient, Client
from convq.cli import main
from convq.errors import BadField
from servers import OwnServer, wait_until
from services import SAMPLE, Fields, Plain, RunningService, seven


@pytest.fixture(scope="module")
def running(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, RunningService]]:
    with OwnServer(tmp_path_factory.mktemp("names")) as server, RunningService(server.url) as service:
        yield server.url, service


def counted(service: RunningService) -> dict[str, float]:
    """Client -> jobs, as /metrics says."""
    rows = service.metrics().get("convq_client_jobs_total", {})
    return {dict(labels)["client"]: jobs for labels, jobs in rows.items() if dict(labels)["model"] == "lenet"}


def test_each_way_to_give_a_name_is_counted_and_none_is_unnamed(running: tuple[str, RunningService]) -> None:
    url, service = running
    with Plain(url) as plain, Client(url, client_name="shop") as shop, Client(url) as nobody:
        assert [True] * 30 == [result.ok for result in shop.map([seven()] * 30)]
        shop.classify(seven(), client="passed-on")
        nobody.classify(seven())
        plain.answer(plain.push({"image": seven(), "client": "camera:7"}))
        entry = shop.submit(seven())
        (fields,) = [dict(kept) for _, kept in plain.redis.xrange("convq:{lenet}:jobs", entry, entry)] or [{}]
        assert fields.get(b"client", b"shop") == b"shop"
        assert b"shop" not in plain.document(entry)
        assert 0 == main(["submit", str(SAMPLE / "seven.png"), "--client", "me", "--redis", url])

    async def named() -> None:
        async with AsyncClient(url, client_name="async") as client:
            await client.classify(seven())

    asyncio.run(named())
    wanted = {"shop": 31, "passed-on": 1, "unnamed": 1, "camera:7": 1, "me": 1, "async": 1}
    wait_until(lambda: counted(service) == wanted)


@pytest.mark.parametrize("name", [b"", b"two words", b"x" * 65, "ä".encode(), b"\xff\xfe", b"a\nb", b'a"b'])
def test_a_name_that_cannot_be_one_is_answered_as_bad_field(running: tuple[str, RunningService], name: bytes) -> None:
    with Plain(running[0]) as plain:
        answer = plain.answer(plain.push({"image": seven(), "client": name}))

    assert answer.error
    assert "bad_field" == answer.error.code
    assert "client must be 1 to 64 characters" in answer.error.message or "UTF-8" in answer.error.message
    for made in (Client, AsyncClient):
        with pytest.raises(BadField, match="client_name: expected 1 to 64 characters"):
            made(running[0], client_name=name.decode("latin-1"))


def test_two_names_are_one_too_many(running: tuple[str, RunningService]) -> None:
    with Plain(running[0]) as plain:
        entry = plain.redis.execute_command(
            "XADD", "convq:{lenet}:jobs", "*", "image", seven(), "client", "a", "client", "b"
        )
        answer = plain.answer(entry.decode())

    assert answer.error
    assert "client must be given once" in answer.error.message


def adds_up(service: RunningService) -> bool:
    """What is counted by client is what is counted by outcome: workers tell the former once a second."""
    return sum(counted(service).values()) == sum(service.metrics()["convq_jobs_total"].values())


def test_what_workers_counted_outlives_them(running: tuple[str, RunningService]) -> None:
    url, service = running
    with Client(url, client_name="before-and-after") as client:
        list(client.map([seven()] * 20))
        wait_until(lambda: counted(service).get("before-and-after") == 20 and adds_up(service))
        victim = service.worker_pids()[0]
        os.kill(victim, signal.SIGKILL)
        wait_until(lambda: service.is_whole(without=victim), 30)
        list(client.map([seven()] * 20))
    wait_until(lambda: counted(service).get("before-and-after") == 40)


def test_a_flood_of_names_makes_no_flood_of_series(running: tuple[str, RunningService]) -> None:
    url, service = running
    with Plain(url) as plain:
        jobs: list[Fields] = [
            {"image": seven(), "client": f"random-{n}", "reply_to": "convq:{lenet}:inbox:any"} for n in range(3000)
        ]
        plain.burst(jobs)
        wait_until(plain.nothing_left, 60)
    assert len(counted(service)) <= 22, "20 names, the unnamed and the rest"

    wait_until(lambda: adds_up(service))
    assert counted(service)["other"] > 2900
