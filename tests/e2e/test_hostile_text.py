"""What strangers wrote never reaches a terminal as it is: every command, on a terminal, with hostile words everywhere."""

from __future__ import annotations

import json
import os
import pty
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from servers import OwnServer
from services import MODELS, RunningService, seven

ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("CONVQ_")}
EVIL = "e\x1b]0;owned\x07\x1b[2J\x9b31m\u202egpj\u200b\u2066\u3164\x7f[red]r[/red][link=http://x]l[/link]:bomb:"
"""Title, erasure, colour, directions, nothing to see; and what rich takes for its own."""
NAMED = EVIL.replace("/", "_")


class Repository:
    def __init__(self, root: Path) -> None:
        self.root = root
        shutil.copytree(MODELS / "lenet", root / "lenet")
        file = root / "lenet" / "manifest.toml"
        manifest = file.read_text(encoding="utf-8").replace("handwritten digits, 0 to 9", _toml(EVIL), 1)
        file.write_text(manifest.replace('golden = "7"', ""), encoding="utf-8")
        labels = root / "lenet" / "labels.txt"
        labels.write_text("\n".join(f"{n}{EVIL}" for n in range(10)) + "\n", encoding="utf-8")


def _toml(text: str) -> str:
    return json.dumps(text)[1:-1].replace("\x7f", "\\u007f")


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Repository(tmp_path_factory.mktemp("models")).root


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Iterator[str]:
    with OwnServer(tmp_path_factory.mktemp("server")) as server:
        with RunningService(None, "--redis", server.url, "--models", str(repository), workers=1):
            yield server.url


@pytest.fixture(scope="module")
def letter(url: str) -> str:
    """A dead letter, as a producer with bad intentions could have had it made."""
    import redis  # noqa: PLC0415 - only here

    own = {"dead_stream": EVIL, "dead_entry": EVIL, "dead_reason": EVIL, "dead_message": EVIL}
    with redis.Redis.from_url(url) as connection:
        made: Any = connection.xadd("convq:{lenet}:dead", {**own, "id": EVIL, EVIL: EVIL, "image": seven()})
    return str(made.decode())


def on_terminal(*arguments: str | Path, cwd: Path | None = None) -> str:
    """What a terminal is sent, standard output and standard error."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "convq", *map(str, arguments)]
    variables = {"COLUMNS": "4000", "TERM": "xterm", "NO_COLOR": "1", "PYTHONUTF8": "1"}
    with subprocess.Popen(command, stdout=theirs, stderr=theirs, env=ENVIRONMENT | variables, cwd=cwd) as process:
        os.close(theirs)
        screen = b""
        while True:
            try:
                part = os.read(ours, 65536)
            except OSError:  # how Linux says that the other end is closed
                break
            if not part:
                break
            screen += part
    os.close(ours)
    assert process.returncode in range(5)
    return re.sub(r"\x1b\[[01]m", "", screen.decode())  # our own headings are bold


def assert_harmless(screen: str, *, shows: bool = True) -> None:
    """Nothing but printable signs and line ends; and, so that the test can fail, the evil word in its harmless form."""
    strange = {c for c in screen if not c.isprintable() and c not in "\r\n"} | ({"\u3164"} & set(screen))
    assert set() == strange, repr(screen)
    flat = re.sub(r"\s", "", screen)
    assert not shows or r"e\x1b]0;owned\x07" in flat, screen
    assert not shows or "[red]r[" in flat, screen


@pytest.mark.parametrize(
    "words",
    [
        "submit {seven} --redis {url}",
        "submit {seven} --redis {url} --top-k 10",
        "dead list --redis {url} --model lenet",
        "dead show {letter} --redis {url} --model lenet",
        "dead show {evil} --redis {url} --model lenet",
        "dead purge {evil} --redis {url} --model lenet",
        "jobs status {evil} --redis {url} --model lenet",
        "jobs cancel {evil} --redis {url} --model lenet",
        "submit {seven} --redis {url} --model {evil}",
        "submit {seven} --redis {url} --outputs {evil}",
        "submit {named} --redis {url}",
        "models list --models {models}",
        "models show lenet --models {models}",
        "models check lenet --models {models}",
        "models show {evil} --models {models}",
        "models list --models {evil}",
        "models add {named} --models {models} --name x",
        "{evil}",
        "serve --{evil}",
        "--{evil}",
    ],
)
def test_a_terminal_is_shown_nothing_that_it_would_obey(
    words: str, url: str, letter: str, repository: Path, tmp_path: Path
) -> None:
    named = tmp_path / f"{NAMED}.png"
    named.write_bytes(b"no image" + os.fsencode(NAMED) if "add" in words else seven())
    given = {"seven": MODELS / "lenet" / "sample" / "seven.png", "url": url, "letter": letter, "evil": EVIL}
    given |= {"models": repository, "named": named}

    assert_harmless(on_terminal(*(word.format(**given) for word in words.split())))


def test_the_doctor_shows_nothing_that_a_terminal_would_obey(tmp_path: Path) -> None:
    root = tmp_path / NAMED
    Repository(root)
    (root / "lenet" / "labels.txt").write_text(EVIL, encoding="utf-8")

    assert_harmless(on_terminal("doctor", "--models", root, "--redis", "redis://127.0.0.1:1"))


def test_programs_get_every_sign_of_it(url: str, letter: str) -> None:
    command = [sys.executable, "-m", "convq", "dead", "show", letter, "--redis", url, "--model", "lenet"]
    done = subprocess.run(command, capture_output=True, env=ENVIRONMENT, timeout=250, check=True)

    assert EVIL == json.loads(done.stdout)["fields"][EVIL]


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "gbk", "latin-1", "utf-16"])
def test_programs_get_it_in_every_encoding(encoding: str, url: str, letter: str) -> None:
    command = [sys.executable, "-m", "convq", "dead", "show", letter, "--redis", url, "--model", "lenet"]
    variables = {"PYTHONIOENCODING": encoding}
    done = subprocess.run(command, capture_output=True, env=ENVIRONMENT | variables, timeout=250, check=True)

    assert EVIL == json.loads(done.stdout.decode(encoding))["fields"][EVIL]


def test_json_on_a_terminal_is_exact_and_harmless(url: str, letter: str) -> None:
    screen = on_terminal("dead", "show", letter, "--redis", url, "--model", "lenet", "--json")

    assert_harmless(screen, shows=False)
    assert EVIL == json.loads(screen)["fields"][EVIL]
