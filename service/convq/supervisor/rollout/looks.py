"""Looks at one model's folder: what lies there, what is whole, and what has become of its manifest."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping

from convq.errors import ModelBroken
from convq.logs import event
from convq.repository.manifest import FILE, Manifest
from convq.repository.model_folders import versions_in
from convq.repository.numbering import LEDGER, ledger_of
from convq.repository.version_files import has_own_manifest
from convq.supervisor.rollout.served_models import ServedModel, Stamp, stamp_of

log = logging.getLogger("convq.supervisor")

HALF_FOR_S = 30.0
"""A version that has been the same and not whole for so long is no copy under way: it is said to be refused."""
CHANGED = "the manifest has changed: versions and rollout hold now, the rest for versions without a manifest of their own, when they are loaded next"


def look(model: ServedModel, refuse: Callable[[int, str], None]) -> None:
    """What lies in the folder now; a manifest that cannot be read leaves the old one in force. Raises OSError."""
    seen = {version: stamp_of(model.folder / str(version)) for version in versions_in(model.folder)}
    whole = {version: stamp for version, stamp in seen.items() if not model.missing(version, stamp)}
    model.present = {version: stamp for version, stamp in whole.items() if model.glimpsed.get(version) == stamp}
    model.glimpsed = whole
    _look_at_halves(model, {version: stamp for version, stamp in seen.items() if version not in whole}, refuse)
    model.beside = model.stamps_beside()
    look_at_ledger(model)
    stamp = stamp_of(model.folder, FILE)
    if stamp and stamp != model.manifest_stamp:
        model.manifest_stamp = stamp
        try:
            model.manifest = Manifest.read(model.folder)
        except ModelBroken as error:
            event(log, logging.ERROR, f"the manifest has changed and is refused: {error}", model=model.name)
        else:
            event(log, logging.INFO, CHANGED, model=model.name)
            model.unfit = {}
            model.doubted = _without_own(model)


def _without_own(model: ServedModel) -> list[int]:
    """Versions that a change of the model's manifest may break: those that are loaded, and the one to go back to."""
    loaded = () if model.lost else model.plan.loaded
    older = [version for version in model.present if loaded and version < min(loaded)][-1:]
    return [version for version in (*loaded, *older) if not has_own_manifest(model.folder, version)]


def look_at_ledger(model: ServedModel) -> None:
    """A ledger that cannot be read leaves the old one in force."""
    stamp = stamp_of(model.folder, LEDGER)
    if stamp == model.ledger_stamp:
        return
    model.ledger_stamp = stamp
    try:
        model.ledger = ledger_of(model.folder)
    except ModelBroken as error:
        event(log, logging.ERROR, f"what version numbers were given to is not known: {error}", model=model.name)


def _look_at_halves(model: ServedModel, seen: Mapping[int, Stamp], refuse: Callable[[int, str], None]) -> None:
    """A copy that has stopped half-way is said, once; one that goes on is left alone."""
    now_s = time.monotonic()
    for version, stamp in seen.items():
        before, since_s = model.halves.get(version, ((), now_s))
        model.halves[version] = (stamp, since_s if stamp == before else now_s)
        if now_s - model.halves[version][1] > HALF_FOR_S and not model.is_refused(version):
            refuse(version, f"{model.folder / str(version)}: {model.missing(version, stamp)}")
    for version in model.halves.keys() - seen.keys():
        del model.halves[version]
