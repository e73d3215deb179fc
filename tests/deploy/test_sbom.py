"""The bill of materials that `make sbom` wrote: all that the service installs, in the versions that are pinned."""

from __future__ import annotations

import json
import re
import tomllib
from typing import Any

import pytest
from guarded import ROOT

from servers import skip_or_fail

BILL = ROOT / "dist" / "convq.cdx.json"


@pytest.fixture(scope="module")
def bill() -> dict[str, Any]:
    if not BILL.exists():
        skip_or_fail("no dist/convq.cdx.json: make sbom writes it")
    document: dict[str, Any] = json.loads(BILL.read_text())
    return document


def direct() -> set[str]:
    """Names of what `pip install .[cpu]` asks for itself."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *project["optional-dependencies"]["cpu"]]
    return {re.split(r"[\[<>=]", requirement)[0] for requirement in wanted}


def test_it_is_a_cyclonedx_document_about_convq(bill: dict[str, Any]) -> None:
    assert "CycloneDX" == bill["bomFormat"]
    assert "convq" == bill["metadata"]["component"]["name"]


def test_every_direct_dependency_is_in_it_as_pinned(bill: dict[str, Any]) -> None:
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = dict(line.split("==") for line in lines if "==" in line)
    found = {one["name"].lower().replace("_", "-"): one["version"] for one in bill["components"]}

    assert direct() <= set(found)
    assert {name: pinned[name] for name in found} == found
    assert set() == {"pip", "setuptools", "torch", "pytest"} & set(found)


def test_it_names_no_path_of_the_machine_that_wrote_it(bill: dict[str, Any]) -> None:
    assert "file://" not in json.dumps(bill)
    assert str(ROOT) not in json.dumps(bill)
