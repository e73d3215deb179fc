"""The dashboards as files: made by their script, and in keeping with the rules of Grafana's dashboard-linter and our own."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from deploy.drawing import KINDS, draw
from deploy.pictures import PICTURES, rows_of
from deploy.promql import GROWING, Selector, exported, rules, selectors
from deploy.stand import DEPLOY

FOLDER = DEPLOY / "grafana"
NAMES = ("service", "model")
Json = dict[str, Any]
OF_ONE_SERVICE = re.compile(r"convq_(queue|consumers|dead_letter_length)")
"""The queue's series: one elected service exports them, so that a choice of services must not hide them."""
OF_ALL = {"ALERTS"}


def document(name: str) -> Json:
    loaded: Json = json.loads((FOLDER / f"{name}.json").read_text())
    return loaded


def panels(name: str) -> list[Json]:
    """All panels, those of collapsed rows too; rows not."""
    everything = [one for panel in document(name)["panels"] for one in (panel, *panel.get("panels", []))]
    return [panel for panel in everything if panel["type"] != "row"]


PANELS = [pytest.param(panel, id=f"{name}: {panel['title']}") for name in NAMES for panel in panels(name)]


def asked(panel: Json) -> Iterator[Selector]:
    for target in panel["targets"]:
        yield from selectors(target["expr"])


def test_the_committed_dashboards_are_what_the_script_makes(tmp_path: Path) -> None:
    subprocess.run([sys.executable, FOLDER / "dashboards.py", tmp_path], check=True)

    assert set(NAMES) == {file.stem for file in FOLDER.glob("*.json")}
    for name in NAMES:
        assert (tmp_path / f"{name}.json").read_text() == (FOLDER / f"{name}.json").read_text(), "run make dashboards"


@pytest.mark.parametrize("name", NAMES)
def test_a_dashboard_has_one_source_and_choices_that_follow_the_time_range(name: str) -> None:
    board = document(name)
    choices = {one["name"]: one for one in board["templating"]["list"]}
    sources = [one["name"] for one in choices.values() if one["type"] == "datasource"]

    assert ["datasource"] == sources
    assert {"job", "instance", "model"} <= set(choices)
    assert {2} == {one["refresh"] for one in choices.values() if one["type"] == "query"}
    assert (f"convq-{name}", False) == (board["uid"], board["editable"])


@pytest.mark.parametrize("name", NAMES)
def test_every_variable_that_queries_use_can_be_chosen_and_every_choice_is_used(name: str) -> None:
    used = set(re.findall(r"\$(\w+)", " ".join(t["expr"] for panel in panels(name) for t in panel["targets"])))
    choices = {one["name"] for one in document(name)["templating"]["list"]}

    assert choices - {"datasource"} == used - {"__rate_interval"}


@pytest.mark.parametrize("name", NAMES)
def test_panels_lie_beside_each_other(name: str) -> None:
    board = document(name)
    places = [panel["gridPos"] for panel in board["panels"]]
    taken = [
        (x, y)
        for place in places
        for x in range(place["x"], place["x"] + place["w"])
        for y in range(place["y"], place["y"] + place["h"])
    ]
    numbers = [one["id"] for panel in board["panels"] for one in (panel, *panel.get("panels", []))]

    assert len(taken) == len(set(taken))
    assert max(x for x, _ in taken) < 24
    assert len(numbers) == len(set(numbers))


@pytest.mark.parametrize("panel", PANELS)
def test_a_panel_says_what_it_shows_in_which_unit_and_asks_the_chosen_source(panel: Json) -> None:
    assert panel["title"]
    assert panel["description"].endswith(".")
    assert panel["fieldConfig"]["defaults"]["unit"]
    assert {"${datasource}"} == {one["datasource"]["uid"] for one in (panel, *panel["targets"])}
    assert len(panel["targets"]) == len({target["refId"] for target in panel["targets"]})


@pytest.mark.parametrize("panel", PANELS)
def test_a_panel_asks_only_for_series_that_exist(panel: Json) -> None:
    ours = {one.name for one in asked(panel) if not re.match(r"redis_|kube_|keda_", one.name)}

    assert set() == ours - exported() - set(rules("record")) - OF_ALL


@pytest.mark.parametrize("panel", PANELS)
def test_a_panel_keeps_to_the_chosen_deployment_and_services(panel: Json) -> None:
    for one in asked(panel):
        if one.name in OF_ALL or re.match(r"kube_|keda_", one.name):
            continue
        assert "job" in one.matchers, one
        of_queue = OF_ONE_SERVICE.match(one.name) or one.name in rules("record")
        assert bool(of_queue) != ("instance" in one.matchers), one


@pytest.mark.parametrize("panel", PANELS)
def test_a_panel_looks_at_counters_as_rates_over_the_interval_that_grafana_chooses(panel: Json) -> None:
    assert [] == [one for one in asked(panel) if one.name.endswith(GROWING) != one.is_rated]
    ranges = {found for target in panel["targets"] for found in re.findall(r"\[(.+?)\]", target["expr"])}
    assert ranges <= {"$__rate_interval"}


@pytest.mark.parametrize("name", NAMES)
def test_links_lead_to_dashboards_that_exist(name: str) -> None:
    known = {document(one)["uid"] for one in NAMES}
    text = (FOLDER / f"{name}.json").read_text()

    assert set(re.findall(r"/d/([a-z-]+)", text)) <= known
    assert [["convq"]] == [link["tags"] for link in document(name)["links"] if link["type"] == "dashboards"]
    assert ["convq"] == document(name)["tags"]


def test_every_panel_that_is_pictured_can_be_drawn(tmp_path: Path) -> None:
    """With two made-up series for each query; `make pictures` draws real ones."""
    values = [(second, str(second % 7)) for second in range(20)]
    series = [{"metric": {"le": le, "model": "lenet", "stage": "queue"}, "values": values} for le in ("0.1", "+Inf")]
    panels_of_row = [panel for name, rows in PICTURES.values() for panel in rows_of(name, rows)]

    assert set(KINDS) == {panel["type"] for panel in panels_of_row} - {"row"}
    for name, rows in PICTURES.values():
        draw(rows_of(name, rows), lambda _: series, 20.0, [(5.0, "something")], tmp_path / "drawn.png")
    with Image.open(tmp_path / "drawn.png") as drawn:
        assert "PNG" == drawn.format
        assert 8 < len(drawn.convert("RGB").getcolors(1 << 24) or [])


@pytest.mark.parametrize("name", PICTURES)
def test_the_pictures_are_small_enough_for_a_page(name: str) -> None:
    assert 10_000 < (FOLDER / f"{name}.png").stat().st_size < 300_000


def test_grafana_is_told_of_the_folder_and_of_the_scrape_interval() -> None:
    provisioning = FOLDER / "provisioning"
    source = yaml.safe_load((provisioning / "datasources" / "prometheus.yml").read_text())["datasources"][0]
    provider = yaml.safe_load((provisioning / "dashboards" / "convq.yml").read_text())["providers"][0]
    prometheus = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())

    assert prometheus["global"]["scrape_interval"] == source["jsonData"]["timeInterval"]
    assert "/var/lib/grafana/dashboards" == provider["options"]["path"]
