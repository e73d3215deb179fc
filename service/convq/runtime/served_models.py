"""What a supervisor knows of one model's folder: which versions lie there, which were tried, which are refused and why."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from convq.errors import ModelBroken
from convq.inference.manifest import FILE, Manifest
from convq.inference.repository import missing_in, versions_in, with_way
from convq.runtime.plans import Plan, plan_of

Stamp = tuple[tuple[str, int, int], ...]
"""Names, sizes and times of the files in a folder."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """A version that is not served, as it was when that was decided."""

    stamp: tuple[object, ...]
    reason: str


@dataclass(slots=True)
class ServedModel:
    """What is known of one model's folder, and where its workers are led."""

    index: int
    """Its row of the board."""
    name: str
    folder: Path
    manifest: Manifest
    plan: Plan = field(default_factory=lambda: Plan(serve=0))
    lost: bool = False
    """None of its versions can be served, and `plan` means nothing."""
    because: str = ""
    """Why it was lost, as that was when it was."""
    found_again: bool = False
    """It was lost before."""
    announced: bool = False
    """Clients were told that it is served."""
    manifest_stamp: Stamp = ()
    beside: tuple[Stamp, ...] = ()
    """The manifest and the files that it names, as they were at the last look."""
    glimpsed: dict[int, Stamp] = field(default_factory=dict)
    present: dict[int, Stamp] = field(default_factory=dict)
    """Versions that are whole and were so at the last look already."""
    halves: dict[int, tuple[Stamp, float]] = field(default_factory=dict)
    """Versions that are not whole: what is there, and since when it has been that, by `time.monotonic`."""
    checked: dict[int, tuple[Stamp, str]] = field(default_factory=dict)
    """Versions that were tried: files as they were, SHA-256 of the graph."""
    refused: dict[int, Refusal] = field(default_factory=dict)
    since_s: float = 0.0
    next_look_s: float = 0.0
    counted: tuple[float, float] = (0.0, 0.0)
    """Jobs and failures of candidates, at the moment when this candidate began."""

    @classmethod
    def at_start(cls, index: int, folder: Path) -> ServedModel:
        """A model as the start of a service finds it: what is whole is taken for finished. Raises ModelBroken, OSError."""
        model = cls(index, folder.name, folder, Manifest.read(folder))
        model.manifest_stamp, model.beside = stamp_of(folder, FILE), model.stamps_beside()
        seen = {version: stamp_of(folder / str(version)) for version in versions_in(folder)}
        model.present = {version: stamp for version, stamp in seen.items() if not model.missing(version)}
        model.glimpsed = dict(model.present)
        return model

    def missing(self, version: int) -> str:
        """What keeps a version from being whole; empty where it is."""
        return missing_in(self.folder / str(version))

    def refuse(self, version: int, reason: str) -> None:
        """Not to be served until its files, the manifest or what that names change."""
        found = Refusal(self._stamp(version), reason)
        self.refused = {**self.refused, version: found}  # replaced as one: other threads look at it

    def is_refused(self, version: int) -> bool:
        """Whether a version was refused, and neither it nor the manifest nor what that names has changed since."""
        known = self.refused.get(version)
        return known is not None and known.stamp == self._stamp(version)

    def _stamp(self, version: int) -> tuple[object, ...]:
        return self.present.get(version, ()), self.manifest_stamp, self.beside

    def stamps_beside(self) -> tuple[Stamp, ...]:
        """The manifest, labels and sample as they are on disk now; an empty stamp for each that cannot be seen."""
        classes, warmup = self.manifest.classes, self.manifest.warmup
        named = (FILE, classes and classes.labels, warmup and warmup.sample)
        return tuple(stamp_of(self.folder, name) for name in named if name)

    # Threads look at these tables while another changes them: each is replaced as one.

    def look_anew(self, version: int) -> None:
        """Believe nothing of its files: a worker could not load what seemed to be there. They are seen after two looks."""
        self.present = {one: stamp for one, stamp in dict(self.present).items() if one != version}
        self.glimpsed = {one: stamp for one, stamp in dict(self.glimpsed).items() if one != version}
        self.next_look_s = 0.0

    def see_nothing(self) -> None:
        """The folder itself cannot be read."""
        self.present, self.glimpsed, self.beside = {}, {}, ()

    def uncheck(self, version: int) -> None:
        """It has to be tried before it is served again."""
        self.checked = {one: tried for one, tried in dict(self.checked).items() if one != version}

    def usable(self) -> list[int]:
        """Versions that are there and not refused, ascending."""
        return [version for version in sorted(self.present) if not self.is_refused(version)]

    def plan_without_trial(self) -> None:
        """What the manifest asks for, of what is usable: the start itself is the trial. The model is lost where that is nothing."""
        try:
            self.plan = plan_of(self.manifest, self.usable())
        except ModelBroken:
            self.lost = True
            return
        self.checked = {version: (self.present.get(version, ()), "") for version in self.plan.loaded} | self.checked

    def reasons(self) -> dict[int, str]:
        """Version -> why it is refused now."""
        return {version: one.reason for version, one in sorted(self.refused.items()) if self.is_refused(version)}

    def why_lost(self) -> str:
        """Why nothing of it can be served, in one line that begins with a path."""
        reasons = self.reasons()
        if required := self.manifest.versions.require:
            why = reasons.get(required, "it is not there")
            return f"{self.folder}: versions.require asks for version {required}: {why}"
        if not reasons:  # its files have changed since, and are not looked at yet or still not whole
            return self.because or f"{self.folder}: no version can be served"
        if len(reasons) == 1:
            (why,) = reasons.values()
            return f"{self.folder.parent}/{why}" if why.startswith(f"{self.name}/") else f"{self.folder}: {why}"
        return f"{self.folder}: no version can be served: " + "; ".join(f"{one}: {why}" for one, why in reasons.items())

    def without_root(self, reason: str) -> str:
        """A reason without the way to the folder of models: clients read it too."""
        return with_way(reason, self.folder.parent, "")

    def states(self) -> dict[int, str]:
        """Version -> what it is: serving, candidate, shadow, kept or refused."""
        states = dict.fromkeys(self.reasons(), "refused")
        if self.lost:
            return states
        states |= dict.fromkeys(self.plan.kept, "kept") | {self.plan.serve: "serving"}
        if self.plan.candidate is not None:
            states[self.plan.candidate] = "shadow" if self.plan.shadow else "candidate"
        return states


def stamp_of(folder: Path, only: str | None = None) -> Stamp:
    """Names, sizes and times of the files in a folder, or of the one that is named; empty where none can be seen."""
    rows = []
    try:
        for file in folder.iterdir() if only is None else [folder / only]:
            try:
                facts = file.stat()
            except FileNotFoundError:
                facts = file.lstat()  # a link to nothing is there all the same
            rows.append((file.name, facts.st_size, facts.st_mtime_ns))
    except (FileNotFoundError, PermissionError):
        return ()
    return tuple(sorted(rows))
