"""Makes components/monitoring/prometheusrule.yaml of the rules in deploy/prometheus/rules.

    python deploy/kubernetes/prometheusrule.py

`make manifests` runs it. kustomize reads no file outside its own folder and cannot put one into a resource, so the copy is
committed, and a test shows that it is what this makes. The text is moved, not parsed: comments and line breaks stay.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

DEPLOY = Path(__file__).resolve().parents[1]
RULES = DEPLOY / "prometheus" / "rules"
MADE = DEPLOY / "kubernetes" / "components" / "monitoring" / "prometheusrule.yaml"

HEAD = """\
# Made of deploy/prometheus/rules by `make manifests`. Edit those.
apiVersion: monitoring.coreos.com/v1
kind: PrometheusRule
metadata:
  name: convq
spec:
  groups:
"""


def prometheus_rule() -> str:
    """The resource, with the groups of every rules file in the order of their names."""
    return HEAD + "".join(
        line for file in sorted(RULES.glob("*.yml")) for line in _groups(file.read_text(encoding="utf-8"))
    )


def _groups(text: str) -> Iterator[str]:
    """The lines below `groups:`, a level deeper; empty ones stay empty."""
    _, _, groups = text.partition("\ngroups:\n")
    for line in groups.splitlines(keepends=True):
        yield f"  {line}" if line.strip() else line


if __name__ == "__main__":
    MADE.write_text(prometheus_rule(), encoding="utf-8")
