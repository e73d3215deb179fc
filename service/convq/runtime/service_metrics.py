"""The samples that only the supervisor knows: queues, workers, processes, builds."""

from __future__ import annotations

import platform
from collections.abc import Collection, Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

import convq
from convq.queue.leases import ShardDepth
from convq.runtime.metrics import SERVICE_GAUGES, process_usage, queue_families
from convq.runtime.slots import Slot

RUNTIMES = ("onnxruntime", "onnxruntime-gpu")


def service_families(
    depths: Mapping[str, ShardDepth],
    slots: Sequence[Slot],
    suspended: Collection[str],
    versions: Mapping[str, Mapping[int, str]],
) -> list[Metric]:
    """Every family of the supervisor, as of now. `versions`: model -> version -> state."""
    models = tuple(versions)
    name = "convq_model_suspended"
    pauses = GaugeMetricFamily(name, SERVICE_GAUGES[name], labels=["model"])
    for model in models:
        pauses.add_metric([model], float(model in suspended))
    return [
        *queue_families(dict(depths)),
        *_worker_families(models, slots),
        pauses,
        _model_info(slots),
        _states(versions),
        _build_info(),
    ]


def _worker_families(models: Sequence[str], slots: Sequence[Slot]) -> list[Metric]:
    live = GaugeMetricFamily("convq_workers", SERVICE_GAUGES["convq_workers"], labels=["model"])
    for model in models:
        live.add_metric([model], sum(slot.ready_since_s is not None for slot in slots))
    restarts = _counter("convq_worker_restarts_total")
    cpu = _counter("convq_worker_cpu_seconds_total")
    memory = GaugeMetricFamily(
        "convq_worker_resident_memory_bytes", SERVICE_GAUGES["convq_worker_resident_memory_bytes"], labels=["worker"]
    )
    for slot in slots:
        restarts.add_metric([str(slot.number)], slot.restarts)
        usage = process_usage(slot.pid) if slot.pid is not None else None
        if usage is not None:
            cpu.add_metric([str(slot.number)], usage[0])
            memory.add_metric([str(slot.number)], usage[1])
    return [live, restarts, cpu, memory]


def _counter(name: str) -> CounterMetricFamily:
    return CounterMetricFamily(name.removesuffix("_total"), SERVICE_GAUGES[name], labels=["worker"])


def _model_info(slots: Sequence[Slot]) -> Metric:
    names = ["version", "sha256", "provider", "requested_provider", "role"]
    family = GaugeMetricFamily("convq_model_info", SERVICE_GAUGES["convq_model_info"], labels=["model", *names])
    reports = [(model, row) for slot in slots for model, report in slot.models.items() for row in report["engines"]]
    seen = {(model, *(row[name] for name in names)) for model, row in reports}
    for labels in sorted(seen):
        family.add_metric(labels, 1)
    return family


def _states(versions: Mapping[str, Mapping[int, str]]) -> Metric:
    name = "convq_model_version_state"
    family = GaugeMetricFamily(name, SERVICE_GAUGES[name], labels=["model", "version", "state"])
    for model, states in versions.items():
        for number, state in sorted(states.items()):
            family.add_metric([model, str(number), state], 1)
    return family


def _build_info() -> Metric:
    names = ["version", "onnxruntime", "python"]
    family = GaugeMetricFamily("convq_build_info", SERVICE_GAUGES["convq_build_info"], labels=names)
    family.add_metric([convq.__version__, _runtime_version(), platform.python_version()], 1)
    return family


def _runtime_version() -> str:
    """The version of the onnxruntime that is installed, without importing it here."""
    for package in RUNTIMES:
        try:
            return version(package)
        except PackageNotFoundError:
            continue
    return "none"
