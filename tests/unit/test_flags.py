"""Flags of the commands: the values that they take are those that the rest of convq takes."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from convq.cli import commands, main
from convq.repository.model_folders import versions_in


def options_called(flag: str, group: click.Group = commands, path: str = "") -> Iterator[tuple[str, click.Option]]:
    for name, command in group.commands.items():
        if isinstance(command, click.Group):
            yield from options_called(flag, command, f"{path} {name}")
        for one in command.params:
            if isinstance(one, click.Option) and flag in one.opts:
                yield f"{path} {name}".strip(), one


VERSIONS = dict(options_called("--version"))


def test_these_commands_take_a_version() -> None:
    assert {"submit", "export", "models add", "models check", "models eval", "models show"} == set(VERSIONS)


@pytest.mark.parametrize("command", VERSIONS)
@pytest.mark.parametrize("number", ["0", "-1", "1000000000", "9" * 22, "1.5", "one"])
def test_a_version_that_no_folder_can_be_is_wrong_usage(
    command: str, number: str, capfd: pytest.CaptureFixture[str]
) -> None:
    assert 2 == main([*command.split(), __file__, "--version", number])
    assert "--version" in capfd.readouterr().err


@pytest.mark.parametrize("command", VERSIONS)
def test_the_last_version_that_a_flag_takes_is_the_last_that_a_folder_can_be(command: str, tmp_path: Path) -> None:
    taken = VERSIONS[command].type
    assert isinstance(taken, click.IntRange)
    assert taken.max is not None
    (tmp_path / str(taken.max)).mkdir()
    (tmp_path / str(taken.max + 1)).mkdir()

    assert (taken.max,) == versions_in(tmp_path)


@pytest.mark.parametrize(
    ("flag", "value", "expected"),
    [
        ("--std", "0,0,0", "expected values above 0"),
        ("--std", "1,0,1", "expected values above 0"),
        ("--std", "-1", "expected values above 0"),
        ("--std", "nan", "expected a finite number"),
        ("--mean", "nan", "expected a finite number"),
        ("--mean", "0,0,-inf", "expected a finite number"),
        ("--mean", "1e999", "expected a finite number"),
        ("--scale", "nan", "expected a finite number"),
        ("--scale", "inf", "expected a finite number"),
        ("--scale", "0", "expected a number other than 0"),
        ("--size", "99999x3", "expected less than or equal to 65535"),
    ],
)
@pytest.mark.parametrize("command", ["models add", "export"])
def test_a_value_that_no_manifest_takes_is_wrong_usage(
    command: str, flag: str, value: str, expected: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    told = main([*command.split(), __file__, "--name", "mine", "--models", str(tmp_path), f"{flag}={value}"])

    said = capfd.readouterr().err
    assert (2, 1) == (told, said.count("\n"))
    assert f"convq: Invalid value for '{flag}': '" in said
    assert expected in said
    assert [] == list(tmp_path.iterdir())


def test_an_answer_that_goes_to_a_closed_standard_output_is_a_failure_in_one_line() -> None:
    command = f"{sys.executable} -m convq --version >&-"
    done = subprocess.run(["sh", "-c", command], stderr=subprocess.PIPE, text=True, timeout=60, check=False)

    assert (1, "convq: standard output cannot be written: Bad file descriptor\n") == (done.returncode, done.stderr)
