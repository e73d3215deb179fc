"""Makes Grafana's two dashboards of the tables in panels.py.

    python deploy/grafana/dashboards.py [FOLDER]

writes service.json and model.json into FOLDER, by default beside this file. `make dashboards` runs it; nobody edits JSON.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from panels import DASHBOARDS, SELECTORS, Panel, Row

Json = dict[str, Any]

SOURCE = {"type": "prometheus", "uid": "${datasource}"}
REFRESHED_ON_TIME_RANGE = 2
COLUMNS = 24
LETTERS = "ABCDEFGH"
TO_MODEL = "/d/convq-model?var-datasource=${datasource}&var-job=${job:raw}&var-model=${__field.labels.model}&${__url_time_range}"
TO_ALERT = "/alerting/list?search=${__field.labels.alertname}"


def dashboard(name: str, title: str, tells: str, rows: tuple[Row, ...]) -> Json:
    """One dashboard, as Grafana imports and provisions it."""
    return {
        "uid": f"convq-{name}",
        "title": title,
        "description": tells,
        "tags": ["convq"],
        "schemaVersion": 39,
        "editable": False,
        "graphTooltip": 1,
        "refresh": "15s",
        "time": {"from": "now-30m", "to": "now"},
        "timezone": "browser",
        "templating": {"list": variables(name)},
        "annotations": {"list": [alerts_on_graphs()]},
        "links": [to_the_other_dashboard(), to_the_alerts()],
        "panels": list(laid_out(rows)),
    }


# -- panels -----------------------------------------------------------------------------------------------------------


def laid_out(rows: tuple[Row, ...]) -> Iterator[Json]:
    """Rows and their panels, each with its number and place: from left to right, a new line where the width ends."""
    number, top = 0, 0
    for row in rows:
        number += 1
        heading = {"id": number, "type": "row", "title": row.title, "collapsed": row.collapsed, "panels": []}
        heading["gridPos"] = {"x": 0, "y": top, "w": COLUMNS, "h": 1}
        top += 1
        left, high, inside = 0, 0, []
        for panel in row.panels:
            if left + panel.wide > COLUMNS:
                left, top = 0, top + high
            number, high = number + 1, panel.high
            place = {"x": left, "y": top, "w": panel.wide, "h": panel.high}
            inside.append({"id": number, "gridPos": place, **drawn(panel)})
            left += panel.wide
        top += high
        if row.collapsed:
            heading["panels"], inside = inside, []
        yield heading
        yield from inside


def drawn(panel: Panel) -> Json:
    """One panel, without its place."""
    return {
        "type": panel.kind,
        "title": panel.title,
        "description": panel.tells,
        "datasource": SOURCE,
        "targets": [target(panel, *pair) for pair in zip(LETTERS, panel.queries, strict=False)],
        "fieldConfig": {"defaults": field(panel), "overrides": []},
        "options": options(panel),
        "transformations": columns(panel) if panel.kind == "table" else [],
    }


def target(panel: Panel, letter: str, query: tuple[str, str]) -> Json:
    """One query. Stats and tables show what is now, everything else what was."""
    expression, legend = query
    for short, matchers in SELECTORS.items():
        expression = expression.replace(short, matchers)
    now = panel.kind == "table"
    form = {"table": "table", "heatmap": "heatmap"}.get(panel.kind, "time_series")
    shape = {"instant": now, "range": not now, "format": form}
    return {"refId": letter, "datasource": SOURCE, "expr": expression, "legendFormat": legend or "__auto", **shape}


def field(panel: Panel) -> Json:
    """Unit, colours and lines of what a panel shows."""
    steps: list[Json] = [{"color": "green", "value": None}]
    if panel.red_from is not None:
        steps.append({"color": "red", "value": panel.red_from})
    known: Json = {"unit": panel.unit, "thresholds": {"mode": "absolute", "steps": steps}, "links": []}
    if panel.to_model:
        known["links"] = [{"title": "This model", "url": TO_MODEL}]
    if panel.kind == "timeseries":
        stacking = {"mode": "normal" if panel.stacked else "none"}
        known["custom"] = {"lineWidth": 1, "fillOpacity": 40 if panel.stacked else 10, "stacking": stacking}
        known["min"] = 0
    if panel.kind == "state-timeline":
        known["custom"] = {"fillOpacity": 80, "lineWidth": 0}
        known["mappings"] = [{"type": "value", "options": {"0": {"text": "no"}, "1": {"text": "yes"}}}]
        known["links"] = [{"title": "The rule", "url": TO_ALERT}] if "ALERTS" in panel.queries[0][0] else []
    return known


def options(panel: Panel) -> Json:
    """What the kind of panel can be told besides."""
    if panel.kind == "timeseries":
        return {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi", "sort": "desc"}}
    if panel.kind == "stat":
        return {"reduceOptions": {"calcs": ["lastNotNull"]}, "graphMode": "area", "colorMode": "value"}
    if panel.kind == "heatmap":
        return {"calculate": False, "yAxis": {"unit": panel.unit}, "cellValues": {"unit": "short"}}
    return {}


def columns(panel: Panel) -> list[Json]:
    """A table shows labels; the time and the 1 that carries them are left out."""
    return [{"id": "organize", "options": {"excludeByName": dict.fromkeys(panel.hidden, True)}}]


# -- what both dashboards have ----------------------------------------------------------------------------------------


def variables(name: str) -> list[Json]:
    """The choices at the head: which Prometheus, deployment, service, model, and which Redis or namespace."""
    source = {"name": "datasource", "label": "Prometheus", "type": "datasource", "query": "prometheus"}
    choices = [
        choice("job", "Deployment", "label_values(convq_build_info, job)"),
        choice("instance", "Service", 'label_values(convq_build_info{job=~"$job"}, instance)'),
        choice("model", "Model", 'label_values(convq_workers{job=~"$job"}, model)', several=name == "service"),
    ]
    if name == "service":
        choices.append(choice("redis", "Redis exporter", 'label_values(redis_up{job=~".*convq.*"}, instance)'))
        named = 'label_values(kube_deployment_spec_replicas{deployment=~"convq.*"}, namespace)'
        choices.append(choice("namespace", "Namespace", named))
    return [source, *choices]


def choice(name: str, label: str, query: str, *, several: bool = True) -> Json:
    """One variable, filled from the labels that Prometheus has in the time range."""
    everything = {"includeAll": True, "multi": True, "allValue": ".*"} if several else {"includeAll": False}
    asked = {"datasource": SOURCE, "query": {"query": query, "refId": name}, "definition": query}
    when = {"refresh": REFRESHED_ON_TIME_RANGE, "sort": 1}
    return {"name": name, "label": label, "type": "query", **asked, **when, **everything}


def alerts_on_graphs() -> Json:
    """Marks the times at which alerts fired, on all graphs."""
    expression = 'ALERTS{alertname=~"Convq.+", alertstate="firing"}'
    shown = {"titleFormat": "{{alertname}}", "textFormat": "{{model}} {{instance}}", "iconColor": "red"}
    return {"name": "Alerts", "datasource": SOURCE, "enable": True, "expr": expression, "step": "60s", **shown}


def to_the_other_dashboard() -> Json:
    """By tag, with the same time and choices."""
    return {"type": "dashboards", "title": "convq", "tags": ["convq"], "keepTime": True, "includeVars": True}


def to_the_alerts() -> Json:
    """Grafana's own list of the rules in Prometheus, with their links to deploy/README.md."""
    return {"type": "link", "title": "Alerts", "icon": "bell", "url": "/alerting/list?search=Convq"}


if __name__ == "__main__":
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parent
    for name, (title, tells, rows) in DASHBOARDS.items():
        document = dashboard(name, title, tells, rows)
        (folder / f"{name}.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
