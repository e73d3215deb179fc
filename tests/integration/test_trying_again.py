"""The loop of service/PROTOCOL.md that tries again: run as it is printed, while the server is away, full, and refuses."""

from __future__ import annotations

import importlib.util
import threading
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
def push(tmp_path: Path) -> Callable[..., Any]:
    """The function of the page, in a module of its own."""
    text = (
        PAGE.partition("In Python every error says it by `retry`:")[2].partition("```python\n")[2].partition("```")[0]
    )
    file = tmp_path / "page.py"
    file.write_text("import random\nimport time\n\nfrom convq import ConvqError\n\n\n" + text)
    spec = importlib.util.spec_from_file_location("page", file)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    made: Callable[..., Any] = module.push
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
