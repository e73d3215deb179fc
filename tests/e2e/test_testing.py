"""`convq.testing` in the hands of its users: pytest runs of their own, and the page's example in an empty environment."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from importlib.metadata import Distribution, distribution
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from servers import MARK, wait_until
from services import children_of

ROOT = Path(__file__).parents[2]
ENVIRONMENT = {
    name: value
    for name, value in os.environ.items()
    if not name.startswith(("CONVQ_", "PYTEST_")) and name != "PYTHONPATH"
}
QUICK = ["-p", "no:cacheprovider", "-p", "no:valkey", "-W", "error", "-q"]


def project(folder: Path, tests: str, conftest: str = "") -> Path:
    """The tests of a stranger, in a folder of their own."""
    folder.mkdir(exist_ok=True)
    (folder / "pytest.ini").write_text("[pytest]\n")
    (folder / "conftest.py").write_text(f'pytest_plugins = ["convq.testing"]\n{conftest}')
    (folder / "test_mine.py").write_text(tests)
    return folder


def start(folder: Path, *options: str, python: Path | str = sys.executable) -> subprocess.Popen[str]:
    command = [str(python), "-m", "pytest", *QUICK, *options]
    return subprocess.Popen(
        command, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=ENVIRONMENT | marked()
    )


def marked() -> dict[str, str]:
    """The mark by which processes are found that a test leaves behind."""
    return {MARK: os.environ[MARK]}


def outcome(running: subprocess.Popen[str]) -> str:
    """The last line of a run, without its time."""
    said = running.communicate(timeout=250)[0]
    found = re.findall(r"\d+ (?:passed|failed|error)[^\n]* in ", said)
    assert found, said
    return f"{running.returncode}: {found[-1].removesuffix(' in ')}" + (f"\n{said}" if running.returncode else "")


ISOLATION = """
import os, signal
import numpy as np

SEEN = []
BLACK = np.zeros((1, 32, 32), dtype=np.uint8)


def keys(service):
    import redis
    with redis.Redis.from_url(service.url) as server:
        return {key.decode() for key in server.keys("*") if b"result" in key or b"mine" in key or b":job:" in key}


def test_one_leaves_much_behind(convq_service):
    import redis
    with redis.Redis.from_url(convq_service.url) as server:
        server.set("mine", 1)
    SEEN.append(convq_service.url)
    for number in range(500):
        convq_service.client.submit(BLACK, id=f"job-{number}")


def test_two_finds_nothing_of_it_and_the_same_id_is_a_new_job(convq_service):
    assert SEEN == [convq_service.url]
    assert keys(convq_service) == set()
    assert convq_service.client.classify(BLACK, id="job-1").ok


def test_three_kills_the_service(convq_service):
    os.kill(convq_service._child.pid, signal.SIGKILL)


def test_four_gets_a_new_one(convq_service):
    assert convq_service.client.classify(BLACK).ok
    assert convq_service.models == ("lenet",)


def test_five_has_its_own(convq_service, convq_start):
    other = convq_start(workers=1)
    assert other.url != convq_service.url
    other.client.submit(BLACK, id="mine")
    assert not any("mine" in key for key in keys(convq_service))


def test_six_says_what_is_wrong_with_settings(convq_start):
    import pytest
    from convq import ConvqError
    for settings, reason in [({"worker": 2}, "did you mean 'workers'"), ({"redis": "x"}, "no setting 'redis'"),
                             ({"workers": 0}, "--workers"), ({"only": "lennet"}, "did you mean 'lenet'")]:
        with pytest.raises(ConvqError, match=reason):
            convq_start(**settings)
"""
SETTINGS = """
import pytest

@pytest.fixture(scope="session")
def convq_settings():
    return {"only": ["lenet"], "workers": 1}
"""


def test_each_test_finds_an_empty_database_and_a_service_that_lives(tmp_path: Path) -> None:
    assert "0: 6 passed" == outcome(start(project(tmp_path / "a", ISOLATION, SETTINGS)))


HANGS = """
import time
from pathlib import Path

def test_hangs(convq_service):
    Path("pids").write_text(f"{convq_service._server.pid} {convq_service._child.pid}")
    time.sleep(600)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a death signal")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_processes_end_with_the_tests_however_those_end(tmp_path: Path, number: signal.Signals) -> None:
    folder = project(tmp_path / "a", HANGS, SETTINGS)
    running = start(folder)
    wait_until((folder / "pids").exists, 60)
    wait_until(lambda: (folder / "pids").read_text().count(" "))
    pids = [int(pid) for pid in (folder / "pids").read_text().split()]
    workers = children_of(pids[1])
    assert workers

    running.send_signal(number)
    running.communicate(timeout=250)

    wait_until(lambda: not [pid for pid in (*pids, *workers) if is_running(pid)], 30)


def is_running(pid: int) -> bool:
    try:
        return " Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False


def test_importing_convq_imports_no_pytest() -> None:
    source = "import sys, convq, convq.cli; sys.exit('pytest' in sys.modules)"

    assert 0 == subprocess.run([sys.executable, "-c", source], check=False, env=ENVIRONMENT).returncode


# -- the page's example, from the wheel, in an empty environment ---------------------------------------------------------


def needed(name: str, extras: frozenset[str] = frozenset()) -> dict[str, Distribution]:
    """A distribution and all that it needs, by name, as they are installed here."""
    found: dict[str, Distribution] = {}
    waiting = [(name, extras)]
    while waiting:
        one, wanted = waiting.pop()
        key = re.sub(r"[-_.]+", "-", one).lower()
        found[key] = distribution(one)
        for text in found[key].requires or ():
            requirement = Requirement(text)
            inside = [
                requirement.marker is None or requirement.marker.evaluate({"extra": extra}) for extra in wanted or {""}
            ]
            if any(inside) and re.sub(r"[-_.]+", "-", requirement.name).lower() not in found:
                waiting.append((requirement.name, frozenset(requirement.extras)))
    return found


@pytest.fixture(scope="module")
def empty_environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The Python of an environment that holds convq's wheel, pytest, what they declare that they need, and nothing else.

    What is needed is linked from here, so that nothing is fetched; the wheel is installed as pip does it.
    """
    home = tmp_path_factory.mktemp("empty")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", home / "venv"], check=True)
    build = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(home / "dist"), str(ROOT)]
    subprocess.run(build, check=True, capture_output=True)
    python = home / "venv" / "bin" / "python"
    (wheel,) = (home / "dist").glob("*.whl")
    pip = [sys.executable, "-m", "pip", "--python", str(python), "install", "--no-deps", "--no-index", "--quiet"]
    subprocess.run([*pip, str(wheel)], check=True, capture_output=True)
    (packages,) = (home / "venv" / "lib").glob("python*/site-packages")
    for one in (needed("convq", frozenset({"cpu", "embedded"})) | needed("pytest")).values():
        if one.metadata["Name"] == "convq":
            continue
        tops = {Path(str(file)).parts[0] for file in one.files or ()} - {"..", "__pycache__"}
        for top in tops:
            if not (packages / top).exists():
                (packages / top).symlink_to(Path(str(one.locate_file(top))).resolve())
    return python


def blocks(language: str) -> list[str]:
    """The code of that language on the page, under its heading."""
    section = (ROOT / "README.md").read_text().partition("\n### Test your code against it\n")[2].partition("\n## ")[0]
    found: list[str] = re.findall(rf"^```{language}\n(.*?)^```", section, re.MULTILINE | re.DOTALL)
    return found


def test_the_pages_example_works_from_the_wheel_in_an_empty_environment(
    empty_environment: Path, tmp_path: Path
) -> None:
    folders = [tmp_path / "a", tmp_path / "b"]  # at the same time, as with pytest-xdist
    for folder in folders:
        folder.mkdir()
        (folder / "pytest.ini").write_text("[pytest]\n")
        for block in blocks("python"):
            name = re.match(r"# (\w+\.py)\n", block)
            assert name
            (folder / name[1]).write_text(block)

    runs = [start(folder, python=empty_environment) for folder in folders]

    assert ["0: 2 passed"] * 2 == [outcome(run) for run in runs]


def test_the_pages_script_waits_and_leaves_nothing(empty_environment: Path, tmp_path: Path) -> None:
    (script,) = blocks("sh")
    (tmp_path / "models").symlink_to(ROOT / "models")
    path = f"{empty_environment.parent}{os.pathsep}{os.environ['PATH']}"

    done = subprocess.run(
        ["bash", "-ec", script],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env=ENVIRONMENT | {"PATH": path},
    )

    assert 0 == done.returncode, done.stderr
    assert '"label": "7"' in done.stdout
    assert not (tmp_path / "ready.json").exists()
