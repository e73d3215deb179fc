"""Wrong names that only a plain XADD gets in: whoever looks is told which stream nobody serves, and what was perhaps meant."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import redis

from convq import Client, UnknownModel
from convq.cli import main
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
