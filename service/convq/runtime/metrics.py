"""Every metric that the service exposes: name, help, labels, buckets; and the collectors that turn numbers into samples.

Workers write their numbers to the board (see `board`), once per batch. The supervisor owns the one registry and the one
port. Names and labels follow Prometheus: base units, `_total` for counters, bounded labels, never a job id.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.registry import Collector

from convq.protocol import Priority
from convq.queue.leases import ShardDepth
from convq.runtime.batcher import CloseReason
from convq.runtime.board import Board, Layout, Series

LANE_NAMES = tuple(str(lane) for lane in Priority)
OUTCOMES = ("ok", "error", "invalid", "timeout", "expired", "cancelled", "dead_letter")
STAGES = ("queue", "fetch", "decode", "preprocess", "batch_wait", "inference", "postprocess", "publish")
STATES = ("starting", "ready", "draining")
DEAD_REASONS = ("poisoned", "unreadable")
ROLES = ("serving", "candidate", "shadow", "kept")
COMMAND_ERRORS = ("unavailable", "refused", "lease_lost")

# Jobs take milliseconds, queues may take minutes.
QUEUE_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10, 30, 60, 120, 300)
STAGE_BUCKETS = (0.00025, 0.0005, 0.001, 0.0025, *QUEUE_BUCKETS)
SIZE_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
BYTES_BUCKETS = (1e3, 1e4, 3e4, 1e5, 3e5, 1e6, 3e6, 1e7)

_STREAM = ("stream", LANE_NAMES)

WORKER_SERIES = (
    Series("convq_jobs", "Jobs answered, by how they ended.", "counter", (_STREAM, ("outcome", OUTCOMES))),
    Series(
        "convq_job_stage_duration_seconds",
        "Seconds that jobs spent in each stage of the service.",
        "histogram",
        (("stage", STAGES),),
        STAGE_BUCKETS,
    ),
    Series(
        "convq_job_e2e_duration_seconds",
        "Seconds from the entry's time to the publication of its result.",
        "histogram",
        (),
        STAGE_BUCKETS,
    ),
    Series("convq_batch_size", "Jobs per batch.", "histogram", (), SIZE_BUCKETS),
    Series("convq_batches", "Batches run, by why they were closed.", "counter", (("reason", tuple(CloseReason)),)),
    Series("convq_image_bytes", "Bytes of the images and tensors received.", "histogram", (), BYTES_BUCKETS),
    Series("convq_result_bytes", "Bytes of result documents published.", "counter"),
    Series("convq_redeliveries", "Jobs taken over from a worker that died.", "counter", (_STREAM,)),
    Series(
        "convq_lost_commits",
        "Results that were not published, because another worker answers the job; repeated commits are not counted.",
        "counter",
    ),
    Series("convq_dead_letters", "Jobs buried as dead letters.", "counter", (_STREAM, ("reason", DEAD_REASONS))),
    Series(
        "convq_rejected",
        "Jobs refused at the fetch, by error code of the protocol.",
        "counter",
        (("reason", ("bad_field", "bad_image", "image_too_large", "bad_tensor", "unknown_version", "unknown_output")),),
    ),
    Series(
        "convq_version_jobs",
        "Jobs that a version ran, by what it is for; a shadow's answers differ from what was answered, or do not.",
        "counter",
        (("role", ROLES), ("outcome", ("ok", "failed", "differs"))),
    ),
    Series(
        "convq_version_inference_seconds",
        "Seconds in the network for each job's batch, by what the version is for.",
        "histogram",
        (("role", ROLES),),
        STAGE_BUCKETS,
    ),
    Series("convq_redis_reconnects", "Connections to Redis opened again.", "counter"),
    Series(
        "convq_redis_command_errors", "Commands that Redis did not carry out.", "counter", (("error", COMMAND_ERRORS),)
    ),
    Series(
        "convq_traces_dropped",
        "Traced jobs whose spans were not sent: more than can be, or the collector did not take them.",
        "counter",
        (("reason", ("full", "undelivered")),),
    ),
    Series("convq_worker_in_flight", "Jobs that the worker holds.", "gauge"),
    Series("convq_worker_last_progress_timestamp_seconds", "When the worker last went round its loop.", "gauge"),
    Series("convq_worker_state", "1 for the state that the worker is in.", "gauge", (("state", STATES),)),
    Series("convq_model_load_duration_seconds", "Seconds from opening the model to the end of its warm-up.", "gauge"),
)
"""Written by workers; on /metrics with the label `model`, gauges also with `worker` (the worker's number)."""

PULSE_SERIES = (
    Series("pulse_incarnation", "Random part of the lease's name, as a number; 0: no lease.", "gauge"),
    Series("pulse_fenced", "An incarnation that the supervisor found without its lease.", "gauge"),
    Series("pulse_busy_since_s", "Monotonic seconds at which the running batch began; 0: idle.", "gauge"),
    Series("pulse_running_version", "The version that ran last, or runs.", "gauge"),
    Series("pulse_limit_s", "Seconds that one batch may run.", "gauge"),
    Series("pulse_suspended_until_s", "Monotonic seconds until which the model claims nothing; 0: it may.", "gauge"),
    Series(
        "pulse_reclaim", "Counts up when the supervisor has fenced a worker: its jobs can be taken over now.", "gauge"
    ),
)
"""Between supervisor and worker alone; not on /metrics."""

LAYOUT = Layout((*WORKER_SERIES, *PULSE_SERIES))


class BoardCollector(Collector):
    """The workers' numbers as Prometheus samples: counters and histograms summed over workers, gauges per worker."""

    def __init__(self, board: Board, models: Sequence[str], workers: int) -> None:
        self._board = board
        self._models = models
        self._workers = workers

    def collect(self) -> Iterator[Metric]:
        """One family per series of the board."""
        for series in WORKER_SERIES:
            yield self._family(series)

    def _family(self, series: Series) -> Metric:
        names = [label for label, _ in series.labels]
        if series.kind == "gauge":
            gauge = GaugeMetricFamily(series.name, series.help, labels=["model", "worker", *names])
            for index, model, labels in self._rows(series):
                for worker in range(self._workers):
                    gauge.add_metric(
                        [model, str(worker), *labels], self._board.row(worker, index).get(series.name, *labels)
                    )
            return gauge
        if series.kind == "counter":
            counter = CounterMetricFamily(series.name, series.help, labels=["model", *names])
            for index, model, labels in self._rows(series):
                counter.add_metric([model, *labels], float(self._sums(series, index, labels)[0]))
            return counter
        histogram = HistogramMetricFamily(series.name, series.help, labels=["model", *names])
        for index, model, labels in self._rows(series):
            *counts, total = self._sums(series, index, labels)
            bounds = [*(f"{bound:g}" for bound in series.buckets), "+Inf"]
            running, buckets = 0.0, []
            for bound, count in zip(bounds, counts, strict=True):
                running += count
                buckets.append((bound, running))
            histogram.add_metric([model, *labels], buckets=buckets, sum_value=float(total))
        return histogram

    def _rows(self, series: Series) -> Iterator[tuple[int, str, tuple[str, ...]]]:
        for index, model in enumerate(self._models):
            for labels in series.combinations():
                yield index, model, labels

    def _sums(self, series: Series, model: int, labels: tuple[str, ...]) -> list[float]:
        start = LAYOUT.offset(series.name, labels)
        rows = (self._board.row(worker, model).cells[start : start + series.width] for worker in range(self._workers))
        return [float(value) for value in sum(rows)]  # type: ignore[union-attr]


QUEUE_GAUGES: dict[str, str] = {
    "convq_queue_length": "Jobs in the stream: waiting, or held by workers.",
    "convq_queue_pending": "Jobs held by workers.",
    "convq_queue_lag": "Jobs that no worker has been handed yet.",
    "convq_queue_lag_known": "1 where the server can tell the lag, 0 where it cannot.",
    "convq_queue_backlog": "Lag and pending together.",
    "convq_queue_oldest_age_seconds": "Age of the oldest job in the stream.",
    "convq_consumers_idle_seconds_max": "Longest time that a worker has not asked for jobs.",
}
"""Per model and stream."""

SERVICE_GAUGES: dict[str, str] = {
    "convq_dead_letter_length": "Dead letters of the model.",
    "convq_workers": "Live workers that serve the model.",
    "convq_model_suspended": "1 while the model claims nothing, because its network kills worker after worker.",
    "convq_worker_restarts_total": "Workers that died and were started again.",
    "convq_worker_cpu_seconds_total": "Processor time of each worker process.",
    "convq_worker_resident_memory_bytes": "Resident memory of each worker process.",
    "convq_model_info": "Which networks are loaded, where they run and what for.",
    "convq_model_version_state": "1 for what each version is: serving, candidate, shadow, kept or refused.",
    "convq_build_info": "Versions of convq, onnxruntime and Python.",
}
"""Known to the supervisor alone."""


def documented_metrics() -> dict[str, str]:
    """Every metric on /metrics with its help, as the README must list them."""
    names = {f"{s.name}_total" if s.kind == "counter" else s.name: s.help for s in WORKER_SERIES}
    return names | QUEUE_GAUGES | SERVICE_GAUGES


def queue_families(depths: dict[str, ShardDepth]) -> list[Metric]:
    """The queue's gauges, from what was last measured."""
    families = {name: GaugeMetricFamily(name, text, labels=["model", "stream"]) for name, text in QUEUE_GAUGES.items()}
    for model, depth in depths.items():
        for stream, lane in zip(LANE_NAMES, depth.lanes, strict=True):
            values = {
                "convq_queue_length": lane.length,
                "convq_queue_pending": lane.pending,
                "convq_queue_lag": lane.lag if lane.lag is not None else lane.length - lane.pending,
                "convq_queue_lag_known": 0 if lane.lag is None else 1,
                "convq_queue_backlog": lane.length if lane.lag is None else lane.lag + lane.pending,
                "convq_queue_oldest_age_seconds": lane.oldest_age_s,
                "convq_consumers_idle_seconds_max": lane.idle_s_max,
            }
            for name, value in values.items():
                families[name].add_metric([model, stream], value)
    dead = GaugeMetricFamily("convq_dead_letter_length", SERVICE_GAUGES["convq_dead_letter_length"], labels=["model"])
    for model, depth in depths.items():
        dead.add_metric([model], depth.dead_letters)
    return [*families.values(), dead]


class FunctionCollector(Collector):
    """Families that a function makes at each scrape."""

    def __init__(self, families: Callable[[], Iterable[Metric]]) -> None:
        self._families = families

    def collect(self) -> Iterable[Metric]:
        """What the function gives now."""
        return self._families()


def process_usage(pid: int) -> tuple[float, float] | None:
    """Processor seconds and resident bytes of a process, from /proc; None where there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    ticks = os.sysconf("SC_CLK_TCK")
    return (int(fields[11]) + int(fields[12])) / ticks, float(int(fields[21]) * os.sysconf("SC_PAGE_SIZE"))


def wall_clock_s() -> float:
    """Wall-clock seconds, for timestamps that people read; durations are measured by monotonic clocks."""
    return time.time()
