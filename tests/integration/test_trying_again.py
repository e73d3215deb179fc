"""The loop of service/PROTOCOL.md that tries again: run as it is printed, while the server is away, full, and refuses."""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import redis

from convq import Client, ConvqError
from servers import OwnServer, wait_until
from services import JOBS, seven

PAGE = (Path(__file__).parents[2] / "service" / "PROTOCOL.md").read_text()


@pytest.fixture
def push() -> Callable[..., Any]:
    text = (
        PAGE.partition("In Python every error says it by `retry`:")[2].partition("```python\n")[2].partition("```")[0]
    )
    names: dict[str, Any] = {"time": time, "random": random, "ConvqError": ConvqError}
    exec(text, names)  # noqa: S102 - the page's own code
    made: Callable[..., Any] = names["push"]
    return made


def in_the_background(work: Callable[[], Any]) -> tuple[threading.Thread, list[Any]]:
    done: list[Any] = []
    thread = threading.Thread(target=lambda: done.append(work()), daemon=True)
    thread.start()
    return thread, done


def test_it_goes_on_until_the_server_is_back_and_one_job_is_there(
    fresh_server: OwnServer, push: Callable[..., Any]
) -> None:
    with Client(fresh_server.url, model="lenet") as client:
        assert "mine" == push(client, seven(), "mine")
        fresh_server.kill()
        thread, done = in_the_background(lambda: push(client, seven(), "mine"))
        assert not done
        fresh_server.start()
        wait_until(lambda: done, 30)
        thread.join()
    with redis.Redis.from_url(fresh_server.url) as connection:
        assert 1 == connection.xlen(JOBS)


def test_it_waits_where_the_server_is_full_and_gives_up_at_once_where_it_is_refused(
    fresh_server: OwnServer, push: Callable[..., Any]
) -> None:
    with Client(fresh_server.url, model="lenet") as client, redis.Redis.from_url(fresh_server.url) as connection:
        connection.config_set("maxmemory", 1)
        thread, done = in_the_background(lambda: push(client, seven(), "full"))
        wait_until(lambda: connection.info("stats")["total_error_replies"] > 1, 30)
        assert not done
        connection.config_set("maxmemory", 0)
        wait_until(lambda: done, 60)
        thread.join()
        connection.set(JOBS + ":high", "a stranger's")
        connection.delete(JOBS)
        connection.set(JOBS, "a stranger's")
        with pytest.raises(ConvqError) as refused:
            push(client, seven(), "other")
        assert not refused.value.retry
