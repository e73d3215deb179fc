"""The log of a real service under bad input: what is in it, and what must not be."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest
import redis

from servers import OwnServer, wait_until
from services import JOBS, Fields, Plain, RunningService, digits, image_of, seven

MARK = "Pv7xQzB3"
"""Stands in every payload."""
PASSWORD = "hush-hush-4711"  # noqa: S105 - of a server that lives for one test
TRACEPARENT = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
BAD: list[Fields] = [
    {"image": MARK},
    {"image": f"\x89PNG\r\n\x1a\n{MARK * 20}".encode("latin-1")},
    {"image": image_of(digits()[0])[:60] + MARK.encode()},
    {"image": b"\xff\xd8\xff\xe0" + MARK.encode() * 50},
    {"image": b"GIF89a" + MARK.encode() * 50},
    {"image": b"BM" + MARK.encode() * 50},
    {"tensor": MARK * 10, "dtype": "uint8", "shape": "1,32,32"},
    {"tensor": MARK * 128, "dtype": "float64", "shape": "1,32,32"},
    {"tensor": MARK, "dtype": "float32", "shape": "x"},
    {"image": MARK, "id": 'evil\n{"level":"critical"}'},
    {"image": MARK, "ttl_ms": "\x1b[2J\r\n"},
    {"image": MARK, "tensor": MARK, "dtype": "uint8", "shape": "1"},
    {"image": seven() + MARK.encode(), "version": 9},
    {"image": seven() + MARK.encode(), "outputs": "no\nsuch"},
    {"image": seven() + MARK.encode(), "reply_to": "\u2028elsewhere\u0085"},
]


def test_a_failed_job_stands_in_the_log_with_its_id_its_trace_and_who_met_it(
    fresh_server: OwnServer, fresh: Plain
) -> None:
    with RunningService(fresh_server.url, workers=1) as service:
        worker = service.worker_pids()[0]
        fresh.push({"image": seven(), "id": "good"})
        fresh.answer("good")
        fresh.push({"image": b"nope", "id": "bad-1", "traceparent": TRACEPARENT})
        said = service.wait_for("a job ended as error")

    assert {
        "level": "warning",
        "logger": "convq.jobs",
        "worker": 0,
        "pid": worker,
        "model": "lenet",
        "job": "bad-1",
        "trace_id": TRACEPARENT[3:35],
        "stream": "normal",
        "code": "bad_image",
        "reason": "not an image in a format that convq reads (PNG, JPEG, WebP, BMP, GIF, TIFF, AVIF)",
    } == {name: said[name] for name in said if name not in ("time", "message", "total_ms")}
    assert "good" not in [line.get("job") for line in service.log]


def test_neither_payloads_nor_passwords_nor_broken_lines_get_into_the_log(
    fresh_server: OwnServer, fresh: Plain
) -> None:
    fresh.redis.execute_command("ACL", "SETUSER", "svc", "on", f">{PASSWORD}", "~*", "&*", "+@all")
    url = fresh_server.url.replace("redis://", f"redis://svc:{PASSWORD}@")
    with RunningService(url, "--log-jobs", "all", workers=1) as service:
        for fields in BAD:  # one after the other: each may have its own line
            assert "error" == fresh.answer(fresh.push(fields)).status
        fresh.redis.execute_command("ACL", "SETUSER", "svc", "off")  # whatever it says of that
        fresh.redis.client_kill_filter(user="svc")
        wait_until(lambda: any(line.get("during") == "fetch" for line in service.log))
        fresh.redis.execute_command("ACL", "SETUSER", "svc", "on")
        wait_until(service.is_ready)

    text = str(service.log)
    assert len(BAD) == sum(line["message"] == "a job ended as error" for line in service.log)
    assert MARK not in text
    assert PASSWORD not in text
    assert [] == [line for line in service.log if line["level"] in ("raw", "critical") or "traceback" in line]


@pytest.mark.parametrize(
    ("job", "status", "end"),
    [({"image": b"nope"}, "error", "bad_image"), ({"image": seven(), "ttl_ms": 0}, "expired", "expired")],
    ids=["refused", "expired, most of them unread"],
)
def test_a_flood_of_failed_jobs_is_counted_and_not_written(
    fresh_server: OwnServer, fresh: Plain, job: Fields, status: str, end: str
) -> None:
    with RunningService(fresh_server.url, workers=1) as service:
        ids = fresh.burst([job] * 5000)
        for one in (ids[0], ids[-1]):
            fresh.answer(one, timeout_s=30)

    single = [line for line in service.log if line["message"] == f"a job ended as {status}"]
    counted = [line for line in service.log if line["message"].endswith("more jobs like these")]
    assert 5000 == len(single) + sum(line["ended_as"][end] for line in counted)
    assert 1 <= len(single) <= 200


def test_no_line_for_a_job_where_none_is_wanted(fresh_server: OwnServer, fresh: Plain) -> None:
    with RunningService(fresh_server.url, "--log-jobs", "none", workers=1) as service:
        fresh.answer(fresh.push({"image": b"nope"}))

    assert {"convq.supervisor"} == {line["logger"] for line in service.log}


def test_a_cancelled_an_expired_and_a_taken_over_job_are_said(fresh_server: OwnServer, fresh: Plain) -> None:
    fresh.redis.xgroup_create(JOBS, "workers", "0", mkstream=True)
    fresh.push({"image": seven(), "id": "over"})
    fresh.redis.xreadgroup("workers", "a-dead-worker", {JOBS: ">"})
    fresh.push({"image": seven(), "id": "gone"})
    fresh.push({"image": seven(), "id": "late", "ttl_ms": 0})
    fresh.redis.sadd("convq:{lenet}:cancelled", "gone")
    with RunningService(fresh_server.url, workers=1) as service:
        for one in ("over", "gone", "late"):
            fresh.answer(one)
        taken = service.wait_for("took over jobs of a dead worker")

    assert ["over"] == taken["ids"]
    assert {"a job ended as cancelled": "gone", "a job ended as expired": "late"} == {
        line["message"]: line["job"] for line in service.log if line["logger"] == "convq.jobs"
    }


def test_a_password_in_a_setting_that_is_refused_is_not_repeated() -> None:
    for flag, value in (("--otlp", f"http://me:{PASSWORD}@127.0.0.1:4318"), ("--otlp", f"ftp://me:{PASSWORD}@h")):
        command = [sys.executable, "-m", "convq", "serve", flag, value]
        refused = subprocess.run(command, capture_output=True, text=True, env=os.environ, timeout=250, check=False)

        assert 2 == refused.returncode
        assert flag in refused.stderr
        assert PASSWORD not in refused.stderr


def test_a_wrong_password_is_not_repeated(fresh_server: OwnServer) -> None:
    with redis.Redis.from_url(fresh_server.url) as connection:
        connection.execute_command("ACL", "SETUSER", "svc", "on", ">right", "~*", "&*", "+@all")
    url = fresh_server.url.replace("redis://", f"redis://svc:{PASSWORD}@")
    command = [sys.executable, "-m", "convq", "serve", "--redis", url, "--workers", "1", "--http", "127.0.0.1:0"]

    refused = subprocess.run(command, capture_output=True, text=True, timeout=250, check=False)

    assert 4 == refused.returncode
    assert "Redis refused the credentials" in refused.stderr
    assert PASSWORD not in refused.stderr
