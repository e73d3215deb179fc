"""What one job takes in Redis and in its append-only file, and what one worker process takes in memory, by model.

    PYTHONPATH=tests/support python tests/bench/sizing.py [--jobs 400]

Jobs: real XADDs of a digit, a thumbnail and a photograph to a server of its own that nobody serves, so that they lie there;
then a service answers them into an inbox that nobody reads. Workers: one that is ready, and the most that it has held by
the time that it has answered the model's images. The figures are /proc's, so this is for Linux.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import redis
from PIL import Image

from convq.embedded import EmbeddedServer
from convq.harness.service_process import ChildService
from convq.queue import Shard
from convq.repository.model_folders import default_root
from servers import wait_until
from services import children_of, digits

GIB = 1 << 30
THUMBNAIL, PHOTOGRAPH, LARGE = (320, 240), (1280, 960), (4000, 3000)
ANSWERED_WITHIN_S = 120.0


@dataclass(frozen=True)
class Stored:
    """Bytes a job: of its image; in the server's memory and file when it waits; of its unread answer in memory; and in the
    file when it is answered, the job included.
    """

    image: int
    waiting: float
    waiting_file: float
    answered: float
    answered_file: float


def photograph(size: tuple[int, int]) -> bytes:
    """A JPEG about as hard to pack as a photograph of that size: soft shapes and some noise."""
    random = np.random.default_rng(0)
    shapes = Image.fromarray(random.integers(0, 256, (30, 40, 3), dtype=np.uint8)).resize(
        size, Image.Resampling.BICUBIC
    )
    noise = random.normal(0, 4, (size[1], size[0], 3))
    packed = BytesIO()
    Image.fromarray((np.asarray(shapes) + noise).clip(0, 255).astype(np.uint8)).save(packed, "JPEG", quality=85)
    return packed.getvalue()


def digit() -> bytes:
    """A PNG of 28 x 28 pixels."""
    packed = BytesIO()
    Image.fromarray(digits()[0]).save(packed, "PNG")
    return packed.getvalue()


@contextmanager
def service(url: str, model: str) -> Iterator[int]:
    """One worker for that model, ready; yields its process id."""
    with ChildService("--redis", url, "--models", str(default_root()), "--only", model, "--workers", "1") as child:
        child.wait_ready()
        (worker,) = children_of(child.pid)
        yield worker
    child.check_end()


@contextmanager
def server() -> Iterator[tuple[str, Any]]:
    """A server that rewrites its append-only file never; its URL and a client."""
    with tempfile.TemporaryDirectory() as data, EmbeddedServer.start(Path(data), maxmemory_bytes=GIB) as running:
        url = f"unix://{running.socket}?db=0"
        with redis.Redis.from_url(url) as client:
            client.config_set("auto-aof-rewrite-percentage", 0)
            yield url, client


def push(client: Any, model: str, image: bytes, jobs: int) -> str:
    """Push `jobs` jobs with that image; the inbox where their answers go."""
    shard = Shard(model)
    inbox = shard.inbox("sizing")
    for _ in range(jobs):
        client.xadd(shard.streams[1], {"image": image, "reply_to": inbox})
    return inbox


def wait_answered(client: Any, inbox: str, jobs: int) -> None:
    wait_until(lambda: client.llen(inbox) == jobs, ANSWERED_WITHIN_S, every_s=0.05)


def sizes(client: Any) -> tuple[int, int]:
    """Bytes of the server's data and of its append-only file."""
    return int(client.info("memory")["used_memory_dataset"]), int(client.info("persistence")["aof_current_size"])


def stored(image: bytes, jobs: int) -> Stored:
    """What jobs with that image take. Answers are weighed by throwing them away: scripts and the like stay."""
    with server() as (url, client):
        memory, file = sizes(client)
        inbox = push(client, "lenet", image, jobs)
        waiting, waiting_file = sizes(client)
        with service(url, "lenet"):
            wait_answered(client, inbox, jobs)
            answered, answered_file = sizes(client)
            client.delete(inbox)
            deltas = (waiting - memory, waiting_file - file, answered - sizes(client)[0], answered_file - file)
        return Stored(len(image), *(delta / jobs for delta in deltas))


def held(model: str, image: bytes, jobs: int) -> tuple[float, float]:
    """MiB that one worker has resident when it is ready, and at most until it has answered."""
    with server() as (url, client), service(url, model) as worker:
        ready = resident(worker, "VmRSS")
        wait_answered(client, push(client, model, image, jobs), jobs)
        return ready, resident(worker, "VmHWM")


def resident(pid: int, name: str) -> float:
    """One line of /proc/PID/status, in MiB."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{name}:"))


def main() -> None:
    """Measure and print two tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--jobs", type=int, default=400, help="jobs for each row")
    jobs = parser.parse_args().jobs
    images = {"digit, PNG": digit()}
    images |= {f"{w} x {h}, JPEG": photograph((w, h)) for w, h in (THUMBNAIL, PHOTOGRAPH)}
    print(f"{'image':20} {'bytes':>9} {'in memory':>10} {'in the file':>12} {'its answer':>11} {'file in all':>12}")
    for name, image in images.items():
        row = stored(image, jobs)
        print(
            f"{name:20} {row.image:9,} {row.waiting:10,.0f} {row.waiting_file:12,.0f} "
            f"{row.answered:11,.0f} {row.answered_file:12,.0f}"
        )
    print(f"\n{'model':20} {'image':20} {'ready, MiB':>11} {'at most, MiB':>13}")
    photographs = {f"{w} x {h}": photograph((w, h)) for w, h in (PHOTOGRAPH, LARGE)}
    loads = [("lenet", "digit", digit(), jobs * 10)]
    loads += [(model, name, image, 8) for model in ("edges", "gaussian_blur") for name, image in photographs.items()]
    for model, name, image, count in loads:
        ready, most = held(model, image, count)
        print(f"{model:20} {name:20} {ready:11,.0f} {most:13,.0f}")


if __name__ == "__main__":
    main()
