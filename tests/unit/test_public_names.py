"""The names of the package: all of them there, and loaded where they are asked for."""

from __future__ import annotations

import subprocess
import sys

import pytest

import convq


def loaded_by(code: str) -> set[str]:
    """The modules of a process that runs this."""
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\nimport sys\nprint(*sys.modules)"], capture_output=True, text=True, check=True
    )
    return set(done.stdout.split())


def test_every_public_name_is_there_and_listed() -> None:
    assert convq.__all__ == [name for name in convq.__all__ if getattr(convq, name) is not None]
    assert set(convq.__all__) <= set(dir(convq))


def test_a_name_that_there_is_not_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'convq' has no attribute 'Cleint'"):
        getattr(convq, "Cleint")  # noqa: B009 - mypy knows that it is not there


@pytest.mark.parametrize("process", ["convq.worker.process", "convq.importer.dry_run_child"])
def test_a_process_of_the_service_loads_no_client(process: str) -> None:
    assert set() == {name for name in loaded_by(f"import {process}") if name.startswith("convq.client")}


def test_a_confined_child_begins_without_libraries() -> None:
    assert set() == {"numpy", "redis", "pydantic", "PIL"} & loaded_by("import convq.importer.dry_run_child")


def test_the_client_is_loaded_where_it_is_asked_for() -> None:
    assert "convq.client" in loaded_by("from convq import Client")
