"""Which models a service has: those of its start, those whose folders came since, less those whose folders went.

One look is not believed: a folder that is being exchanged is not there for a moment. A folder of models that cannot be read,
or that is another one than before and empty (a mount that went away), says nothing about any model.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from convq.errors import ModelBroken
from convq.ipc.plans import Plan
from convq.ipc.shared_memory import Board
from convq.logs import event
from convq.repository.manifest import FILE
from convq.repository.model_folders import NAME, with_way
from convq.supervisor.rollout.served_models import ServedModel, Stamp, stamp_of
from convq.supervisor.roster import Roster

log = logging.getLogger("convq.supervisor")

LOOK_EVERY_S = 1.0
CAME = "a model came: it is served once a version of it has passed its trial"
WENT = "a model was removed: workers finish what they have of it; jobs that wait in its queue stay there"
EXCHANGED = "a model was replaced by another one of its name: workers finish what they have of it first"
UNREADABLE = "a folder with a manifest is passed over"
FULL = "there is no place for another model until the next start"


@dataclass(frozen=True, slots=True)
class Changes:
    """What two looks in a row agree on."""

    came: tuple[str, ...] = ()
    """Folders with a manifest that are no model of the service."""
    went: tuple[str, ...] = ()
    """Models of the service whose folder is not there."""


@dataclass(slots=True)
class Arrivals:
    """Looks at the folder of models. With `only`, at folders of these names alone."""

    root: Path
    only: Collection[str]
    unreadable: Mapping[str, str] = field(default_factory=dict)
    """Folder -> why it is not even known which versions it has. Replaced as one."""
    _tried: dict[str, Stamp] = field(default_factory=dict)
    _before: Changes = Changes()
    _place: tuple[int, int] = (0, 0)

    def look(self, known: Collection[str]) -> Changes:
        """What has come and gone, compared with the models that are `known`. Raises OSError where nothing can be said."""
        found = {path.name for path in self.root.iterdir() if self._is_model(path)}
        place = _place_of(self.root)
        if known and not found and self._place not in (place, (0, 0)):
            return Changes()
        if found or self._place == (0, 0):
            self._place = place
        self._forget(found)
        gone = [name for name in known if name not in found and not os.path.lexists(self.root / name)]
        now = Changes(tuple(sorted(found - set(known))), tuple(sorted(gone)))
        before, self._before = self._before, now
        return Changes(
            tuple(name for name in now.came if name in before.came),
            tuple(name for name in now.went if name in before.went),
        )

    def adopt(self, name: str) -> ServedModel | None:
        """A folder that came, as a model that is not served yet; None where its manifest cannot be read (see `unreadable`).

        Looked at again when it has changed.
        """
        folder = self.root / name
        stamp = stamp_of(folder, FILE)
        if self._tried.get(name) == stamp:
            return None
        try:
            model = ServedModel.newcomer(folder)
        except ModelBroken as error:
            self._tried[name] = stamp
            self.unreadable = {**self.unreadable, name: str(error)}
            return None
        self._forget(set(self.unreadable) - {name})
        return model

    def _is_model(self, path: Path) -> bool:
        named = path.name in self.only if self.only else NAME.fullmatch(path.name) is not None
        return named and os.path.lexists(path / FILE)

    def _forget(self, found: Collection[str]) -> None:
        """What is not there any more need not be told of."""
        self.unreadable = {name: why for name, why in self.unreadable.items() if name in found}
        self._tried = {name: stamp for name, stamp in self._tried.items() if name in self.unreadable}


class Lineup:
    """The models of a service. Changed by the thread that keeps the versions; others may ask what is in it."""

    def __init__(self, root: Path, required: Sequence[str], places: Roster, board: Board) -> None:
        """`required`: the only ones that are served, where there are any. Raises ModelBroken, OSError as `ServedModel.at_start`."""
        self._arrivals = Arrivals(root, required)
        self._required = required
        self._places = places
        self._board = board
        self._next_look_s = 0.0
        self.models: Mapping[str, ServedModel] = {}
        """By name. Replaced as one."""
        for index, name in enumerate(places):
            if name:
                self.add(ServedModel.at_start(index, root / name)).plan_without_trial()

    def seals(self) -> dict[str, dict[int, str]]:
        """Model -> version -> seal of the only files that a worker may load."""
        return {model.name: model.seals() for model in self.models.values()}

    def is_proven(self, name: str, version: int) -> bool:
        """Whether all workers have had this version of a model at once."""
        return name in self.models and version in self.models[name].proven

    def plans(self) -> dict[str, Plan]:
        """Model -> what a worker that starts now is to do."""
        return {model.name: model.plan for model in self.models.values() if not model.lost and not model.leaving}

    def expected(self) -> list[str]:
        """The models that a service that is ready has in the list of those served; one that is found again comes when it can."""
        return [name for name in self.plans() if not self.models[name].found_again]

    def wants(self, name: str, version: int) -> bool:
        """Whether the plan of a model holds this version."""
        plan = self.plans().get(name)
        return plan is not None and version in plan.loaded

    def unserved(self) -> dict[str, str]:
        """Model -> why nothing of it can be served, for those of which that is so."""
        lost = [model for model in self.models.values() if model.lost and not model.is_new]
        whys = {model.name: model.without_root(model.why_lost()) for model in lost}
        return self._absent() | whys

    def unfit(self) -> dict[str, dict[int, str]]:
        """Model -> version -> why what is served could not be loaded again, with the model's manifest as it is now."""
        return {model.name: dict(model.unfit) for model in self.models.values() if model.unfit}

    def states(self) -> dict[str, dict[int, str]]:
        """Model -> version -> what it is: serving, candidate, shadow, kept, trial or refused."""
        return {model.name: model.states() for model in self.models.values() if not model.leaving}

    def add(self, model: ServedModel) -> ServedModel:
        """One more; the same model."""
        self.models = {**self.models, model.name: model}
        return model

    def _absent(self) -> dict[str, str]:
        """Folder -> why not even its versions are known; those that are required and not there, too."""
        gone = {name: f"{name}: is not there" for name in self._required if name not in self.models}
        return gone | {name: with_way(why, self._arrivals.root, "") for name, why in self._arrivals.unreadable.items()}

    def look(self) -> None:
        """Models come and go with their folders. Looks once a second, however often it is called."""
        if time.monotonic() < self._next_look_s:
            return
        self._next_look_s = time.monotonic() + LOOK_EVERY_S
        try:
            changes = self._arrivals.look(self.models.keys())
        except OSError:  # a folder of models that cannot be read now changes nothing of what is served
            return
        for name in changes.came:
            self._take_in(name)
        for name in changes.went:
            self.dismiss(self.models[name], WENT)

    def _take_in(self, name: str) -> None:
        told = self._arrivals.unreadable.get(name)
        model = self._arrivals.adopt(name)
        if model is not None:
            event(log, logging.INFO, CAME, model=name)
            self.add(model)
        elif (why := self._arrivals.unreadable.get(name)) != told:
            event(log, logging.ERROR, UNREADABLE, name=name, reason=why)

    def dismiss(self, model: ServedModel, why: str) -> None:
        """Its workers are to serve it no longer."""
        if not model.leaving:
            model.leaving = True
            event(log, logging.WARNING, why, model=model.name)

    def forget(self, model: ServedModel) -> None:
        """No worker has it any more: its place is free."""
        self._places.leave(model.name)
        if model.index is not None:
            self._board.clear(model.index)
        self.models = {name: one for name, one in self.models.items() if name != model.name}
        event(log, logging.INFO, "a model is not served any more", model=model.name)

    def has_place(self, model: ServedModel) -> bool:
        """Whether it has a place on the board, or gets one now."""
        if model.index is None:
            model.index = self._places.take(model.name)
        if model.index is None and model.because != FULL:
            model.because = FULL
            event(log, logging.ERROR, FULL, model=model.name)
        return model.index is not None


def _place_of(folder: Path) -> tuple[int, int]:
    facts = folder.stat()
    return facts.st_dev, facts.st_ino
