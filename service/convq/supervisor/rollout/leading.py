"""Changes the plans of a service's models, leads its workers there, and tells clients what all of them have."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence

from convq.ipc.messages import PlanUpdate
from convq.ipc.plans import Plan, next_step
from convq.ipc.shared_memory import Board, StatsRow
from convq.logs import event
from convq.supervisor.rollout.judging import bar, unbar
from convq.supervisor.rollout.records import records
from convq.supervisor.rollout.served_models import ServedModel
from convq.supervisor.slots import Slot

log = logging.getLogger("convq.supervisor")

LOAD_WITHIN_S = 60.0
"""A worker that has not followed by then is told again."""
RELEASE_AFTER_S = 5.0
"""A version that was replaced answers jobs that pin it for so much longer: clients may have just read that it is served."""
REFUSED = "a version is refused; what was served goes on"


class Leader:
    """Used by the thread that keeps the versions; `refuse` and `tell_clients` by any.

    `lock` is for plans, and for what workers have reported.
    """

    def __init__(
        self, slots: Sequence[Slot], board: Board, announce: Callable[[str, Mapping[str, object] | None], None]
    ) -> None:
        self._slots = slots
        self._board = board
        self._announce = announce
        self.lock = threading.Lock()

    def rows(self, model: ServedModel) -> list[StatsRow]:
        """Of all workers, for one model."""
        return [self._board.row(slot.number, model.index) for slot in self._slots if model.index is not None]

    def is_followed(self, model: ServedModel) -> bool:
        """Whether every worker that can follow the model's plan does."""
        return all(slot.plans.get(model.name) == model.plan for slot in self._slots if slot.follows)

    def note_proven(self, model: ServedModel) -> None:
        """Where all workers are ready and follow the plan, its versions are more than tried."""
        if all(slot.follows and slot.plans.get(model.name) == model.plan for slot in self._slots):
            model.proven = {*model.proven, *model.plan.loaded}

    def lead(self, model: ServedModel) -> None:
        """Tell workers the plan: all at once where nothing is to be loaded, else one after the other."""
        change = PlanUpdate(
            model=model.name,
            place=model.index or 0,
            plan=model.plan,
            checked=model.seals(),
        )
        for slot in self._slots:
            follows = slot.plans.get(model.name)
            if not slot.follows or follows == model.plan:
                continue
            told, when_s = slot.told.get(model.name, (None, 0.0))
            if told != model.plan or time.monotonic() - when_s > LOAD_WITHIN_S:
                slot.tell(change)
            if follows is None or not set(model.plan.loaded) <= set(follows.loaded):
                return

    def step(self, model: ServedModel, target: Plan, *, at_once: bool) -> None:
        """One step towards the target, where one is due."""
        plan = target if at_once else next_step(model.plan, target)
        releases = set(plan.loaded) < set(model.plan.loaded) and not at_once
        if plan == model.plan or (releases and time.monotonic() - model.since_s < RELEASE_AFTER_S):
            return
        if plan.candidate != model.plan.candidate:
            model.counted = records(self.rows(model))
        if plan.serve != model.plan.serve or plan.candidate != model.plan.candidate:
            facts = plan.model_dump(exclude_none=True, exclude_defaults=True)
            event(log, logging.INFO, "the workers follow another plan", model=model.name, **facts)
        with self.lock:
            if any(model.is_refused(version) for version in plan.loaded):  # by another thread, meanwhile
                return
            unbar(self.rows(model), plan.candidate)
            model.plan, model.since_s = plan, time.monotonic()

    def refuse(self, model: ServedModel, version: int, reason: str) -> None:
        """In one step it is refused and in no plan any more: no worker that starts from now on runs it."""
        reason = model.without_root(reason)
        with self.lock:
            model.refuse(version, reason)
            rest = model.plan.without(version) if not model.lost and version in model.plan.loaded else None
            if rest is not None:
                if version == model.plan.candidate:
                    bar(self.rows(model), version)
                model.plan, model.since_s = rest, time.monotonic()
        if rest is not None:
            self.lead(model)
        event(log, logging.ERROR, REFUSED, model=model.name, version=version, reason=reason)
        self.tell_clients(model)

    def tell_clients(self, model: ServedModel) -> None:
        """Renew what `convq:models` says, where all workers agree: what clients read there holds wherever a job goes."""
        with self.lock:
            reports = [slot.models[model.name] for slot in self._slots if model.name in slot.plans]
            plans = [slot.plans[model.name] for slot in self._slots if model.name in slot.plans]
            refused = {str(version): reason for version, reason in model.reasons().items()}
        if not reports or len(set(plans)) != 1:
            return  # each worker that follows comes here again
        plan = plans[0]
        said: dict[str, object] = {"versions": list(plan.loaded), "serving": plan.serve, **reports[0]["description"]}
        if plan.candidate is not None:
            said["candidate"] = {"version": plan.candidate, "percent": plan.percent, "shadow": plan.shadow}
        if refused:
            said["refused"] = refused
        model.announced = True
        self._announce(model.name, said)

    def withdraw(self, model: ServedModel) -> None:
        """Clients are told once no worker serves it any more: one that has loaded it goes on."""
        if model.announced and not any(slot.process and model.name in slot.plans for slot in self._slots):
            model.announced = False
            self._announce(model.name, None)

    def see_off(self, model: ServedModel) -> bool:
        """Lead the workers to serve a model no longer; whether none has it. Clients are told first."""
        if model.announced:
            model.announced = False
            self._announce(model.name, None)
        for slot in self._slots:
            told = slot.told.get(model.name, (model.plan, 0.0))[0]
            if slot.follows and slot.may_have(model.name) and told is not None:
                slot.tell(PlanUpdate(model=model.name, place=model.index or 0, plan=None))
        return not any(slot.may_have(model.name) for slot in self._slots)
