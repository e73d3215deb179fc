"""What a supervisor knows of one model's folder: which versions lie there, which were tried, which are refused and why."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from convq.errors import ModelBroken
from convq.ipc.plans import Plan, plan_of
from convq.repository.manifest import FILE, Manifest
from convq.repository.model_folders import missing_in, versions_in, with_way
from convq.repository.numbering import Mark, mark_of, reused
from convq.supervisor.rollout.records import Record

MOST_REASON = 4000
"""Characters: a reason may repeat what a stranger wrote, and is told to clients every few seconds."""
Stamp = tuple[tuple[str, int, int], ...]
"""Names, sizes and times of the files in a folder."""


Origin = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Refusal:
    """A version that is not served, as it was when that was decided."""

    stamp: tuple[object, ...]
    reason: str


@dataclass(slots=True)
class ServedModel:
    """What is known of one model's folder, and where its workers are led."""

    index: int | None
    """Its place on the board; None until something of it is served."""
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
    origin: Origin = ()
    """Which folder it is; see `origin_of`."""
    manifest_stamp: Stamp = ()
    beside: tuple[Stamp, ...] = ()
    """The manifest and the files that it names, as they were at the last look."""
    glimpsed: dict[int, Stamp] = field(default_factory=dict)
    present: dict[int, Stamp] = field(default_factory=dict)
    """Versions that are whole and were so at the last look already."""
    halves: dict[int, tuple[Stamp, float]] = field(default_factory=dict)
    """Versions that are not whole: what is there, and since when it has been that, by `time.monotonic`."""
    checked: dict[int, tuple[Stamp, str]] = field(default_factory=dict)
    """Versions that were tried: files as they were, seal of the graphs; none before the first worker has loaded them."""
    proven: set[int] = field(default_factory=set)
    """Versions that all workers had at once."""
    refused: dict[int, Refusal] = field(default_factory=dict)
    wholeness: dict[int, tuple[Stamp, str]] = field(default_factory=dict)
    """Versions that were looked at: files as they were, and what keeps them from being whole."""
    ledger: Mapping[int, Mark] = field(default_factory=dict)
    ledger_stamp: Stamp = ()
    given: dict[int, Mark] = field(default_factory=dict)
    """What each number has meant since this service knows the model."""
    doubted: list[int] = field(default_factory=list)
    """Versions that a change of the model's manifest may have broken."""
    unfit: dict[int, str] = field(default_factory=dict)
    """Versions that are loaded, and could not be loaded again with the model's manifest as it is now -> why."""
    on_trial: frozenset[int] = frozenset()
    """Versions that are tried now."""
    leaving: bool = False
    """Its folder is gone, or is that of another model: its workers finish what they have."""
    since_s: float = 0.0
    next_look_s: float = 0.0
    counted: tuple[Record, Record] = (Record(), Record())
    """What candidates, and the version that serves, had run at the moment when this candidate began."""

    @classmethod
    def at_start(cls, index: int, folder: Path) -> ServedModel:
        """A model as the start of a service finds it: what is whole is taken for finished. Raises ModelBroken, OSError."""
        model = cls(index, folder.name, folder, Manifest.read(folder))
        model.manifest_stamp, model.beside = stamp_of(folder, FILE), model.stamps_beside()
        seen = {version: stamp_of(folder / str(version)) for version in versions_in(folder)}
        model.present = {version: stamp for version, stamp in seen.items() if not model.missing(version, stamp)}
        model.origin = origin_of(folder)
        model.glimpsed = dict(model.present)
        return model

    @classmethod
    def newcomer(cls, folder: Path) -> ServedModel:
        """A model that came while the service runs: nothing of it is taken for finished. Raises ModelBroken."""
        model = cls(None, folder.name, folder, Manifest.read(folder), lost=True, found_again=True)
        model.manifest_stamp, model.beside = stamp_of(folder, FILE), model.stamps_beside()
        model.origin = origin_of(folder)
        return model

    @property
    def is_new(self) -> bool:
        """It came while the service ran, and nothing is known against it."""
        return self.lost and self.index is None and not self.because and not self.reasons()

    def missing(self, version: int, stamp: Stamp | None = None) -> str:
        """What keeps a version from being whole, empty where it is; looked for again where its files have changed."""
        known = self.wholeness.get(version)
        if stamp is None or known is None or known[0] != stamp:
            known = (stamp or (), missing_in(self.folder / str(version)))
            self.wholeness[version] = known
        return known[1]

    def is_checked(self, version: int) -> bool:
        """Whether a version was tried with the files that it has now."""
        return version in self.present and self.checked.get(version, ((), ""))[0] == self.present[version]

    def seals(self) -> dict[int, str]:
        """Version -> seal of the files that may be loaded for it, where that is known."""
        return {version: seal for version, (_, seal) in dict(self.checked).items() if seal}

    def note_seals(self, loaded: Mapping[str, str]) -> None:
        """A worker has loaded these: where there was no trial, at the start, the others load the very same."""
        known = dict(self.checked)
        self.checked = {one: (stamp, seal or loaded.get(str(one), "")) for one, (stamp, seal) in known.items()}

    def misnumbered(self, version: int) -> str:
        """Why what lies under a number is not what was given it; empty where it is, or where that cannot be told."""
        try:
            found = mark_of(self.folder, version)
        except ModelBroken:  # the trial says so
            return ""
        why = reused(version, self.given.get(version), found) or reused(version, self.ledger.get(version), found)
        return f"{self.folder / str(version)}: {why}" if why else ""

    def note_given(self, version: int, sha256: str) -> None:
        """A worker has loaded the graph whose SHA-256 begins so: the number means that from now on."""
        if version in self.given:
            return
        with suppress(ModelBroken):
            found = mark_of(self.folder, version, only_own=True)
            if found.sha256.startswith(sha256):
                self.given = {**self.given, version: found}

    def was_replaced(self) -> bool:
        """Whether the folder is that of another model: not the one that it was, and nothing in it is what was loaded."""
        origin = origin_of(self.folder)
        if not origin or origin == self.origin:
            return False
        if self.lost:  # nobody has it: what its numbers meant went with the folder
            self.origin, self.given = origin, {}
            return False
        if any(version in self.present and not self.misnumbered(version) for version in self.plan.loaded):
            self.origin = origin
            return False
        return any(self.misnumbered(version) for version in self.present if version in self.given)

    def refuse(self, version: int, reason: str) -> None:
        """Not to be served until its files, the manifest or what that names change."""
        found = Refusal(self.stamp_of(version), reason[:MOST_REASON])
        self.refused = {**self.refused, version: found}  # replaced as one: other threads look at it

    def is_refused(self, version: int) -> bool:
        """Whether a version was refused, and neither it nor the manifest nor what that names has changed since."""
        known = self.refused.get(version)
        return known is not None and known.stamp == self.stamp_of(version)

    def stamp_of(self, version: int) -> tuple[object, ...]:
        """All that a trial of a version depends on, as it was at the last look."""
        return self.present.get(version, ()), self.manifest_stamp, self.beside

    def stamps_beside(self) -> tuple[Stamp, ...]:
        """The manifest, labels and sample as they are on disk now; an empty stamp for each that cannot be seen."""
        warmup = self.manifest.warmup
        named = (FILE, *self.manifest.labels_files, warmup and warmup.sample)
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

    def holds_all(self, plan: Plan) -> bool:
        """Whether the folders of all versions of a plan are there at this moment."""
        return all(os.path.lexists(self.folder / str(version)) for version in plan.loaded)

    def reasons(self) -> dict[int, str]:
        """Version -> why it is refused now."""
        return {version: one.reason for version, one in sorted(self.refused.items()) if self.is_refused(version)}

    def why_lost(self) -> str:
        """Why nothing of it can be served, in one line that begins with a path."""
        if self.leaving:
            return f"{self.folder}: is not there any more"
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
        """Version -> what it is: serving, candidate, shadow, kept, trial or refused."""
        states = dict.fromkeys(self.on_trial, "trial") | dict.fromkeys(self.reasons(), "refused")
        if self.lost:
            return states
        states |= dict.fromkeys(self.plan.kept, "kept") | {self.plan.serve: "serving"}
        if self.plan.candidate is not None:
            states[self.plan.candidate] = "shadow" if self.plan.shadow else "candidate"
        return states


def origin_of(folder: Path) -> Origin:
    """What a folder that is deleted and made again does not have in common with the one before; empty where there is none.

    Numbers of files may come again, the moments at which they were changed do not, whatever times a copy is given.
    """
    try:
        home, manifest = folder.stat(), (folder / FILE).lstat()
    except OSError:
        return ()
    return home.st_dev, home.st_ino, manifest.st_ino, manifest.st_ctime_ns


def stamp_of(folder: Path, only: str | None = None) -> Stamp:
    """Names, sizes and times of the files in a folder, or of the one that is named; empty where none can be seen."""
    rows = []
    try:
        for file in folder.iterdir() if only is None else [folder / only]:
            try:
                facts = file.stat()
            except OSError:
                facts = file.lstat()  # a link to nothing, or in a circle, is there all the same
            rows.append((file.name, facts.st_size, facts.st_mtime_ns))
    except (FileNotFoundError, PermissionError):
        return ()
    return tuple(sorted(rows))
