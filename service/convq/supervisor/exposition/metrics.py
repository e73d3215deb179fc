"""The metrics that only the supervisor knows, each with its help and its labels; those of workers are in `ipc.series`."""

from __future__ import annotations

from typing import NamedTuple

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from convq.ipc.series import WORKER_SERIES

_PER_STREAM, _PER_MODEL, _PER_WORKER = ("model", "stream"), ("model",), ("worker",)


class Family(NamedTuple):
    """One metric family that the supervisor makes from what it knows; a counter where its name ends with `_total`."""

    help: str
    labels: tuple[str, ...] = ()


QUEUE_FAMILIES: dict[str, Family] = {
    "convq_queue_length": Family("Jobs in the stream: waiting, or held by workers.", _PER_STREAM),
    "convq_queue_pending": Family("Jobs held by workers.", _PER_STREAM),
    "convq_queue_lag": Family("Jobs that no worker has been handed yet.", _PER_STREAM),
    "convq_queue_lag_known": Family("1 where the server can tell the lag, 0 where it cannot.", _PER_STREAM),
    "convq_queue_backlog": Family("Lag and pending together.", _PER_STREAM),
    "convq_queue_oldest_age_seconds": Family("Age of the oldest job in the stream.", _PER_STREAM),
    "convq_queue_ids_ahead_seconds": Family(
        "By how much the last entry id is ahead of the server's clock; 0 where it is not.", _PER_STREAM
    ),
    "convq_consumers_idle_seconds_max": Family("Longest time that a worker has not asked for jobs.", _PER_STREAM),
    "convq_queue_added_total": Family("Jobs ever added to the stream, by whomever.", _PER_STREAM),
    "convq_queue_refused_total": Family(
        "Jobs refused at the door, by the limit that was reached.", ("model", "reason")
    ),
    "convq_queue_drain_seconds": Family(
        "Time until all that waits is answered, at the measured rate; +Inf where nothing drains, absent where it is not known.",
        _PER_MODEL,
    ),
    "convq_queue_bytes": Family("Bytes in the streams, as the door counts them.", _PER_MODEL),
    "convq_queue_limit_jobs": Family("Jobs that the door lets be in the streams.", _PER_MODEL),
    "convq_queue_limit_bytes": Family("Bytes that the door lets be in the streams.", _PER_MODEL),
    "convq_dead_letter_length": Family("Dead letters of the model.", _PER_MODEL),
}
"""What the server knows of a queue: on /metrics of one service at a time, the one that is elected, so that sums are right."""

SERVICE_FAMILIES: dict[str, Family] = {
    "convq_exporter": Family("1 where this service exports the queue of the model, 0 where another does.", _PER_MODEL),
    "convq_workers": Family("Live workers that serve the model.", _PER_MODEL),
    "convq_model_suspended": Family(
        "1 while the model claims nothing, because its network kills worker after worker.", _PER_MODEL
    ),
    "convq_model_unserved": Family(
        "1 for a model of the folder of which nothing can be served, 0 for the others.", _PER_MODEL
    ),
    "convq_model_stalled": Family(
        "1 while jobs of the model wait and no worker of this service makes progress.", _PER_MODEL
    ),
    "convq_foreign_keys": Family("Keys of the model in Redis that hold another type than convq's.", _PER_MODEL),
    "convq_unserved_streams": Family(
        "Streams of this server that hold jobs and that nobody serves, at most 1,000; absent where another service looks."
    ),
    "convq_unserved_jobs": Family("Jobs in the streams that nobody serves."),
    "convq_client_jobs_total": Family(
        "Jobs answered, by the client that they name: the 20 busiest; unnamed and other are the rest.",
        ("model", "client"),
    ),
    "convq_worker_restarts_total": Family("Workers that died and were started again.", _PER_WORKER),
    "convq_worker_cpu_seconds_total": Family("Processor time of all processes that this worker was.", _PER_WORKER),
    "convq_worker_resident_memory_bytes": Family("Resident memory of each worker process.", _PER_WORKER),
    "convq_worker_open_files": Family("File descriptors that each worker process has open.", _PER_WORKER),
    "convq_worker_threads": Family("Threads of each worker process.", _PER_WORKER),
    "convq_worker_start_time_seconds": Family("When each worker process started, in seconds since 1970.", _PER_WORKER),
    "convq_supervisor_cpu_seconds_total": Family("Processor time of the supervisor."),
    "convq_supervisor_resident_memory_bytes": Family("Resident memory of the supervisor."),
    "convq_model_info": Family(
        "Which networks are loaded, where they run and what for; precision is the type of most of their weights.",
        ("model", "version", "sha256", "provider", "requested_provider", "precision", "role"),
    ),
    "convq_model_version_state": Family(
        "1 for what each version is: serving, candidate, shadow, kept, trial or refused.", ("model", "version", "state")
    ),
    "convq_model_version_unfit": Family(
        "1 for a version that is served and could not be loaded again with the model's manifest as it is now, 0 for the others.",
        ("model", "version"),
    ),
    "convq_log_lines_dropped_total": Family("Lines of the log that nobody read in time, of all processes."),
    "convq_build_info": Family("Versions of convq, onnxruntime and Python.", ("version", "onnxruntime", "python")),
}
"""Known to the supervisor alone."""


def documented_metrics() -> dict[str, str]:
    """Every metric on /metrics with its help, as deploy/METRICS.md must list them."""
    names = {f"{s.name}_total" if s.kind == "counter" else s.name: s.help for s in WORKER_SERIES}
    return names | {name: family.help for name, family in (QUEUE_FAMILIES | SERVICE_FAMILIES).items()}


def documented_labels() -> dict[str, tuple[str, ...]]:
    """Metric -> its labels, as deploy/METRICS.md must list them. The values of one, `client`, come from clients and are bounded: see `census`."""
    found = {}
    for series in WORKER_SERIES:
        name = f"{series.name}_total" if series.kind == "counter" else series.name
        found[name] = ("model", *(["worker"] if series.kind == "gauge" else []), *series.label_names)
    return found | {name: family.labels for name, family in (QUEUE_FAMILIES | SERVICE_FAMILIES).items()}


def new_family(name: str) -> CounterMetricFamily | GaugeMetricFamily:
    """An empty family of QUEUE_FAMILIES or SERVICE_FAMILIES, for samples to be added to."""
    known = (QUEUE_FAMILIES | SERVICE_FAMILIES)[name]
    kind = CounterMetricFamily if name.endswith("_total") else GaugeMetricFamily
    return kind(name, known.help, labels=known.labels)
