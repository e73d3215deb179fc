"""Traces as a collector gets them, and a service that does not mind what becomes of them."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

from convq.host.extras import install
from otlp import Collector, Span
from pace import Stopwatch
from servers import OwnServer, wait_until
from services import JOBS, Fields, Ledger, Plain, RunningService, seven

WITHOUT = os.pathsep.join([str(Path(__file__).parent / "without_otel"), *filter(None, [os.environ.get("PYTHONPATH")])])
TRACE, PRODUCER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
WANTED, UNWANTED = f"00-{TRACE}-{PRODUCER}-01", f"00-{TRACE}-{PRODUCER}-00"
PHASES = ["queue", "decode", "batch", "inference", "publish"]
CLOCK_MS = 0.01
"""Times are written as floating-point seconds since 1970: half a microsecond apart."""


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as running:
        yield running


def traced(url: str, otlp: str, *options: str, ratio: str = "0", **settings: str) -> RunningService:
    """A service of one worker that traces jobs whose clients want it, and that share of the others."""
    flags = ("--otlp", otlp, *options)
    return RunningService(url, *flags, workers=1, wait=True, OTEL_TRACES_SAMPLER_ARG=ratio, **settings)


def dropped(service: RunningService, reason: str) -> float:
    """Traced jobs of lenet whose spans were not sent."""
    return service.metrics()["convq_traces_dropped_total"][(("model", "lenet"), ("reason", reason))]


# -- what is drawn ----------------------------------------------------------------------------------------------------


def test_a_job_continues_its_trace_with_a_span_for_each_phase(
    fresh_server: OwnServer, fresh: Plain, collector: Collector
) -> None:
    with traced(fresh_server.url, collector.url):
        job_id = fresh.push({"image": seven(), "traceparent": WANTED})
        timing = fresh.answer(job_id).timing_ms
        (job,) = collector.wait_for("process")

    phases = {span.name: span for span in collector.spans if span.parent == job.id}
    assert (TRACE, PRODUCER, 5, False) == (job.trace, job.parent, job.kind, job.error)
    assert PHASES == list(phases)
    assert {TRACE} == {span.trace for span in phases.values()}
    assert {
        "messaging.system": "redis",
        "messaging.operation.name": "process",
        "messaging.operation.type": "process",
        "messaging.destination.name": JOBS,
        "messaging.consumer.group.name": "workers",
        "messaging.message.id": job_id,
        "convq.job.id": job_id,
        "convq.model": "lenet",
        "convq.model.version": 1,
        "convq.status": "ok",
        "convq.attempt": 1,
    } == job.attributes
    assert f"process {JOBS}" == job.name
    assert_within(job, list(phases.values()))
    assert [timing.queue, timing.decode, timing.batch, timing.infer] == [
        pytest.approx(phases[name].spent_ms, abs=CLOCK_MS) for name in PHASES[:-1]
    ]
    assert abs(job.began_ns / 1e6 - int(job_id.partition("-")[0])) < 1000  # one machine, one clock
    assert timing.total - CLOCK_MS <= job.spent_ms


def assert_within(parent: Span, children: list[Span]) -> None:
    """The children lie inside their parent, one after the other."""
    moments = [moment for child in children for moment in (child.began_ns, child.ended_ns)]
    assert parent.began_ns == moments[0]
    assert parent.ended_ns == moments[-1]
    assert [] == [(before, after) for before, after in pairwise(moments) if after < before - CLOCK_MS * 1e6]


def test_a_batch_has_a_span_of_its_own_with_a_link_to_each_traced_job(
    fresh_server: OwnServer, fresh: Plain, collector: Collector
) -> None:
    with traced(fresh_server.url, collector.url):
        fresh.answer(
            fresh.push({"image": seven(), "traceparent": UNWANTED})
        )  # from now on it is known how large jobs are
        ids = fresh.burst([{"image": seven(), "traceparent": WANTED if i % 2 else UNWANTED} for i in range(8)])
        for job_id in ids:
            fresh.answer(job_id)
        jobs = collector.wait_for("process", 4)
        batches = collector.wait_for("run lenet")

    assert {job.attributes["messaging.message.id"] for job in jobs} == set(ids[1::2])
    assert sorted(job.id for job in jobs) == sorted(link for batch in batches for link in batch.links)
    assert 8 == sum(batch.attributes["messaging.batch.message_count"] for batch in batches)
    assert all(batch.trace != TRACE and not batch.parent for batch in batches)
    for run in collector.wait_for("inference", 4):
        (batch,) = [one for one in batches if one.id in run.links]
        assert run.parent in batch.links
        assert batch.began_ns <= run.ended_ns <= batch.ended_ns


def test_an_error_stands_in_the_span_with_its_code_and_without_the_payload(
    fresh_server: OwnServer, fresh: Plain, collector: Collector
) -> None:
    with traced(fresh_server.url, collector.url):
        answer = fresh.answer(fresh.push({"image": b"private", "traceparent": WANTED}))
        (job,) = collector.wait_for("process")

    assert answer.error is not None
    assert "private" in answer.error.message
    assert (True, "bad_image", "error") == (job.error, job.attributes["error.type"], job.attributes["convq.status"])
    assert job.message.startswith("not an image")
    assert "private" not in str(collector.spans)
    assert ["queue", "decode", "publish"] == [span.name for span in collector.spans if span.parent == job.id]


def test_a_job_that_was_taken_over_says_which_attempt_answered_it(
    fresh_server: OwnServer, fresh: Plain, collector: Collector
) -> None:
    fresh.redis.xgroup_create(JOBS, "workers", "0", mkstream=True)
    fresh.push({"image": seven(), "id": "over", "traceparent": WANTED})
    fresh.redis.xreadgroup("workers", "a-dead-worker", {JOBS: ">"})
    with traced(fresh_server.url, collector.url):
        fresh.answer("over")

    (job,) = collector.wait_for("process")
    assert (TRACE, 2, "over") == (job.trace, job.attributes["convq.attempt"], job.attributes["convq.job.id"])


def test_an_invalid_traceparent_is_ignored_and_only_sampled_jobs_have_a_trace_of_their_own(
    fresh_server: OwnServer, fresh: Plain, collector: Collector
) -> None:
    jobs: list[Fields] = [
        {"image": seven(), "traceparent": "00-nonsense"},
        {"image": seven()},
        {"image": seven(), "id": "last"},
    ]
    with traced(fresh_server.url, collector.url, ratio="1"):
        assert ["ok"] * 3 == [fresh.answer(one).status for one in [*fresh.burst(jobs)[:2], "last"]]
        roots = collector.wait_for("process", 3)
    assert [""] * 3 == [root.parent for root in roots]
    assert 3 == len({root.trace for root in roots})

    collector.spans.clear()
    with traced(fresh_server.url, collector.url, ratio="0"):
        assert ["ok"] * 3 == [fresh.answer(one).status for one in [*fresh.burst(jobs)[:2], "last"]]
        fresh.answer(fresh.push({"image": seven(), "traceparent": WANTED}))
    assert [TRACE] == [span.trace for span in collector.spans if span.name.startswith("process")]


def test_the_standard_variables_name_the_service_bring_headers_and_compress(
    fresh_server: OwnServer, fresh: Plain, collector: Collector
) -> None:
    standard = {
        "OTEL_SERVICE_NAME": "digits",
        "OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test",
        "OTEL_EXPORTER_OTLP_HEADERS": "api-key=abc",
        "OTEL_EXPORTER_OTLP_COMPRESSION": "gzip",
    }
    with traced(fresh_server.url, collector.url + "/", ratio="1", **standard) as service:
        fresh.answer(fresh.push({"image": seven()}))
        worker = service.worker_pids()[0]

    # Sent by the drain, which came before the second was over.
    resource = collector.spans[0].resource
    assert ("digits", "test") == (resource["service.name"], resource["deployment.environment.name"])
    assert resource["service.instance.id"].endswith(f"-{worker}")
    assert ("abc", "gzip") == (collector.headers["api-key"], collector.headers["Content-Encoding"])


# -- what may go wrong ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mood", ["dead", "hangs", "refuses"])
def test_a_collector_that_is_down_neither_slows_nor_stops_the_service(
    fresh_server: OwnServer, fresh: Plain, mood: str
) -> None:
    with Collector("hangs" if mood == "hangs" else "refuses") as collector, socket.create_server(("127.0.0.1", 0)) as s:
        free = s.getsockname()[1]
        s.close()
        url = f"http://127.0.0.1:{free}" if mood == "dead" else collector.url
        with traced(fresh_server.url, url, ratio="1", OTEL_EXPORTER_OTLP_TIMEOUT="1") as service:
            ledger = Ledger(fresh, mood)
            for _ in range(5):
                ledger.submit(2000)
                ledger.settle()
            wait_until(lambda: dropped(service, "undelivered") > 0)
            assert dropped(service, "full") > 0  # more than is kept while the collector does not answer
            said = service.wait_for("the collector did not take the traces of jobs")
            with Stopwatch() as watch:
                service.stop()

    assert said["jobs"] > 0
    assert said["reason"]
    assert watch.quiet_s < 10
    assert {"convq.tracing", "convq.supervisor"} == {line["logger"] for line in service.log}


def test_what_a_worker_computed_after_others_took_over_is_marked_as_not_published(
    fresh_server: OwnServer, fresh: Plain, collector: Collector
) -> None:
    with RunningService(
        fresh_server.url, "--otlp", collector.url, "--lease", "0.5", wait=True, OTEL_TRACES_SAMPLER_ARG="0.2"
    ) as service:
        ledger = Ledger(fresh, "stopped")
        ledger.submit(5000)
        wait_until(lambda: ledger.read() > 0)
        stopped = service.worker_pids()[0]
        os.kill(stopped, signal.SIGSTOP)
        try:
            service.wait_for("took over jobs of a dead worker")
            ledger.settle()
        finally:
            os.kill(stopped, signal.SIGCONT)
        service.wait_for("lost its lease; others answer its jobs")

    late = [span for span in collector.spans if span.attributes.get("error.type") == "lease_lost"]
    assert late
    assert {f"-{stopped}"} == {span.resource["service.instance.id"][-len(f"-{stopped}") :] for span in late}
    assert all(span.error for span in late)


def test_a_killed_worker_loses_spans_and_no_job(fresh_server: OwnServer, fresh: Plain, collector: Collector) -> None:
    with traced(fresh_server.url, collector.url, ratio="1") as service:
        ledger = Ledger(fresh, "killed")
        for _ in range(3):
            ledger.submit(1000)
            wait_until(lambda: ledger.read() > 0)
            os.kill(wait_until(service.worker_pids)[0], signal.SIGKILL)
            ledger.settle()

    assert 3000 == len(ledger.answers)


# -- off --------------------------------------------------------------------------------------------------------------


def test_nothing_of_opentelemetry_is_imported_where_no_traces_are_wanted(fresh_server: OwnServer, fresh: Plain) -> None:
    """Supervisor and workers run with every import of it refused. (Where it is there, redis-py imports some for itself.)"""
    with RunningService(fresh_server.url, workers=1, PYTHONPATH=WITHOUT):
        assert "ok" == fresh.answer(fresh.push({"image": seven(), "traceparent": WANTED})).status


def serve(*flags: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "convq", "serve", "--redis", "redis://127.0.0.1:1", *flags]
    return subprocess.run(
        command, capture_output=True, text=True, env=os.environ | environment, timeout=250, check=False
    )


def test_traces_without_the_extra_are_refused_with_the_command_that_brings_it() -> None:
    refused = serve("--otlp", "http://127.0.0.1:4318", PYTHONPATH=WITHOUT)

    assert 2 == refused.returncode
    assert "run: " + install("otel") in refused.stderr
    assert "Traceback" not in refused.stderr


@pytest.mark.parametrize(
    ("variable", "value"),
    [("OTEL_TRACES_SAMPLER_ARG", "half"), ("OTEL_TRACES_SAMPLER_ARG", "2"), ("OTEL_TRACES_SAMPLER", "always")],
)
def test_a_malformed_sampler_is_refused(variable: str, value: str) -> None:
    refused = serve("--otlp", "http://127.0.0.1:4318", **{variable: value})

    assert 2 == refused.returncode
    assert f"{variable} is {value!r}" in refused.stderr


def test_sampler_variables_do_not_matter_where_no_traces_are_wanted() -> None:
    off = {"OTEL_SDK_DISABLED": "true", "OTEL_TRACES_SAMPLER": "jaeger_remote"}

    assert 4 == serve(OTEL_TRACES_SAMPLER="jaeger_remote").returncode
    assert 4 == serve("--otlp", "http://127.0.0.1:4318", **off).returncode
