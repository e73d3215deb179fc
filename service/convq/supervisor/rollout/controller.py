"""Which versions a running service serves: watches the model folders, tries what is new, and leads the workers there.

A thread of the supervisor. What it wants of the workers is a `Plan` per model; every change of plan is made in steps that
each leave all workers able to answer: load beside what runs, then switch, then release. A version is tried in a process of
its own first, and one that is refused changes nothing.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from convq.errors import ModelBroken
from convq.ipc.allowance import Allowance
from convq.ipc.plans import Plan, next_step, plan_of
from convq.ipc.shared_memory import Board, StatsRow
from convq.logs import event
from convq.repository.model_folders import versions_in
from convq.settings import Settings
from convq.supervisor.beat.refusal_book import RefusalBook
from convq.supervisor.rollout.examiner import Examiner
from convq.supervisor.rollout.judging import bar, unbar, verdict
from convq.supervisor.rollout.lasting import WAIT_S, LastingRefusals
from convq.supervisor.rollout.leading import Leader
from convq.supervisor.rollout.lineup import EXCHANGED, Lineup
from convq.supervisor.rollout.looks import look, look_at_ledger
from convq.supervisor.rollout.records import records
from convq.supervisor.rollout.served_models import ServedModel
from convq.supervisor.rollout.trials import Trials
from convq.supervisor.roster import Roster
from convq.supervisor.slots import Slot
from convq.threads import Watch

log = logging.getLogger("convq.supervisor")

TICK_S = 0.1
LOOK_EVERY_S = 1.0
"""A folder must look the same in two looks: one that is still being copied is left alone."""
UNREADABLE_FOR_S = 60.0
"""A folder of a model that could not be read is left alone for so long."""
RELEASE_AFTER_S = 5.0
"""A version that was replaced answers jobs that pin it for so much longer: clients may have just read that it is served."""
LOST = "a model is passed over: none of its versions can be served"
CAN = "a model that came can be served"
FOUND = "a model that was passed over can be served now"
REFUSED = "a version is refused; what was served goes on"


class RolloutController:
    """The thread. `plan_of` is read by the supervisor's loop; `note_…` may be called by any thread."""

    def __init__(
        self,
        repository: Path,
        models: Roster,
        settings: Settings,
        slots: Sequence[Slot],
        board: Board,
        announce: Callable[[str, Mapping[str, object] | None], None],
        book: RefusalBook,
        watch: Watch,
    ) -> None:
        """Raises ModelBroken where nothing can be served, or nothing of a model that the settings name."""
        self._required, self._strict = settings.only, settings.strict
        limit_bytes = Allowance.of(settings.worker_memory, len(slots)).limit_bytes
        trials = Trials(settings.device, settings.load_within, slots, limit_bytes, watch)
        self._lasting = LastingRefusals(book, settings.device)
        self._examiner = Examiner(trials, self._lasting, self._refuse)
        self.lineup = Lineup(repository, settings.only, models, board)
        self._slots = slots
        self._board = board
        self._leader = Leader(slots, announce)
        self._lock = self._leader.lock
        self._stopping = threading.Event()
        for index, name in enumerate(models):
            if name:
                self.lineup.add(ServedModel.at_start(index, repository / name)).plan_without_trial()
        for model in self._models.values():
            for version in sorted(set(versions_in(model.folder)) - model.present.keys()):
                self.pass_over(model.name, version, f"{model.folder / str(version)}: {model.missing(version)}")
            look_at_ledger(model)
            for version in [one for one in model.present if model.ledger]:
                if why := model.misnumbered(version):
                    self.pass_over(model.name, version, why)
            if model.lost:
                self._do_without(model)
        self._thread = watch.thread("versions", self._run)

    def start(self) -> None:
        """Begin to watch; what is known of the versions is asked of Redis first."""
        self._recall(WAIT_S, running=False)
        self._thread.start()

    def stop(self) -> None:
        """Watch no more; a trial that is under way ends by itself."""
        self._stopping.set()

    def plans(self) -> dict[str, Plan]:
        """What a worker that starts now is to do."""
        return {model.name: model.plan for model in self._models.values() if not model.lost and not model.leaving}

    def give(self, slot: Slot) -> dict[str, Plan]:
        """The same, for the worker that starts in a place: nothing of that is forgotten until it is gone or has let go of it."""
        with self._lock:
            plans = self.plans()
            slot.given = frozenset(plans)
        return plans

    def expected(self) -> list[str]:
        """The models that a service that is ready has in the list of those served; one that is found again comes when it can."""
        return [name for name in self.plans() if not self._models[name].found_again]

    def wants(self, name: str, version: int) -> bool:
        """Whether the plan of a model holds this version."""
        plan = self.plans().get(name)
        return plan is not None and version in plan.loaded

    def unserved(self) -> dict[str, str]:
        """Model -> why nothing of it can be served, for those of which that is so."""
        lost = [model for model in self._models.values() if model.lost and not model.is_new]
        whys = {model.name: model.without_root(model.why_lost()) for model in lost}
        return self.lineup.absent() | whys

    def unfit(self) -> dict[str, dict[int, str]]:
        """Model -> version -> why what is served could not be loaded again, with the model's manifest as it is now."""
        return {model.name: dict(model.unfit) for model in self._models.values() if model.unfit}

    def states(self) -> dict[str, dict[int, str]]:
        """Model -> version -> what it is: serving, candidate, shadow, kept, trial or refused."""
        return {model.name: model.states() for model in self._models.values() if not model.leaving}

    @property
    def _models(self) -> Mapping[str, ServedModel]:
        return self.lineup.models

    # -- the start ------------------------------------------------------------------------------------------------

    def pass_over(self, name: str, version: int, reason: str, *, running: bool = False) -> None:
        """A version cannot be served, which shows when a worker starts: what is left of the model is.

        Raises ModelBroken where nothing is left of a model that is required, or nothing of any; but never for a service
        that is `running`, which tries again once the files have been looked at anew.
        """
        model = self._models.get(name)
        if model is None or model.leaving:
            return
        if running:
            model.look_anew(version)
        if not model.is_refused(version):
            with self._lock:
                model.refuse(version, model.without_root(reason))
            model.uncheck(version)
            if self._strict and not running:
                raise ModelBroken(reason)
            event(log, logging.ERROR, "a version is passed over", model=name, version=version, reason=reason)
        if not model.lost and version in model.plan.loaded:
            if not running:
                model.plan_without_trial()
            elif (rest := model.plan.without(version)) is not None:
                model.plan, model.since_s = rest, time.monotonic()
            else:  # what else lies there has not been tried
                model.lost = True
            if model.lost:
                self._do_without(model, running=running)

    def take_back(self, name: str, version: int, reason: str, *, running: bool) -> None:
        """A version has ended workers that loaded it, or held one up. Raises ModelBroken as `pass_over` does."""
        model = self._models.get(name)
        if model is None or not running or model.plan.without(version) is None:
            self.pass_over(name, version, reason, running=running)
        else:
            self._refuse(model, version, reason)

    def _recall(self, within_s: float = 0.0, *, running: bool) -> None:
        """Pass over what was refused before a start with the very same files, once Redis says so. Raises as `pass_over`."""
        for name, version, why in self._lasting.recall([*self._models.values()], within_s):
            self.take_back(name, version, why, running=running)

    def _do_without(self, model: ServedModel, *, running: bool = False) -> None:
        """Nothing of a model can be served: the others are, if it is not required and there are any."""
        why = model.because = model.why_lost()
        if not running and (self._strict or model.name in self._required or not self.plans()):
            raise ModelBroken(why)
        event(log, logging.ERROR, LOST, model=model.name, reason=why)

    # -- what workers say -----------------------------------------------------------------------------------------

    def note_loaded(self, slot: Slot, report: dict[str, Any]) -> None:
        """A worker follows a plan."""
        with self._lock:
            slot.models[report["model"]] = report
            slot.plans[report["model"]] = Plan.model_validate(report["plan"])
        model = self._models.get(report["model"])
        if model is not None and not model.leaving:
            model.note_seals(report["seals"])
            for engine in report["engines"]:
                model.note_given(int(engine["version"]), engine["sha256"])
            self._leader.tell_clients(model)

    def note_refused(self, slot: Slot, report: dict[str, Any]) -> None:
        """A worker could not follow a plan: what it has not loaded is not served by anybody."""
        model, plan = self._models.get(report["model"]), Plan.model_validate(report["plan"])
        if model is None or model.leaving:
            return
        follows = slot.plans.get(model.name)
        model.lost = follows is None  # it was found again, and is not served after all
        for version in plan.loaded:
            broken = report.get("version") in (None, version)  # the others were loaded, or had no turn
            if broken and (follows is None or version not in follows.loaded):
                self._refuse(model, version, report["message"])

    def note_death(self, number: int, how: str) -> None:
        """A worker died of its own native code: a candidate that was running then is taken back."""
        for model in self._models.values():
            if model.index is None:
                continue
            row = self._board.row(number, model.index)
            if row.running.since_s and int(row.get("pulse_running_version")) == model.plan.candidate:
                self._take_candidate_back(model, f"taken back: it ended a worker ({how})")

    # -- the thread -----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stopping.wait(TICK_S):
            self.lineup.look()
            self._recall(running=True)
            for model in self._models.values():
                try:
                    self._look_after(model)
                except OSError as error:  # a folder that cannot be read now changes nothing of what is served
                    if model.lost or isinstance(error, FileNotFoundError):  # it is being removed, or all of them are
                        if model.lost:
                            model.see_nothing()
                        model.next_look_s = time.monotonic() + LOOK_EVERY_S
                        continue
                    event(log, logging.WARNING, f"the folder of {model.name} cannot be read: {error.strerror}")
                    model.next_look_s = time.monotonic() + UNREADABLE_FOR_S

    def _look_after(self, model: ServedModel) -> None:
        self._look(model)
        if model.leaving:
            with self._lock:  # no worker is given it meanwhile
                left = self._leader.see_off(model)
            if left:
                self._lasting.leave(model)
                self.lineup.forget(model)
            return
        self._examiner.take_verdicts(model)
        self._lasting.look_after(model)
        if model.lost:
            self._leader.withdraw(model)
            self._find_again(model)
            return
        if why := verdict(model, self._rows(model)):
            self._take_candidate_back(model, why)
        self._leader.note_proven(model)
        broken = any(model.is_refused(version) for version in model.plan.loaded)
        if not broken and not self._leader.is_followed(model):
            broken = not model.holds_all(model.plan)  # what is gone is not waited for
            if not broken:
                self._leader.lead(model)
                return
        if not model.present:
            return  # not looked twice yet, or nothing whole is left: what runs goes on
        target = self._target(model)
        if target is not None:
            self._step(model, target, at_once=broken)
        if not broken:
            self._examiner.settle_doubts(model)

    def _look(self, model: ServedModel) -> None:
        now_s = time.monotonic()
        if now_s >= model.next_look_s and not model.leaving:
            model.next_look_s = now_s + LOOK_EVERY_S
            look(model, partial(self._refuse, model))
            if model.was_replaced():
                self.lineup.dismiss(model, EXCHANGED)

    def _find_again(self, model: ServedModel) -> None:
        """A model that was passed over is served as soon as something of it can be."""
        target = self._target(model)
        if target is not None and self.lineup.has_place(model):
            model.plan, model.since_s = target, time.monotonic()
            model.lost, model.found_again = False, True
            event(log, logging.INFO, FOUND if model.because else CAN, model=model.name, serve=target.serve)

    def _target(self, model: ServedModel) -> Plan | None:
        """What the manifest asks for, of what is there and good; trials of what is new begin here. None: nothing is good yet."""
        usable = model.usable()
        while usable:
            try:
                plan = plan_of(model.manifest, usable)
            except ModelBroken:  # the one version that it requires is not there
                return None
            new = [version for version in plan.loaded if not model.is_checked(version)]
            if not new:
                return plan
            self._examiner.ask_for(model, new[-1])
            usable.remove(new[-1])  # until that is known
        return None

    def _rows(self, model: ServedModel) -> list[StatsRow]:
        return [self._board.row(slot.number, model.index) for slot in self._slots if model.index is not None]

    def _refuse(self, model: ServedModel, version: int, reason: str) -> None:
        """In one step it is refused and in no plan any more: no worker that starts from now on runs it."""
        reason = model.without_root(reason)
        with self._lock:
            model.refuse(version, reason)
            rest = model.plan.without(version) if not model.lost and version in model.plan.loaded else None
            if rest is not None:
                if version == model.plan.candidate:
                    bar(self._rows(model), version)
                model.plan, model.since_s = rest, time.monotonic()
        if rest is not None:
            self._leader.lead(model)
        event(log, logging.ERROR, REFUSED, model=model.name, version=version, reason=reason)
        self._leader.tell_clients(model)

    def _take_candidate_back(self, model: ServedModel, why: str) -> None:
        """What it did to jobs it would do again after the next start."""
        candidate = model.plan.candidate
        if candidate is not None:
            self._refuse(model, candidate, why)
            self._lasting.note(model, candidate, why)

    # -- leading the workers --------------------------------------------------------------------------------------

    def _step(self, model: ServedModel, target: Plan, *, at_once: bool) -> None:
        """One step towards the target, where one is due."""
        plan = target if at_once else next_step(model.plan, target)
        releases = set(plan.loaded) < set(model.plan.loaded) and not at_once
        if plan == model.plan or (releases and time.monotonic() - model.since_s < RELEASE_AFTER_S):
            return
        if plan.candidate != model.plan.candidate:
            model.counted = records(self._rows(model))
        if plan.serve != model.plan.serve or plan.candidate != model.plan.candidate:
            facts = plan.model_dump(exclude_none=True, exclude_defaults=True)
            event(log, logging.INFO, "the workers follow another plan", model=model.name, **facts)
        with self._lock:
            if any(model.is_refused(version) for version in plan.loaded):  # by another thread, meanwhile
                return
            unbar(self._rows(model), plan.candidate)
            model.plan, model.since_s = plan, time.monotonic()
