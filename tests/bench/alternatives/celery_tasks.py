"""A Celery application that classifies digits, set up as Celery's documentation says for short tasks that must not get lost.

    celery -A celery_tasks worker

`task_acks_late` with `task_reject_on_worker_lost`: a task whose process dies is queued again. The prefetch multiplier is what
its guide to optimizing names for many short tasks. All else is as it comes, so the visibility timeout is an hour.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from celery import Celery
from celery.signals import worker_process_init, worker_ready

import digits

SERVER = os.environ["ALTERNATIVES_REDIS"]
app = Celery("digits", broker=SERVER, backend=SERVER)
app.conf.update(
    task_acks_late=True,
    task_reject_on_worker_lost=True,
    worker_prefetch_multiplier=64,
    broker_connection_retry_on_startup=True,
)
_networks: list[digits.Network] = []


@worker_process_init.connect  # type: ignore[untyped-decorator]
def load(**_: Any) -> None:
    """One session a process of the pool, made after the fork."""
    _networks.append(digits.Network())


@worker_ready.connect  # type: ignore[untyped-decorator]
def tell(**_: Any) -> None:
    """For whoever waits until tasks are taken."""
    Path(os.environ["ALTERNATIVES_READY"]).touch()


@app.task  # type: ignore[untyped-decorator]
def classify(image: bytes) -> int:
    """The class of one PNG."""
    return _networks[0].classify([image])[0]
