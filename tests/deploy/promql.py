"""What rules and dashboards ask for: the selectors inside a PromQL expression, and the names that convq exports."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import promql_parser
import yaml

from convq.ipc.series import WORKER_SERIES
from convq.supervisor.exposition.metrics import documented_metrics

RULES = Path(__file__).parents[2] / "deploy" / "prometheus" / "rules"
PARTS = ("_bucket", "_count", "_sum")
GROWING = ("_total", *PARTS)


@dataclass(frozen=True)
class Selector:
    """One vector selector, and the functions around it, from the outside in."""

    name: str
    matchers: dict[str, str] = field(default_factory=dict)
    inside: tuple[str, ...] = ()

    @property
    def is_rated(self) -> bool:
        """Whether it is looked at as a rate."""
        return bool({"rate", "increase"} & set(self.inside))


def selectors(expression: str) -> list[Selector]:
    """Every selector of an expression; ValueError where it is no PromQL. Grafana's variables are read as some value."""
    text = expression.replace("$__rate_interval", "5m")
    return list(_selectors(promql_parser.parse(re.sub(r"\$\w+", "value", text)), ()))


def _selectors(node: Any, inside: tuple[str, ...]) -> Iterator[Selector]:
    if isinstance(node, promql_parser.MatrixSelector):
        node = node.vector_selector
    if isinstance(node, promql_parser.VectorSelector):
        yield Selector(node.name or "", {one.name: one.value for one in node.matchers.matchers}, inside)
        return
    if isinstance(node, promql_parser.Call):
        inside = (*inside, node.func.name)
        children = node.args
    elif isinstance(node, promql_parser.BinaryExpr):
        children = [node.lhs, node.rhs]
    else:
        children = [getattr(node, "expr", None)]
    for child in children:
        if child is not None:
            yield from _selectors(child, inside)


def exported() -> set[str]:
    """The names of all series on /metrics."""
    histograms = {series.name for series in WORKER_SERIES if series.kind == "histogram"}
    plain = set(documented_metrics()) - histograms
    return plain | {name + part for name in histograms for part in PARTS}


def rules(kind: str) -> dict[str, dict[str, Any]]:
    """Every rule of deploy/prometheus/rules of a kind, "alert" or "record", by name."""
    groups = [group for file in sorted(RULES.glob("*.yml")) for group in yaml.safe_load(file.read_text())["groups"]]
    return {rule[kind]: rule for group in groups for rule in group["rules"] if kind in rule}
