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
from typing import Any

from convq.errors import ModelBroken
from convq.ipc.allowance import Allowance
from convq.ipc.plans import Plan
from convq.ipc.shared_memory import Board
from convq.logs import event
from convq.repository.model_folders import versions_in
from convq.settings import Settings
from convq.supervisor.beat.refusal_book import RefusalBook
from convq.supervisor.rollout.examiner import Examiner
from convq.supervisor.rollout.judging import verdict
from convq.supervisor.rollout.lasting import WAIT_S, LastingRefusals
from convq.supervisor.rollout.leading import Leader
from convq.supervisor.rollout.lineup import EXCHANGED, Lineup
from convq.supervisor.rollout.looks import look, look_at_ledger
from convq.supervisor.rollout.served_models import ServedModel
from convq.supervisor.rollout.trials import Trials
from convq.supervisor.slots import Slot
from convq.threads import Watch

log = logging.getLogger("convq.supervisor")

TICK_S = 0.1
LOOK_EVERY_S = 1.0
"""A folder must look the same in two looks: one that is still being copied is left alone."""
UNREADABLE_FOR_S = 60.0
"""A folder of a model that could not be read is left alone for so long."""
LOST = "a model is passed over: none of its versions can be served"
CAN = "a model that came can be served"
FOUND = "a model that was passed over can be served now"


class RolloutController:
    """The thread. `give`, `pass_over` and `take_back` are for the supervisor's loop; `note_…` may be called by any thread."""

    def __init__(
        self,
        lineup: Lineup,
        settings: Settings,
        slots: Sequence[Slot],
        board: Board,
        announce: Callable[[str, Mapping[str, object] | None], None],
        book: RefusalBook,
        watch: Watch,
    ) -> None:
        """Raises ModelBroken where nothing can be served, or nothing of a model that the settings name."""
        self.lineup = lineup
        self._required, self._strict = settings.only, settings.strict
        self._board = board
        self._leader = Leader(slots, board, announce)
        limit_bytes = Allowance.of(settings.worker_memory, len(slots)).limit_bytes
        trials = Trials(settings.device, settings.load_within, slots, limit_bytes, watch)
        self._lasting = LastingRefusals(book, settings.device)
        self._examiner = Examiner(trials, self._lasting, self._leader.refuse)
        self._stopping = threading.Event()
        for model in self._models.values():
            self._look_at_first(model)
        self._thread = watch.thread("versions", self._run)

    def start(self) -> None:
        """Begin to watch; what is known of the versions is asked of Redis first."""
        self._recall(WAIT_S, running=False)
        self._thread.start()

    def stop(self) -> None:
        """Watch no more; a trial that is under way ends by itself."""
        self._stopping.set()

    def give(self, slot: Slot) -> dict[str, Plan]:
        """The plans for the worker that starts in a place: nothing of them is forgotten until it is gone or has let go of it."""
        with self._leader.lock:
            plans = self.lineup.plans()
            slot.given = frozenset(plans)
        return plans

    @property
    def _models(self) -> Mapping[str, ServedModel]:
        return self.lineup.models

    # -- the start ------------------------------------------------------------------------------------------------

    def _look_at_first(self, model: ServedModel) -> None:
        """Before any worker starts: a version that is not whole, or lies under the number of another one, is passed over."""
        for version in sorted(set(versions_in(model.folder)) - model.present.keys()):
            self.pass_over(model.name, version, f"{model.folder / str(version)}: {model.missing(version)}")
        look_at_ledger(model)
        for version in [one for one in model.present if model.ledger]:
            if why := model.misnumbered(version):
                self.pass_over(model.name, version, why)
        if model.lost:
            self._do_without(model)

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
            with self._leader.lock:
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
            self._leader.refuse(model, version, reason)

    def _recall(self, within_s: float = 0.0, *, running: bool) -> None:
        """Pass over what was refused before a start with the very same files, once Redis says so. Raises as `pass_over`."""
        for name, version, why in self._lasting.recall([*self._models.values()], within_s):
            self.take_back(name, version, why, running=running)

    def _do_without(self, model: ServedModel, *, running: bool = False) -> None:
        """Nothing of a model can be served: the others are, if it is not required and there are any."""
        why = model.because = model.why_lost()
        if not running and (self._strict or model.name in self._required or not self.lineup.plans()):
            raise ModelBroken(why)
        event(log, logging.ERROR, LOST, model=model.name, reason=why)

    # -- what workers say -----------------------------------------------------------------------------------------

    def note_loaded(self, slot: Slot, report: dict[str, Any]) -> None:
        """A worker follows a plan."""
        with self._leader.lock:
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
                self._leader.refuse(model, version, report["message"])

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
            with self._leader.lock:  # no worker is given it meanwhile
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
        if why := verdict(model, self._leader.rows(model)):
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
        target = self._examiner.target(model)
        if target is not None:
            self._leader.step(model, target, at_once=broken)
        if not broken:
            self._examiner.settle_doubts(model)

    def _look(self, model: ServedModel) -> None:
        now_s = time.monotonic()
        if now_s >= model.next_look_s and not model.leaving:
            model.next_look_s = now_s + LOOK_EVERY_S
            look(model, partial(self._leader.refuse, model))
            if model.was_replaced():
                self.lineup.dismiss(model, EXCHANGED)

    def _find_again(self, model: ServedModel) -> None:
        """A model that was passed over is served as soon as something of it can be."""
        target = self._examiner.target(model)
        if target is not None and self.lineup.has_place(model):
            model.plan, model.since_s = target, time.monotonic()
            model.lost, model.found_again = False, True
            event(log, logging.INFO, FOUND if model.because else CAN, model=model.name, serve=target.serve)

    def _take_candidate_back(self, model: ServedModel, why: str) -> None:
        """What it did to jobs it would do again after the next start."""
        candidate = model.plan.candidate
        if candidate is not None:
            self._leader.refuse(model, candidate, why)
            self._lasting.note(model, candidate, why)
