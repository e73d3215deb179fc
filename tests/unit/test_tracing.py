"""What is kept of traced jobs, for whom spans are drawn, and what is too much."""

from __future__ import annotations

import logging
from collections.abc import Iterator

import pytest

from convq.errors import BadImage, InternalFault, SettingsError
from convq.ipc.series import LAYOUT, CloseReason
from convq.ipc.shared_memory import Board, StatsRow
from convq.protocol import Status
from convq.queue import Lease, Received
from convq.worker.admission.batcher import Batch
from convq.worker.postprocessor import BatchResult
from convq.worker.ticket import Ticket
from convq.worker.tracing.collector import DEFAULT_RATIO, own_ratio
from convq.worker.tracing.handover import MOST_WAITING, Tracing
from convq.worker.tracing.span_records import SpanBatch, SpanRecord
from convq.worker.tracing.spans import MAX_CHARACTERS, Spans
from otlp import Collector

TRACE, SPAN = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


def ticket(traceparent: str | None = None, entry: str = "7-0") -> Ticket:
    job = Received(entry, 1, 1, "j1", tensor=b"payload", traceparent=traceparent)
    return Ticket(job, Lease("w"), arrived_s=10.0, queue_s=2.0, wait_s=0.5, infer_s=0.25)


@pytest.fixture
def row() -> StatsRow:
    return Board(LAYOUT, 1, 1).row(0, 0)


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector() as running:
        yield running


@pytest.fixture
def spans(collector: Collector) -> Iterator[Spans]:
    """Spans that go to the collector. They take the log of the library, which they give back here."""
    library = logging.getLogger("opentelemetry")
    before = library.handlers, library.propagate
    made = Spans(collector.url, "host-1")
    yield made
    made.close()
    library.handlers, library.propagate = before


def test_the_payload_is_not_kept() -> None:
    trail = SpanRecord.of(ticket(), None)

    assert "payload" not in repr(trail)
    assert ("j1", "7-0", 10.0, 2.0) == (trail.job, trail.entry, trail.arrived_s, trail.queue_s)


def test_how_a_job_failed_is_kept_under_a_name_of_few() -> None:
    bad, dead, lost = ticket(), ticket(), ticket()
    bad.refuse(BadImage("no image", quote="; it begins with payload"))
    dead.job.problem, dead.status = InternalFault("ended its worker"), Status.POISONED
    lost.lease.lost = True

    assert [("bad_image", "no image"), ("poisoned", "ended its worker")] == [
        SpanRecord.of(one, None).error for one in (bad, dead)
    ]
    assert "lease_lost" == (SpanRecord.of(lost, None).error or ("",))[0]
    assert SpanRecord.of(ticket(), None).error is None


def test_more_jobs_than_may_wait_are_dropped_and_counted(spans: Spans, row: StatsRow) -> None:
    tracing = Tracing(spans, 1.0, {"m": row})  # its thread is not started: nothing is taken away
    batch = BatchResult([ticket() for _ in range(MOST_WAITING // 2)])
    for _ in range(3):
        tracing.published("m", batch, 11.0, 12.0)

    assert MOST_WAITING // 2 == row.get("convq_traces_dropped", "full")
    assert 2 == tracing._queue.qsize()


@pytest.mark.parametrize(("ratio", "own"), [(0.0, 0), (0.5, 500), (1.0, 1000)])
def test_who_submits_decides_and_of_the_others_a_share_is_traced(
    spans: Spans, row: StatsRow, ratio: float, own: int
) -> None:
    tracing = Tracing(spans, ratio, {"m": row})
    tickets = [ticket(f"00-{TRACE}-{SPAN}-01"), ticket(f"00-{TRACE}-{SPAN}-00")]
    tracing.published("m", BatchResult([*tickets, *[ticket() for _ in range(1000)]]), 11.0, 12.0)

    track = tracing._queue.get_nowait()
    assert track is not None
    assert 1 == sum(trail.context is not None for trail in track.trails)
    assert own == pytest.approx(sum(trail.context is None for trail in track.trails), abs=150)


def test_a_batch_of_any_size_keeps_a_link_to_each_job_and_long_text_is_cut(spans: Spans, collector: Collector) -> None:
    trails = [SpanRecord.of(ticket(entry=f"7-{i}"), None) for i in range(300)]
    trails[0].error = ("bad_field", "x" * 10_000)
    trails[1].job = "j" * 10_000
    spans.draw(SpanBatch("m", trails, str(CloseReason.FULL), 400, 10.75, 11.0, 0.0))

    assert spans.send()
    (batch,) = collector.wait_for("run m")
    jobs = collector.wait_for("process", 300)
    assert {job.id for job in jobs} == set(batch.links)
    assert (10.5e9, 11e9) == (batch.began_ns, batch.ended_ns)
    assert MAX_CHARACTERS == max(len(job.message) for job in jobs)
    assert MAX_CHARACTERS == max(len(job.attributes["convq.job.id"]) for job in jobs)


def test_jobs_that_never_met_the_network_have_no_batch(spans: Spans, collector: Collector, row: StatsRow) -> None:
    tracing = Tracing(spans, 1.0, {"m": row})
    tracing.published("m", BatchResult([ticket()]), 11.0, 12.0)
    tracing.published("m", BatchResult([ticket()], batch=Batch([], CloseReason.IDLE)), 11.0, 12.0)
    tracing._thread.start()
    tracing.close(5.0)

    assert 2 == len(collector.wait_for("process", 2))
    assert 1 == len(collector.wait_for("run m"))


@pytest.mark.parametrize(
    ("environment", "ratio"),
    [
        ({}, DEFAULT_RATIO),
        ({"OTEL_TRACES_SAMPLER": "", "OTEL_TRACES_SAMPLER_ARG": ""}, DEFAULT_RATIO),
        ({"OTEL_TRACES_SAMPLER_ARG": "0.25"}, 0.25),
        ({"OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "1"}, 1.0),
        ({"OTEL_TRACES_SAMPLER": "parentbased_always_on", "OTEL_TRACES_SAMPLER_ARG": "0.1"}, 1.0),
        ({"OTEL_TRACES_SAMPLER": "parentbased_always_off"}, 0.0),
    ],
)
def test_the_standard_variables_say_how_many_jobs_are_traced(environment: dict[str, str], ratio: float) -> None:
    assert ratio == own_ratio(environment)


@pytest.mark.parametrize("value", ["x", "-0.1", "1.1", "nan", "inf"])
def test_a_share_that_is_none_is_an_error(value: str) -> None:
    with pytest.raises(SettingsError, match="OTEL_TRACES_SAMPLER_ARG"):
        own_ratio({"OTEL_TRACES_SAMPLER_ARG": value})
