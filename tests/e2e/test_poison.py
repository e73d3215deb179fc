"""Inputs that kill: isolated, answered as poisoned, kept as dead letters; everybody else is answered."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from servers import OwnServer, wait_until
from services import JOBS, MODELS, Plain, RunningService

TRAP = Path(__file__).parent / "poison"
CRASH, HANG, GOOD = 0xEE, 0xDD, 0x01


def tensor(first: int) -> dict[Any, Any]:
    return {"tensor": bytes([first]) + bytes(1023), "dtype": "uint8", "shape": "1,32,32"}


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """lenet, with one second for a batch: what takes longer hangs."""
    shutil.copytree(MODELS / "lenet", tmp_path / "models" / "lenet")
    manifest = tmp_path / "models" / "lenet" / "manifest.toml"
    manifest.write_text(manifest.read_text().replace("[limits]", "[limits]\nmax_batch_s = 1.0"))
    return tmp_path / "models"


@pytest.fixture
def trapped(fresh_server: OwnServer, models: Path) -> Iterator[RunningService]:
    """A service whose network crashes, or hangs, on a magic pixel."""
    path = os.pathsep.join([str(TRAP), *filter(None, [os.environ.get("PYTHONPATH")])])
    with RunningService(fresh_server.url, "--models", str(models), PYTHONPATH=path) as service:
        yield service


def test_one_poison_in_a_hundred_is_isolated_and_all_others_are_answered(trapped: RunningService, fresh: Plain) -> None:
    poisons = 5
    kinds = [CRASH if i % 100 == 50 else GOOD for i in range(100 * poisons)]
    inbox = "convq:{lenet}:inbox:poison"
    ids = fresh.burst([{**tensor(kind), "reply_to": inbox} for kind in kinds])

    wait_until(lambda: fresh.redis.llen(inbox) >= len(ids), timeout_s=50)
    answers = {answer.id: answer for answer in fresh.inbox(inbox)}

    assert sorted(ids) == sorted(answers)
    assert ["poisoned" if kind == CRASH else "ok" for kind in kinds] == [answers[i].status for i in ids]
    letters = fresh.redis.xrange("convq:{lenet}:dead")
    assert sorted(i.encode() for i, kind in zip(ids, kinds, strict=True) if kind == CRASH) == sorted(
        letter[b"dead_entry"] for _, letter in letters
    )
    assert {tensor(CRASH)["tensor"]} == {letter[b"tensor"] for _, letter in letters}
    wait_until(fresh.nothing_left)
    assert {} == fresh.redis.hgetall("convq:{lenet}:suspects")
    wait_until(
        lambda: poisons == sum(trapped.metrics()["convq_dead_letters_total"].values())
    )  # counted when it is done


@pytest.mark.usefixtures("trapped")
def test_a_network_that_hangs_on_an_input_is_stopped_and_the_input_buried(fresh: Plain) -> None:
    good, bad = fresh.burst([tensor(GOOD), {**tensor(HANG), "id": "hangs"}])

    answer = fresh.answer("hangs", timeout_s=30)

    assert ("poisoned", "ok") == (answer.status, fresh.answer(good, timeout_s=10).status)
    assert answer.error is not None
    assert "ended its worker 2 times" in answer.error.message
    assert bad == fresh.redis.xrange("convq:{lenet}:dead")[0][1][b"dead_entry"].decode()


def test_a_network_that_kills_on_every_input_stops_claiming(trapped: RunningService, fresh: Plain) -> None:
    ids = fresh.burst([tensor(CRASH)] * 20)

    trapped.wait_for("the network kills every worker; the model claims nothing for a while")

    wait_until(lambda: trapped.metrics()["convq_model_suspended"][(("model", "lenet"),)] == 1)
    wait_until(trapped.is_ready)
    assert 0 < fresh.redis.xlen(JOBS) <= len(ids)


def test_workers_killed_from_outside_condemn_nobody(fresh_server: OwnServer, fresh: Plain) -> None:
    """A SIGKILL counts half: jobs that were running twice when somebody killed the worker are still answered."""
    inbox = "convq:{lenet}:inbox:killed"
    fresh.redis.hset("convq:{lenet}:suspects", "1:1-1", 3)
    fresh.push({**tensor(GOOD), "reply_to": inbox}, entry="1-1")
    fresh.redis.xgroup_create(JOBS, "workers", "0")
    fresh.redis.xreadgroup("workers", "a-dead-worker", {JOBS: ">"})

    with RunningService(fresh_server.url):
        wait_until(lambda: fresh.redis.llen(inbox) == 1)

    assert ["ok"] == [answer.status for answer in fresh.inbox(inbox)]


def test_a_job_with_two_crashes_on_record_is_buried_without_another_run(fresh_server: OwnServer, fresh: Plain) -> None:
    fresh.redis.hset("convq:{lenet}:suspects", "1:1-1", 6)
    fresh.push({**tensor(GOOD), "id": "twice"}, entry="1-1")
    fresh.redis.xgroup_create(JOBS, "workers", "0")
    fresh.redis.xreadgroup("workers", "a-dead-worker", {JOBS: ">"})

    with RunningService(fresh_server.url):
        assert "poisoned" == fresh.answer("twice").status
    assert 1 == fresh.redis.xlen("convq:{lenet}:dead")
