"""Makes a release: the version is written everywhere, the changelog gets its date, and one commit with a tag holds both.

    python deploy/release.py 1.2.3

Refused unless the tree is clean and on main, the version is newer, and the changelog has something to say. `make check` and
`make test-wheel` run before anything is committed; what fails leaves the tree as it was. Nothing is pushed: that is said last.
"""

from __future__ import annotations

import datetime as dt
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SOURCE = "service/convq/__init__.py"
COPIES = (
    "Dockerfile",
    "deploy/.env.example",
    "deploy/README.md",
    "deploy/compose.yaml",
    "deploy/kubernetes/overlays/cpu/kustomization.yaml",
    "deploy/kubernetes/overlays/cuda/kustomization.yaml",
)
"""Files that name the version besides its source, and no other thing of that number."""
UNRELEASED = "## [Unreleased]\n"
CHECKS = (("make", "check"), ("make", "test-wheel"))


class RefusedError(Exception):
    """Why there is no release, for whoever asked for it."""


def current(root: Path) -> str:
    """The version of the tree."""
    found = re.search(r'^__version__ = "([^"]+)"', (root / SOURCE).read_text(encoding="utf-8"), re.MULTILINE)
    if found is None:
        raise RefusedError(f"{SOURCE} names no __version__")
    return found[1]


def numbers(version: str) -> tuple[int, ...]:
    """1.2.3 as numbers."""
    if not re.fullmatch(r"(?:0|[1-9]\d*)(?:\.(?:0|[1-9]\d*)){2}", version):
        raise RefusedError(f"{version!r} is no version; expected three numbers, as in make release NEXT=1.2.3")
    return tuple(map(int, version.split(".")))


def git(root: Path, *words: str) -> str:
    """What git says, without the last line end."""
    done = subprocess.run(["git", *words], cwd=root, capture_output=True, encoding="utf-8", check=False)
    if done.returncode:
        raise RefusedError(f"git {words[0]}: {done.stderr.strip()}")
    return done.stdout.strip()


def refuse_unready(root: Path, version: str) -> None:
    """Raise RefusedError where this tree cannot become that version."""
    if numbers(version) <= numbers(current(root)):
        raise RefusedError(f"{version} is not newer than {current(root)}")
    if (branch := git(root, "branch", "--show-current")) != "main":
        raise RefusedError(f"releases are made on main, and this is {branch or 'no branch'}")
    if git(root, "status", "--porcelain"):
        raise RefusedError("there are changes that are not committed; git status names them")
    if git(root, "tag", "--list", f"v{version}"):
        raise RefusedError(f"there is a tag v{version} already")
    if not unreleased(root):
        raise RefusedError("CHANGELOG.md has nothing under [Unreleased]: what is new for whom?")


def unreleased(root: Path) -> str:
    """What the changelog says of changes that no version has yet."""
    _, _, rest = (root / "CHANGELOG.md").read_text(encoding="utf-8").partition(UNRELEASED)
    return re.split(r"^## \[", rest, maxsplit=1, flags=re.MULTILINE)[0].strip()


def written(root: Path, version: str, date: dt.date) -> Iterator[tuple[Path, str]]:
    """Each file that changes, with its new text."""
    old = re.compile(rf"(?<![\d.]){re.escape(current(root))}(?![\d.])")
    for name in (SOURCE, *COPIES):
        text = (root / name).read_text(encoding="utf-8")
        if not old.search(text):
            raise RefusedError(f"{name} does not name the version {current(root)}")
        yield root / name, old.sub(version, text)
    log = root / "CHANGELOG.md"
    heading = f"{UNRELEASED}\n## [{version}] - {date.isoformat()}\n"
    yield log, log.read_text(encoding="utf-8").replace(UNRELEASED, heading, 1)


def release(root: Path, version: str, date: dt.date, checks: tuple[tuple[str, ...], ...] = CHECKS) -> None:
    """Write, check, commit and tag; raises RefusedError, and leaves the tree as it was then."""
    refuse_unready(root, version)
    files = list(written(root, version, date))
    kept = {path: path.read_bytes() for path, _ in files}
    for path, text in files:
        path.write_text(text, encoding="utf-8")
    for check in checks:
        if subprocess.run(check, cwd=root, check=False).returncode:
            for path, data in kept.items():
                path.write_bytes(data)
            raise RefusedError(f"`{' '.join(check)}` failed; nothing was changed")
    git(root, "commit", "--quiet", "--all", "--message", f"Version {version}")
    git(root, "tag", "--annotate", f"v{version}", "--message", f"convq {version}")


def main(version: str) -> int:
    """Exit status: 0, or 1 with the reason on standard error."""
    try:
        release(ROOT, version, dt.datetime.now(tz=dt.UTC).date())
    except RefusedError as error:
        print(f"no release: {error}", file=sys.stderr)
        return 1
    print(f"v{version} is committed and tagged here. To publish it: git push --follow-tags")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1] if len(sys.argv) > 1 else ""))
