"""EfficientNet-Lite0, where `make models` has built it: known photographs through the queue, known answers."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from convq.engine.engine import Engine
from convq.repository.manifest import Manifest
from servers import OwnServer, wait_until
from services import Plain, RunningService, models_served

NAME = "efficientnet_lite0"
MODELS = Path(__file__).resolve().parents[2] / "models"
FOLDER = MODELS / NAME
BUILT = (FOLDER / "manifest.toml").is_file()
PARITY = 1e-4

pytestmark = pytest.mark.skipif(not BUILT, reason=f"{NAME} is not built; `make models` does that")

KNOWN = {
    "skimage/data/coffee.png": (967, "espresso"),
    "skimage/data/chelsea.png": (282, "tiger cat"),
    "skimage/data/rocket.jpg": (657, "missile"),
    "sklearn/datasets/images/china.jpg": (698, "palace"),
    "sklearn/datasets/images/flower.jpg": (985, "daisy"),
}
"""Photographs that come with scikit-image and scikit-learn -> number and name of the best class."""


def photograph(name: str) -> Path | None:
    """Where the installed package keeps it; the package itself is not imported."""
    package, _, inner = name.partition("/")
    spec = importlib.util.find_spec(package)
    return Path(spec.origin).parent / inner if spec is not None and spec.origin is not None else None


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """What the service says of every photograph there is, by one `convq submit`."""
    there = {name: file for name in KNOWN if (file := photograph(name)) is not None and file.is_file()}
    if not there:
        pytest.skip("neither scikit-image nor scikit-learn is installed")
    with OwnServer(tmp_path_factory.mktemp("server")) as server:
        with RunningService(server.url, "--only", NAME, workers=1), Plain(server.url) as plain:
            wait_until(lambda: NAME in models_served(plain))
            command = ["submit", "--redis", server.url, "--model", NAME, "--json", *map(str, there.values())]
            done = subprocess.run(
                [sys.executable, "-m", "convq", *command], capture_output=True, timeout=250, check=True
            )
    return dict(zip(there, map(json.loads, done.stdout.splitlines()), strict=True))


@pytest.mark.parametrize("name", KNOWN)
def test_known_photographs_get_their_known_answers_through_the_queue(
    answers: dict[str, dict[str, Any]], name: str
) -> None:
    if name not in answers:
        pytest.skip(f"{name.partition('/')[0]} is not installed")
    index, label = KNOWN[name]

    assert "ok" == answers[name]["status"]
    assert (index, label) == (answers[name]["predictions"][0]["index"], answers[name]["predictions"][0]["label"])


def test_it_is_as_sure_of_the_coffee_as_its_authors_weights_are(answers: dict[str, dict[str, Any]]) -> None:
    """0.951; with symmetric padding in the strided convolutions it would be 0.934."""
    if "skimage/data/coffee.png" not in answers:
        pytest.skip("skimage is not installed")

    assert 0.951 == pytest.approx(answers["skimage/data/coffee.png"]["predictions"][0]["score"], abs=0.004)


@pytest.fixture(scope="module")
def engine() -> Engine:
    loaded = Engine.load(FOLDER, 1, device="cpu")
    loaded.warm_up()
    return loaded


def test_the_report_counts_what_the_paper_counts() -> None:
    report = json.loads((FOLDER / "1" / "report.json").read_text())

    assert 4_652_008 == report["parameters"]
    assert 385 == report["macs"] // 10**6
    assert PARITY > max(report["max_difference"].values())


def test_every_class_has_a_name_of_its_own(engine: Engine) -> None:
    assert 1000 == len(engine.labels)
    assert 1000 == len(set(engine.labels))


def test_feature_maps_shrink_as_the_network_says(engine: Engine) -> None:
    image = np.zeros((224, 224, 3), dtype=np.uint8)

    made = engine.run([engine.prepare(image)], ["stem", "block3", "block5"])

    assert {"logits": (1, 1000), "stem": (1, 32, 112, 112), "block3": (1, 24, 56, 56), "block5": (1, 40, 28, 28)} == {
        name: values.shape for name, values in made.items()
    }


def test_the_manifest_is_the_template() -> None:
    manifest, template = ((FOLDER / name).read_text() for name in ("manifest.toml", "manifest.template.toml"))

    assert template == manifest.partition("\n")[2]
    assert Manifest.read(FOLDER).classes is not None
