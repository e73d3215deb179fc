"""What is counted and measured by workers: each series with its name, help, labels and buckets, and where it lies on the board.

Workers write their numbers to the board (see `shared_memory`), once per batch; `collectors` makes samples of them. Names and labels
follow Prometheus: base units, `_total` for counters, bounded labels, never a job id.
"""

from __future__ import annotations

from enum import StrEnum

from convq.ipc.shared_memory import Layout, Series, StatsRow
from convq.protocol import Priority


class CloseReason(StrEnum):
    """Why a batch was closed."""

    FULL = "full"
    IDLE = "idle"
    TIMEOUT = "timeout"
    DRAIN = "drain"


LANE_NAMES = tuple(str(lane) for lane in Priority)
OUTCOMES = ("ok", "error", "invalid", "expired", "cancelled", "dead_letter")
STAGES = ("queue", "fetch", "decode", "preprocess", "batch_wait", "inference", "postprocess", "publish")
STATES = ("starting", "ready", "draining")
DEAD_REASONS = ("poisoned",)
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
    Series(
        "convq_worker_last_progress_timestamp_seconds",
        "When the worker last went round its loop.",
        "gauge",
        absent_at_zero=True,
    ),
    Series("convq_worker_state", "1 for the state that the worker is in.", "gauge", (("state", STATES),)),
    Series(
        "convq_model_load_duration_seconds",
        "Seconds from opening the model to the end of its warm-up.",
        "gauge",
        absent_at_zero=True,
    ),
)
"""Written by workers; on /metrics with the label `model`, gauges also with `worker` (the worker's number)."""

PULSE_SERIES = (
    Series("pulse_incarnation", "Random part of the lease's name, as a number; 0: no lease.", "gauge"),
    Series("pulse_fenced", "An incarnation that the supervisor found without its lease.", "gauge"),
    Series("pulse_running_version", "The version that ran last, or runs.", "gauge"),
    Series("pulse_moved_s", "Monotonic seconds when it last published, or claimed with nothing in hand.", "gauge"),
    Series("pulse_wait_s", "Seconds that a prepared job may wait for others.", "gauge"),
    Series("pulse_barred_version", "The candidate that was taken back last: it answers no job; 0: none was.", "gauge"),
    Series("pulse_limit_s", "Seconds that one batch may run, and that its answers may take to be made.", "gauge"),
    Series("pulse_decode_limit_s", "Seconds that decoding and preparing one job may take.", "gauge"),
    Series("pulse_suspended_until_s", "Monotonic seconds until which the model claims nothing; 0: it may.", "gauge"),
    Series("pulse_fetching", "1 while a large reply comes in.", "gauge"),
    Series("pulse_fetch_deaths", "Workers of this place that died in one, one after the other.", "gauge"),
    Series(
        "pulse_reclaim", "Counts up when the supervisor has fenced a worker: its jobs can be taken over now.", "gauge"
    ),
)
"""Between supervisor and worker alone; not on /metrics."""

OUTLIVING = ("pulse_reclaim", "pulse_suspended_until_s", "pulse_fetch_deaths", "pulse_barred_version")
"""Gauges for whoever has this slot; the others describe one process, and end with it."""

LAYOUT = Layout((*WORKER_SERIES, *PULSE_SERIES))


def reset_gauges(row: StatsRow) -> None:
    """The process that this row described is another one now, or none; counters go on."""
    for series in row.layout.series:
        if series.kind == "gauge" and series.name not in OUTLIVING:
            for labels in series.combinations():
                row.set(series.name, 0.0, *labels)
