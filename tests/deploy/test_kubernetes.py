"""The Kubernetes manifests: what the schemas say, and what they promise each other, the service and the queue.

No cluster is asked. `test_kubernetes_runs` starts what they would start.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from convq import __version__
from convq.errors import SettingsError
from convq.queue.keys import Shard
from convq.settings import VARIABLES, load_settings
from convq.supervisor.supervisor import GOODBYE_S
from deploy.manifests import (
    COMPONENTS,
    KUBERNETES,
    OVERLAYS,
    VERSIONS,
    Resource,
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

NOT_WHOLE = {"kustomization.yaml", "deployment.yaml", "references.yaml"}
"""Of a component: what it does to the resources of others."""


def files() -> list[Path]:
    """Whole resources, as they lie there."""
    base = [path for path in (KUBERNETES / "base").glob("*.yaml") if path.name != "kustomization.yaml"]
    return base + [path for path in (KUBERNETES / "components").glob("*/*.yaml") if path.name not in NOT_WHOLE]


def matches(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    """Whether a selector with `matchLabels` alone finds something."""
    assert {"matchLabels"} == set(selector)
    return bool(selector["matchLabels"].items() <= labels.items())


def labels_of(resource: Resource) -> dict[str, str]:
    """The labels of its pods."""
    return dict(resource["spec"]["template"]["metadata"]["labels"])


# -- schemas --------------------------------------------------------------------------------------------------------


def test_every_file_is_valid_by_itself(tmp_path: Path) -> None:
    resources = [yaml.safe_load(path.read_text()) for path in files()]

    assert {"Deployment", "StatefulSet", "ScaledObject", "PodMonitor"} <= {one["kind"] for one in resources}
    assert "" == wrong(resources, tmp_path)


@pytest.mark.parametrize("version", VERSIONS)
def test_every_overlay_is_built_and_valid(version: str, tmp_path: Path) -> None:
    resources = [one for name in OVERLAYS for one in overlay(name)]

    assert "" == wrong(resources, tmp_path, version)


@pytest.mark.parametrize("name", ["cpu", "cuda"])
def test_all_components_fit_on_either_worker(name: str, tmp_path: Path) -> None:
    root = os.path.relpath(KUBERNETES, tmp_path)
    mine = {
        "namespace": "convq",
        "resources": [f"{root}/overlays/{name}"],
        "components": [f"{root}/components/{component}" for component in COMPONENTS],
    }
    (tmp_path / "kustomization.yaml").write_text(yaml.safe_dump(mine))

    resources = build(tmp_path)

    assert {"/models", "/etc/convq/redis"} <= {
        mount["mountPath"] for mount in container(workload(resources))["volumeMounts"]
    }
    assert "/models" == environment(resources)["CONVQ_MODELS"]
    assert workload(resources)["metadata"]["name"] == the(resources, "ScaledObject")["spec"]["scaleTargetRef"]["name"]
    assert "replicas" not in workload(resources)["spec"]
    assert environment(resources)["CONVQ_REDIS_URL"].startswith("rediss://")
    assert "" == wrong(resources, tmp_path)


@pytest.mark.parametrize(
    ("kind", "path", "misspelt"),
    [
        ("Deployment", ("spec", "template", "spec"), "terminationGraceSeconds"),
        ("NetworkPolicy", ("spec",), "policyType"),
        ("ScaledObject", ("spec",), "coolDownPeriod"),
        ("TriggerAuthentication", ("spec",), "secretRef"),
        ("PodMonitor", ("spec",), "podMetricsEndpoint"),
        ("PrometheusRule", ("spec",), "group"),
    ],
)
def test_the_schemas_find_a_misspelt_field(kind: str, path: tuple[str, ...], misspelt: str, tmp_path: Path) -> None:
    resource = of_kind([yaml.safe_load(path.read_text()) for path in files()], kind)[0]
    place = resource
    for step in path:
        place = place[step]
    place[misspelt] = 1

    assert misspelt in wrong([resource], tmp_path)


# -- pods -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OVERLAYS)
def test_pods_have_no_rights_and_nothing_that_they_do_not_need(name: str) -> None:
    for pod, template in pods(overlay(name)):
        spec = template["spec"]
        context = spec["securityContext"]
        assert context["runAsNonRoot"] is True, pod
        assert context["runAsUser"] >= 999, pod
        assert {"type": "RuntimeDefault"} == context["seccompProfile"], pod
        assert spec["automountServiceAccountToken"] is False, pod
        assert not {"hostNetwork", "hostPID", "hostIPC"} & spec.keys(), pod
        kinds = {kind for one in spec["volumes"] for kind in one} - {"name"}
        assert kinds <= {"secret", "persistentVolumeClaim", "emptyDir"}, pod
        for one in spec["containers"]:
            assert {
                "allowPrivilegeEscalation": False,
                "capabilities": {"drop": ["ALL"]},
                "readOnlyRootFilesystem": True,
            } == one["securityContext"], pod
            assert {"cpu", "memory"} <= one["resources"]["limits"].keys(), pod
            assert one["resources"]["limits"] == one["resources"]["requests"], pod


@pytest.mark.parametrize("name", OVERLAYS)
def test_images_have_a_version_and_those_of_convq_have_ours(name: str) -> None:
    for _, template in pods(overlay(name)):
        for one in template["spec"]["containers"]:
            image, _, tag = one["image"].partition(":")
            assert re.match(r"\d+\.\d+", tag), one["image"]
            assert image != "convq" or tag in {__version__, f"{__version__}-cuda"}, one["image"]


@pytest.mark.parametrize("name", OVERLAYS)
def test_no_password_stands_in_a_manifest(name: str) -> None:
    resources = overlay(name)

    assert [] == of_kind(resources, "Secret")
    assert not re.search(r"://[^/\s]*:[^/\s]*@", yaml.safe_dump_all(resources))


def test_the_password_is_a_file_of_a_secret_that_is_replaced_when_the_secret_is() -> None:
    spec = workload(overlay("cpu"))["spec"]["template"]["spec"]
    file = Path(environment(overlay("cpu"))["CONVQ_REDIS_PASSWORD_FILE"])

    (mount,) = (
        one for one in container(workload(overlay("cpu")))["volumeMounts"] if Path(one["mountPath"]) == file.parent
    )
    assert "subPath" not in mount  # kubelet never renews such a file
    (volume,) = (one for one in spec["volumes"] if one["name"] == mount["name"])
    assert {"secretName": "convq-redis", "defaultMode": 0o440} == volume["secret"]
    assert spec["securityContext"]["fsGroup"] == spec["securityContext"]["runAsGroup"]  # whom 0440 lets read


# -- settings -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OVERLAYS)
def test_every_setting_exists_and_is_well_formed(name: str) -> None:
    ours = {one: value for one, value in environment(overlay(name)).items() if one.startswith("CONVQ_")}

    assert set() == ours.keys() - VARIABLES.keys()
    settings = load_settings({}, ours)
    assert ("cuda" if name == "cuda" else "cpu") == settings.device
    assert "0.0.0.0" == settings.http_address[0]  # noqa: S104 - what a pod must listen on
    assert {"name": "metrics", "containerPort": settings.http_address[1]} in container(workload(overlay(name)))["ports"]


def test_there_is_a_worker_process_for_each_core_or_gpu() -> None:
    cores = container(workload(overlay("cpu")))["resources"]["limits"]["cpu"]
    gpus = container(workload(overlay("cuda")))["resources"]["limits"]["nvidia.com/gpu"]

    assert cores.isdecimal()
    assert (cores, gpus) == (
        environment(overlay("cpu"))["CONVQ_WORKERS"],
        environment(overlay("cuda"))["CONVQ_WORKERS"],
    )


@pytest.mark.parametrize("name", OVERLAYS)
def test_no_service_of_the_namespace_gets_into_the_settings(name: str) -> None:
    injected = {"CONVQ_REDIS_PORT": "tcp://10.0.0.5:6379"}  # what a Service called convq-redis would add

    with pytest.raises(SettingsError):
        load_settings({}, injected)
    assert workload(overlay(name))["spec"]["template"]["spec"]["enableServiceLinks"] is False


@pytest.mark.parametrize("name", OVERLAYS)
def test_a_pod_is_given_longer_than_its_drain_takes(name: str) -> None:
    drain_s = float(environment(overlay(name))["CONVQ_DRAIN"])
    grace_s = workload(overlay(name))["spec"]["template"]["spec"]["terminationGracePeriodSeconds"]

    assert drain_s + 1.0 + GOODBYE_S[0] + 5.0 <= grace_s


# -- who finds whom -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", OVERLAYS)
def test_selectors_find_the_workers(name: str) -> None:
    resources = overlay(name)
    labels = labels_of(workload(resources))
    spec = workload(resources)["spec"]

    assert matches(spec["selector"], labels)
    assert matches(the(resources, "PodDisruptionBudget", "convq-worker")["spec"]["selector"], labels)
    assert matches(the(resources, "NetworkPolicy", "convq-worker")["spec"]["podSelector"], labels)
    for constraint in spec["template"]["spec"]["topologySpreadConstraints"]:
        assert matches(constraint["labelSelector"], labels)
    for monitor in of_kind(resources, "PodMonitor"):
        assert matches(monitor["spec"]["selector"], labels)
        assert ["metrics"] == [one["port"] for one in monitor["spec"]["podMetricsEndpoints"]]
        assert "convq" == labels[monitor["spec"]["jobLabel"]]


def test_workers_on_cpu_and_on_cuda_run_side_by_side() -> None:
    cpu, cuda = overlay("cpu"), overlay("cuda")
    names = [{(one["kind"], one["metadata"]["name"]) for one in resources} for resources in (cpu, cuda)]

    assert {("Namespace", "convq")} == names[0] & names[1]
    assert not matches(workload(cpu)["spec"]["selector"], labels_of(workload(cuda)))
    assert not matches(workload(cuda)["spec"]["selector"], labels_of(workload(cpu)))


@pytest.mark.parametrize("name", OVERLAYS)
def test_workers_may_speak_to_redis_and_the_resolver_and_be_scraped_and_nothing_else(name: str) -> None:
    resources = overlay(name)
    spec = the(resources, "NetworkPolicy", "convq-worker")["spec"]
    redis_port = urlsplit(environment(resources)["CONVQ_REDIS_URL"]).port

    assert ["Ingress", "Egress"] == spec["policyTypes"]
    assert [[("metrics", "TCP")]] == [[(p["port"], p["protocol"]) for p in rule["ports"]] for rule in spec["ingress"]]
    resolver, queue = spec["egress"]
    assert {(53, "UDP"), (53, "TCP")} == {(p["port"], p["protocol"]) for p in resolver["ports"]}
    assert resolver["to"]
    assert [(redis_port, "TCP")] == [(p["port"], p["protocol"]) for p in queue["ports"]]


def test_the_demo_brings_the_redis_that_its_workers_ask_for() -> None:
    resources = overlay("demo")
    server = the(resources, "StatefulSet")
    url = urlsplit(environment(resources)["CONVQ_REDIS_URL"])
    service = the(resources, "Service", str(url.hostname))

    assert url.port == service["spec"]["ports"][0]["port"] == container(server)["ports"][0]["containerPort"]
    assert service["spec"]["selector"].items() <= labels_of(server).items()
    (allowed,) = the(resources, "NetworkPolicy", "convq-worker")["spec"]["egress"][1]["to"]
    assert matches(allowed["podSelector"], labels_of(server))
    guarding = the(resources, "NetworkPolicy", "redis")["spec"]
    assert matches(guarding["podSelector"], labels_of(server))
    assert matches(guarding["ingress"][0]["from"][0]["podSelector"], labels_of(workload(resources)))
    assert guarding["policyTypes"] == ["Ingress", "Egress"]
    assert "egress" not in guarding


# -- scaling --------------------------------------------------------------------------------------------------------


def test_keda_adds_up_every_stream_of_every_model_that_the_workers_serve() -> None:
    resources = overlay("keda")
    spec = the(resources, "ScaledObject")["spec"]
    served = load_settings({}, {"CONVQ_ONLY": environment(resources)["CONVQ_ONLY"]}).only
    streams = [stream for model in served for stream in Shard(model).streams]
    modifiers = spec["advanced"]["scalingModifiers"]

    assert sorted(streams) == sorted(one["metadata"]["stream"] for one in spec["triggers"])
    assert [one["name"] for one in spec["triggers"]] == re.split(r"\s*\+\s*", modifiers["formula"])
    assert {modifiers["target"]} == {one["metadata"]["streamLength"] for one in spec["triggers"]}
    assert {"redis-streams"} == {one["type"] for one in spec["triggers"]}
    assert not [
        one for one in spec["triggers"] if "consumerGroup" in one["metadata"]
    ]  # it would ask for pending jobs alone


def test_keda_scales_the_workers_asks_their_redis_and_alone_sets_their_number() -> None:
    resources = overlay("keda")
    spec = the(resources, "ScaledObject")["spec"]
    url = urlsplit(environment(resources)["CONVQ_REDIS_URL"])

    assert workload(resources)["metadata"]["name"] == spec["scaleTargetRef"]["name"]
    assert {f"{url.hostname}.convq.svc:{url.port}"} == {one["metadata"]["address"] for one in spec["triggers"]}
    assert "replicas" not in workload(resources)["spec"]
    authentication = the(resources, "TriggerAuthentication")
    assert {authentication["metadata"]["name"]} == {one["authenticationRef"]["name"] for one in spec["triggers"]}
    asked = authentication["spec"]["secretTargetRef"]
    assert {("convq-keda", "username"), ("convq-keda", "password")} == {(one["name"], one["key"]) for one in asked}
