"""An error in the confined child that nobody foresaw says its type and text, and `--debug` shows where it was."""

from __future__ import annotations

from pathlib import Path

import click
import pytest

from convq.cli import commands, main
from convq.errors import ModelBroken
from convq.importer.dry_run import noted
from convq.importer.sandbox import ask

CHILD = """
from convq.importer.sandbox import answer_once
def stumble(question):
    return [].shape
if __name__ == "__main__":
    answer_once(stumble)
"""


def test_the_child_tells_type_text_and_traceback(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "stumbles.py").write_text(CHILD)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    answer = ask("stumbles", {}, within_s=60)
    assert "unexpected AttributeError: 'list' object has no attribute 'shape'" in answer["reason"]
    assert "return [].shape" in answer["traceback"]


@pytest.mark.parametrize("debug", [True, False])
def test_debug_shows_the_traceback_of_the_child(capsys: pytest.CaptureFixture[str], debug: bool) -> None:
    @click.command()
    def stumble() -> None:
        raise noted(ModelBroken("a.onnx: unexpected AttributeError"), "Traceback …\n  line 4, in stumble")

    commands.add_command(stumble, "stumble")
    try:
        assert 3 == main([*(["--debug"] if debug else []), "stumble"])
    finally:
        commands.commands.pop("stumble")
    assert debug == ("line 4, in stumble" in capsys.readouterr().err)
