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
from pathlib import Path
from typing import Any

from convq.errors import ModelBroken
from convq.inference.manifest import FILE, Manifest
from convq.inference.rehearsal import rehearse
from convq.inference.repository import versions_in
from convq.runtime.board import Board
from convq.runtime.logs import event
from convq.runtime.orders import Change
from convq.runtime.plans import Plan, next_step, plan_of
from convq.runtime.served_models import ServedModel, Stamp, stamp_of
from convq.runtime.slots import Slot
from convq.runtime.threads import Watch
from convq.settings import Settings

log = logging.getLogger("convq.supervisor")

TICK_S = 0.1
LOOK_EVERY_S = 1.0
"""A folder must look the same in two looks: one that is still being copied is left alone."""
LOAD_WITHIN_S = 60.0
"""A worker that has not followed by then is told again."""
RELEASE_AFTER_S = 5.0
"""A version that was replaced answers jobs that pin it for so much longer: clients may have just read that it is served."""
LOST = "a model is passed over: none of its versions can be served"
FOUND = "a model that was passed over can be served now"
SLOW = "; warm-up runs a whole batch: a smaller limits.max_batch makes that shorter"
HALF_FOR_S = 30.0
"""A version that has been the same and not whole for so long is no copy under way: it is said to be refused."""


class VersionKeeper:
    """The thread. `plan_of` is read by the supervisor's loop; `note_…` may be called by any thread."""

    def __init__(
        self,
        repository: Path,
        models: Sequence[str],
        settings: Settings,
        slots: Sequence[Slot],
        board: Board,
        announce: Callable[[str, Mapping[str, object] | None], None],
        watch: Watch,
    ) -> None:
        """Raises ModelBroken where nothing can be served, or nothing of a model that the settings name."""
        self._required, self._device = settings.only, settings.device
        self._slots = slots
        self._board = board
        self._announce = announce
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._models: dict[str, ServedModel] = {}
        for index, name in enumerate(models):
            model = self._models[name] = ServedModel.at_start(index, repository / name)
            model.plan_without_trial()
        for model in self._models.values():
            for version in sorted(set(versions_in(model.folder)) - model.present.keys()):
                self.pass_over(model.name, version, f"{model.folder / str(version)}: {model.missing(version)}")
            if model.lost:
                self._do_without(model)
        self._thread = watch.thread("versions", self._run)

    def start(self) -> None:
        """Begin to watch."""
        self._thread.start()

    def stop(self) -> None:
        """Watch no more; a trial that is under way ends by itself."""
        self._stopping.set()

    def plans(self) -> dict[str, Plan]:
        """What a worker that starts now is to do."""
        return {model.name: model.plan for model in self._models.values() if not model.lost}

    def expected(self) -> list[str]:
        """The models that a service that is ready has in the list of those served; one that is found again comes when it can."""
        return [model.name for model in self._models.values() if not model.lost and not model.found_again]

    def unserved(self) -> dict[str, str]:
        """Model -> why nothing of it can be served, for those of which that is so."""
        return {model.name: model.without_root(model.why_lost()) for model in self._models.values() if model.lost}

    def states(self) -> dict[str, dict[int, str]]:
        """Model -> version -> what it is: serving, candidate, shadow, kept or refused."""
        return {model.name: model.states() for model in self._models.values()}

    # -- the start ------------------------------------------------------------------------------------------------

    def pass_over(self, name: str, version: int, reason: str, *, running: bool = False) -> None:
        """A version cannot be served, which shows when a worker starts: what is left of the model is.

        Raises ModelBroken where nothing is left of a model that is required, or nothing of any; but never for a service
        that is `running`, which tries again once the files have been looked at anew.
        """
        model = self._models[name]
        if running:
            model.look_anew(version)
        if not model.is_refused(version):
            with self._lock:
                model.refuse(version, model.without_root(reason))
            model.uncheck(version)
            event(log, logging.ERROR, "a version is passed over", model=name, version=version, reason=reason)
        if not model.lost and version in model.plan.loaded:
            model.plan_without_trial()
            if model.lost:
                self._do_without(model, running=running)

    def _do_without(self, model: ServedModel, *, running: bool = False) -> None:
        """Nothing of a model can be served: the others are, if it is not required and there are any."""
        why = model.because = model.why_lost()
        if not running and (model.name in self._required or not self.plans()):
            raise ModelBroken(why)
        event(log, logging.ERROR, LOST, model=model.name, reason=why)

    # -- what workers say -----------------------------------------------------------------------------------------

    def note_loaded(self, slot: Slot, report: dict[str, Any]) -> None:
        """A worker follows a plan."""
        with self._lock:
            slot.models[report["model"]] = report
            slot.plans[report["model"]] = Plan.model_validate(report["plan"])
        self._tell_clients(self._models[report["model"]])

    def note_refused(self, slot: Slot, report: dict[str, Any]) -> None:
        """A worker could not follow a plan: what it has not loaded is not served by anybody."""
        model, plan = self._models[report["model"]], Plan.model_validate(report["plan"])
        follows = slot.plans.get(model.name)
        model.lost = follows is None  # it was found again, and is not served after all
        for version in plan.loaded:
            if follows is None or version not in follows.loaded:
                self._refuse(model, version, report["message"])

    def note_death(self, number: int, how: str) -> None:
        """A worker died of its own native code: a candidate that was running then is taken back."""
        for model in self._models.values():
            row = self._board.row(number, model.index)
            if row.running.since_s and int(row.get("pulse_running_version")) == model.plan.candidate:
                self._refuse(model, model.plan.candidate or 0, f"taken back: it ended a worker ({how})")

    # -- the thread -----------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._stopping.wait(TICK_S):
            for model in self._models.values():
                try:
                    self._look_after(model)
                except OSError as error:  # a folder that cannot be read now changes nothing of what is served
                    if model.lost:
                        model.see_nothing()
                        model.next_look_s = time.monotonic() + LOOK_EVERY_S
                        continue
                    event(log, logging.WARNING, f"the folder of {model.name} cannot be read: {error.strerror}")
                    model.next_look_s = time.monotonic() + LOAD_WITHIN_S

    def _look_after(self, model: ServedModel) -> None:
        now_s = time.monotonic()
        if now_s >= model.next_look_s:
            model.next_look_s = now_s + LOOK_EVERY_S
            self._look(model)
        if model.lost:
            self._withdraw(model)
            self._find_again(model)
            return
        self._judge(model)
        broken = any(model.is_refused(version) for version in model.plan.loaded)
        if not broken and not self._followed(model):
            self._lead(model)
            return
        if not model.present:
            return  # not looked twice yet, or nothing whole is left: what runs goes on
        target = self._target(model)
        if target is not None:
            self._step(model, target, at_once=broken)

    def _withdraw(self, model: ServedModel) -> None:
        """Clients are told once no worker serves it any more: one that has loaded it goes on."""
        if model.announced and not any(slot.process and model.name in slot.plans for slot in self._slots):
            model.announced = False
            self._announce(model.name, None)

    def _find_again(self, model: ServedModel) -> None:
        """A model that was passed over is served as soon as something of it can be."""
        target = self._target(model)
        if target is not None:
            model.plan, model.since_s = target, time.monotonic()
            model.lost, model.found_again = False, True
            event(log, logging.INFO, FOUND, model=model.name, serve=target.serve)

    def _look(self, model: ServedModel) -> None:
        """What lies in the folder now; a manifest that cannot be read leaves the old one in force."""
        seen = {version: stamp_of(model.folder / str(version)) for version in versions_in(model.folder)}
        whole = {version: stamp for version, stamp in seen.items() if not model.missing(version)}
        model.present = {version: stamp for version, stamp in whole.items() if model.glimpsed.get(version) == stamp}
        model.glimpsed = whole
        self._look_at_halves(model, {version: stamp for version, stamp in seen.items() if version not in whole})
        model.beside = model.stamps_beside()
        stamp = stamp_of(model.folder, FILE)
        if stamp and stamp != model.manifest_stamp:
            model.manifest_stamp = stamp
            try:
                model.manifest = Manifest.read(model.folder)
            except ModelBroken as error:
                event(log, logging.ERROR, f"the manifest has changed and is refused: {error}", model=model.name)
            else:
                event(log, logging.INFO, "the manifest has changed: versions and rollout hold now", model=model.name)

    def _look_at_halves(self, model: ServedModel, seen: Mapping[int, Stamp]) -> None:
        """A copy that has stopped half-way is said, once; one that goes on is left alone."""
        now_s = time.monotonic()
        for version, stamp in seen.items():
            before, since_s = model.halves.get(version, ((), now_s))
            model.halves[version] = (stamp, since_s if stamp == before else now_s)
            if now_s - model.halves[version][1] > HALF_FOR_S and not model.is_refused(version):
                self._refuse(model, version, f"{model.folder / str(version)}: {model.missing(version)}")
        for version in model.halves.keys() - seen.keys():
            del model.halves[version]

    def _target(self, model: ServedModel) -> Plan | None:
        """What the manifest asks for, of what is there and good; what is new is tried here. None: nothing is good."""
        usable = model.usable()
        while usable:
            try:
                plan = plan_of(model.manifest, usable)
            except ModelBroken:  # the one version that it requires is not there
                return None
            new = [version for version in plan.loaded if not self._is_checked(model, version)]
            if not new:
                return plan
            if not self._try(model, new[-1]):
                usable.remove(new[-1])
        return None

    def _is_checked(self, model: ServedModel, version: int) -> bool:
        return version in model.present and model.checked.get(version, ((), ""))[0] == model.present[version]

    def _try(self, model: ServedModel, version: int) -> bool:
        """Load a version in a process of its own."""
        stamp = model.present.get(version, ())
        if version in model.checked and version in model.plan.loaded and not model.lost:
            self._refuse(model, version, "its files were changed in place; versions are immutable: add another number")
            return False
        tried = rehearse(model.folder, version, device=self._device)
        if not tried.ok:
            self._refuse(model, version, tried.reason + (SLOW if tried.timed_out else ""))
            return False
        model.checked[version] = (stamp, str(tried.description.get("sha256", "")))
        event(log, logging.INFO, "a new version passed its trial", model=model.name, version=version)
        return True

    def _refuse(self, model: ServedModel, version: int, reason: str) -> None:
        reason = model.without_root(reason)
        with self._lock:
            model.refuse(version, reason)
        event(
            log,
            logging.ERROR,
            "a version is refused; what was served goes on",
            model=model.name,
            version=version,
            reason=reason,
        )
        self._tell_clients(model)

    def _judge(self, model: ServedModel) -> None:
        """Take a candidate back that fails too often."""
        rollout, candidate = model.manifest.rollout, model.plan.candidate
        if rollout is None or candidate is None or model.is_refused(candidate):
            return
        jobs, failed = (now - then for now, then in zip(self._count(model.index), model.counted, strict=True))
        if jobs >= rollout.min_jobs and failed > rollout.max_failure_ratio * jobs:
            self._refuse(model, candidate, f"taken back: {failed:.0f} of {jobs:.0f} jobs failed")

    def _count(self, index: int) -> tuple[float, float]:
        """Jobs that candidates and shadows have run, and how many of them failed."""
        rows = [self._board.row(slot.number, index) for slot in self._slots]
        roles = ("candidate", "shadow")
        failed = sum(row.get("convq_version_jobs", role, "failed") for row in rows for role in roles)
        fine = sum(
            row.get("convq_version_jobs", role, how) for row in rows for role in roles for how in ("ok", "differs")
        )
        return fine + failed, failed

    # -- leading the workers --------------------------------------------------------------------------------------

    def _step(self, model: ServedModel, target: Plan, *, at_once: bool) -> None:
        """One step towards the target, where one is due."""
        plan = target if at_once else next_step(model.plan, target)
        releases = set(plan.loaded) < set(model.plan.loaded) and not at_once
        if plan == model.plan or (releases and time.monotonic() - model.since_s < RELEASE_AFTER_S):
            return
        if plan.candidate != model.plan.candidate:
            model.counted = self._count(model.index)
        if plan.serve != model.plan.serve or plan.candidate != model.plan.candidate:
            facts = plan.model_dump(exclude_none=True, exclude_defaults=True)
            event(log, logging.INFO, "the workers follow another plan", model=model.name, **facts)
        model.plan, model.since_s = plan, time.monotonic()

    def _followed(self, model: ServedModel) -> bool:
        return all(slot.plans.get(model.name) == model.plan for slot in self._slots if slot.follows)

    def _lead(self, model: ServedModel) -> None:
        """Tell workers the plan: all at once where nothing is to be loaded, else one after the other."""
        change = Change(
            model=model.name, plan=model.plan, checked={v: sha for v, (_, sha) in model.checked.items() if sha}
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

    def _tell_clients(self, model: ServedModel) -> None:
        """Renew what `convq:models` says, where all workers agree: what clients read there holds wherever a job goes."""
        with self._lock:
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
