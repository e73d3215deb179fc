"""What one worker has loaded of one model: the plan, and an engine for each version of it. Replaced as a whole, never changed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from convq.errors import ModelBroken, UnknownVersion
from convq.inference.session import Engine
from convq.queue import Received
from convq.runtime.plans import Plan

Role = Literal["serving", "candidate", "shadow", "kept"]


class VersionBroken(ModelBroken):
    """A version of a plan cannot be loaded; another might."""

    def __init__(self, model: str, version: int, message: str) -> None:
        super().__init__(message)
        self.model, self.version = model, version


@dataclass(frozen=True, slots=True, eq=False)
class Serving:
    """One plan and its engines, which may be those of the plan before as well."""

    plan: Plan
    engines: Mapping[int, Engine]
    """Version -> engine, for every version of `plan.loaded`."""
    always: Engine | None = field(init=False)
    """What answers every job that pins nothing; None where that depends on the job. Looked at for each job."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "always", None if self.plan.percent else self.engines[self.plan.serve])

    @classmethod
    def load(cls, folder: Path, plan: Plan, device: str) -> Serving:
        """Load and warm up every version of a plan. Raises VersionBroken, SettingsError."""
        engines = {}
        for version in plan.loaded:
            try:
                engines[version] = load_engine(folder, version, device)
            except ModelBroken as error:
                raise VersionBroken(folder.name, version, str(error)) from None
        return cls(plan, engines)

    def follow(self, plan: Plan, folder: Path, device: str, checked: Mapping[int, str]) -> Serving:
        """The next plan's: loads and warms up what is not loaded yet, beside what runs.

        `checked` maps versions to the SHA-256 that the supervisor has tried. Raises ModelBroken, also for a version that
        is not the one that was tried any more; then nothing has changed.
        """
        engines = {}
        for version in plan.loaded:
            engines[version] = self.engines.get(version) or load_engine(folder, version, device)
            expected = checked.get(version)
            if expected is not None and engines[version].sha256 != expected:
                raise ModelBroken(f"{folder.name}: version {version} has changed since it was checked")
        return Serving(plan, engines)

    @property
    def engine(self) -> Engine:
        """The engine that answers jobs that pin nothing."""
        return self.engines[self.plan.serve]

    @property
    def shadow(self) -> Engine | None:
        """The engine that runs beside it, if any."""
        return self.engines[self.plan.shadowed] if self.plan.shadowed is not None else None

    @property
    def max_batch(self) -> int:
        """How many jobs a batch of any engine may have."""
        return min(engine.max_batch for engine in self.engines.values())

    @property
    def max_batch_s(self) -> float:
        """Seconds after which a batch of any engine has hung."""
        return max(engine.manifest.limits.max_batch_s for engine in self.engines.values())

    @property
    def max_decode_s(self) -> float:
        """Seconds after which decoding and preparing one job has hung."""
        return max(engine.manifest.limits.max_decode_s for engine in self.engines.values())

    def engine_for(self, job: Received) -> Engine:
        """The engine that answers this job. Raises UnknownVersion."""
        if self.always is not None and job.version is None:
            return self.always
        version = job.version if job.version is not None else self.plan.version_of(job.id)
        found = self.engines.get(version)
        if found is None:
            loaded = " and ".join(map(str, self.plan.loaded))
            verb = "are" if len(self.engines) > 1 else "is"
            raise UnknownVersion(f"version {version} of {self.engine.name} is not served; version {loaded} {verb}")
        return found

    def role_of(self, engine: Engine) -> Role:
        """What an engine is for; one that has been replaced meanwhile was kept."""
        if engine.version == self.plan.serve:
            return "serving"
        if engine.version == self.plan.candidate:
            return "shadow" if self.plan.shadow else "candidate"
        return "kept"

    def describe(self) -> Iterator[dict[str, str]]:
        """One row for each engine: the labels of convq_model_info."""
        for version, engine in sorted(self.engines.items()):
            yield {
                "version": str(version),
                "sha256": engine.sha256[:12],
                "provider": engine.provider,
                "requested_provider": engine.requested_provider,
                "precision": engine.precision,
                "role": self.role_of(engine),
            }


def load_engine(folder: Path, version: int, device: str) -> Engine:
    """One version, loaded and warmed up. Raises ModelBroken, SettingsError."""
    engine = Engine.load(folder, version, device=device)
    engine.warm_up()
    return engine
