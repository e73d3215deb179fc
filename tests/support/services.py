"""What the tests need to run `convq serve`, and to talk to it as a stranger would: plain redis-py and protocol.md."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from io import BytesIO
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import redis
from numpy.typing import NDArray
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

from convq.protocol import Result, decode_result
from servers import PATIENCE, wait_until

MODELS = Path(__file__).resolve().parents[2] / "models"
SAMPLE = MODELS / "lenet" / "sample"
LANES = ("convq:{lenet}:jobs:high", "convq:{lenet}:jobs", "convq:{lenet}:jobs:low")
JOBS = LANES[1]
READY_WITHIN_S = 30.0
"""How long a test waits for a service; `test_service` says how long it should take."""

Fields = Mapping[Any, str | bytes | int]


class RunningService:
    """`convq serve` as a process of its own, from `with` to SIGTERM; leaving asserts that it drained and ended with 0.

    `log` holds its log lines so far, as they came. With `wait=False` entering does not wait until it is ready. Without
    `url` it is up to the `settings`, which are variables of its environment. Without `only` all models are served.
    """

    def __init__(
        self,
        url: str | None,
        *options: str,
        workers: int = 2,
        wait: bool = True,
        only: str | None = "lenet",
        **settings: str,
    ) -> None:
        self.log: list[dict[str, Any]] = []
        self._url = url
        self._workers = workers
        self._options = options
        self._wait = wait
        self._settings = settings
        self._only = only
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None

    def start(self) -> None:
        """Start the process and wait until it listens, or, with `wait`, until it is ready."""
        command = [
            sys.executable,
            "-m",
            "convq",
            "serve",
            *(() if self._url is None else ("--redis", self._url)),
            "--models",
            str(MODELS),
            *(() if self._only is None else ("--only", self._only)),
        ]
        command += ["--workers", str(self._workers), "--http", "127.0.0.1:0", "--log", "json", *self._options]
        self._process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=os.environ | self._settings)
        self._reader = threading.Thread(target=self._read, args=(self._process.stderr,), daemon=True)
        self._reader.start()
        self.wait_for("ready" if self._wait else "listening")

    def _read(self, lines: Iterable[str]) -> None:
        for line in lines:
            try:
                self.log.append(json.loads(line))
            except ValueError:  # an interpreter that dies does not write JSON
                self.log.append({"message": line.rstrip(), "level": "raw"})

    def wait_for(self, message: str, timeout_s: float = READY_WITHIN_S) -> dict[str, Any]:
        """The first log line with that message, waiting for it; fails at once when the process ends without it."""

        def said() -> dict[str, Any] | None:
            ended = self._ended() and self._reader is not None and not self._reader.is_alive()
            found = next((line for line in self.log if line["message"] == message), None)
            assert found or not ended, f"the service ended without saying {message!r}: {self.log}"
            return found

        try:
            found = wait_until(said, timeout_s)
        except AssertionError as error:
            error.add_note(f"the service said: {self.log}")
            raise
        assert found is not None
        return found

    # -- what it is -----------------------------------------------------------------------------------------------

    @property
    def process(self) -> subprocess.Popen[str]:
        """The supervisor's process."""
        assert self._process is not None, "start() comes first"
        return self._process

    @property
    def http(self) -> str:
        """Where its probes listen."""
        return str(self.wait_for("listening")["http"])

    def get(self, page: str) -> tuple[int, str]:
        """Status and body of one page."""
        try:
            with urllib.request.urlopen(self.http + page, timeout=10 * PATIENCE) as reply:  # noqa: S310 - our own loopback address
                return reply.status, reply.read().decode()
        except urllib.error.HTTPError as refused:
            with refused:
                return refused.code, refused.read().decode()

    def is_ready(self) -> bool:
        """What /readyz says."""
        return self.get("/readyz")[0] == 200

    def metrics(self) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
        """Every sample of /metrics: name -> labels -> value."""
        samples: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
        for family in text_string_to_metric_families(self.get("/metrics")[1]):
            for sample in family.samples:
                samples.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
        return samples

    def worker_pids(self) -> list[int]:
        """The process ids of its workers."""
        return children_of(self.process.pid)

    def is_whole(self, without: int = 0) -> bool:
        """Whether it is ready with all its workers, none of which is `without`; in one look, as workers come and go."""
        pids = self.worker_pids()
        return len(pids) == self._workers and without not in pids and self.is_ready()

    # -- how it ends ----------------------------------------------------------------------------------------------

    def signal(self, number: signal.Signals) -> None:
        """Send a signal to the supervisor."""
        self.process.send_signal(number)

    def wait(self, timeout_s: float = 30.0) -> int:
        """Its exit status, waiting for the end."""
        status = self.process.wait(timeout_s * PATIENCE)
        assert self._reader is not None
        self._reader.join(timeout_s * PATIENCE)
        assert self.process.stderr is not None
        self.process.stderr.close()
        return status

    def stop(self, expected: int = 0) -> None:
        """SIGTERM, and the proof that it ended as expected. Twice does no harm."""
        if not self._ended():
            self.signal(signal.SIGTERM)
        status = self.wait()
        assert expected == status, self.log[-10:]

    def _ended(self) -> bool:
        return self._process is None or self._process.poll() is not None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self._kill()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self._kill()
        elif not self._ended():
            self.stop()

    def _kill(self) -> None:
        """Workers die with their supervisor."""
        if self._process is not None:
            self._process.kill()
            self.wait()


def children_of(pid: int) -> list[int]:
    """Process ids of the living children of a process."""
    if sys.platform == "linux":
        rows = [row for row in map(_stat, Path("/proc").glob("[0-9]*/stat")) if row is not None]
    else:
        listing = subprocess.run(
            ["ps", "-A", "-o", "pid=,stat=,ppid="], capture_output=True, text=True, check=True
        ).stdout
        rows = [(int(one), state, int(parent)) for one, state, parent in map(str.split, listing.splitlines())]
    return sorted(child for child, state, parent in rows if parent == pid and not state.startswith("Z"))


def _stat(file: Path) -> tuple[int, str, int] | None:
    """Process id, state and parent from /proc/PID/stat; None where the process ended while we looked."""
    try:
        state, parent, *_ = file.read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    return int(file.parent.name), state, int(parent)


KEYS = {"v", "id", "entry", "model", "version", "status", "batch", "timing_ms", "attempt", "worker"}
"""Of every document of a job that was computed."""


class Asking:
    """A client that owns nothing but a connection, and reads documents as they are. Any model."""

    def __init__(self, url: str) -> None:
        self.redis: Any = redis.Redis.from_url(url)

    def push(self, model: str, *jobs: dict[str, Any]) -> list[str]:
        """Jobs in one transaction, so that workers meet them together; their entry ids."""
        pipeline = self.redis.pipeline()
        for job in jobs:
            pipeline.xadd(f"convq:{{{model}}}:jobs", job)
        return [entry.decode() for entry in pipeline.execute()]

    def document(self, model: str, entry: str) -> dict[str, Any]:
        """The result document of a job; fails when none comes."""
        popped = self.redis.blpop([f"convq:{{{model}}}:result:{entry}"], timeout=15 * PATIENCE)
        assert popped is not None
        found: dict[str, Any] = json.loads(popped[1])
        return found

    def ask(self, model: str, picture: NDArray[np.uint8] | bytes, **fields: Any) -> dict[str, Any]:
        """The result document for a picture, as it is or as a PNG file."""
        image = picture if isinstance(picture, bytes) else image_of(picture)
        return self.document(model, self.push(model, {"image": image, **fields})[0])


class Plain:
    """A client that has read protocol.md and owns nothing but a Redis connection. Model lenet."""

    def __init__(self, url: str) -> None:
        self.redis: Any = redis.Redis.from_url(url, socket_timeout=60 * PATIENCE)

    def push(self, fields: Fields, *, stream: str = JOBS, entry: str = "*") -> str:
        """XADD one job; its entry id."""
        return self.burst([fields], stream=stream, entry=entry)[0]

    def burst(self, jobs: Sequence[Fields], *, stream: str = JOBS, entry: str = "*") -> list[str]:
        """XADD jobs in one transaction, so that workers meet them together; their entry ids."""
        pipeline = self.redis.pipeline(transaction=len(jobs) > 1)
        for fields in jobs:
            pipeline.execute_command("XADD", stream, entry, *(part for pair in fields.items() for part in pair))
        return [answer.decode() for answer in pipeline.execute()]

    def document(self, job_id: str, timeout_s: float = 15.0) -> bytes:
        """BLPOP the result document of a job; fails when none comes."""
        popped = self.redis.blpop([f"convq:{{lenet}}:result:{job_id}"], timeout=timeout_s * PATIENCE)
        assert popped is not None, f"no result for {job_id} within {timeout_s * PATIENCE} s"
        return bytes(popped[1])

    def answer(self, job_id: str, timeout_s: float = 15.0) -> Result:
        """The result of a job, taken from its key."""
        return decode_result(self.document(job_id, timeout_s))

    def inbox(self, key: str) -> list[Result]:
        """The results in an inbox, left where they are."""
        return [decode_result(document) for document in self.redis.lrange(key, 0, -1)]

    def nothing_left(self) -> bool:
        """Whether the streams are empty and nobody holds a job."""
        return not any(self.redis.xlen(lane) for lane in LANES) and not any(self.pending(lane) for lane in LANES)

    def pending(self, stream: str = JOBS) -> int:
        """Jobs that workers hold."""
        groups = self.redis.xinfo_groups(stream) if self.redis.exists(stream) else []
        return sum(int(group["pending"]) for group in groups)

    def close(self) -> None:
        """Close the connection."""
        self.redis.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Ledger:
    """Tensor jobs with one inbox, and the books on them: what was submitted, and how often each was answered."""

    def __init__(self, plain: Plain, name: str) -> None:
        self.plain = plain
        self.inbox = f"convq:{{lenet}}:inbox:{name}"
        self.submitted: list[str] = []
        self.answers: Counter[str] = Counter()
        self.wrong: list[Result] = []

    def submit(self, jobs: int) -> None:
        """Push that many jobs."""
        pipeline = self.plain.redis.pipeline(transaction=False)
        tensor = tensor_of(digits()[0])
        for _ in range(jobs):
            pipeline.execute_command(
                "XADD", JOBS, "*", "tensor", tensor, "dtype", "uint8", "shape", "1,32,32", "reply_to", self.inbox
            )
        self.submitted += [entry.decode() for entry in pipeline.execute()]

    def read(self, timeout_s: float = 0.1) -> int:
        """Take in what the inbox holds; how many answers that were."""
        reply = self.plain.redis.execute_command("BLMPOP", timeout_s, 1, self.inbox, "LEFT", "COUNT", 5000)
        for document in reply[1] if reply else ():
            said = json.loads(document)
            if said["status"] == "ok" and said["predictions"][0]["label"] == "7":
                self.answers[said["entry"]] += 1
            else:
                self.wrong.append(decode_result(document))
        return len(reply[1]) if reply else 0

    def settle(self, timeout_s: float = 40.0) -> None:
        """Read until all is answered and nothing more can come; fail unless each job has exactly one right answer."""
        give_up_at = time.monotonic() + timeout_s * PATIENCE
        while len(self.answers) < len(self.submitted) and not self.wrong and time.monotonic() < give_up_at:
            self.read()
        wait_until(self.plain.nothing_left, max(1.0, give_up_at - time.monotonic()))
        while self.read(0.01):
            pass
        self.check()

    def check(self) -> None:
        """Every job that was submitted has one answer, and no other was answered."""
        lost = [entry for entry in self.submitted if entry not in self.answers]
        twice = [entry for entry, count in self.answers.items() if count > 1]
        strange = set(self.answers) - set(self.submitted)
        assert not self.wrong, f"answered wrongly: {self.wrong[:3]}"
        assert not lost, f"{len(lost)} of {len(self.submitted)} lost, like {lost[:3]}"
        assert not twice, f"{len(twice)} of {len(self.submitted)} answered twice, like {twice[:3]}"
        assert not strange, f"answered without having been asked: {sorted(strange)[:3]}"


@cache
def digits() -> NDArray[np.uint8]:
    """The 1,000 committed test images, [1000, 28, 28]; the first is a 7."""
    raw = gzip.decompress((SAMPLE / "t10k-1000-images-idx3-ubyte.gz").read_bytes())
    return np.frombuffer(raw, dtype=np.uint8, offset=16).reshape(-1, 28, 28)


@cache
def digit_labels() -> list[str]:
    """What they show."""
    raw = gzip.decompress((SAMPLE / "t10k-1000-labels-idx1-ubyte.gz").read_bytes())
    return [str(label) for label in raw[8:]]


def image_of(pixels: NDArray[Any], form: str = "PNG", **options: Any) -> bytes:
    """Pixels as the bytes of an image file."""
    return encoded(Image.fromarray(pixels), form, **options)


def encoded(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    """A PIL image as the bytes of an image file."""
    out = BytesIO()
    image.save(out, form, **options)
    return out.getvalue()


def tensor_of(pixels: NDArray[np.uint8]) -> bytes:
    """A digit of 28 x 28 as lenet's own input: 1,32,32 in uint8."""
    return np.pad(pixels, 2).tobytes()


def seven() -> bytes:
    """The picture of a 7 that the README pushes."""
    return (SAMPLE / "seven.png").read_bytes()


def models_served(plain: Plain) -> dict[str, Any]:
    """What `convq:models` says."""
    return {name.decode(): json.loads(text) for name, text in plain.redis.hgetall("convq:models").items()}
