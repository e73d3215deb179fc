"""The rules of deploy/README.md by which people choose sizes, held against a real server and a real worker."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

import pytest
import redis
from PIL import Image

from servers import OwnServer, wait_until
from services import JOBS, RunningService, encoded, seven

PAGE = " ".join((Path(__file__).parents[2] / "deploy" / "README.md").read_text().split())
JOBS_EACH = 200
EMPTY_BYTES = 64 << 10
"""What a stream, a group and a connection take, however many jobs there are."""


def number(pattern: str) -> float:
    """A number that stands in the page, by what is around it."""
    found = re.search(pattern, PAGE)
    assert found, pattern
    return float(found[1].replace(",", ""))


AROUND_A_JOB = number(r"\(bytes of its picture \+ ([\d,]+)\)")
AN_ANSWER = number(r"until they are read . ([\d,]+)")
IN_THE_FILE = number(r"jobs a day . \(bytes of a picture \+ ([\d,]+)\)")
PER_PIXEL = {
    "edges": number(r"bytes a pixel: ([\d,]+) for edges"),
}


def sizes(connection: Any) -> tuple[int, int]:
    """Bytes of the server's data, and of its append-only file."""
    return int(connection.info("memory")["used_memory_dataset"]), int(
        connection.info("persistence")["aof_current_size"]
    )


@pytest.mark.parametrize("size", [300, 5_000, 60_000, 1_000_000])
def test_what_waits_takes_what_the_rule_says_and_little_less(tmp_path: Path, size: int) -> None:
    """Of sizes that the tables of the page do not have. 20 % is what the allocator may round up to, and the tree of the stream."""
    with OwnServer(tmp_path, maxmemory_bytes=512 << 20) as server, redis.Redis.from_url(server.url) as connection:
        connection.config_set("auto-aof-rewrite-percentage", 0)
        memory, file = sizes(connection)
        for _ in range(JOBS_EACH):
            connection.xadd(JOBS, {"image": os.urandom(size)})
        wait_until(lambda: sizes(connection)[1] - file > JOBS_EACH * size, 30)  # a server writes it a while later
        more_memory, more_file = (
            after - before for after, before in zip(sizes(connection), (memory, file), strict=True)
        )

    by_the_rule = JOBS_EACH * (size + AROUND_A_JOB)
    assert 0.5 * by_the_rule < more_memory <= 1.2 * by_the_rule + EMPTY_BYTES
    assert more_file <= JOBS_EACH * (size + IN_THE_FILE)


def test_an_answer_takes_no_more_than_the_rule_says(tmp_path: Path) -> None:
    inbox = "convq:{lenet}:inbox:sizes"
    with OwnServer(tmp_path) as server, redis.Redis.from_url(server.url) as connection:
        with RunningService(server.url, workers=1):
            for _ in range(JOBS_EACH):
                connection.xadd(JOBS, {"image": seven(), "reply_to": inbox})
            wait_until(lambda: connection.llen(inbox) == JOBS_EACH, 30)
        with_answers, _ = sizes(connection)
        connection.delete(inbox)
        answers = with_answers - sizes(connection)[0]

    assert 0.3 * JOBS_EACH * AN_ANSWER < answers <= JOBS_EACH * AN_ANSWER


def test_a_worker_holds_no_more_for_a_large_picture_than_the_rule_says(tmp_path: Path) -> None:
    """A size that the tables do not have: 3 megapixels, through the model that takes most."""
    model, pixels = "edges", 3_000_000
    picture = encoded(Image.effect_noise((2000, 1500), 60).convert("RGB"), "JPEG")
    inbox = f"convq:{{{model}}}:inbox:sizes"
    with OwnServer(tmp_path) as server, redis.Redis.from_url(server.url) as connection:
        with RunningService(server.url, workers=1, only=model) as service:
            (worker,) = service.worker_pids()
            ready = resident(worker, "VmRSS")
            connection.xadd(f"convq:{{{model}}}:jobs", {"image": picture, "reply_to": inbox})
            wait_until(lambda: connection.llen(inbox), 60)
            most = resident(worker, "VmHWM")

    assert 0.25 * pixels * PER_PIXEL[model] < most - ready <= pixels * PER_PIXEL[model] + (64 << 20)


def resident(pid: int, name: str) -> int:
    """One line of /proc/PID/status, in bytes."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith(f"{name}:"))
