"""The samples of the queues that this service exports: what the server said of them at the last beat."""

from __future__ import annotations

from collections.abc import Mapping

from prometheus_client.core import Metric

from convq.ipc.series import LANE_NAMES
from convq.queue.supervision import LaneDepth, ShardDepth
from convq.supervisor.exposition.metrics import QUEUE_FAMILIES, new_family


def queue_families(depths: Mapping[str, ShardDepth]) -> list[Metric]:
    """The families of QUEUE_FAMILIES that have samples, of the models in `depths`: no others are exported here."""
    families = {name: new_family(name) for name in QUEUE_FAMILIES}
    for model, depth in depths.items():
        for stream, lane in zip(LANE_NAMES, depth.lanes, strict=True):
            for name, value in _of_stream(lane).items():
                families[name].add_metric([model, stream], value)
        for reason, jobs in depth.refused.items():
            families["convq_queue_refused_total"].add_metric([model, reason], jobs)
        for name, known in _of_model(depth).items():
            if known is not None:
                families[name].add_metric([model], known)
    return [family for family in families.values() if family.samples]


def _of_stream(lane: LaneDepth) -> dict[str, float]:
    return {
        "convq_queue_length": lane.length,
        "convq_queue_pending": lane.pending,
        "convq_queue_lag": lane.lag if lane.lag is not None else lane.length - lane.pending,
        "convq_queue_lag_known": 0 if lane.lag is None else 1,
        "convq_queue_backlog": lane.length if lane.lag is None else lane.lag + lane.pending,
        "convq_queue_oldest_age_seconds": lane.oldest_age_s,
        "convq_queue_ids_ahead_seconds": lane.ahead_s,
        "convq_consumers_idle_seconds_max": lane.idle_s_max,
        "convq_queue_added_total": lane.added,
    }


def _of_model(depth: ShardDepth) -> dict[str, float | None]:
    return {
        "convq_queue_drain_seconds": depth.drain_s,
        "convq_queue_bytes": depth.held_bytes,
        "convq_queue_limit_jobs": depth.limit_jobs,
        "convq_queue_limit_bytes": depth.limit_bytes,
        "convq_dead_letter_length": depth.dead_letters,
    }
