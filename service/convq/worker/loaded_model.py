"""What one worker has loaded of one model: the plan, and an engine for each version of it. Replaced as a whole, never changed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, Self

from convq.engine.engine import Engine
from convq.engine.room import TOGETHER_BYTES
from convq.errors import ModelBroken, UnknownVersion
from convq.ipc.plans import Plan
from convq.ipc.shared_memory import StatsRow
from convq.queue import Received
from convq.repository.model_folders import is_gone

Role = Literal["serving", "candidate", "shadow", "kept"]


class VersionBroken(ModelBroken):
    """A version of a plan cannot be loaded; another might."""

    def __init__(self, model: str, version: int, message: str) -> None:
        super().__init__(message)
        self.model, self.version = model, version


@dataclass(frozen=True, slots=True, eq=False)
class LoadedModel:
    """One plan and its engines, which may be those of the plan before as well."""

    plan: Plan
    engines: Mapping[int, Engine]
    """Version -> engine, for every version of `plan.loaded`."""
    row: StatsRow | None = None
    """Where the supervisor says which candidate was taken back, before this worker has followed."""
    together_bytes: int = TOGETHER_BYTES
    """What the outputs of one batch, and the documents made of them, may take."""
    always: Engine | None = field(init=False)
    """What answers every job that pins nothing; None where that depends on the job. Looked at for each job."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "always", None if self.plan.percent else self.engines[self.plan.serve])

    @classmethod
    def load(
        cls,
        folder: Path,
        plan: Plan,
        device: str,
        checked: Mapping[int, str],
        row: StatsRow | None = None,
        together_bytes: int = TOGETHER_BYTES,
    ) -> LoadedModel:
        """Load and warm up every version of a plan. Raises VersionBroken, SettingsError.

        `checked` maps versions to the seals of the files that were tried: others are not opened.
        """
        engines = load_engines(folder, plan, device, checked, row, {}, together_bytes)
        return cls.of(plan, engines, row, together_bytes)

    @classmethod
    def of(cls, plan: Plan, engines: Mapping[int, Engine], row: StatsRow | None, together_bytes: int) -> Self:
        """What is loaded of a plan: a version that answers no job without a pin may be gone, and is left out."""
        for version in set(plan.loaded) - engines.keys():
            plan = plan.without(version) or plan
        return cls(plan, engines, row, together_bytes)

    def follow(self, plan: Plan, folder: Path, device: str, checked: Mapping[int, str]) -> LoadedModel:
        """The next plan's: loads and warms up what is not loaded yet, beside what runs.

        `checked` is that of `load`. Raises VersionBroken, SettingsError; then nothing has changed.
        """
        engines = load_engines(folder, plan, device, checked, self.row, self.engines, self.together_bytes)
        return LoadedModel.of(plan, engines, self.row, self.together_bytes)

    @property
    def engine(self) -> Engine:
        """The engine that answers jobs that pin nothing."""
        return self.engines[self.plan.serve]

    @property
    def shadow(self) -> Engine | None:
        """The engine that runs beside it, if any."""
        version = self.plan.shadowed
        return None if version is None or self.is_barred(version) else self.engines[version]

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

    def is_barred(self, version: int) -> bool:
        """Whether the supervisor has taken this candidate back: what may have killed another worker is not run here."""
        return self.row is not None and self.row.get("pulse_barred_version") == version

    def engine_for(self, job: Received) -> Engine:
        """The engine that answers this job. Raises UnknownVersion."""
        if self.always is not None and job.version is None:
            return self.always
        version = job.version if job.version is not None else self.plan.version_of(job.id)
        if version == self.plan.candidate and self.is_barred(version):
            if job.version is not None:
                raise UnknownVersion(f"version {version} of {self.engine.name} is not served: it was taken back")
            version = self.plan.serve
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


def load_engines(
    folder: Path,
    plan: Plan,
    device: str,
    checked: Mapping[int, str],
    row: StatsRow | None,
    loaded: Mapping[int, Engine],
    together_bytes: int,
) -> dict[int, Engine]:
    """Every version of a plan, loaded and warmed up but for those that are `loaded`. Raises VersionBroken, SettingsError.

    What is being loaded stands on the board, for whoever finds that it does not end. A version that was deleted meanwhile
    is left out, unless it is the one that answers.
    """
    engines = {}
    for version in plan.loaded:
        if version in loaded:
            engines[version] = loaded[version]
            continue
        if row is not None:
            row.loading.set(str(version).encode())
        try:
            engines[version] = Engine.load(folder, version, device=device, seal=checked.get(version, ""))
            engines[version].warm_up(together_bytes=together_bytes)
        except MemoryError:
            raise VersionBroken(folder.name, version, f"{folder / str(version)}: there is no memory for it") from None
        except ModelBroken as error:
            if version != plan.serve and is_gone(folder / str(version)):
                continue
            raise VersionBroken(folder.name, version, str(error)) from None
        finally:
            if row is not None:
                row.loading.clear()
    return engines
