"""The panels of both dashboards, as tables: title, what it tells, kind, unit, queries with their legends.

dashboards.py makes Grafana's JSON of them. Selectors are written short: `$S` for the series of services, `$P` for those
without a model, `$Q` for those of the queue, which one elected service exports, whichever it is: no `instance` there; `$R`
for the Redis exporter, `$K` for Kubernetes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

SELECTORS = {
    "$S": 'job=~"$job", instance=~"$instance", model=~"$model"',
    "$P": 'job=~"$job", instance=~"$instance"',
    "$Q": 'job=~"$job", model=~"$model"',
    "$R": 'job=~".*convq.*", instance=~"$redis"',
    "$K": 'namespace=~"$namespace"',
}
COMMANDS = '$R, cmd=~"xadd|xreadgroup|evalsha|eval|fcall"'
FULL = '$S, reason="full"'
FAILED = 'outcome=~"error|dead_letter"'
ANSWERED = "sum(rate(convq_jobs_total{$S}[$__rate_interval]))"
MEAN_FROM_BUCKETS = "sum{by}(rate({name}_sum{{{where}}}[$__rate_interval])) / (sum{by}(rate({name}_count{{{where}}}[$__rate_interval])) > 0)"


@dataclass(frozen=True)
class Panel:
    """One panel. `queries` are pairs of PromQL and legend; `wide` and `high` count Grafana's 24 columns and its rows."""

    title: str
    tells: str
    kind: str
    unit: str
    queries: Sequence[tuple[str, str]]
    wide: int = 8
    high: int = 8
    stacked: bool = False
    red_from: float | None = None
    to_model: bool = False
    hidden: tuple[str, ...] = ()


@dataclass(frozen=True)
class Row:
    """A heading, and the panels below it until the next."""

    title: str
    panels: Sequence[Panel]
    collapsed: bool = False


def rate(metric: str, where: str, by: str = "") -> str:
    """Growth per second of a counter, summed."""
    grouping = f" by ({by}) " if by else ""
    return f"sum{grouping}(rate({metric}{{{where}}}[$__rate_interval]))"


def quantile(q: float, metric: str, where: str, by: str = "") -> str:
    """A quantile of a histogram, from its buckets."""
    levels = f"{by}, le" if by else "le"
    return f"histogram_quantile({q}, sum by ({levels}) (rate({metric}_bucket{{{where}}}[$__rate_interval])))"


def mean(metric: str, where: str, by: str = "") -> str:
    """The mean of what a histogram has seen of late; no value where it has seen nothing."""
    grouping = f" by ({by}) " if by else ""
    return MEAN_FROM_BUCKETS.format(by=grouping, name=metric, where=where)


def buckets(metric: str, where: str) -> str:
    """What fell into each bucket, for a heatmap."""
    return f"sum by (le) (increase({metric}_bucket{{{where}}}[$__rate_interval]))"


def queue(metric: str, by: str) -> str:
    """A series of the queue; max, so that it is right also while one service hands over to another."""
    return f"max by ({by}) ({metric}{{$Q}})"


def queue_sum(metric: str, by: str = "") -> str:
    """As `queue`, summed over models and priorities."""
    grouping = f" by ({by}) " if by else ""
    return f"sum{grouping}({queue(metric, 'job, model, stream')})"


def firing(what: str) -> Panel:
    """The alerts, as they come and go."""
    query = f'max by (alertname, severity, model, instance) (ALERTS{{alertname=~"Convq.+", alertstate="firing"{what}}})'
    tells = "Alerts that fire. Their meaning and what to do stand in deploy/README.md under the alert's name; a click leads to its rule."
    return Panel(
        "Firing alerts", tells, "state-timeline", "none", [(query, "{{alertname}} {{model}}")], wide=24, high=5
    )


# One panel is one entry of a table, not a column of arguments.
# fmt: off

OVERVIEW = (
    Panel("Answered", "Jobs answered a second, however they ended.", "stat", "ops", [(ANSWERED, "")], 3, 4),
    Panel("Answered well", "Share of answers without an error of the service; bad input is the client's own.", "stat", "percentunit",
          [(f"1 - {rate('convq_jobs_total', f'$S, {FAILED}')} / ({ANSWERED} > 0)", "")], 3, 4),
    Panel("p95, push to answer", "19 of 20 answers come within this time of the push.", "stat", "s",
          [(quantile(0.95, "convq_job_e2e_duration_seconds", "$S"), "")], 3, 4, red_from=1),
    Panel("Backlog", "Jobs that wait or run.", "stat", "short", [(queue_sum("convq_queue_backlog"), "")], 3, 4),
    Panel("Oldest job", "How long the oldest job that is not answered has waited. Alerts look at this, not at the length.", "stat", "s",
          [("max(convq_queue_oldest_age_seconds{$Q})", "")], 3, 4, red_from=120),
    Panel("Time to drain", "Until all that waits is answered, at the rate of the last seconds, if nothing more comes.", "stat", "s",
          [("max(convq_queue_drain_seconds{$Q})", "")], 3, 4, red_from=600),
    Panel("Live workers", "Worker processes that are ready.", "stat", "short",
          [("sum(max by (job, instance) (convq_workers{$S}))", "")], 3, 4),
    Panel("Dead letters", "Jobs that killed their workers, kept until somebody looks.", "stat", "short",
          [("sum(max by (job, model) (convq_dead_letter_length{$Q}))", "")], 3, 4, red_from=1),
)

QUEUE = (
    Panel("Waiting and running", "Jobs that no worker has been handed yet, and jobs that workers hold.", "timeseries", "short",
          [(queue_sum("convq_queue_pending"), "running"), (queue_sum("convq_queue_lag"), "waiting")], stacked=True),
    Panel("In and out", "Jobs added and jobs answered, per second. Where in stays above out, the backlog grows.", "timeseries", "ops",
          [("sum(max by (job, model, stream) (rate(convq_queue_added_total{$Q}[$__rate_interval])))", "in"), (ANSWERED, "out")]),
    Panel("Oldest job by model", "How long the oldest job of each model has waited or run.", "timeseries", "s",
          [(queue("convq_queue_oldest_age_seconds", "model"), "{{model}}")], to_model=True),
    Panel("Time to drain by model", "As the service measures it, and estimated from the answers of five minutes.", "timeseries", "s",
          [(queue("convq_queue_drain_seconds", "model"), "{{model}}"),
           ("max by (model) (stream:convq_queue_drain_seconds:estimate{$Q} < Inf)", "{{model}}, of 5 minutes")], to_model=True),
    Panel("Filled", "Jobs and bytes in the queue as a share of their limits. At 100 % submissions are refused.",
          "timeseries", "percentunit",
          [(f"{queue_sum('convq_queue_length', 'model')} / {queue('convq_queue_limit_jobs', 'model')}", "{{model}}, jobs"),
           (f"{queue('convq_queue_bytes', 'model')} / {queue('convq_queue_limit_bytes', 'model')}", "{{model}}, bytes")]),
    Panel("Refused at the door", "Submissions refused because the queue is full, per second.", "timeseries", "ops",
          [("max by (model, reason) (rate(convq_queue_refused_total{$Q}[$__rate_interval]))", "{{model}}, {{reason}}")]),
    Panel("Run again", "Jobs taken over from workers that died or froze, per second.", "timeseries", "ops",
          [(rate("convq_redeliveries_total", "$S", "model"), "{{model}}")], to_model=True),
    Panel("Buried", "Jobs buried as dead letters, in each step of the graph.", "timeseries", "short",
          [("sum by (model) (increase(convq_dead_letters_total{$S}[$__rate_interval]))", "{{model}}")], to_model=True),
    Panel("Who measures the queue", "The service that exports the queue of each model: exactly one at a time.", "state-timeline", "none",
          [("max by (model, instance) (convq_exporter{$S})", "{{model}} {{instance}}")]),
)

ANSWERS = (
    Panel("Answered by model", "Jobs answered a second.", "timeseries", "ops",
          [(rate("convq_jobs_total", "$S", "model"), "{{model}}")], stacked=True, to_model=True),
    Panel("Not ok, by outcome", "Answers other than ok. error and dead_letter are the service's; the others the clients'.",
          "timeseries", "ops", [(rate("convq_jobs_total", '$S, outcome!="ok"', "outcome"), "{{outcome}}")]),
    Panel("Refused input, by code", "Jobs that could not be run, by error code of the protocol.", "timeseries", "ops",
          [(rate("convq_rejected_total", "$S", "reason"), "{{reason}}")]),
    Panel("p95 by model", "19 of 20 answers come within this time of the push.", "timeseries", "s",
          [(quantile(0.95, "convq_job_e2e_duration_seconds", "$S", "model"), "{{model}}")], to_model=True),
    Panel("Bytes", "Images and tensors received, result documents published.", "timeseries", "Bps",
          [(rate("convq_image_bytes_sum", "$S"), "received"), (rate("convq_result_bytes_total", "$S"), "published")]),
    Panel("Given up", "Results not published, because another worker answers the job.", "timeseries", "ops",
          [(rate("convq_lost_commits_total", "$S", "model"), "{{model}}")]),
)

WORKERS = (
    Panel("In hand", "Jobs that each worker holds.", "timeseries", "short",
          [("sum by (instance, worker) (convq_worker_in_flight{$S})", "{{instance}} {{worker}}")], stacked=True),
    Panel("Answered by service", "Jobs answered a second by each service.", "timeseries", "ops",
          [(rate("convq_jobs_total", "$S", "instance"), "{{instance}}")], stacked=True),
    Panel("Since last progress", "Seconds since each worker went round its loop. More than a few: stopped, or without Redis.",
          "timeseries", "s",
          [("max by (instance, worker) (time() - (convq_worker_last_progress_timestamp_seconds{$S} > 0))", "{{instance}} {{worker}}")]),
    Panel("Processor", "Cores used by each worker, and by the process that watches over them.", "timeseries", "none",
          [(rate("convq_worker_cpu_seconds_total", "$P", "instance, worker"), "{{instance}} {{worker}}"),
           (rate("convq_supervisor_cpu_seconds_total", "$P", "instance"), "{{instance}} supervisor")], stacked=True),
    Panel("Memory", "Resident memory of each worker, and of the process that watches over them.", "timeseries", "bytes",
          [("sum by (instance, worker) (convq_worker_resident_memory_bytes{$P})", "{{instance}} {{worker}}"),
           ("sum by (instance) (convq_supervisor_resident_memory_bytes{$P})", "{{instance}} supervisor")], stacked=True),
    Panel("Ready and died", "Workers that are ready, and deaths in each step of the graph.", "timeseries", "short",
          [("sum by (instance) (max by (job, instance) (convq_workers{$S}))", "{{instance}} ready"),
           ("sum by (instance) (increase(convq_worker_restarts_total{$P}[$__rate_interval]))", "{{instance}} died")]),
    Panel("Open files and threads", "Of each worker. What only grows, leaks.", "timeseries", "short",
          [("sum by (instance, worker) (convq_worker_open_files{$P})", "{{instance}} {{worker}} files"),
           ("sum by (instance, worker) (convq_worker_threads{$P})", "{{instance}} {{worker}} threads")]),
    Panel("Age of the workers", "Time since each worker process was started.", "timeseries", "s",
          [("time() - max by (instance, worker) (convq_worker_start_time_seconds{$P})", "{{instance}} {{worker}}")]),
    Panel("Trouble with Redis", "Connections opened again, and commands that Redis did not carry out, per second.", "timeseries", "ops",
          [(rate("convq_redis_reconnects_total", "$S"), "reconnects"), (rate("convq_redis_command_errors_total", "$S", "error"), "{{error}}")]),
    Panel("Networks", "What is loaded, where it runs, and where it was meant to run.", "table", "none",
          [("max by (instance, model, version, role, provider, requested_provider) (convq_model_info{$S})", "")], 16, 5, hidden=("Time", "Value")),
    Panel("Builds", "Versions of convq, onnxruntime and Python.", "table", "none",
          [("max by (instance, version, onnxruntime, python) (convq_build_info{$P})", "")], 8, 5, hidden=("Time", "Value")),
)

REDIS = (
    Panel("Memory of Redis", "At the limit every push is refused.", "timeseries", "bytes",
          [("redis_memory_used_bytes{$R}", "used"), ("redis_memory_max_bytes{$R}", "limit")]),
    Panel("Commands", "Commands a second.", "timeseries", "ops", [(rate("redis_commands_processed_total", "$R"), "commands")]),
    Panel("Time per command", "Mean time that the server spent in those commands that convq lives by.", "timeseries", "s",
          [(f"{rate('redis_commands_duration_seconds_total', COMMANDS, 'cmd')} / ({rate('redis_commands_total', COMMANDS, 'cmd')} > 0)",
            "{{cmd}}")]),
    Panel("Length of the streams", "Entries of each job stream, counted from outside, also while no service runs.", "timeseries", "short",
          [('max by (stream) (redis_stream_length{$R, stream=~"convq:.+"})', "{{stream}}")]),
    Panel("Clients", "Connections, and those that wait in a blocking command: idle workers and waiting clients.", "timeseries", "short",
          [("redis_connected_clients{$R}", "connected"), ("redis_blocked_clients{$R}", "blocked")]),
    Panel("Keys dropped", "Evicted: lost, must be zero. Expired: results that nobody read in time.", "timeseries", "ops",
          [(rate("redis_evicted_keys_total", "$R"), "evicted"), (rate("redis_expired_keys_total", "$R"), "expired")]),
    Panel("Network of Redis", "Bytes a second into and out of the server.", "timeseries", "Bps",
          [(rate("redis_net_input_bytes_total", "$R"), "in"), (rate("redis_net_output_bytes_total", "$R"), "out")]),
    Panel("Append-only file", "1 while it is kept; its last write and its last rewrite went well.", "timeseries", "short",
          [("redis_aof_enabled{$R}", "kept"), ("redis_aof_last_write_status{$R}", "written"), ("redis_aof_last_bgrewrite_status{$R}", "rewritten")]),
    Panel("Up and replicas", "Whether the exporter reaches the server; how many replicas follow it.", "timeseries", "short",
          [("redis_up{$R}", "up"), ("redis_connected_slaves{$R}", "replicas")]),
)

ZERO = (
    Panel("Strange keys", "Keys of a model that hold another type than convq's: its lanes or its leases are out of use.", "timeseries", "short",
          [("max by (model) (convq_foreign_keys{$S})", "{{model}}")], to_model=True),
    Panel("Entry ids ahead", "By how much the newest id of a stream is ahead of the server's clock. The age of such jobs is not known.", "timeseries", "s",
          [(queue("convq_queue_ids_ahead_seconds", "model, stream"), "{{model}} {{stream}}")], to_model=True),
    Panel("Log lines dropped", "Lines of the log that nobody took in time, in each step of the graph.", "timeseries", "short",
          [("sum by (instance) (increase(convq_log_lines_dropped_total{$P}[$__rate_interval]))", "{{instance}}")]),
)

AUTOSCALING = (
    Panel("Replicas", "Pods of convq that are ready, wanted, and allowed at most.", "timeseries", "short",
          [('sum by (deployment) (kube_deployment_status_replicas_ready{$K, deployment=~"convq.*"})', "{{deployment}} ready"),
           ('sum by (deployment) (kube_deployment_spec_replicas{$K, deployment=~"convq.*"})', "{{deployment}} wanted"),
           ('max by (horizontalpodautoscaler) (kube_horizontalpodautoscaler_spec_max_replicas{$K, horizontalpodautoscaler=~".*convq.*"})', "{{horizontalpodautoscaler}} at most")]),
    Panel("Waiting per worker", "Jobs that wait, for each ready worker: what KEDA scales by.", "timeseries", "short",
          [(f"{queue_sum('convq_queue_lag')} / sum(max by (job, instance) (convq_workers{{$S}}))", "jobs per worker")]),
    Panel("Errors of KEDA", "Reads of a trigger that failed, per second.", "timeseries", "ops",
          [('sum by (scaler) (rate(keda_scaler_detail_errors_total{scaledObject=~"convq.*"}[$__rate_interval]))', "{{scaler}}")]),
)

LATENCY = (
    Panel("Push to answer", "Half, 19 of 20, and 99 of 100 answers come within these times of the push.", "timeseries", "s",
          [(quantile(q, "convq_job_e2e_duration_seconds", "$S"), f"p{q * 100:.0f}") for q in (0.5, 0.95, 0.99)], 12),
    Panel("Mean time by stage", "Where the time of a job goes, on the average, from the push to the answer.", "timeseries", "s",
          [(mean("convq_job_stage_duration_seconds", "$S", "stage"), "{{stage}}")], 12, stacked=True),
    Panel("Time in the queue", "How many jobs waited how long before a worker took them.", "heatmap", "s",
          [(buckets("convq_job_stage_duration_seconds", '$S, stage="queue"'), "{{le}}")]),
    Panel("p95 by stage", "19 of 20 jobs pass each stage within this time. Queue is above; here is what workers do.", "timeseries", "s",
          [(quantile(0.95, "convq_job_stage_duration_seconds", '$S, stage!="queue"', "stage"), "{{stage}}")]),
    Panel("Time in the network", "How many jobs were how long in onnxruntime, with their batch.", "heatmap", "s",
          [(buckets("convq_job_stage_duration_seconds", '$S, stage="inference"'), "{{le}}")]),
)

BATCHING = (
    Panel("Mean batch", "Jobs per batch. Throughput comes from large ones, short times from small ones.", "timeseries", "short",
          [(mean("convq_batch_size", "$S"), "jobs")], 6),
    Panel("Batch sizes", "How many batches of each size.", "heatmap", "short", [(buckets("convq_batch_size", "$S"), "{{le}}")], 6),
    Panel("Why batches closed", "full: the largest size. idle: nothing else was there. timeout: they had waited long enough.",
          "timeseries", "ops", [(rate("convq_batches_total", "$S", "reason"), "{{reason}}")], 6, stacked=True),
    Panel("Full batches", "Share of the batches that were closed because they were full. Near 100 % the model is at its limit.",
          "timeseries", "percentunit", [(rate("convq_batches_total", FULL) + f" / ({rate('convq_batches_total', '$S')} > 0)", "full")], 6),
)

PRIORITIES = (
    Panel("Waiting by priority", "Jobs that no worker has been handed yet.", "timeseries", "short",
          [(queue("convq_queue_lag", "stream"), "{{stream}}")], stacked=True),
    Panel("Running by priority", "Jobs that workers hold.", "timeseries", "short",
          [(queue("convq_queue_pending", "stream"), "{{stream}}")], stacked=True),
    Panel("Oldest job by priority", "How long the oldest job of each priority has waited or run.", "timeseries", "s",
          [(queue("convq_queue_oldest_age_seconds", "stream"), "{{stream}}")]),
    Panel("Answered by priority", "Jobs answered a second.", "timeseries", "ops",
          [(rate("convq_jobs_total", "$S", "stream"), "{{stream}}")], stacked=True),
    Panel("Asked for jobs", "Longest time that a worker has not asked for jobs. A few seconds are usual, minutes are not.",
          "timeseries", "s", [(queue("convq_consumers_idle_seconds_max", "stream"), "{{stream}}")]),
    Panel("Lag known", "1 where the server can tell how many jobs wait. 0: an entry was deleted by hand; KEDA is misled.",
          "timeseries", "short", [("min by (stream) (convq_queue_lag_known{$Q})", "{{stream}}")]),
)

INPUT = (
    Panel("Outcomes", "Answers other than ok.", "timeseries", "ops",
          [(rate("convq_jobs_total", '$S, outcome!="ok"', "outcome"), "{{outcome}}")]),
    Panel("Refused input", "Jobs that could not be run, by error code of the protocol.", "timeseries", "ops",
          [(rate("convq_rejected_total", "$S", "reason"), "{{reason}}")]),
    Panel("Sizes of images", "How many images and tensors of each size.", "heatmap", "bytes",
          [(buckets("convq_image_bytes", "$S"), "{{le}}")]),
    Panel("Dead letters by reason", "Buried in each step of the graph.", "timeseries", "short",
          [("sum by (reason) (increase(convq_dead_letters_total{$S}[$__rate_interval]))", "{{reason}}")]),
    Panel("Suspended", "1 while the model claims nothing, because its network kills worker after worker.", "timeseries", "short",
          [("max by (instance) (convq_model_suspended{$S})", "{{instance}}")]),
    Panel("Stalled", "1 while jobs wait and no worker of the service makes progress.", "timeseries", "short",
          [("max by (instance) (convq_model_stalled{$S})", "{{instance}}")]),
    Panel("Clients", "Answered, by the client that the jobs name: the busiest, the unnamed and the others.", "timeseries", "ops",
          [(rate("convq_client_jobs_total", "$S", "client"), "{{client}}")]),
    Panel("Run again, given up", "Jobs taken over from dead workers; results not published, because another worker answers.",
          "timeseries", "ops", [(rate("convq_redeliveries_total", "$S"), "run again"), (rate("convq_lost_commits_total", "$S"), "given up")]),
)

VERSIONS = (
    Panel("States", "What each version is: serving, candidate, shadow, kept, trial or refused.", "table", "none",
          [("max by (version, state) (convq_model_version_state{$S})", "")], 6, hidden=("Time", "Value")),
    Panel("Jobs by role", "What the versions ran; a shadow's answers differ from what was answered, or do not.", "timeseries", "ops",
          [(rate("convq_version_jobs_total", "$S", "role, outcome"), "{{role}} {{outcome}}")], 6),
    Panel("Time in the network by role", "Mean over the jobs.", "timeseries", "s",
          [(mean("convq_version_inference_seconds", "$S", "role"), "{{role}}")], 6),
    Panel("Load and warm-up", "Seconds from opening the model to the end of its warm-up.", "timeseries", "s",
          [("max by (instance) (convq_model_load_duration_seconds{$S})", "{{instance}}")], 6),
)

DASHBOARDS: dict[str, tuple[str, str, tuple[Row, ...]]] = {
    "service": (
        "convq / service",
        "All models of a deployment, its workers and its Redis.",
        (
            Row("Overview", (*OVERVIEW, firing(""))),
            Row("Queue", QUEUE),
            Row("Answers", ANSWERS),
            Row("Workers", WORKERS),
            Row("Redis", REDIS),
            Row("Should be zero", ZERO),
            Row("Autoscaling, on Kubernetes alone", AUTOSCALING, collapsed=True),
        ),
    ),
    "model": (
        "convq / model",
        "One model: where its time goes, its batches, priorities, input and versions.",
        (
            Row("Overview", (*OVERVIEW, firing(', model=~"$model"'))),
            Row("Latency", LATENCY),
            Row("Batching", BATCHING),
            Row("Queue by priority", PRIORITIES),
            Row("Input and errors", INPUT),
            Row("Versions", VERSIONS),
        ),
    ),
}

# fmt: on
