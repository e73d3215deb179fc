"""Graphs whose names are made for terminals or have no end: every command shows them harmlessly, or refuses them with the bound."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from convq.importer.dry_run import dry_run
from convq.repository.bounds import MOST_DESCRIBED_BYTES, MOST_NAME_CHARACTERS, MOST_OUTPUTS
from e2e.test_hostile_text import EVIL, NAMED, assert_harmless, on_terminal
from onnx_models import FLOAT, STRING, graph, model_folder

SHAPE = ["n", 3, 8, 8]
TENSORS = '[input]\ncolor = "none"\n'


def plain(input_name: str = "x", output: str = "y", **node: Any) -> bytes:
    return graph([("Identity", [input_name], [output], node)], [(input_name, FLOAT, SHAPE)], [(output, FLOAT, None)])


def beside(location: str) -> bytes:
    """A weight that lies in another file."""
    import onnx  # noqa: PLC0415 - not needed by the others

    model = onnx.load_model_from_string(plain())
    tensor = onnx.TensorProto(name="w", dims=[1], data_type=1, data_location=1)
    tensor.external_data.add(key="location", value=location)
    model.graph.initializer.append(tensor)
    return bytes(model.SerializeToString())


SPOKEN: dict[str, Callable[[], bytes]] = {
    "tensors": lambda: plain(EVIL, EVIL + "2", name=EVIL),
    "operator": lambda: graph([(EVIL, ["x"], ["y"])], [("x", FLOAT, SHAPE)], [("y", FLOAT, None)]),
    "domain": lambda: graph([("Relu", ["x"], ["y"], {"domain": EVIL})], [("x", FLOAT, SHAPE)], [("y", FLOAT, None)]),
    "kind": lambda: graph([("Identity", [EVIL], [EVIL + "2"])], [(EVIL, STRING, SHAPE)], [(EVIL + "2", STRING, SHAPE)]),
    "missing": lambda: graph([("Add", ["x", EVIL], ["y"])], [("x", FLOAT, SHAPE)], [("y", FLOAT, None)]),
    "weights": lambda: beside(NAMED),
}


@pytest.mark.parametrize("name", SPOKEN)
def test_what_a_graph_calls_its_parts_is_shown_harmlessly(name: str, tmp_path: Path) -> None:
    file, root = tmp_path / f"{NAMED}.onnx", tmp_path / "models"
    file.write_bytes(SPOKEN[name]())
    folder = model_folder(root / "there", TENSORS, SPOKEN[name]())

    added = on_terminal("models", "add", file, "--name", "new", "--models", root)
    others = [on_terminal("models", verb, "there", "--models", root) for verb in ("check", "show")]

    for screen in (added, *others):
        assert_harmless(screen, shows=False)
        assert screen.strip()
    assert "owned" in added
    refused = dry_run(folder, 1).reason
    assert not set(refused) & set("\n\r"), refused


@pytest.mark.parametrize("name", ["line\nfeed\u202egpj.onnx", os.fsdecode(b"\xff\xfe\x1b.onnx")])
def test_a_file_may_be_called_anything(name: str, tmp_path: Path) -> None:
    file = tmp_path / name
    file.write_bytes(plain())

    screen = on_terminal("models", "add", file, "--name", "m", "--models", tmp_path / "models", "--json")

    assert_harmless(screen, shows=False)
    assert '"name": "m"' in screen


def many(count: int, name: str = "out") -> bytes:
    nodes = [("Identity", ["x"], [f"{name}{i}"]) for i in range(count)]
    return graph(nodes, [("x", FLOAT, SHAPE)], [(f"{name}{i}", FLOAT, SHAPE) for i in range(count)])


BEYOND: dict[str, tuple[Callable[[], bytes], str]] = {
    "input": (lambda: plain("i" * 300), f"has 300 characters; at most {MOST_NAME_CHARACTERS}"),
    "output": (lambda: plain("x", "o" * 3_000_000), f"has 3000000 characters; at most {MOST_NAME_CHARACTERS}"),
    "thousands": (lambda: many(10_000), f"it has 10000 outputs and feature maps; at most {MOST_OUTPUTS}"),
    "together": (lambda: many(MOST_OUTPUTS, "\U0001f600" * 200), f"to describe; at most {MOST_DESCRIBED_BYTES}"),
}


@pytest.mark.parametrize("name", BEYOND)
def test_names_and_numbers_without_end_are_refused_with_the_bound(name: str, tmp_path: Path) -> None:
    made, expected = BEYOND[name]
    file = tmp_path / "odd.onnx"
    file.write_bytes(made())
    command = [
        sys.executable,
        "-m",
        "convq",
        "models",
        "add",
        str(file),
        "--name",
        "new",
        "--models",
        str(tmp_path / "m"),
    ]

    done = subprocess.run(command, capture_output=True, text=True, timeout=250, check=False)
    found = dry_run(model_folder(tmp_path / "old", TENSORS, made()), 1)

    assert (3, True) == (done.returncode, expected in done.stderr), done.stderr[-500:]
    assert (3, True) == (found.exit_code, expected in found.reason), found.reason[:500]
    assert max(len(done.stderr), len(found.reason)) < 1000


@pytest.mark.parametrize(
    "text",
    [
        f'[feature_maps]\n{"m" * 300} = "y"\n',
        f'[feature_maps]\nm = "{"y" * 300}"\n',
        f'[[outputs]]\nname = "{"y" * 300}"\n',
        f'[input]\nname = "{"y" * 300}"\n',
        "[feature_maps]\n" + "".join(f'm{i} = "y"\n' for i in range(MOST_OUTPUTS + 1)),
        f'description = "{"d" * 5000}"\n',
    ],
)
def test_a_manifest_says_no_more_than_a_service_can_repeat(text: str, tmp_path: Path) -> None:
    found = dry_run(model_folder(tmp_path / "old", text, plain()), 1)

    assert (3, True) == (found.exit_code, "at most" in found.reason), found.reason
    assert len(found.reason) < 1000
