"""Runs the unit and integration tests and the demonstration from the wheel, in an empty environment of each Python that is found.

    python tests/pythons.py dist/convq-0.1.0-py3-none-any.whl [3.11 …]

What was not found is said; what failed ends this with 1.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
EXTRAS = "cpu,embedded,dev"
TESTS = ("tests/unit", "tests/integration")
VERSIONS = ("3.11", "3.12", "3.13", "3.14")
"""Those that `requires-python` lets in and that are out."""


def candidates(version: str) -> Iterator[Path]:
    """Where an interpreter of this version may be: here, on PATH, and in the folders of version managers."""
    if version == f"{sys.version_info.major}.{sys.version_info.minor}":
        yield Path(sys._base_executable)  # type: ignore[attr-defined]  # that of the environment that we run in
    for folder in os.environ.get("PATH", "").split(os.pathsep):
        yield Path(folder) / f"python{version}"
    home = Path.home()
    for pattern in (".pyenv/versions/*/bin", ".local/share/uv/python/*/bin", ".asdf/installs/python/*/bin"):
        yield from (folder / f"python{version}" for folder in sorted(home.glob(pattern), reverse=True))


def interpreter(version: str) -> Path | None:
    """The first that is there, is this version, and can make environments."""
    wanted = f"import sys, venv, ensurepip; sys.exit('%d.%d' % sys.version_info[:2] != {version!r})"
    for python in candidates(version):
        if python.exists() and not subprocess.run([python, "-c", wanted], capture_output=True, check=False).returncode:
            return python
    return None


def environment(python: Path, wheel: Path, folder: Path) -> Path:
    """An empty environment with nothing but the wheel and what tests need; returns its interpreter."""
    subprocess.run([python, "-m", "venv", folder], check=True)
    made = folder / "bin" / "python"
    install = [str(made), "-m", "pip", "install", "--quiet", "-c", str(ROOT / "constraints.txt"), f"{wheel}[{EXTRAS}]"]
    subprocess.run(install, check=True)
    return made


def passes(python: Path, empty: Path) -> bool:
    """Whether demonstration and tests pass with it; the demonstration in a folder that has nothing in it."""
    empty.mkdir()
    demo = subprocess.run([python.with_name("convq"), "demo"], cwd=empty, check=False).returncode
    tests = subprocess.run([python, "-m", "pytest", "-q", *TESTS], cwd=ROOT, check=False).returncode
    return not demo and not tests


def main(wheel: Path, versions: Sequence[str]) -> int:
    """Go through the versions and print a line for each."""
    lines, failed, tried = [], False, False
    for version in versions:
        python, began_s = interpreter(version), time.monotonic()
        if python is None:
            lines.append(f"{version}: not tested, there is no such Python here")
            continue
        print(f"{version}: {python}", flush=True)
        with tempfile.TemporaryDirectory(prefix="convq-") as folder:
            passed = passes(environment(python, wheel.resolve(), Path(folder) / "venv"), Path(folder) / "empty")
        tried, failed = True, failed or not passed
        lines.append(f"{version}: {'passed' if passed else 'FAILED'} in {time.monotonic() - began_s:.0f} s ({python})")
    print("\n".join(lines))
    return 1 if failed or not tried else 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1]), sys.argv[2:] or VERSIONS))
