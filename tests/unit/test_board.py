"""The shared numbers: what workers write is what a scrape shows."""

from __future__ import annotations

import bisect

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from convq.ipc.series import LAYOUT
from convq.ipc.shared_memory import Board, Layout, Series
from convq.supervisor.exposition.collectors import BoardCollector

SERIES = (
    Series("jobs", "", "counter", (("outcome", ("ok", "error")),)),
    Series("seconds", "", "histogram", (), (0.1, 1.0)),
)


def test_a_second_process_sees_what_the_first_wrote_through_the_descriptor() -> None:
    layout = Layout(SERIES)
    owner = Board(layout, workers=2, models=1)
    other = Board(layout, workers=2, models=1, descriptor=owner.descriptor)

    other.row(1, 0).add("jobs", 3, "ok")

    assert 3 == owner.row(1, 0).get("jobs", "ok")
    assert 0 == owner.row(0, 0).get("jobs", "ok")


@given(st.lists(st.floats(0, 3), max_size=40))
def test_a_histogram_counts_as_one_by_one_counting_does(values: list[float]) -> None:
    row = Board(Layout(SERIES), 1, 1).row(0, 0)
    row.observe("seconds", values)

    start = row.layout.offset("seconds")
    expected = [0, 0, 0]
    for value in values:
        expected[bisect.bisect_left((0.1, 1.0), value)] += 1

    assert expected == row.cells[start : start + 3].tolist()
    assert abs(sum(values) - row.cells[start + 3]) < 1e-9


def test_a_scrape_sums_workers_and_keeps_gauges_apart() -> None:
    board = Board(LAYOUT, workers=2, models=1)
    for worker in range(2):
        row = board.row(worker, 0)
        row.add("convq_jobs", 5, "normal", "ok")
        row.set("convq_worker_in_flight", worker + 1)
        row.observe("convq_batch_size", [1, 64])
    registry = CollectorRegistry()
    registry.register(BoardCollector(board, ["lenet"], 2))

    samples = {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(generate_latest(registry).decode())
        for sample in family.samples
    }

    assert 10 == samples["convq_jobs_total", (("model", "lenet"), ("outcome", "ok"), ("stream", "normal"))]
    assert 0 == samples["convq_jobs_total", (("model", "lenet"), ("outcome", "expired"), ("stream", "low"))]
    assert 2 == samples["convq_worker_in_flight", (("model", "lenet"), ("worker", "1"))]
    assert 4 == samples["convq_batch_size_count", (("model", "lenet"),)]
    assert 130 == samples["convq_batch_size_sum", (("model", "lenet"),)]
    assert 2 == samples["convq_batch_size_bucket", (("le", "32"), ("model", "lenet"))]
