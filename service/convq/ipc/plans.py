"""Which versions of a model are loaded, and which of them answers a job: decided by the supervisor, followed by workers."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pydantic import BaseModel, ConfigDict

from convq.errors import ModelBroken

if TYPE_CHECKING:
    from convq.repository.manifest import Manifest

STEPS = 10_000
"""Shares of jobs are told apart to a hundredth of a percent."""


class Plan(BaseModel):
    """What every worker of a service does with one model. Two plans are equal where nothing is to be changed."""

    model_config = ConfigDict(frozen=True)

    serve: int
    """The version that answers, unless a job pins another."""
    kept: tuple[int, ...] = ()
    """Loaded besides, for jobs that pin them; ascending."""
    candidate: int | None = None
    """Tried on live jobs: gets `percent` of those that pin no version, or with `shadow` runs beside `serve`."""
    percent: float = 0.0
    shadow: bool = False

    @property
    def loaded(self) -> tuple[int, ...]:
        """Every version that is loaded, ascending."""
        return tuple(sorted({self.serve, *self.kept, *(() if self.candidate is None else (self.candidate,))}))

    @property
    def shadowed(self) -> int | None:
        """The version that runs beside what answers and whose answers are never published."""
        return self.candidate if self.shadow else None

    def version_of(self, job_id: str) -> int:
        """The version for a job that pins none: the same for the same id, whichever worker asks, however often."""
        if self.candidate is None or not self.percent:
            return self.serve
        # crc32 spreads ids evenly and is the same in every process, which hash() of a text is not.
        return self.candidate if zlib.crc32(job_id.encode()) % STEPS < self.percent * STEPS / 100 else self.serve

    def without(self, version: int) -> Plan | None:
        """The same without a version, of those that are loaded already; None where nothing is left that could answer."""
        kept = tuple(one for one in self.kept if one != version)
        if version == self.candidate:
            return Plan(serve=self.serve, kept=kept)
        if version != self.serve:
            return self.model_copy(update={"kept": kept})
        return self.model_copy(update={"serve": kept[-1], "kept": kept[:-1]}) if kept else None

    def with_loaded(self, versions: Sequence[int]) -> Plan:
        """The same, with these versions loaded besides."""
        named = {self.serve, self.candidate}
        kept = tuple(sorted({*self.kept, *versions} - named))
        return self.model_copy(update={"kept": kept})


def plan_of(manifest: Manifest, versions: Sequence[int]) -> Plan:
    """What the manifest asks for, of the versions that may be served. Raises ModelBroken where there is nothing for it."""
    if not versions:
        raise ModelBroken("no version can be served")
    rollout, required = manifest.rollout, manifest.versions.require
    if required is not None and required not in versions:
        raise ModelBroken(f"versions.require asks for version {required}, which cannot be served")
    tried = rollout.version if rollout is not None and (rollout.percent or rollout.shadow) else None
    stable = sorted(version for version in versions if rollout is None or version != rollout.version)
    if not stable:  # nothing else to serve: it is no candidate any more
        return Plan(serve=max(versions))
    serve = required or stable[-1]
    others = [version for version in stable if version != serve]
    kept = tuple(others[max(0, len(others) - manifest.versions.keep + 1) :])
    if rollout is None or tried not in versions:
        return Plan(serve=serve, kept=kept)
    return Plan(serve=serve, kept=kept, candidate=tried, percent=rollout.percent, shadow=rollout.shadow)


def next_step(plan: Plan, target: Plan) -> Plan:
    """The next plan on the way from one to the other: load beside, then switch, then release."""
    missing = set(target.loaded) - set(plan.loaded)
    if missing:
        return plan.with_loaded(sorted(missing))
    switched = target.with_loaded(plan.loaded)
    return switched if switched != plan else target
