"""The unit for systemd: valid by systemd's own check, and of one mind with convq's exit codes, drain and settings."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from convq.errors import ModelBroken, RedisUnavailable, ServiceFailed, SettingsError
from convq.settings import VARIABLES, Settings
from servers import skip_or_fail

DEPLOY = Path(__file__).parents[2] / "deploy"
UNIT = (DEPLOY / "systemd" / "convq.service").read_text()
PAGE = (DEPLOY / "README.md").read_text()
KEYS: dict[str, str] = dict(re.findall(r"^([A-Z]\w+)=(.*)$", UNIT, re.MULTILINE))
GIVEN: dict[str, str] = dict(
    re.findall(r"^(CONVQ_\w+)=(.*)$", (DEPLOY / "systemd" / "convq.env").read_text(), re.MULTILINE)
)


@pytest.fixture
def installed(tmp_path: Path) -> Path:
    """The unit with a command that is here: what runs it is looked for when it is checked."""
    if shutil.which("systemd-analyze") is None:
        skip_or_fail("no systemd-analyze")
    command = Path(sys.executable).parent / "convq"
    unit = tmp_path / "convq.service"
    unit.write_text(UNIT.replace("/opt/convq/bin/convq", str(command)))
    return unit


def test_systemd_understands_every_line(installed: Path) -> None:
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(installed)], capture_output=True, text=True, check=False
    )

    assert "" == "".join(line for line in done.stderr.splitlines(keepends=True) if "convq" in line)
    assert 0 == done.returncode, done.stderr


def test_a_line_that_systemd_does_not_understand_would_be_found(installed: Path) -> None:
    installed.write_text(installed.read_text().replace("OOMPolicy=continue", "OOMPolicy=go on"))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", str(installed)], capture_output=True, text=True, check=False
    )

    assert "OOMPolicy" in done.stderr or "OOM policy" in done.stderr


def test_it_has_no_more_rights_than_it_needs(installed: Path) -> None:
    """By systemd's own measure from 0, all taken away, to 10."""
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=30", str(installed)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert 0 == done.returncode, done.stdout.splitlines()[-1]


def test_it_is_started_again_after_what_may_pass_and_not_after_what_somebody_must_mend() -> None:
    never = {int(code) for code in KEYS["RestartPreventExitStatus"].split()}

    assert "on-failure" == KEYS["Restart"]
    assert {SettingsError.exit_code, ModelBroken.exit_code} == never
    assert set() == never & {ServiceFailed.exit_code, RedisUnavailable.exit_code}


def test_it_may_drain_before_it_is_killed_and_only_its_supervisor_is_told() -> None:
    assert "mixed" == KEYS["KillMode"]
    assert float(KEYS["TimeoutStopSec"]) >= float(GIVEN["CONVQ_DRAIN"]) + 11
    assert Settings.model_fields["drain"].default <= float(GIVEN["CONVQ_DRAIN"])


def test_its_settings_exist_and_are_valid() -> None:
    Settings.model_validate({VARIABLES[name]: value for name, value in GIVEN.items()})


def test_what_it_expects_where_is_what_the_page_puts_there() -> None:
    section = PAGE[PAGE.index("## systemd") :].partition("\n## ")[0]

    assert KEYS["EnvironmentFile"] in section
    assert "/opt/convq" in section
    assert "useradd" in section
    assert KEYS["User"] in section
    for name in ("CONVQ_REDIS_PASSWORD_FILE", "CONVQ_MODELS"):
        assert str(Path(GIVEN[name]).parent) in section
