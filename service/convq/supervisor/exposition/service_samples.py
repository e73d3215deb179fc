"""The samples that only the supervisor knows: queues, workers, processes, builds."""

from __future__ import annotations

import os
import platform
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version

from prometheus_client.core import Metric

import convq
from convq import logs
from convq.host.procfs import open_files_of, usage_of
from convq.queue.diagnosis.unserved import Unserved
from convq.queue.supervision import ShardDepth
from convq.supervisor.exposition.metrics import SERVICE_FAMILIES, new_family
from convq.supervisor.exposition.queue_samples import queue_families
from convq.supervisor.slots import Slot

RUNTIMES = ("onnxruntime", "onnxruntime-gpu")


@dataclass(frozen=True, slots=True)
class ServiceState:
    """What a supervisor knows at one moment."""

    depths: Mapping[str, ShardDepth]
    slots: Sequence[Slot]
    suspended: Collection[str]
    stalled: Collection[str]
    foreign_keys: Mapping[str, int]
    """Model -> how many."""
    unserved_streams: Sequence[Unserved] | None
    """None where this service does not look for streams that nobody serves."""
    versions: Mapping[str, Mapping[int, str]]
    """Model -> version -> state."""
    unserved: Collection[str]
    """Models of the folder of which nothing can be served."""
    unfit: Mapping[str, Collection[int]]
    """Versions that are served and could not be loaded again."""
    clients: Mapping[str, Mapping[str, int]]
    """Model -> name -> jobs."""


def service_families(state: ServiceState) -> list[Metric]:
    """Every family of the supervisor, as of that moment."""
    models = tuple(state.versions)
    unserved = {*models, *state.unserved}
    return [
        *queue_families(state.depths),
        _per_model("convq_exporter", {model: model in state.depths for model in models}),
        _per_model("convq_workers", {model: _workers_of(model, state.slots) for model in models}),
        _per_model("convq_model_suspended", {model: model in state.suspended for model in models}),
        _per_model("convq_model_stalled", {model: model in state.stalled for model in models}),
        _per_model("convq_foreign_keys", {model: state.foreign_keys.get(model, 0) for model in models}),
        _per_model("convq_model_unserved", {model: model in state.unserved for model in unserved}),
        *_unserved(state.unserved_streams),
        *_process_families(state.slots),
        _model_info(state.slots),
        _states(state.versions),
        _unfit(state.versions, state.unfit),
        _clients(state.clients),
        _log_lines(),
        _build_info(),
    ]


def _workers_of(model: str, slots: Sequence[Slot]) -> int:
    return sum(slot.ready_since_s is not None and model in slot.plans for slot in slots)


def _per_model(name: str, values: Mapping[str, float]) -> Metric:
    family = new_family(name)
    for model, value in values.items():
        family.add_metric([model], value)
    return family


def _unserved(found: Sequence[Unserved] | None) -> list[Metric]:
    if found is None:
        return []
    streams, jobs = new_family("convq_unserved_streams"), new_family("convq_unserved_jobs")
    streams.add_metric([], len(found))
    jobs.add_metric([], sum(one.jobs for one in found))
    return [streams, jobs]


def _process_families(slots: Sequence[Slot]) -> list[Metric]:
    """How the supervisor and each worker do as processes; a worker that is dead has used processor time, and holds nothing."""
    restarts = new_family("convq_worker_restarts_total")
    for slot in slots:
        restarts.add_metric([str(slot.number)], slot.restarts)
    mine = usage_of(os.getpid())
    if mine is None:  # the kernel says nothing here
        return [restarts]
    spent = new_family("convq_supervisor_cpu_seconds_total")
    spent.add_metric([], mine.cpu_s)
    memory = new_family("convq_supervisor_resident_memory_bytes")
    memory.add_metric([], mine.resident_bytes)
    return [restarts, spent, memory, *_worker_processes(slots)]


def _worker_processes(slots: Sequence[Slot]) -> list[Metric]:
    spent = new_family("convq_worker_cpu_seconds_total")
    names = ("resident_memory_bytes", "open_files", "threads", "start_time_seconds")
    families = [new_family(f"convq_worker_{name}") for name in names]
    for slot in slots:
        worker, pid = [str(slot.number)], slot.pid
        spent.add_metric(worker, slot.cpu_s())
        usage = usage_of(pid) if pid is not None else None
        files = open_files_of(pid) if pid is not None else None
        if usage is not None and files is not None:
            values = (usage.resident_bytes, files, usage.threads, usage.started_s)
            for family, value in zip(families, values, strict=True):
                family.add_metric(worker, value)
    return [spent, *families]


def _model_info(slots: Sequence[Slot]) -> Metric:
    family = new_family("convq_model_info")
    names = SERVICE_FAMILIES["convq_model_info"].labels
    live = [slot.models for slot in slots if slot.ready_since_s is not None]
    reports = [
        {"model": model, **row} for models in live for model, report in models.items() for row in report["engines"]
    ]
    for labels in sorted({tuple(row[name] for name in names) for row in reports}):
        family.add_metric(labels, 1)
    return family


def _states(versions: Mapping[str, Mapping[int, str]]) -> Metric:
    family = new_family("convq_model_version_state")
    for model, states in versions.items():
        for number, state in sorted(states.items()):
            family.add_metric([model, str(number), state], 1)
    return family


def _unfit(versions: Mapping[str, Mapping[int, str]], unfit: Mapping[str, Collection[int]]) -> Metric:
    family = new_family("convq_model_version_unfit")
    for model, states in versions.items():
        for number in sorted(number for number, state in states.items() if state != "refused"):
            family.add_metric([model, str(number)], number in unfit.get(model, ()))
    return family


def _clients(clients: Mapping[str, Mapping[str, int]]) -> Metric:
    family = new_family("convq_client_jobs_total")
    for model, jobs in clients.items():
        for name, count in sorted(jobs.items()):
            family.add_metric([model, name], count)
    return family


def _log_lines() -> Metric:
    family = new_family("convq_log_lines_dropped_total")
    family.add_metric([], logs.dropped())
    return family


def _build_info() -> Metric:
    family = new_family("convq_build_info")
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
