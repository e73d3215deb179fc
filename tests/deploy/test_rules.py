"""Prometheus' rules: valid, tested one by one, documented one by one, and asking only for what is exported."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from convq.cli import commands
from deploy.promql import RULES, exported, rules, selectors
from deploy.stand import DEPLOY, scaled
from servers import skip_or_fail

PAGE = (DEPLOY / "README.md").read_text()
UNIT_TESTS = sorted((DEPLOY / "prometheus" / "tests").glob("*.yml"))
ALERTS = rules("alert")
RECORDED = rules("record")
SEVERITIES = {"critical", "warning", "info"}
ANNOTATIONS = {"summary", "description", "runbook_url", "dashboard_url"}
OF_OTHERS = {"up", "redis_up", "redis_stream_length"} | {
    f"redis_{name}" for name in ("memory_used_bytes", "memory_max_bytes", "evicted_keys_total")
}
"""Prometheus' own and redis_exporter's; test_panels shows that the exporter of today has them."""


def checked(*command: str | Path) -> None:
    """Run a validator; fail with what it says unless it is content."""
    if shutil.which(str(command[0])) is None:
        skip_or_fail(f"{command[0]} is not installed")
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def unit_tests() -> list[dict[str, Any]]:
    return [case for file in UNIT_TESTS for case in yaml.safe_load(file.read_text())["tests"]]


def entry(alert: str) -> str:
    """What deploy/README.md says of an alert: from its heading to the next."""
    match = re.search(rf"^### {alert}\n(.*?)(?=^#|\Z)", PAGE, re.MULTILINE | re.DOTALL)
    assert match, f"no entry ### {alert} in deploy/README.md"
    return match[1]


def test_prometheus_and_alertmanager_take_their_configurations() -> None:
    checked("promtool", "check", "config", "--lint=all", "--lint-fatal", DEPLOY / "prometheus" / "prometheus.yml")
    checked("promtool", "check", "rules", "--lint=all", "--lint-fatal", *sorted(RULES.glob("*.yml")))
    checked("amtool", "check-config", DEPLOY / "alertmanager" / "alertmanager.yml")


@pytest.mark.parametrize("file", UNIT_TESTS, ids=lambda file: file.stem)
def test_alerts_fire_when_they_should_and_not_just_below(file: Path) -> None:
    checked("promtool", "test", "rules", file)


def test_every_alert_has_a_unit_test_in_which_it_fires_and_one_in_which_it_does_not() -> None:
    asked = [(case["name"], one) for case in unit_tests() for one in case["alert_rule_test"]]

    fired = {one["alertname"] for _, one in asked if one["exp_alerts"]}
    silent_throughout = {
        one["alertname"]
        for case in unit_tests()
        if not any(one["exp_alerts"] for one in case["alert_rule_test"])
        for one in case["alert_rule_test"]
    }
    assert set(ALERTS) == fired
    assert set(ALERTS) == silent_throughout
    assert [] == [name for name, one in asked if not name.startswith(one["alertname"] + ": ")]


@pytest.mark.parametrize("name", ALERTS)
def test_every_alert_says_how_urgent_it_is_what_people_feel_and_where_to_look(name: str) -> None:
    alert = ALERTS[name]
    dashboards = "|".join(path.stem for path in (DEPLOY / "grafana").glob("*.json"))

    assert alert["labels"]["severity"] in SEVERITIES
    assert set(alert["annotations"]) == ANNOTATIONS
    assert (
        f"{{{{ $externalLabels.convq_runbooks }}}}deploy/README.md#{name.lower()}"
        == alert["annotations"]["runbook_url"]
    )
    start = r"\{\{ \$externalLabels.convq_grafana \}\}"
    assert re.match(rf"{start}/d/convq-({dashboards})(\?|$)", alert["annotations"]["dashboard_url"])


@pytest.mark.parametrize("name", ALERTS)
def test_the_page_tells_of_every_alert_what_it_means_what_to_look_at_and_what_to_do(name: str) -> None:
    said = entry(name)

    assert re.findall(r"^\*\*(.+?)\.\*\*", said, re.MULTILINE) == ["Means", "Look at", "Do"]
    assert f"Severity {ALERTS[name]['labels']['severity']}" in said


def test_the_page_tells_of_no_alert_that_does_not_exist() -> None:
    assert set(ALERTS) == set(re.findall(r"^### (Convq\w+)$", PAGE, re.MULTILINE))
    assert set() == set(re.findall(r"\bConvq[A-Z]\w+", PAGE)) - set(ALERTS)


def test_the_convq_commands_that_the_page_names_exist_and_know_their_flags() -> None:
    sections = PAGE[PAGE.index("## The dashboard") : PAGE.index("## Security")]
    lines = re.findall(r"`convq ([a-z][^`]*)`", sections)

    assert lines
    for line in lines:
        command: click.Command = commands
        for word in line.split():
            if isinstance(command, click.Group) and not word.startswith("-"):
                assert word in command.commands, line
                command = command.commands[word]
            elif word.startswith("--"):
                assert word in {flag for parameter in command.params for flag in parameter.opts}, line


def test_the_panels_that_the_page_points_at_exist() -> None:
    sections = PAGE[PAGE.index("## Alerts") : PAGE.index("## Security")]
    titles = [
        panel["title"]
        for file in (DEPLOY / "grafana").glob("*.json")
        for panel in json.loads(file.read_text())["panels"]
    ]
    pointed_at = set(re.findall(r"(?<![*\w])\*([A-Z][^*\n]+)\*(?!\*)", sections))

    assert "Mean time by stage" in pointed_at
    assert set() == {words for words in pointed_at if not any(title.startswith(words) for title in titles)}


@pytest.mark.parametrize("name", [*ALERTS, *RECORDED])
def test_rules_ask_only_for_series_that_exist(name: str) -> None:
    asked = {one.name for one in selectors((ALERTS | RECORDED)[name]["expr"])}

    assert asked
    assert set() == asked - exported() - OF_OTHERS - set(RECORDED)


def test_recorded_series_are_named_level_metric_operation() -> None:
    assert [] == [name for name in RECORDED if not re.fullmatch(r"(model|stream):convq_[a-z0-9_]+:[a-z0-9_]+", name)]


def test_rules_about_redis_look_at_convqs_own_alone() -> None:
    """A Prometheus may watch other servers too."""
    asked = [one for rule in (ALERTS | RECORDED).values() for one in selectors(rule["expr"])]

    assert [] == [one.name for one in asked if one.name in OF_OTHERS and one.matchers.get("job") != ".*convq.*"]


def test_minutes_become_seconds_and_nothing_else_changes_where_rules_are_tried_out() -> None:
    text = "".join(file.read_text() for file in RULES.glob("*.yml"))
    spans = re.findall(r"\[(\d+\w+)\]|for: (\w+)$", text, re.MULTILINE)

    assert {"m"} == {(ranged or held)[-1] for ranged, held in spans}
    assert "rate(convq_jobs_total[5s]) > 60\n  for: 10s" == scaled("rate(convq_jobs_total[5m]) > 60\n  for: 10m")


def test_alertmanager_silences_consequences_of_alerts_that_exist() -> None:
    config = yaml.safe_load((DEPLOY / "alertmanager" / "alertmanager.yml").read_text())
    matchers = [
        matcher
        for rule in config["inhibit_rules"]
        for side in ("source", "target")
        for matcher in rule[f"{side}_matchers"]
    ]
    named: set[str] = set()
    for matcher in matchers:
        pattern = re.search(r'"(.+)"', matcher)
        assert pattern, matcher
        choices = re.fullmatch(r"Convq\((.+)\)", pattern[1])
        named |= {f"Convq{choice}" for choice in choices[1].split("|")} if choices else {pattern[1]}

    assert len(config["inhibit_rules"]) > 1
    assert set() == named - set(ALERTS)
