"""`convq models list`: what the repository holds, read from its files; with --redis, also what live services serve."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from convq.cli.connection import connected, named_redis_options
from convq.cli.display.output import for_programs, json_option, print_json, print_line, print_table
from convq.cli.models.folder import (
    OK,
    UNCHECKED,
    BrokenModel,
    Budget,
    accuracy_text,
    check_sample,
    document_of,
    input_text,
    inside,
    models_option,
    open_models,
    passed_over,
    versions_of,
)
from convq.errors import ModelBroken
from convq.queue import Address

if TYPE_CHECKING:
    from convq.repository.model_folders import ModelFolder

SERVED = ("versions", "serving", "candidate", "shadow", "refused")
"""What a service says of its versions, of all that it says of a model."""


@click.command("list")
@models_option
@named_redis_options("Show too what the services on this server serve now.", by_variable=False)
@json_option
def list_models(root: Path | None, address: Address | None, *, as_json: bool) -> None:
    """List every model of the repository, and whether the files of its versions are whole.

    A version that is not is listed with the reason. Nothing is loaded: `convq models check` does that. Checksums are compared
    for the first 8 GiB of graphs, the newest of each model first; which versions were not checked is said.

    \b
    convq models list
    convq models list --models /srv/models --json
    convq models list --redis redis://10.0.0.5:6379/0
    """
    budget = Budget()
    documents = [_document(model, budget) for model in open_models(root)]
    for name, reason in passed_over(root).items():
        print_line(f"passed over: {name}: {reason}", err=True)
    if address is not None:
        documents = _with_served(documents, address)
    if for_programs(as_json=as_json):
        print_json(documents)
        return
    columns = ["name", "versions", "state", "served", "input", ">labels", ">accuracy", "description"]
    rows = [_row(one) for one in documents]
    shown = [i for i, column in enumerate(columns) if column != "served" or address is not None]
    print_table([columns[i] for i in shown], [[row[i] for i in shown] for row in rows])


def _document(model: ModelFolder | BrokenModel, budget: Budget) -> dict[str, Any]:
    """One model for programs; of one that cannot be served at all, its name and the reason."""
    if isinstance(model, BrokenModel):
        return {"name": model.name, "state": model.reason, "versions": []}
    versions = versions_of(model, budget)
    said = [{"version": one.number, "state": one.state} for one in versions]
    whole = next((one for one in reversed(versions) if one.state == OK), None)
    try:
        document = document_of(model, whole or versions[-1])
        check_sample(model, whole or versions[-1])
    except ModelBroken as error:
        return {"name": model.name, "state": inside(model.path, error), "versions": said}
    usable = whole.number if whole is not None else None
    return {**document, "state": versions[-1].state, "newest_whole": usable, "versions": said}


def _with_served(documents: list[dict[str, Any]], address: Address) -> list[dict[str, Any]]:
    """The same with what live services say of each, and of models that are not here. Raises RedisUnavailable."""
    with connected(address) as client:
        live = client.served()
    here = {one["name"] for one in documents}
    elsewhere = [{"name": name, "state": "", "versions": []} for name in sorted(live.keys() - here)]
    return [{**one, "served": _served(live.get(one["name"]))} for one in documents + elsewhere]


def _served(said: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """None where nobody serves the model."""
    return None if said is None else {key: said[key] for key in SERVED if key in said}


def _row(one: Mapping[str, Any]) -> list[str]:
    return [
        one["name"],
        ", ".join(str(version["version"]) for version in one["versions"]),
        _state_text(one),
        _served_text(one.get("served")),
        input_text(one["input"]) if "input" in one else "",
        str(one.get("labels", "")),
        accuracy_text(one),
        one.get("description", ""),
    ]


def _state_text(one: Mapping[str, Any]) -> str:
    """ok; or what is broken, the newest version first."""
    if not one["state"]:
        return "not in this repository"
    broken = [f"{entry['version']}: {entry['state']}" for entry in reversed(one["versions"]) if entry["state"] != OK]
    if one["state"] == OK:
        return "; ".join([OK, *broken, *_own_text(one)])
    if one["state"].startswith(UNCHECKED):
        return "; ".join(broken)
    newest_is_broken = one["versions"] and one["versions"][-1]["state"] != OK
    older = [f"{one['newest_whole']} can be served"] if one.get("newest_whole") else []
    return "BROKEN " + "; ".join([*broken, *older] if newest_is_broken else [one["state"], *broken])


def _own_text(one: Mapping[str, Any]) -> list[str]:
    """In what the newest whole version's own manifest is not the model's: that holds for later versions alone."""
    keys = one.get("differs_from_model")
    return [f"{one['newest_whole']}/manifest.toml differs from the model's in {', '.join(keys)}"] if keys else []


def _served_text(served: Mapping[str, Any] | None) -> str:
    if served is None:
        return "no"
    said = [", ".join(map(str, served.get("versions", ())))]
    candidate = served.get("candidate")
    if isinstance(candidate, dict):
        part = "as a shadow" if candidate.get("shadow") else f"for {candidate.get('percent', 0):g}% of the jobs"
        said.append(f"{candidate.get('version')} {part}")
    refused = served.get("refused")
    said += [f"{version} refused: {why}" for version, why in refused.items()] if isinstance(refused, dict) else []
    return "; ".join(said)
