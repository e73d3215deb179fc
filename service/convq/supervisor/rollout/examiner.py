"""Has versions tried before they are served, and does what the verdicts say, each for the version that it is about."""

from __future__ import annotations

import logging
from collections.abc import Callable

from convq.errors import ModelBroken
from convq.ipc.plans import Plan, plan_of
from convq.logs import event
from convq.supervisor.rollout.lasting import LastingRefusals
from convq.supervisor.rollout.served_models import ServedModel
from convq.supervisor.rollout.trials import Trials, Verdict

log = logging.getLogger("convq.supervisor")

SLOW = "; warm-up runs a whole batch: a smaller limits.max_batch makes that shorter"
UNFIT = "a version that is served could not be loaded again with the manifest as it is now; what is loaded goes on"
Refuse = Callable[[ServedModel, int, str], None]


class Examiner:
    """For the thread that keeps the versions; `refuse` ends all use of a version."""

    def __init__(self, trials: Trials, lasting: LastingRefusals, refuse: Refuse) -> None:
        self._trials, self._lasting, self._refuse = trials, lasting, refuse

    def target(self, model: ServedModel) -> Plan | None:
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
            self._ask_for(model, new[-1])
            usable.remove(new[-1])  # until that is known
        return None

    def _ask_for(self, model: ServedModel, version: int) -> None:
        """Have a version tried, where that does not go on already; one whose number is another's is refused at once."""
        if why := model.misnumbered(version):
            self._refuse(model, version, why)
        else:
            self._begin(model, version)

    def take_verdicts(self, model: ServedModel) -> None:
        """Do what the trials say that are over; what was tried with other files says nothing."""
        for verdict in self._trials.take(model.name):
            if verdict.stamp == model.stamp_of(verdict.version):
                self._take(model, verdict)
        model.on_trial = frozenset(self._trials.under_way(model.name))

    def settle_doubts(self, model: ServedModel) -> None:
        """Whether versions could still be loaded with the model's manifest as it is now: by hand anything may be written."""
        if model.doubted:
            self._begin(model, model.doubted[-1])

    def _begin(self, model: ServedModel, version: int) -> None:
        if self._trials.begin(model.folder, version, model.stamp_of):
            event(log, logging.INFO, "the trial of a version begins", model=model.name, version=version)

    def _take(self, model: ServedModel, verdict: Verdict) -> None:
        version, tried = verdict.version, verdict.tried
        doubted = version in model.doubted
        if doubted:
            model.doubted.remove(version)
        if tried.ok:
            self._pass(model, version, tried.seal, said=not doubted)
        elif doubted and version in model.plan.loaded:
            model.unfit = {**model.unfit, version: model.without_root(tried.reason)}
            event(log, logging.ERROR, UNFIT, model=model.name, version=version, reason=tried.reason)
        else:
            self._refuse(model, version, tried.reason + (SLOW if tried.timed_out and not tried.lasting else ""))
            if tried.lasting:
                self._lasting.note(model, version, tried.reason)

    def _pass(self, model: ServedModel, version: int, seal: str, *, said: bool) -> None:
        self._lasting.forget(model, version)
        if said:
            model.checked = {**model.checked, version: (model.present.get(version, ()), seal)}
            event(log, logging.INFO, "a new version passed its trial", model=model.name, version=version)
