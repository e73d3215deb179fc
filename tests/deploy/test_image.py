"""The Dockerfile and what it is built from, as far as they can be read; tests/stack builds the image and looks into it."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from fnmatch import fnmatch
from pathlib import Path

import pytest

from convq import __version__
from servers import OwnServer, skip_or_fail
from services import RunningService

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()
IMAGE = ROOT / "deploy" / "image"
INSTRUCTIONS = re.sub(r"\\\n\s*", "", re.sub(r"^#.*\n", "", DOCKERFILE, flags=re.MULTILINE)).splitlines()
LET_IN = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]


def stages() -> dict[str, list[str]]:
    """Name of each stage -> its instructions, those of the stages below it first."""
    found: dict[str, list[str]] = {}
    for line in filter(None, INSTRUCTIONS):
        if match := re.fullmatch(r"FROM (\S+) AS (\S+)", line):
            name = match[2]
            found[name] = list(found.get(match[1], []))
        elif found:
            found[name].append(line)
    return found


def sources() -> set[str]:
    """What is copied from the build context."""
    copies = [line.split()[1:-1] for line in INSTRUCTIONS if line.startswith("COPY") and "--from=" not in line]
    return {word for words in copies for word in words if not word.startswith("--")}


def program(name: str) -> str:
    """A program of this environment or of the machine."""
    beside = Path(sys.executable).with_name(name)
    found = str(beside) if beside.exists() else shutil.which(name)
    return found or skip_or_fail(f"no {name} here")


def test_hadolint_finds_nothing_in_the_dockerfile() -> None:
    done = subprocess.run([program("hadolint"), ROOT / "Dockerfile"], capture_output=True, text=True, check=False)

    assert (0, "") == (done.returncode, done.stdout)


def test_the_base_is_pinned_to_a_python_and_a_debian_release() -> None:
    bases = set(re.findall(r"^FROM (\S+) AS", DOCKERFILE, re.MULTILINE)) - set(stages())

    assert {"${BASE}"} == bases
    assert re.search(r"^ARG BASE=python:3\.1[123]-slim-(bookworm|trixie)$", DOCKERFILE, re.MULTILINE)


@pytest.mark.parametrize("target", ["cpu", "cuda"])
def test_both_images_run_as_nobody_and_only_copy_what_was_built_elsewhere(target: str) -> None:
    lines = stages()[target]

    assert "USER 10001:10001" in lines
    assert 'ENTRYPOINT ["convq"]' in lines
    assert "STOPSIGNAL SIGTERM" in lines
    assert any("ORT_DISABLE_TELEMETRY=1" in line for line in lines if line.startswith("ENV"))
    assert not any(re.search(r"pip install|apt-get|curl|wget", line) for line in lines)
    user = lines.index("USER 10001:10001")
    assert not any(line.startswith("RUN") for line in lines[user:])


def test_the_image_for_cpus_is_the_one_that_is_built_where_no_target_is_named() -> None:
    assert "cpu" == list(stages())[-1]


def test_what_the_image_says_of_itself_is_the_version_of_the_project() -> None:
    version = __version__

    assert f"ARG VERSION={version}\n" in DOCKERFILE


def test_the_build_context_holds_what_is_copied_and_nothing_else() -> None:
    def under(path: str, folder: str) -> bool:
        return path == folder or path.startswith(f"{folder}/")

    wanted = sources()
    assert set() == {one for one in wanted if not any(under(let, one) or under(one, let) for let in LET_IN)}
    assert [] == [let for let in LET_IN if not any(under(let, one) or under(one, let) for one in wanted)]


def test_the_build_context_holds_no_weights_no_training_no_tests_and_no_secrets() -> None:
    listing = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    held = [one for one in listing.split() if any(fnmatch(one, let) or fnmatch(one, f"{let}/*") for let in LET_IN)]

    assert {"service/convq/__init__.py", "models/edges/1/model.onnx", "deploy/image/probe"} <= set(held)
    foreign = re.compile(r"(^tests/|^\.|\.safetensors$|net\.py$|^models/[a-z]+\.py$|secret|\.env)")
    assert [] == [one for one in held if foreign.search(one)]


def test_the_image_installs_what_the_project_asks_for(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(
        '[project]\ndependencies = ["a>=1"]\n[project.optional-dependencies]\nx = ["b[c]<2"]\ny = ["d"]\n'
    )
    command = [sys.executable, str(IMAGE / "dependencies.py"), "x", "y"]

    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)

    assert ["a>=1", "b[c]<2", "d"] == done.stdout.splitlines()
    asked = set(re.findall(r"dependencies\.py ([a-z ]+) >", DOCKERFILE))
    assert {"cpu otel", "cuda otel"} == asked


def test_the_cuda_image_pins_the_engine_and_repeats_no_other_pin() -> None:
    def pinned(path: Path) -> dict[str, str]:
        lines = [line for line in path.read_text().splitlines() if line and not line.startswith("#")]
        return dict(line.split("==") for line in lines)

    cuda, common = pinned(IMAGE / "cuda-constraints.txt"), pinned(ROOT / "constraints.txt")

    assert "onnxruntime-gpu" in cuda
    assert set() == set(cuda) & set(common)
    assert any(name.startswith("nvidia-cudnn") for name in cuda)


def probe(page: str, address: str) -> subprocess.CompletedProcess[str]:
    """The image's own check, run by this Python as in the image: alone, and without site."""
    return subprocess.run(
        [sys.executable, "-IS", IMAGE / "probe", page],
        capture_output=True,
        text=True,
        env={"CONVQ_HTTP": address},
        timeout=250,
        check=False,
    )


def test_the_probe_tells_a_service_that_is_ready_from_one_that_is_not_there(server: OwnServer) -> None:
    with RunningService(server.url, workers=1) as service:
        address = service.http.removeprefix("http://")
        assert (0, 0) == (probe("livez", address).returncode, probe("readyz", address).returncode)
        assert 1 == probe("nonsense", address).returncode

    gone = probe("livez", address)
    assert 1 == gone.returncode
    assert "no answer on port" in gone.stderr


def test_the_probe_of_the_image_asks_for_alive_and_uses_what_is_copied() -> None:
    (check,) = (line for line in stages()["cpu"] if line.startswith("HEALTHCHECK"))

    assert check.endswith('CMD ["probe", "livez"]')
    assert (IMAGE / "probe").read_text().startswith("#!/opt/convq/bin/python -IS\n")
