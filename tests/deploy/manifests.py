"""The manifests of deploy/kubernetes as kubectl would send them, and how the tests find their way in them."""

from __future__ import annotations

import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from servers import skip_or_fail

KUBERNETES = Path(__file__).resolve().parents[2] / "deploy" / "kubernetes"
SCHEMAS = Path(__file__).parent / "schemas"
OVERLAYS = tuple(sorted(path.name for path in (KUBERNETES / "overlays").iterdir()))
COMPONENTS = tuple(sorted(path.name for path in (KUBERNETES / "components").iterdir()))
VERSIONS = ("1.31", "1.36")
"""Of Kubernetes, from the oldest that knows every field used here (unhealthyPodEvictionPolicy without a gate) on."""

Resource = dict[str, Any]


def build(folder: Path) -> list[Resource]:
    """What kustomize makes of a folder. A warning is an error: it is how fields are said to go away."""
    if shutil.which("kubectl") is None:
        skip_or_fail("kubectl, which brings kustomize, is not installed")
    done = subprocess.run(["kubectl", "kustomize", str(folder)], capture_output=True, text=True, check=False)
    assert (0, "") == (done.returncode, done.stderr)
    return list(yaml.safe_load_all(done.stdout))


@cache
def overlay(name: str) -> tuple[Resource, ...]:
    """One of our overlays. Not to be changed: it is built once."""
    return tuple(build(KUBERNETES / "overlays" / name))


def of_kind(resources: Sequence[Resource], kind: str) -> list[Resource]:
    """All resources of one kind."""
    return [one for one in resources if one["kind"] == kind]


def the(resources: Sequence[Resource], kind: str, name: str = "") -> Resource:
    """The only resource of that kind whose name begins like that."""
    (one,) = (one for one in of_kind(resources, kind) if one["metadata"]["name"].startswith(name))
    return one


def workload(resources: Sequence[Resource]) -> Resource:
    """The Deployment of the workers."""
    return the(resources, "Deployment", "convq-worker")


def pods(resources: Sequence[Resource]) -> Iterator[tuple[str, Resource]]:
    """Name and template of everything that runs pods."""
    for one in resources:
        if "template" in one.get("spec", {}):
            yield one["metadata"]["name"], one["spec"]["template"]


def container(resource: Resource) -> Resource:
    """The only container of its pods."""
    (one,) = resource["spec"]["template"]["spec"]["containers"]
    return dict(one)


def environment(resources: Sequence[Resource]) -> dict[str, str]:
    """What a worker's container is started with, its limits looked up."""
    worker = container(workload(resources))
    found: dict[str, str] = {}
    for source in worker["envFrom"]:
        found |= the(resources, "ConfigMap", source["configMapRef"]["name"])["data"]
    for variable in worker.get("env", ()):
        field = variable.get("valueFrom", {}).get("resourceFieldRef")
        value = variable["value"] if field is None else _limit(worker, field["resource"])
        found[variable["name"]] = str(value)
    return found


def _limit(worker: Resource, name: str) -> Any:
    kind, _, resource = name.partition(".")
    return worker["resources"][kind][resource]


def wrong(resources: Sequence[Resource], folder: Path, version: str = VERSIONS[-1]) -> str:
    """What the schemas of Kubernetes `version`, and our own for the kinds of others, have against these; "" for nothing."""
    schemas = {path.stem: path for path in SCHEMAS.glob("*.json")}
    complaints = [
        _asked(("check_jsonschema", "--schemafile", str(path)), of_kind(resources, kind), folder)
        for kind, path in schemas.items()
    ]
    known = [one for one in resources if one["kind"] not in schemas]
    complaints.append(_asked(("kubernetes_validate", "-k", version, "--strict", "--quiet"), known, folder))
    return "".join(complaints)


def _asked(validator: Sequence[str], resources: Sequence[Resource], folder: Path) -> str:
    """What a validator says of these, where it does not end with 0."""
    if not resources:
        return ""
    files = [folder / f"{number}.yaml" for number in range(len(resources))]
    for file, resource in zip(files, resources, strict=True):
        file.write_text(yaml.safe_dump(resource))
    done = subprocess.run([sys.executable, "-m", *validator, *files], capture_output=True, text=True, check=False)
    return "" if done.returncode == 0 else done.stdout + done.stderr
