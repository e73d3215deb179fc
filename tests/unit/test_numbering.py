"""What belongs to a version, and that a number is given once: on folders alone, without a network."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path

import pytest

from convq.errors import ModelBroken
from convq.repository.keeping import keep_with, next_number, place, settle, was_given
from convq.repository.manifest import Manifest
from convq.repository.model_folders import missing_in
from convq.repository.numbering import LEDGER, Mark, ledger_of, mark_of, record, reused
from convq.repository.version_files import HOLDS, VersionFiles, differing

CLASSES = "[[outputs]]\nname = 'logits'\nmeaning = 'classes'\nlabels = 'labels.txt'\n"


def sha_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def make(model: Path, number: int, graph: str, **more: object) -> Path:
    """A version whose graph is only a text: nothing here opens it."""
    folder = model / str(number)
    folder.mkdir(parents=True)
    (folder / "model.onnx").write_text(graph)
    (folder / "report.json").write_text(json.dumps({"sha256": sha_of(graph), **more}))
    return folder


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A model with a manifest, two labels and version 1."""
    folder = tmp_path / "models" / "it"
    make(folder, 1, "one")
    (folder / "manifest.toml").write_text(CLASSES)
    (folder / "labels.txt").write_text("cat\ndog\n")
    return folder


# -- what belongs to a version ----------------------------------------------------------------------------------------


def test_what_lies_in_the_version_wins_and_the_rest_is_the_models(model: Path) -> None:
    make(model, 2, "two")
    (model / "2" / "labels.txt").write_text("owl\nfox\nelk\n")
    make(model, 3, "three")
    (model / "3" / "manifest.toml").write_text("description = 'third'\n")

    assert ("cat", "dog") == VersionFiles.of(model, 1).labels()
    assert ("owl", "fox", "elk") == VersionFiles.of(model, 2).labels()
    assert ("third", ()) == (VersionFiles.of(model, 3).manifest.description, VersionFiles.of(model, 3).labels())


def test_a_version_that_was_kept_is_what_it_was_whatever_becomes_of_the_model(model: Path) -> None:
    before = mark_of(model, 1)
    assert ["labels.txt", "manifest.toml"] == keep_with(model, 1)

    assert before == mark_of(model, 1), "the copies are what held before"
    (model / "manifest.toml").write_text(CLASSES + "[feature_maps]\nconv1 = 'relu:0'\n[limits]\nmax_batch = 1\n")
    (model / "labels.txt").write_text("owl\nfox\nelk\n")
    assert before == mark_of(model, 1)
    assert {} == VersionFiles.of(model, 1).manifest.feature_maps
    assert ["feature_maps.conv1", "limits.max_batch"] == differing(
        VersionFiles.of(model, 1).manifest, Manifest.read(model)
    )


def test_a_broken_manifest_of_a_version_is_named_with_its_folder(model: Path) -> None:
    (model / "1" / "manifest.toml").write_text("input = 3\n")

    with pytest.raises(ModelBroken, match=r"it/1/manifest\.toml:1"):
        VersionFiles.of(model, 1)


def test_a_version_without_what_its_report_names_is_not_whole(model: Path) -> None:
    folder = make(model, 2, "two", **{HOLDS: ["manifest.toml", "sample/seven.png", "../1/model.onnx", "/etc/none", 3]})

    assert "is not whole: it has no manifest.toml and no sample/seven.png" == missing_in(folder)
    (folder / "manifest.toml").touch()
    (folder / "sample").mkdir()
    (folder / "sample" / "seven.png").touch()
    assert "" == missing_in(folder)


# -- numbers ----------------------------------------------------------------------------------------------------------


def test_a_number_is_never_given_twice_whatever_was_deleted(model: Path) -> None:
    for number in (2, 3):
        made = make(model.parent / "made" / "it", number, f"graph {number}")
        (made.parent / "manifest.toml").write_text("")
        assert number == next_number(model)
        place(made, model, number)
    shutil.rmtree(model / "3")

    assert 4 == next_number(model)
    assert was_given(model, 3)
    again = make(model.parent / "made" / "it", 3, "another")
    with pytest.raises(FileExistsError, match="the number 3 was given before"):
        place(again, model, 3)
    assert {1, 2, 3} == ledger_of(model).keys()
    assert again.exists()


def test_the_same_files_may_come_back_and_others_may_not(model: Path) -> None:
    keep_with(model, 1)
    record(model, {1: mark_of(model, 1, only_own=True)})
    shutil.copytree(model / "1", model.parent / "aside")
    shutil.rmtree(model / "1")
    shutil.copytree(model.parent / "aside", model / "1")
    assert "" == reused(1, ledger_of(model).get(1), mark_of(model, 1))

    (model / "1" / "labels.txt").write_text("dog\ncat\n")
    assert "with another manifest or other labels" in reused(1, ledger_of(model).get(1), mark_of(model, 1))

    shutil.rmtree(model / "1")
    make(model, 1, "another")
    assert "was given to another network" in reused(1, ledger_of(model).get(1), mark_of(model, 1))


def test_what_is_not_the_versions_own_may_change_with_the_model(model: Path) -> None:
    record(model, {1: mark_of(model, 1, only_own=True)})
    (model / "labels.txt").write_text("dog\ncat\n")

    assert "" == reused(1, ledger_of(model).get(1), mark_of(model, 1))


@pytest.mark.parametrize("content", ["", "[]", "3", '{"1": 3}', '{"1": {}}', "{" * 100_000])
def test_a_ledger_that_no_tool_has_written_is_named(model: Path, content: str) -> None:
    (model / LEDGER).write_text(content)

    with pytest.raises(ModelBroken, match=r"versions\.json"):
        ledger_of(model)


def test_a_number_that_nothing_is_known_of_is_free() -> None:
    assert "" == reused(1, None, Mark("a", "b"))


# -- settling ---------------------------------------------------------------------------------------------------------


def test_a_manifest_that_breaks_a_kept_version_is_refused(model: Path) -> None:
    with pytest.raises(ModelBroken, match=r"does not fit version 1, .* it has no output relu:0"):
        settle(model, lambda _: "it has no output relu:0")

    assert not (model / "1" / "manifest.toml").exists()


def test_kept_versions_get_what_holds_for_them(model: Path) -> None:
    make(model, 2, "two")
    (model / "2" / "model.onnx").write_text("cut")
    make(model, 3, "three")
    (model / "3" / "manifest.toml").write_text("")
    make(model, 4, "four").joinpath("report.json").unlink()

    assert [1] == settle(model, lambda _: "")
    assert CLASSES == (model / "1" / "manifest.toml").read_text()
    assert "cat\ndog\n" == (model / "1" / "labels.txt").read_text()
    assert not (model / "2" / "manifest.toml").exists()
