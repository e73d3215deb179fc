"""Celery as its documentation says: `delay` and `get` for one task, a `group` for many."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator, Sequence
from typing import Any

import redis

from caller import Event

CHANNEL = "celery-task-meta-"


def connect(_name: str, address: str) -> Tasks:
    """`address` is the server's URL."""
    os.environ["ALTERNATIVES_REDIS"] = address
    return Tasks(address)


class Tasks:
    """A client of the application in `celery_tasks`."""

    def __init__(self, url: str) -> None:
        import celery_tasks  # noqa: PLC0415 - it wants to know the server when it is imported

        self._task = celery_tasks.classify
        self._server: Any = redis.Redis.from_url(url)

    def ask(self, image: bytes) -> int:
        """One task."""
        return int(self._task.delay(image).get(timeout=60))

    def many(self, images: Sequence[bytes]) -> list[int]:
        """A group of tasks."""
        from celery import group  # noqa: PLC0415 - as above

        return list(group(self._task.s(image) for image in images).apply_async().get(timeout=300))

    def watch(self, images: Sequence[bytes]) -> Iterator[list[Event]]:
        """What workers publish as results, so that a second one of a task is seen. A thread sends."""
        published = self._server.pubsub(ignore_subscribe_messages=True)
        published.psubscribe(f"{CHANNEL}*")
        published.get_message(timeout=1)
        threading.Thread(target=self._send, args=[images], daemon=True).start()
        while True:
            events: list[Event] = []
            while len(events) < 100 and (message := published.get_message(timeout=0.0 if events else 0.1)):
                document = json.loads(message["data"])
                if document["status"] in {"SUCCESS", "FAILURE"}:
                    events.append((document["task_id"], document["status"] == "SUCCESS"))
            yield events

    def _send(self, images: Sequence[bytes]) -> None:
        for image in images:
            self._task.apply_async([image])
