"""Workers that died before they were ready: whether another plan helps, whether a model is passed over, or the service gives up."""

from __future__ import annotations

from typing import Protocol

from convq.errors import ModelBroken, ServiceFailed, SettingsError
from convq.supervisor.loads import BadLoad
from convq.supervisor.slots import Slot

TRIES_UNTIL_READY = 5
"""A worker that dies this often in a row before it was ever ready will not get better: the service gives up."""
FINAL = (SettingsError.exit_code, ModelBroken.exit_code)


class StartFailed(ServiceFailed):
    """A worker's start ended with an error that will not go away by itself; ends with that error's exit code."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc]


class Versions(Protocol):
    """What a start needs of the keeper of versions."""

    def pass_over(self, name: str, version: int, reason: str, *, running: bool) -> None:
        """A version could not be loaded by a worker: plan without it.

        Raises ModelBroken where the service needs it and is not `running` yet.
        """
        ...

    def take_back(self, name: str, version: int, reason: str, *, running: bool) -> None:
        """A version is not to be loaded again. Raises ModelBroken as `pass_over`."""
        ...


def note_bad_load(bad: BadLoad, versions: Versions, *, running: bool) -> None:
    """A version has ended workers that loaded it, or held one up: the next worker starts without it. Raises StartFailed."""
    try:
        versions.take_back(bad.model, bad.version, bad.reason, running=running)
    except ModelBroken as error:
        raise StartFailed(str(error), error.exit_code) from None


def judge(slot: Slot, ending: str, versions: Versions, *, running: bool) -> bool:
    """What a worker's death means that was never ready: True where its next one starts at once.

    A version that cannot be loaded is passed over, whether the service is `running`, that is, was ready once, or not.
    What runs never gives up: the rest is tried again later and later. What was ended because nobody wants what it loads says
    nothing. Before, raises StartFailed for what is final, and
    ServiceFailed after a few tries of anything else.
    """
    if slot.unwanted:
        return True
    failure = slot.failure
    if failure is not None and failure.get("version") is not None:
        try:
            versions.pass_over(failure["model"], failure["version"], failure["message"], running=running)
        except ModelBroken as error:
            raise StartFailed(str(error), error.exit_code) from None
        return True
    if running:
        return False
    if failure is not None and failure["exit_code"] in FINAL:
        raise StartFailed(failure["message"], failure["exit_code"])
    if slot.failures >= TRIES_UNTIL_READY:
        why = failure["message"] if failure else f"it ended with {ending}"
        raise ServiceFailed(f"no worker survives its start: {why}")
    return False
