"""The clients of the pages: the two commands that open the protocol, and the Python of the README."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

from servers import OwnServer, skip_or_fail
from services import SAMPLE, Plain, RunningService

ROOT = Path(__file__).parents[2]
PUSH = "redis-cli -x XADD 'convq:{lenet}:jobs' '*' image < seven.png"
POP = "redis-cli BLPOP 'convq:{lenet}:result:1763800000000-0' 5"


def pasted(command: str, url: str) -> str:
    """What a shell prints for that line; only the address of the server is added."""
    line = command.replace("redis-cli", f"redis-cli -u {url}", 1)
    done = subprocess.run(["sh", "-c", line], cwd=SAMPLE, capture_output=True, text=True, check=True, timeout=250)
    assert "" == done.stderr
    return done.stdout.strip()


def test_two_commands_of_redis_cli_classify_a_digit(plain: Plain, service_server: OwnServer) -> None:
    if shutil.which("redis-cli") is None:
        skip_or_fail("no redis-cli on PATH")
    entry = pasted(PUSH, service_server.url)
    answer = pasted(POP.replace("1763800000000-0", entry), service_server.url)

    assert '"status":"ok"' in answer
    assert '"predictions":[{"label":"7"' in answer
    assert plain.nothing_left()


def test_the_python_of_the_readme_prints_what_stands_beside_it(service_server: OwnServer, plain: Plain) -> None:
    readme = (ROOT / "README.md").read_text()
    (code,) = re.findall(r"### Python\n.*?```python\n(.*?)```", readme, re.DOTALL)
    documented = re.findall(r"print\(.*\)  # (.*)", code)

    program = code.replace("redis://127.0.0.1:6379/0", service_server.url)
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False, timeout=250
    )

    assert "" == done.stderr
    (digit, score, _), (state,), seven, all_of_them = (line.split() for line in done.stdout.splitlines())
    assert ["7 0.9999207 2.502", "running", "7", "1000"] == documented
    assert ("7", ["7"], ["1000"]) == (digit, seven, all_of_them)
    assert abs(float(score) - 0.9999207) < 1e-5
    assert state in {"waiting", "running", "done"}
    assert plain.nothing_left()


def test_the_first_steps_of_the_readme_do_what_they_say(fresh_server: OwnServer, tmp_path: Path) -> None:
    readme = (ROOT / "README.md").read_text()
    steps = readme[readme.index("### 3. Push a job") : readme.index("### 5. What comes back")]
    lines = re.findall(r"^convq (submit .*)$", steps, re.MULTILINE)
    others = ("digits_detector", "gaussian_blur", "edges")
    shipped = [line.split() for line in lines if line.split()[3] in ("lenet", *others)]
    assert ["lenet", *others] == [words[3] for words in shipped]

    said = []
    with RunningService(fresh_server.url, only="lenet,digits_detector,gaussian_blur,edges"):
        for words in shipped:
            image, *flags = words[1:]
            command = [sys.executable, "-m", "convq", "submit", str(ROOT / image), *flags, "--redis", fresh_server.url]
            done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=250)
            assert ("", 0) == (done.stderr, done.returncode)
            said.append(json.loads(done.stdout))

    assert "7" == said[0]["predictions"][0]["label"]
    assert sorted("010526") == sorted(one["label"] for one in said[1]["detections"])
    assert all("counts" in one["mask"] for one in said[1]["detections"])
    drawn = ["coffee.blurred.png", "coffee.edges.png", "scattered.png"]
    assert drawn == sorted(file.name for file in (tmp_path / "pictures").iterdir())
