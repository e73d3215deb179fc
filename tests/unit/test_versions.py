"""What the keeper of versions makes of a folder by itself, without workers."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

import pytest

from convq.errors import ModelBroken, RedisUnavailable
from convq.ipc.series import LAYOUT
from convq.ipc.shared_memory import Board
from convq.queue import Address
from convq.queue.refusals import Refusals
from convq.queue.transport.link import Link
from convq.repository.model_folders import default_root, with_way
from convq.settings import Settings
from convq.supervisor.beat.refusal_book import RefusalBook
from convq.supervisor.beat.troubles import Troubles
from convq.supervisor.rollout import looks
from convq.supervisor.rollout.controller import RolloutController
from convq.supervisor.rollout.lineup import Lineup
from convq.supervisor.rollout.trials import Trials
from convq.supervisor.roster import Roster
from convq.threads import Watch
from servers import wait_until


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return Path(shutil.copytree(default_root() / "lenet", tmp_path / "models" / "lenet"))


def keeper(model: Path, *required: str) -> RolloutController:
    names = sorted(path.name for path in model.parent.iterdir())

    def announce(_model: str, _description: Mapping[str, object] | None) -> None:
        pass

    board, watch = Board(LAYOUT, 1, len(names)), Watch(logging.getLogger("test"))
    settings = Settings(only=required, device="cpu")
    lineup = Lineup(model.parent, required, Roster(names), board)
    return RolloutController(lineup, settings, [], board, announce, nothing_known(), watch)


def nothing_known() -> RefusalBook:
    """There is no server at that address."""
    book = RefusalBook(Refusals(Link(Address.of("redis://127.0.0.1:1"))), Troubles(logging.getLogger("test"), ""), list)
    with suppress(RedisUnavailable):
        book.keep()
    return book


def test_a_copy_that_stopped_half_way_is_said_after_a_while_and_served_when_it_is_whole(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(looks, "HALF_FOR_S", 0.0)
    found = keeper(model)
    found.start()
    try:
        (model / "2").mkdir()
        shutil.copy(model / "1" / "report.json", model / "2")
        wait_until(lambda: {1: "serving", 2: "refused"} == found.lineup.states()["lenet"], 30)

        for name in ("model.onnx", "features.onnx"):
            shutil.copy(model / "1" / name, model / "2")
        wait_until(lambda: "serving" == found.lineup.states()["lenet"].get(2), 60)
    finally:
        found.stop()


def test_a_copy_that_goes_on_is_left_alone(model: Path) -> None:
    (model / "2").mkdir()
    found = keeper(model)

    assert {1: "serving", 2: "refused"} == found.lineup.states()["lenet"]  # at the start it is said at once

    shutil.rmtree(model / "2")
    found = keeper(model)
    found.start()
    try:
        (model / "3").mkdir()
        wait_until(lambda: 3 in found._models["lenet"].halves, 30)
        assert {1: "serving"} == found.lineup.states()["lenet"]
    finally:
        found.stop()


def test_a_trial_that_is_over_is_not_begun_again_before_its_verdict_is_taken(model: Path) -> None:
    (model / "1" / "report.json").write_text("none")
    trials = Trials("cpu", 60.0, [], None, Watch(logging.getLogger("test")))

    assert trials.begin(model, 1, lambda _: "as it was")
    wait_until(lambda: not trials.under_way("lenet"), 60)

    assert not trials.begin(model, 1, lambda _: "as it was")
    assert [1] == [verdict.version for verdict in trials.take("lenet")]
    assert trials.begin(model, 1, lambda _: "as it was")
    wait_until(lambda: not trials.under_way("lenet"), 60)
    assert trials.begin(model, 1, lambda _: "changed")


def test_of_several_models_those_that_are_not_required_may_be_broken(model: Path) -> None:
    shutil.copytree(model, model.parent / "other")
    (model.parent / "other" / "1" / "model.onnx").unlink()

    assert ["lenet"] == list(keeper(model).lineup.plans())
    assert {1: "refused"} == keeper(model).lineup.states()["other"]
    with pytest.raises(ModelBroken, match=r"other/1: is not whole: it has no model\.onnx"):
        keeper(model, "other")


def test_with_no_model_left_the_last_reason_is_the_errors(model: Path) -> None:
    (model / "1" / "report.json").unlink()

    with pytest.raises(ModelBroken, match=r"lenet/1: is not whole: it has no report\.json"):
        keeper(model)


def test_a_reason_names_files_from_the_model_on_where_the_folder_of_models_is_relative(
    model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(model / "1", model / "2")
    monkeypatch.chdir(model.parent.parent)
    found = keeper(Path("models") / "lenet")

    found.pass_over("lenet", 2, f"{model}/2/model.onnx: is odd")

    assert "lenet/2/model.onnx: is odd" == found._models["lenet"].reasons()[2]


@pytest.mark.parametrize(
    ("folder", "text", "expected"),
    [
        ("models", "models/lenet/1: is not whole", "lenet/1: is not whole"),
        ("models", "/srv/models/lenet/1: is not whole", "/srv/models/lenet/1: is not whole"),
        ("/models", "/srv/models/lenet/1: is not whole", "/srv/models/lenet/1: is not whole"),
        ("/models", "no file '/models/lenet/1' (/models/a)", "no file 'lenet/1' (a)"),
        ("/a/my models", "/a/my models/lenet/1: is odd", "lenet/1: is odd"),
        (".", "cut at 1./2, ./lenet/1: is odd", "cut at 1./2, lenet/1: is odd"),
    ],
)
def test_the_way_to_a_folder_is_left_out_where_a_path_begins_with_it(folder: str, text: str, expected: str) -> None:
    assert expected == with_way(text, Path(folder), "")


def test_the_way_to_a_relative_folder_is_known_by_its_absolute_name_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    for folder in ("models", "./models/../models"):
        assert "here/m/1: is odd" == with_way(f"{tmp_path}/models/m/1: is odd", Path(folder), "here/")
