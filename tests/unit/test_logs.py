"""Log lines: one line each whatever stands in them, with the fields that machines look for."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from typing import Any

import pytest

from convq.logs import MAX_CHARACTERS, MAX_TRACEBACK_CHARACTERS, Limit

# Runs `{}` in a process of its own, whose log is set up: the log belongs to the whole process.
PROGRAM = """
import logging, sys, threading, warnings
from convq.logs import defect, event, set_up
log = logging.getLogger("convq.worker")
set_up(sys.argv[1], worker=3)
"""
EVIL = {
    "a new line": 'a\n{"level":"info","message":"forged"}',
    "a carriage return": "a\r00:00:00.000   forged",
    "an escape of terminals": "\x1b[2J\x1b]0;title\x07",
    "a separator of Unicode": "a\u2028b\u0085c\x0bd\x1ce",
    "a zero": "a\0b",
    "a lone surrogate": "\udcff\ud800",
    "another direction": "\u202egnp.exe",
    "a quote": '","level":"critical","x":"',
}


def run(code: str, form: str, *arguments: str) -> tuple[str, int]:
    """What the code writes to standard error, and the process id that it had."""
    command = [sys.executable, "-c", PROGRAM + code, form, *arguments]
    # Lone surrogates cannot be arguments: everything travels as JSON in one.
    with subprocess.Popen(command, stderr=subprocess.PIPE, env=os.environ | {"PYTHONUTF8": "1"}) as process:
        _, written = process.communicate(timeout=250)
    return written.decode("utf-8"), process.pid


def lines_of(code: str, *arguments: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in run(code, "json", *arguments)[0].splitlines()]


def test_a_line_says_when_how_bad_who_and_what() -> None:
    text, pid = run('event(log, logging.WARNING, "it is so", model="lenet", jobs=3, ids=["a", "b"])', "json")

    line = json.loads(text)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line.pop("time"))
    assert {
        "level": "warning",
        "logger": "convq.worker",
        "message": "it is so",
        "worker": 3,
        "pid": pid,
        "model": "lenet",
        "jobs": 3,
        "ids": ["a", "b"],
    } == line


@pytest.mark.parametrize("evil", EVIL.values(), ids=list(EVIL))
@pytest.mark.parametrize("form", ["json", "console"])
def test_nothing_that_a_client_writes_can_break_a_line(form: str, evil: str) -> None:
    code = "import json; evil = json.loads(sys.argv[2]); event(log, logging.INFO, evil, job=evil, all=[evil, {evil: evil}])"
    text, _ = run(code, form, json.dumps(evil))

    assert text.endswith("\n")
    (line,) = text[:-1].split("\n")
    assert line.isprintable()
    if form == "json":
        said = json.loads(line)
        assert (evil, evil, [evil, {evil: evil}]) == (said["message"], said["job"], said["all"])


def test_a_line_is_of_bounded_length() -> None:
    (line,) = lines_of('event(log, logging.INFO, "m" * 10**7, job="j" * 10**7)')

    assert {"message", "job"} == {name for name, value in line.items() if len(str(value)) > MAX_CHARACTERS}
    assert f"{'j' * MAX_CHARACTERS}… (10,000,000 characters)" == line["job"]


def test_the_password_of_a_url_is_never_written() -> None:
    code = """
url = "redis://:hush@h:6379/0"
event(log, logging.INFO, f"connects to {url}", redis=url, more=["rediss://user:hush@h/0"], path=url + "x" * 10**6)
defect(log, "failed", ValueError(f"no {url}"))
"""
    text, _ = run(code, "json")

    assert "redis://:***@h:6379/0" in text
    assert "rediss://user:***@h/0" in text
    assert "hush" not in text


RAISES = """
def fails():
    raise ValueError("first\\n00:00:00.000   forged" + "x" * 10**6)
try:
    fails()
except ValueError as error:
    defect(log, "it failed", error, job="j1")
"""


def test_an_unexpected_error_carries_its_traceback_in_one_field() -> None:
    (line,) = lines_of(RAISES)

    assert ("error", "it failed", "j1") == (line["level"], line["message"], line["job"])
    assert "in fails" in line["traceback"]
    assert len(line["traceback"]) < MAX_TRACEBACK_CHARACTERS + 100


def test_on_a_console_a_traceback_is_indented_so_that_nothing_in_it_looks_like_a_line() -> None:
    first, *more = run(RAISES, "console")[0].splitlines()

    assert "it failed" in first
    assert any("forged" in line for line in more)
    assert all(line.startswith("    ") for line in more)


def test_errors_that_nobody_caught_and_warnings_are_lines_of_the_log() -> None:
    lines = lines_of("""
threading.Thread(target=lambda: 1 / 0, name="t1").start()
warnings.warn("do not", stacklevel=1)
raise KeyError("k")
""")

    assert ["an unexpected error ended a thread", "an unexpected error ended this process"] == sorted(
        line["message"] for line in lines if line["level"] == "error"
    )
    assert {"ZeroDivisionError", "KeyError"} == {
        word for line in lines for word in ("ZeroDivisionError", "KeyError") if word in line.get("traceback", "")
    }
    assert ["py.warnings"] == [line["logger"] for line in lines if "do not" in line["message"]]


def test_on_a_console_people_see_the_worker_and_not_its_process_id() -> None:
    text, pid = run('event(log, logging.INFO, "it is so", jobs=3)', "console")

    assert re.fullmatch(r"\d\d:\d\d:\d\d\.\d{3}   it is so {41}worker=3  jobs=3\n", text)
    assert str(pid) not in text


def test_a_limit_lets_so_many_pass_in_a_second() -> None:
    limit = Limit(3)

    assert [True, True, True, False, False] == [limit.take() for _ in range(5)]
    limit._until_s = 0.0
    assert limit.take()


def test_levels_below_info_are_not_written() -> None:
    assert [] == lines_of('event(log, logging.DEBUG, "not this")')
