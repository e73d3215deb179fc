"""Wrong names that only a plain XADD gets in: whoever looks is told which stream nobody serves, and what was perhaps meant."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from convq import Client, UnknownModel
from convq.cli import main
from convq.queue.diagnosis.unserved import MOST_STREAMS, look_once
from convq.queue.transport.link import Link
from servers import OwnServer, wait_until
from services import JOBS, Plain, RunningService, seven

WRONG = "convq:{lennet}:jobs"


@pytest.fixture
def plain(redis_url: str) -> Iterator[Plain]:
    with Plain(redis_url) as made:
        yield made


def told(service: RunningService) -> list[str]:
    return [line["message"] for line in service.log if line.get("step") == "streams that nobody serves"]


def lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_a_stream_that_nobody_serves_is_named_everywhere(
    server: OwnServer, plain: Plain, capsys: pytest.CaptureFixture[str]
) -> None:
    entry = plain.push({"image": seven()}, stream=WRONG)
    plain.burst([{"image": "x"}] * 2, stream="convq:{Lenet}:jobs")
    plain.push({"image": "x"}, stream="convq:lenet:jobs")
    plain.push({"image": "x"}, stream="convq:{lenet}:jobs:urgent")
    plain.push({"image": "x"}, stream="convq:{lenet}:dead")
    plain.push({"image": "x"}, stream="other:{lennet}:jobs")
    with RunningService(server.url, workers=1) as service:
        wait_until(lambda: told(service))
        (said,) = told(service)
        for key, meant in {
            WRONG: "'lennet'; did you mean lenet?",
            "convq:{Lenet}:jobs": "that is no stream of a model; did you mean convq:{lenet}:jobs?",
            "convq:lenet:jobs": "that is no stream of a model; did you mean convq:{lenet}:jobs?",
            "convq:{lenet}:jobs:urgent": "that is no stream of a model",
        }.items():
            assert f"{key} holds jobs, and " in said
            assert meant in said
        assert "dead" not in said
        assert "other:" not in said
        assert 4 == service.metrics()["convq_unserved_streams"][()]
        assert 5 == service.metrics()["convq_unserved_jobs"][()]

        main(["doctor", "--redis", server.url, "--json"])
        found = [line["found"] for line in lines(capsys) if line["check"] == "not served"]
        assert 4 == len(found)
        assert found[0].startswith("convq:{Lenet}:jobs holds jobs, and that is no stream of a model")
        assert f"{WRONG} holds jobs, and nobody serves 'lennet'; did you mean lenet? (1 jobs)" in found

        assert 0 == main(["jobs", "status", entry, "--model", "lennet", "--redis", server.url, "--json"])
        assert lines(capsys) == [
            {
                "id": entry,
                "model": "lennet",
                "state": "waiting",
                "served": "nobody serves 'lennet'; did you mean lenet?",
            }
        ]
        assert 0 == main(["jobs", "status", entry, "--model", "lenet", "--redis", server.url, "--json"])
        assert "served" not in lines(capsys)[0]

        plain.redis.delete(WRONG, "convq:{Lenet}:jobs", "convq:lenet:jobs", "convq:{lenet}:jobs:urgent")
        wait_until(lambda: 0 == service.metrics()["convq_unserved_streams"][()])


def test_a_wrong_name_by_any_door_ends_at_once(
    server: OwnServer, plain: Plain, capsys: pytest.CaptureFixture[str]
) -> None:
    with RunningService(server.url, "--expect", "resnet", workers=1), Client(server.url) as client:
        with pytest.raises(UnknownModel, match="Did you mean 'lenet'"):
            client.submit(seven(), "lennet")
        with pytest.raises(redis.ResponseError, match=r"^UNKNOWNMODEL .*nearest=lenet$"):
            plain.redis.fcall("convq_submit", 1, WRONG, "image", seven())
        for wait in ("--wait", "--no-wait"):
            picture = "models/lenet/sample/seven.png"
            assert main(["submit", picture, "--model", "lennet", wait, "--redis", server.url])
            assert "Did you mean 'lenet'" in capsys.readouterr().err.replace(
                "did you mean lenet", "Did you mean 'lenet'"
            )
        assert not plain.redis.exists(WRONG)
        client.submit(seven(), "resnet")  # not served yet, but expected
        assert "7" == client.classify(seven(), "lenet").label
    # the services are gone, and their list with them; what was known is known
    with Client(server.url) as client:
        assert {} == client.served()
        client.submit(seven(), "lenet")
        with pytest.raises(UnknownModel):
            client.submit(seven(), "lennet")


def test_a_result_names_the_fields_that_nobody_knows(server: OwnServer, plain: Plain) -> None:
    with RunningService(server.url, workers=1):
        jobs = {
            plain.push({"image": seven(), "repply_to": "x", "client": "me"}): ("repply_to",),
            plain.push({"image": seven(), "top_k": 1}): None,
            plain.push({"Image": seven(), "topk": 1}): ("Image", "topk"),
            plain.push({"image": b"x" * (20 << 20), "ttl": 1}): ("ttl",),
        }
        assert jobs == {job: plain.answer(job).ignored for job in jobs}
        expired = plain.burst([{"image": seven(), "ttl_ms": 0, "topk": 1}] * 200, stream=JOBS)
        answers = [plain.answer(job) for job in expired]
        assert {("topk",)} == {answer.ignored for answer in answers}


def test_jobs_in_streams_that_nobody_serves_are_found_by_their_ids(
    server: OwnServer, plain: Plain, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong, named, without = "5-1", "6-1", "7-1"
    plain.redis.xadd("convq:{lenett}:jobs", {"image": seven()}, wrong)
    plain.redis.xadd("convq:{lenett}:jobs:high", {"image": seven(), "id": "order-17"}, named)
    plain.redis.xadd("convq:lenet:jobs", {"image": seven()}, without)
    with RunningService(server.url, workers=1) as service:
        assert service.is_ready()

        def status(job: str) -> dict[str, Any]:
            assert 0 == main(["jobs", "status", job, "--redis", server.url, "--json"])
            (line,) = lines(capsys)
            return line

        lost = {"state": "waiting", "model": "lenett", "served": "nobody serves 'lenett'; did you mean lenet?"}
        assert {**lost, "id": wrong, "stream": "convq:{lenett}:jobs"} == status(wrong)
        assert {**lost, "id": "order-17", "stream": "convq:{lenett}:jobs:high"} == status("order-17")
        assert {**lost, "id": named, "stream": "convq:{lenett}:jobs:high"} == status(named)
        assert {
            "id": without,
            "model": None,
            "state": "waiting",
            "stream": "convq:lenet:jobs",
            "served": "no stream of a model; did you mean convq:{lenet}:jobs?",
        } == status(without)
        never = status("1-1")
        assert ("unknown", True) == (never["state"], "it never was" in never["means"])

        assert 0 == main(["jobs", "cancel", wrong, "order-17", "--redis", server.url, "--json"])
        said = capsys.readouterr()
        assert {"lenett"} == {json.loads(line)["model"] for line in said.out.splitlines()}
        assert f"job {wrong} waits in convq:{{lenett}}:jobs: nobody serves 'lenett'; did you mean lenet?" in said.err
        assert {wrong, "order-17"} == {one.decode() for one in plain.redis.smembers("convq:{lenett}:cancelled")}
        assert 0 != main(["jobs", "cancel", without, "--redis", server.url])
        assert "no service will ever run it; nothing was done" in capsys.readouterr().err
    plain.redis.delete(
        "convq:{lenett}:jobs", "convq:{lenett}:jobs:high", "convq:lenet:jobs", "convq:{lenett}:cancelled"
    )


def test_an_answered_job_is_said_to_be_answered_as_long_as_its_id_is_known(
    server: OwnServer, plain: Plain, capsys: pytest.CaptureFixture[str]
) -> None:
    inbox = "convq:{lenet}:inbox:me"
    with RunningService(server.url, workers=1), Client(server.url, model="lenet") as client:
        client.submit(seven(), id="read")
        assert "7" == client.result("read", timeout=60).label
        client.submit(seven(), id="sent", reply_to=inbox)
        wait_until(lambda: plain.redis.llen(inbox))
        client.submit(seven(), id="unread")
        wait_until(lambda: client.status("unread") == "done")
        assert 0 == main(["jobs", "status", "read", "sent", "unread", "--redis", server.url, "--json"])
        found = {line["id"]: line for line in lines(capsys)}
        assert ["answered", "answered", "done"] == [found[name]["state"] for name in ("read", "sent", "unread")]
        assert " s ago, and its result was read" in found["read"]["means"]
        assert found["sent"]["means"].endswith(f"into {inbox}")
        assert 0 == main(["jobs", "status", "read", "--model", "lenet", "--redis", server.url, "--json"])
        assert "answered" == lines(capsys)[0]["state"]


def test_workers_whose_supervisor_is_stopped_are_not_taken_for_gone(
    server: OwnServer, plain: Plain, capsys: pytest.CaptureFixture[str]
) -> None:
    with RunningService(server.url, workers=1) as service:
        assert service.is_ready()
        service.process.send_signal(signal.SIGSTOP)
        try:
            wait_until(lambda: not plain.redis.exists("convq:models"), 60)
            plain.push({"image": seven(), "ttl_ms": 600_000})
            main(["doctor", "--redis", server.url, "--json"])
            said = [line for line in lines(capsys) if line["check"] in ("served now", "not served", "queue lenet")]
            assert said
            assert all("is a supervisor stopped?" in line["found"] for line in said), said
            assert not any("delete" in (line["remedy"] or "") for line in said)
        finally:
            service.process.send_signal(signal.SIGCONT)


def test_of_more_streams_than_are_kept_in_mind_those_that_may_be_wrong_names_are_named(
    server: OwnServer, plain: Plain
) -> None:
    plain.redis.hset("convq:models", "lenet", "{}")
    pipe = plain.redis.pipeline(transaction=False)
    for number in range(3 * MOST_STREAMS):
        pipe.xadd(f"convq:{{{number:032x}}}:jobs", {"image": "x"})
        if number == MOST_STREAMS:
            pipe.xadd(WRONG, {"image": "x"})
    pipe.execute()
    link = Link(server.url)
    try:
        found = look_once(link)
    finally:
        link.close()
    plain.redis.flushall()

    assert found is not None
    assert (MOST_STREAMS, WRONG, "lenet") == (len(found), found[0].key, found[0].nearest)
