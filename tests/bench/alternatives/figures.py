"""What was measured, summed up, and as a table."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from convq.harness.latency import Latency

NAMES = {
    "bare_1": "onnxruntime, one image a run",
    "bare_64": "onnxruntime, batches of 64",
    "convq": "convq",
    "celery": "Celery",
    "mosec": "mosec",
}
REFERENCE = "bare_1"


@dataclass(frozen=True)
class Rate:
    """What one turn of one system found out: how many jobs a second, and processor time of all its processes for each."""

    jobs_per_s: float
    cpu_ms: float


def throughput(turns: Mapping[str, Sequence[Rate]]) -> dict[str, Any]:
    """The medians of each system's turns, their range, and the median of their ratios to the reference in the same round."""
    bare = [turn.jobs_per_s for turn in turns[REFERENCE]]
    return {name: _summed(list(found), bare) for name, found in turns.items()}


def _summed(turns: Sequence[Rate], bare: Sequence[float]) -> dict[str, Any]:
    rates = [turn.jobs_per_s for turn in turns]
    return {
        "jobs_per_s": round(statistics.median(rates)),
        "lowest": round(min(rates)),
        "highest": round(max(rates)),
        "ratio": round(statistics.median(rate / of for rate, of in zip(rates, bare, strict=True)), 2),
        "cpu_ms": round(statistics.median(turn.cpu_ms for turn in turns), 2),
    }


def latency(spent_ms: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Percentiles of all rounds together."""
    return {
        name: {"p50_ms": round(found.p50_ms, 1), "p99_ms": round(found.p99_ms, 1), "jobs": len(spent)}
        for name, spent in spent_ms.items()
        for found in [Latency.of(spent)]
    }


def killed(runs: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The jobs of all runs by what became of them, and the longest time from a kill to the last answer of its run."""
    sums = {key: sum(run[key] for run in runs) for key in ("once", "twice", "failed", "never")}
    return {**sums, "last_answer_s": round(max(run["last_answer_s"] for run in runs), 1)}


def table(report: Mapping[str, Any]) -> str:
    """For people."""
    lines = [f"{'':30}{'jobs/s':>8}{'(range)':>16}{'ratio':>7}{'cpu ms':>8}{'p50 ms':>9}{'p99 ms':>9}"]
    for name, found in report["throughput"].items():
        spent = report["latency"].get(name, {"p50_ms": "", "p99_ms": ""})
        span = f"{found['lowest']:,}-{found['highest']:,}"
        line = f"{NAMES[name]:30}{found['jobs_per_s']:>8,}{span:>16}{found['ratio']:>7}{found['cpu_ms']:>8}"
        lines.append(f"{line}{spent['p50_ms']:>9}{spent['p99_ms']:>9}")
    for part, what in (("worker_killed", "a worker killed"), ("service_killed", "one of two services killed")):
        lines += ["", f"{what:30}{'once':>8}{'twice':>8}{'failed':>8}{'never':>8}{'last answer after':>20}"]
        for name, found in report[part].items():
            counts = "".join(f"{found[key]:>8,}" for key in ("once", "twice", "failed", "never"))
            lines.append(f"{NAMES[name]:30}{counts}{found['last_answer_s']:>18} s")
    loads = report["machine"]
    lines += ["", f"{loads['cores']} cores, load {loads['load_before'][0]} before and {loads['load_after'][0]} after"]
    return "\n".join(lines)
