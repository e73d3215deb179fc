"""A model is added as a whole or not at all, by whoever asks: without the command, and with its refusals as types."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from convq.errors import ConvqError, ModelBroken, NotPlaced, RequestRefused, SettingsError
from convq.importer.adding import AddRequest, add_model
from convq.importer.dry_run import dry_run
from convq.importer.findings import Overrides
from convq.repository.model_folders import ModelRepository
from onnx_models import FLOAT, Value, graph

LABELS = ("red", "green", "blue")


def classifier(folder: Path, name: str = "x") -> Path:
    """The mean of each of three channels of 4 x 4 pixels, of an input called `name`."""
    ends: tuple[Value, Value] = (name, FLOAT, ["n", 3, 4, 4]), ("y", FLOAT, ["n", 3])
    nodes = [("GlobalAveragePool", [name], ["p"]), ("Flatten", ["p"], ["y"])]
    file = folder / f"{name}.onnx"
    file.write_bytes(graph(nodes, ends[:1], ends[1:]))
    return file


def everything(root: Path) -> dict[str, bytes]:
    """Each file below a folder, and what it holds."""
    return {str(path.relative_to(root)): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


def refusal(request: AddRequest) -> ConvqError:
    """What a request ends with, which leaves the repository as it was."""
    before = everything(request.root)
    with pytest.raises(ConvqError) as caught:
        add_model(request)
    assert before == everything(request.root)
    assert [] == list(request.root.glob(".adding-*"))
    return caught.value


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """An empty repository."""
    (tmp_path / "models").mkdir()
    return tmp_path / "models"


def test_a_new_model_is_there_and_says_how_it_came_about(tmp_path: Path, root: Path) -> None:
    wishes = Overrides(color="bgr", mean=(0.4, 0.5, 0.6))
    added = add_model(AddRequest(classifier(tmp_path), root, "means", labels=LABELS, wishes=wishes))

    assert ("means", 1, root / "means", None) == (added.name, added.version, added.path, added.settled)
    sources = {f"{one.table}.{one.key}": (one.value, one.source) for one in added.findings}
    assert ("bgr", "given") == sources["input.color"]
    assert ((0.4, 0.5, 0.6), "given") == sources["input.mean"]
    assert {"input.scale", "input.std"} <= set(added.assumed)
    assert not {"input.color", "input.mean", "input.layout"} & set(added.assumed)
    assert json.loads((root / "means" / "1" / "report.json").read_text()) == added.report
    assert "red\ngreen\nblue\n" == (root / "means" / "1" / "labels.txt").read_text()
    assert added.check["ok"]
    assert dry_run(root / "means", 1).ok
    assert ["means"] == [path.name for path in root.iterdir()]


def test_a_file_for_a_model_that_is_there_becomes_its_next_version_and_the_first_one_stays(
    tmp_path: Path, root: Path
) -> None:
    file = classifier(tmp_path)
    add_model(AddRequest(file, root, "means", labels=LABELS))
    first = everything(root / "means" / "1")

    added = add_model(AddRequest(file, root, "means"))

    assert (2, (), [], []) == (added.version, added.findings, added.assumed, added.settled)
    assert (1, 2) == ModelRepository.open(root)["means"].versions
    assert first == everything(root / "means" / "1")


def test_what_a_next_version_cannot_have_is_refused_with_the_field_that_is_to_blame(tmp_path: Path, root: Path) -> None:
    file = classifier(tmp_path)
    add_model(AddRequest(file, root, "means", labels=LABELS))
    requests = {
        "name": AddRequest(file, root, "../means"),
        "version": AddRequest(file, root, "means", version=1),
        "labels": AddRequest(file, root, "means", labels=LABELS),
        "size": AddRequest(file, root, "means", wishes=Overrides(height=8, width=8)),
        "max-batch": AddRequest(file, root, "means", wishes=Overrides(max_batch=1)),
    }

    errors = {field: refusal(request) for field, request in requests.items()}

    assert all(isinstance(error, RequestRefused) for error in errors.values())
    assert {field: field for field in requests} == {
        field: error.field for field, error in errors.items() if isinstance(error, RequestRefused)
    }
    assert "no --max-batch" in str(errors["max-batch"])


@pytest.mark.parametrize("version", [0, -1, 1_000_000_000])
def test_a_number_that_no_version_can_have_is_refused(tmp_path: Path, root: Path, version: int) -> None:
    error = refusal(AddRequest(classifier(tmp_path), root, "means", version=version))

    assert isinstance(error, RequestRefused)
    assert "version" == error.field


def test_names_of_classes_for_numbers_are_refused(tmp_path: Path, root: Path) -> None:
    wishes = Overrides(task="tensor")
    error = refusal(AddRequest(classifier(tmp_path), root, "means", labels=LABELS, wishes=wishes))

    assert isinstance(error, RequestRefused)
    assert "labels" == error.field


def test_each_step_that_fails_leaves_the_repository_as_it_was(tmp_path: Path, root: Path) -> None:
    other = classifier(tmp_path, "z")
    add_model(AddRequest(classifier(tmp_path), root, "means", labels=LABELS))
    (tmp_path / "no.onnx").write_bytes(b"\x08\x08no graph")

    read = refusal(AddRequest(tmp_path / "missing.onnx", root, "new"))
    probed = refusal(AddRequest(tmp_path / "no.onnx", root, "new"))
    contradicted = refusal(AddRequest(other, root, "new", labels=("one", "two")))
    tried = refusal(AddRequest(other, root, "means"))

    assert [ModelBroken, ModelBroken, SettingsError, ModelBroken] == [
        type(error) for error in (read, probed, contradicted, tried)
    ]
    assert f"{other}: the graph's input is z; the manifest says input.name = x" in str(tried)


class Meanwhile(tuple[str, ...]):
    """Names of classes; while they are read, somebody else puts a model into the place."""

    __slots__ = ()
    place: Path

    def __iter__(self) -> Iterator[str]:
        type(self).place.mkdir(exist_ok=True)
        (type(self).place / "manifest.toml").write_text("theirs")
        return super().__iter__()


def test_who_is_too_late_is_told_so_and_what_is_there_stays(tmp_path: Path, root: Path) -> None:
    Meanwhile.place = root / "means"

    with pytest.raises(NotPlaced) as caught:
        add_model(AddRequest(classifier(tmp_path), root, "means", labels=Meanwhile(LABELS)))

    assert caught.value.is_taken
    assert {"means/manifest.toml": b"theirs"} == everything(root)


def test_a_repository_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no folder")

    with pytest.raises(NotPlaced, match=r"file/models: cannot be written: ") as caught:
        add_model(AddRequest(classifier(tmp_path), tmp_path / "file" / "models", "means"))

    assert not caught.value.is_taken
