"""The commands that install what is missing: real names of packages, for this environment, whatever convq came from."""

from __future__ import annotations

import re
import shlex
import sys
import tomllib
from pathlib import Path

import pytest

from convq.host import extras
from convq.host.extras import install, install_anew, packages_of

ROOT = Path(__file__).parents[2]
EXTRAS: dict[str, list[str]] = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]


def names(requirements: list[str]) -> set[str]:
    """The distributions of requirements, and of extras of convq's own those that are behind them."""
    found: set[str] = set()
    for one in requirements:
        own = re.fullmatch(r"convq\[(\w+)\]", one)
        found |= names(EXTRAS[own[1]]) if own else {re.split(r"[\[<>=]", one)[0]}
    return found


@pytest.mark.parametrize("extra", EXTRAS)
def test_the_packages_of_an_extra_are_those_of_the_project_and_none_is_convq(extra: str) -> None:
    assert names(EXTRAS[extra]) == names(packages_of(extra))
    assert "convq" not in names(packages_of(extra))


def test_the_command_is_for_this_interpreter_and_survives_a_shell() -> None:
    program, *words = shlex.split(install("cpu"))

    assert sys.executable == program
    assert ["-P", "-m", "pip", "install"] == words[:4]
    assert packages_of("cpu") == words[4:]
    assert "'onnxruntime>=1.21.0'" in install("cpu"), "or the shell would write into a file"


def test_what_is_damaged_or_of_the_other_kind_is_taken_away_first() -> None:
    gone, _, brought = install_anew("cuda").partition(" && ")

    assert ["uninstall", "-y", "onnxruntime", "onnxruntime-gpu"] == shlex.split(gone)[4:]
    assert packages_of("cuda") == shlex.split(brought)[5:]


def test_an_environment_of_uv_is_served_by_uv_and_one_of_neither_gets_a_sentence(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(extras, "find_spec", lambda _: None)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert "has no pip" in install("cpu")
    assert "pip install '.[cpu]'" in install_anew("cpu")

    (tmp_path / "uv").write_text("#!/bin/sh\n")
    (tmp_path / "uv").chmod(0o755)
    assert f"uv pip install --python {sys.executable} 'numpy>=2.0.0'" in install("cpu")
