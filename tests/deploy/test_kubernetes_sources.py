"""What the Kubernetes manifests repeat, compared with where it stands first: rules, dashboards, the page for operators."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

import yaml

from convq import __version__
from deploy.manifests import (
    COMPONENTS,
    KUBERNETES,
    OVERLAYS,
    build,
    container,
    environment,
    of_kind,
    overlay,
    pods,
    the,
    workload,
    wrong,
)

README = KUBERNETES.parent / "README.md"
MADE = KUBERNETES / "components" / "monitoring" / "prometheusrule.yaml"


def kubernetes_page() -> str:
    """The section of deploy/README.md."""
    _, _, rest = README.read_text().partition("\n## Kubernetes\n")
    return rest.partition("\n## ")[0]


def test_the_rules_of_the_operator_are_those_of_prometheus() -> None:
    rules = sorted((KUBERNETES.parent / "prometheus" / "rules").glob("*.yml"))
    groups = [group for file in rules for group in yaml.safe_load(file.read_text())["groups"]]

    assert groups
    assert groups == yaml.safe_load(MADE.read_text())["spec"]["groups"], "make manifests"


def test_the_dashboards_are_those_of_grafana() -> None:
    folder = KUBERNETES.parent / "grafana"
    boards = {path.name: path.read_text() for path in folder.glob("*.json")}
    maps = [
        one for one in of_kind(overlay("keda"), "ConfigMap") if "grafana_dashboard" in one["metadata"].get("labels", {})
    ]

    assert boards
    assert boards == {name: text for one in maps for name, text in one["data"].items()}


def test_the_page_names_every_overlay_and_component() -> None:
    page = kubernetes_page()

    assert [] == [name for name in OVERLAYS if f"overlays/{name}" not in page]
    assert [] == [name for name in COMPONENTS if f"components/{name}" not in page]


def test_the_kustomization_of_the_page_does_what_it_says(tmp_path: Path) -> None:
    (mine,) = re.findall(r"```yaml\n(.*?)```", kubernetes_page(), re.DOTALL)
    (tmp_path / "convq").symlink_to(KUBERNETES.parents[1])  # kustomize follows it to the folder itself
    (tmp_path / "kustomization.yaml").write_text(mine)

    resources = build(tmp_path)

    assert "images.example.org/convq:" + __version__ == container(workload(resources))["image"]
    server = urlsplit(environment(resources)["CONVQ_REDIS_URL"]).netloc.partition("@")[2]
    assert {server} == {one["metadata"]["address"] for one in the(resources, "ScaledObject")["spec"]["triggers"]}
    assert [{"ipBlock": {"cidr": "10.20.30.40/32"}}] == the(resources, "NetworkPolicy")["spec"]["egress"][1]["to"]
    assert "" == wrong(resources, tmp_path)


def test_the_page_makes_every_secret_that_the_manifests_want() -> None:
    made = dict(re.findall(r"create secret generic (\S+) (.*)", kubernetes_page()))
    resources = [one for name in OVERLAYS for one in overlay(name)]
    mounted = {
        volume["secret"]["secretName"]
        for _, template in pods(resources)
        for volume in template["spec"]["volumes"]
        if "secret" in volume
    }
    asked = the(overlay("keda"), "TriggerAuthentication")["spec"]["secretTargetRef"]

    assert made.keys() == mounted | {one["name"] for one in asked}
    assert "--from-file=password=deploy/secrets/worker" == made["convq-redis"]
    assert "--from-file=deploy/secrets/users.acl" == made["convq-redis-server"]
    for one in asked:
        assert f"--from-literal={one['key']}=" in made[one["name"]]
