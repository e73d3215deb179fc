"""How a version comes to be: written once, copied where YAML needs it, dated, committed and tagged; or nothing at all."""

from __future__ import annotations

import datetime as dt
import os
import shutil
import subprocess
import sys
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import pytest

from convq import __version__

ROOT = Path(__file__).resolve().parents[2]
_SPEC = spec_from_file_location("release", ROOT / "deploy" / "release.py")
assert _SPEC is not None
assert _SPEC.loader is not None
release: Any = module_from_spec(_SPEC)
_SPEC.loader.exec_module(release)

DATE = dt.date(2031, 2, 3)
PASSES, FAILS = ((sys.executable, "-c", ""),), ((sys.executable, "-c", "raise SystemExit(1)"),)
NEXT = "77.0.1"


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkout on main that holds the files a release changes, with something to say in its changelog."""
    for who in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{who}_NAME", "Tester")
        monkeypatch.setenv(f"GIT_{who}_EMAIL", "tester@example.org")
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", os.devnull)
    for name in (release.SOURCE, *release.COPIES, "CHANGELOG.md"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, tmp_path / name)
    log = tmp_path / "CHANGELOG.md"
    log.write_text("# Changelog\n\n## [Unreleased]\n\n### Added\n\n- **Wings**\n\n## [0.0.1]\n\n- An egg\n")
    git(tmp_path, "init", "--quiet", "--initial-branch", "main")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message", "All")
    return tmp_path


def git(folder: Path, *words: str) -> str:
    return subprocess.run(["git", *words], cwd=folder, capture_output=True, text=True, check=True).stdout.strip()


def test_a_release_is_one_commit_and_a_tag_that_names_the_version_everywhere(tree: Path) -> None:
    release.release(tree, NEXT, DATE, PASSES)

    assert (f"v{NEXT}", "") == (git(tree, "describe", "--exact-match"), git(tree, "status", "--porcelain"))
    assert NEXT == release.current(tree)
    for name in release.COPIES:
        assert NEXT in (tree / name).read_text()
        assert f"convq:{__version__}" not in (tree / name).read_text()
    log = (tree / "CHANGELOG.md").read_text()
    assert f"## [Unreleased]\n\n## [{NEXT}] - 2031-02-03\n\n### Added\n\n- **Wings**\n\n## [0.0.1]" in log


def test_what_is_released_has_nothing_unreleased_left(tree: Path) -> None:
    release.release(tree, NEXT, DATE, PASSES)

    with pytest.raises(release.RefusedError, match="nothing under"):
        release.release(tree, "77.0.2", DATE, PASSES)


@pytest.mark.parametrize(
    ("version", "why"),
    [
        ("", "no version"),
        ("v2.0.0", "no version"),
        ("2.0", "no version"),
        ("0.0.1", "not newer"),
        (__version__, "not newer"),
    ],
)
def test_what_is_no_newer_version_is_refused(tree: Path, version: str, why: str) -> None:
    with pytest.raises(release.RefusedError, match=why):
        release.release(tree, version, DATE, PASSES)


def test_only_a_clean_main_is_released_and_each_version_once(tree: Path) -> None:
    (tree / "new").write_text("")
    with pytest.raises(release.RefusedError, match="not committed"):
        release.release(tree, NEXT, DATE, PASSES)
    (tree / "new").unlink()
    git(tree, "tag", f"v{NEXT}")
    with pytest.raises(release.RefusedError, match="already"):
        release.release(tree, NEXT, DATE, PASSES)
    git(tree, "switch", "--quiet", "--create", "other")
    with pytest.raises(release.RefusedError, match="main"):
        release.release(tree, "77.0.2", DATE, PASSES)


def test_a_check_that_fails_leaves_everything_as_it_was(tree: Path) -> None:
    with pytest.raises(release.RefusedError, match="nothing was changed"):
        release.release(tree, NEXT, DATE, (*PASSES, *FAILS))

    assert ("", "") == (git(tree, "status", "--porcelain"), git(tree, "tag"))


def test_the_version_has_one_source_and_its_copies_agree() -> None:
    """Every other file that names it is in COPIES: found by looking through all of them."""
    names = git(
        ROOT, "grep", "-lE", rf"convq[:@]{__version__}|ARG VERSION=|newTag: ", "--", ".", ":!*.py", ":!CHANGELOG.md"
    )

    assert {*names.split("\n")} == set(release.COPIES)
    assert all(__version__ in (ROOT / name).read_text() for name in release.COPIES)
