"""Clients without convq: the two commands that open the protocol, and a dozen lines of Node."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

from servers import OwnServer, skip_or_fail
from services import SAMPLE, Plain

ROOT = Path(__file__).parents[2]
NODE = Path(__file__).parent / "node"
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


def test_a_dozen_lines_of_node_classify_a_digit(plain: Plain, service_server: OwnServer, tmp_path: Path) -> None:
    if shutil.which("node") is None or shutil.which("npm") is None:
        skip_or_fail("no node and npm on PATH")
    assert len((NODE / "client.mjs").read_text().splitlines()) <= 15
    copy = Path(shutil.copytree(NODE, tmp_path / "node", ignore=shutil.ignore_patterns("node_modules")))
    subprocess.run(["npm", "ci", "--silent"], cwd=copy, check=True, capture_output=True, timeout=250)
    command = ["node", "client.mjs", service_server.url, str(SAMPLE / "seven.png")]
    done = subprocess.run(command, cwd=copy, capture_output=True, text=True, check=False, timeout=250)

    assert ("7\n", "", 0) == (done.stdout, done.stderr, done.returncode)
    assert plain.nothing_left()


def test_the_python_of_the_readme_prints_what_stands_beside_it(service_server: OwnServer, plain: Plain) -> None:
    readme = (ROOT / "README.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", readme, re.DOTALL)
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
