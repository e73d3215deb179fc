"""`convq bench` as people run it, against a service that runs."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from servers import OwnServer
from services import RunningService, digits, image_of


@pytest.fixture(scope="module")
def served(server: OwnServer) -> Iterator[str]:
    """URL of a server on which lenet is served, and nothing that other tests have left there."""
    with redis.Redis.from_url(server.url) as client:
        client.flushall()
    with RunningService(server.url, workers=1):
        yield server.url


def bench(url: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "convq", "bench", "--redis", url, *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=250, check=False)


def test_the_sample_digits_go_through_at_the_rate_that_was_asked_for(served: str) -> None:
    done = bench(served, "--rate", "50", "--seconds", "1")

    assert 0 == done.returncode, done.stderr
    report = json.loads(done.stdout)
    assert ("lenet", "open, 50 jobs/s", 50, 50, {}, 0) == tuple(
        report[name] for name in ("model", "loop", "accepted", "ok", "failed", "unanswered")
    )
    assert 0 < report["latency"]["p50_ms"] <= report["latency"]["max_ms"]


def test_files_of_any_format_are_sent_as_they_are(served: str, tmp_path: Path) -> None:
    (tmp_path / "seven.jpg").write_bytes(image_of(digits()[0], "JPEG"))

    done = bench(served, tmp_path / "seven.jpg", "--in-flight", "2", "--seconds", "0.5")

    assert 0 == done.returncode, done.stderr
    report = json.loads(done.stdout)
    assert 0 < report["ok"] == report["accepted"]


def test_what_is_no_picture_fails_the_run_with_its_error_code(served: str, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no picture")

    done = bench(served, tmp_path / "notes.txt", "--rate", "20", "--seconds", "0.2")

    assert (1, "convq: of 4 jobs 4 ended as bad_image\n") == (done.returncode, done.stderr)


def test_two_loops_at_once_are_wrong_usage(served: str) -> None:
    done = bench(served, "--rate", "20", "--in-flight", "2")

    assert 2 == done.returncode
    assert "give one of them" in done.stderr


def test_repeating_runs_print_a_line_each_until_they_are_told_to_stop(served: str) -> None:
    command = [
        sys.executable,
        "-m",
        "convq",
        "bench",
        "--redis",
        served,
        "--rate",
        "50",
        "--seconds",
        "0.2",
        "--repeat",
    ]
    with subprocess.Popen([*command, "--json"], stdout=subprocess.PIPE, text=True) as running:
        assert running.stdout is not None
        reports = [json.loads(running.stdout.readline()) for _ in range(2)]
        running.send_signal(signal.SIGTERM)

        assert 0 == running.wait(20)
    assert [10, 10] == [report["ok"] for report in reports]
