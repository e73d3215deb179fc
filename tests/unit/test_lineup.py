"""Which models come and go, by folders alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from convq.supervisor.rollout.lineup import Arrivals, Changes
from convq.supervisor.roster import Roster


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return folder(tmp_path / "models", "known").parent


def folder(root: Path, name: str) -> Path:
    made = root / name
    made.mkdir(parents=True)
    (made / "manifest.toml").touch()
    return made


def test_a_model_has_come_after_two_looks(root: Path) -> None:
    arrivals = Arrivals(root, ())
    assert Changes() == arrivals.look(["known"])
    folder(root, "new")
    for other in (".adding-x", "Wrong Name", "x" * 65):
        folder(root, other)
    (root / "empty").mkdir()

    assert Changes() == arrivals.look(["known"])
    assert Changes(came=("new",)) == arrivals.look(["known"])


def test_only_those_that_are_named_come(root: Path) -> None:
    arrivals = Arrivals(root, ("known", "named"))
    for name in ("other", "named"):
        folder(root, name)
    arrivals.look(["known"])

    assert Changes(came=("named",)) == arrivals.look(["known"])


def test_a_model_has_gone_after_two_looks_and_not_where_only_its_manifest_has(root: Path, tmp_path: Path) -> None:
    arrivals = Arrivals(root, ())
    folder(root, "other")
    arrivals.look(["known", "other"])
    (root / "other" / "manifest.toml").unlink()
    (root / "known").rename(tmp_path / "aside")
    arrivals.look(["known", "other"])
    assert Changes(went=("known",)) == arrivals.look(["known", "other"])

    (tmp_path / "aside").rename(root / "known")
    assert Changes() == arrivals.look(["known", "other"])


def test_a_folder_of_models_that_went_away_says_nothing(root: Path, tmp_path: Path) -> None:
    arrivals = Arrivals(root, ())
    arrivals.look(["known"])
    root.rename(tmp_path / "aside")
    with pytest.raises(FileNotFoundError):
        arrivals.look(["known"])
    root.mkdir()  # as the folder below a mount

    assert [Changes()] * 3 == [arrivals.look(["known"]) for _ in range(3)]

    folder(root, "new")  # another folder of models is one when it holds some
    arrivals.look(["known"])
    assert Changes(came=("new",), went=("known",)) == arrivals.look(["known"])


def test_the_last_model_can_go_too(root: Path, tmp_path: Path) -> None:
    arrivals = Arrivals(root, ())
    arrivals.look(["known"])
    (root / "known").rename(tmp_path / "aside")
    arrivals.look(["known"])

    assert Changes(went=("known",)) == arrivals.look(["known"])


def test_a_manifest_that_cannot_be_read_is_read_again_when_it_has_changed(root: Path) -> None:
    (folder(root, "new") / "manifest.toml").write_text("[input")
    arrivals = Arrivals(root, ())

    assert [None, None] == [arrivals.adopt("new") for _ in range(2)]
    assert {"new"} == arrivals.unreadable.keys()
    (root / "new" / "manifest.toml").write_text("description = 'it'")
    made = arrivals.adopt("new")
    assert made is not None
    assert (True, None) == (made.lost, made.index)
    assert {} == arrivals.unreadable


def test_places_are_taken_once_and_given_back() -> None:
    roster = Roster(["a", "b"], spare=1)

    assert [0, 2, 2, None] == [roster.take(name) for name in ("a", "c", "c", "d")]
    roster.leave("a")
    roster.leave("nobody")
    assert (0, ["d", "b", "c"], 3) == (roster.take("d"), list(roster), len(roster))
