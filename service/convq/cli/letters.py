"""Whose a dead letter or a job is that somebody names without its model: looked for in all of them, and never guessed."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NoReturn

import click

from convq.cli.connection import flags_given
from convq.client import Client
from convq.protocol import MODEL_NAME
from convq.queue import Address, Shard
from convq.queue.dead_letters import DeadLetters, models_with_letters
from convq.queue.transport.address import ADMIN, USERS

NAMED = 10
"""So many ids or models are named in a message."""


@contextmanager
def letters_of(address: Address, model: str) -> Iterator[DeadLetters]:
    """The dead letters of one model, until the end of the block."""
    letters = DeadLetters(address, Shard(model))
    try:
        yield letters
    finally:
        letters.close()


@dataclass(frozen=True, slots=True)
class Graves:
    """Which models have dead letters: how many each, and which models were looked at."""

    address: Address
    counts: Mapping[str, int]
    looked_at: Sequence[str]
    searched: bool
    """Whether models that nobody serves were looked for on the server too."""

    @classmethod
    def of(cls, address: Address, client: Client, model: str | None, *, strict: bool = True) -> Graves:
        """Those of that model; without one, of all that are served or found, or else lie in the folder of models.

        With `strict`, raises ClickException for a model that nobody serves and that never had a dead letter.
        """
        served, search = sorted(client.served()), _may_search(address)
        if model is None:
            counts = models_with_letters(address, {*served, *(() if search else _in_the_folder())}, search=search)
            return cls(address, counts, sorted({*served, *counts}), searched=search)
        counts = models_with_letters(address, [model], search=False)
        if strict and model not in served and not counts:
            _unknown(model, {*served, *models_with_letters(address, served, search=search)})
        return cls(address, counts, [model], searched=True)

    def owners(self, ids: Sequence[str]) -> dict[str, list[str]]:
        """Each id -> the models that have a dead letter of that id."""
        found: dict[str, list[str]] = {one: [] for one in ids}
        for model in self.counts:
            with letters_of(self.address, model) as letters:
                for one in ids:
                    if letters.find(one) is not None:
                        found[one].append(model)
        return found

    def sorted_out(self, ids: Sequence[str]) -> Owned:
        """Whose each of these letters is. Raises ClickException where one may be either of two."""
        owned = Owned()
        for one, models in self.owners(ids).items():
            if len(models) > 1:
                which = f"models {', '.join(models)} have a dead letter {one} each"
                raise click.ClickException(f"{which}: say which is meant, with --model NAME; nothing was done")
            if models:
                owned.by_model.setdefault(models[0], []).append(one)
            else:
                owned.missing.append(one)
        return owned

    def not_there(self, missing: Sequence[str], wanted: int) -> str:
        """What is said of letters that no model has."""
        some = (
            f"dead letter {missing[0]} is"
            if wanted == 1
            else f"{len(missing)} of {wanted} dead letters, like {missing[0]}, are"
        )
        return f"{some} not there: requeued or purged, or of another model than {self.names()}; {self.where_to_look()}"

    def names(self) -> str:
        """The models that were looked at, for a sentence."""
        more = f" and {len(self.looked_at) - NAMED} more" if len(self.looked_at) > NAMED else ""
        return ", ".join(self.looked_at[:NAMED]) + more or "any model that is served"

    def where_to_look(self) -> str:
        """The command that shows which letters there are, and what it cannot see."""
        unseen = "" if self.searched else "; for a model that nobody serves add --model NAME"
        return f"convq dead list{flags_given(self.address)} shows those of all models{unseen}"


@dataclass(slots=True)
class Owned:
    """Ids of dead letters by the model that has them, and those that none has."""

    by_model: dict[str, list[str]] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)


def _may_search(address: Address) -> bool:
    """The users of deploy/redis/users.acl may not go through the names of all keys, and trying would be noted as an attack."""
    return address.user not in USERS or address.user == ADMIN


def _in_the_folder() -> list[str]:
    """Models of the usual folder: what an operator's checkout has is probably what was served here."""
    try:
        from convq.repository.model_folders import default_root  # noqa: PLC0415 - needs the engine
    except ModuleNotFoundError:  # where only the client is installed
        return []
    root = default_root()
    return [one.name for one in root.iterdir() if MODEL_NAME.match(one.name)] if root.is_dir() else []


def _unknown(model: str, known: set[str]) -> NoReturn:
    near = difflib.get_close_matches(model, known, n=1)
    hint = f"did you mean {near[0]!r}?" if near else f"there are: {', '.join(sorted(known)[:NAMED]) or 'none'}"
    raise click.ClickException(f"no worker serves {model!r}, and there never was a dead letter of it; {hint}")
