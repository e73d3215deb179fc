"""`convq submit --format yolo`: the names of the classes beside the files of the pictures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from convq.cli.display.labelling import Given, LabelWriter
from convq.protocol import Result


def answer(index: int, label: str) -> Result:
    box = {"label": label, "index": index, "score": 0.5, "box": [0, 0, 1, 1]}
    said = {"image": {"width": 2, "height": 2}, "detections": [box]}
    return Result.model_validate({"id": "1", "entry": "1-0", "model": "m", "status": "ok", **said}, strict=False)


def test_classes_that_are_told_only_by_answers_have_their_lines(tmp_path: Path) -> None:
    """Of many long labels a service tells the first: the lines of the others are those of what was found."""
    pictures = [Given(f"{name}.png", f"{name}.png", f"{name}.png") for name in "ab"]
    given: dict[str, Any] = {"format": "yolo", "save": tmp_path, "masks": None}
    served = {"answers": {"detections": {"labels": ["cat", "dog"]}}}

    writer = LabelWriter(given, pictures, "m", served, {})
    writer.write(zip(pictures, [answer(4, "bee"), answer(1, "dog")], strict=True))

    assert ["cat", "dog", "#2", "#3", "bee"] == (tmp_path / "classes.txt").read_text().splitlines()
    assert "4 0.25" in (tmp_path / "a.txt").read_text()
