"""One question, answered by a child process whose time and memory are limited: for graphs that may crash, hang or swell.

A module that can be asked calls `answer_once` when it is run; whoever wants the answer calls `ask` with its name. The
question and the answer are one line of JSON each. Native code that ends the child, never ends or eats all memory is one
more answer: `ask` always returns, and what it returns says in words what happened.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import re
import resource
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NoReturn

from convq.errors import ConvqError, ModelBroken, NetworkFaulty
from convq.host.cgroups import memory_left_bytes
from convq.host.death_signal import die_with
from convq.interpreter import child_environment, python
from convq.threads import Watch

GRACE_S = 2.0
"""The child ends itself this long after its time, for the case that nobody is left to end it."""
MARGIN_S = 2.0
"""So long before its time is over it says by itself that a network hangs."""
GIB = 1 << 30

_OUT_OF_MEMORY = re.compile(
    r"bad_alloc|bad allocation|memory allocation|allocate memory|unable to allocate|memoryerror"
    r"|failed to map segment",  # what the dynamic linker says
    re.IGNORECASE,
)
_NO_THREAD = re.compile(r"pthread_create failed|start new thread|thread_init", re.IGNORECASE)
_TOO_TIGHT = "it could not start a thread: ulimit (-u, -v, -d) or the pids.max of the container leave it no room"
_FROM_OUTSIDE = (
    signal.SIGKILL,
    signal.SIGALRM,
    signal.SIGTERM,
    signal.SIGINT,
    signal.SIGHUP,
    signal.SIGXCPU,
    signal.SIGBUS,
)
"""Signals that say nothing of the network; SIGBUS comes of a file or a memory that is not there any more."""
_MOST_REASON = 4000
"""Characters of a reason; services repeat it to clients and in the log."""

_MOST_TRACEBACK = 20_000

Handler = Callable[[dict[str, Any]], dict[str, Any]]


def ask(
    module: str, question: Mapping[str, Any], *, within_s: float, memory_limit_bytes: int | None = None
) -> dict[str, Any]:
    """The answer of `python -m module` to a question: `{"ok": true, …}`, or `{"ok": false, "reason": …, "exit_code": …}`.

    Never raises. An error that nobody foresaw comes with its `traceback`. The exit code is the one that a command should end
    with: 3 for whatever the graph did. Where its time was too short, `timed_out` is true; `lasting`, where it would be so on every
    machine, with whatever time and memory. The child may take `within_s` seconds, its start included, and
    `memory_limit_bytes` of memory (None: what this
    machine or container has to spare now; enforced on Linux).
    """
    limit = min(filter(None, (memory_limit_bytes or spare_memory_bytes(), *_of_the_user())), default=None)
    limits = {"within_s": within_s, "memory_limit_bytes": limit, "parent": os.getpid()}
    limits["until_s"] = time.monotonic() + within_s
    line = json.dumps({**question, "limits": limits}).encode() + b"\n"
    environment = child_environment() | {"ORT_DISABLE_TELEMETRY": "1"}
    try:
        done = subprocess.run(
            python(module),
            input=line,
            capture_output=True,
            timeout=within_s,
            check=False,
            env=environment,
            start_new_session=True,  # Ctrl-C is for us: `run` takes the child along
        )
    except subprocess.TimeoutExpired:
        return {**_refusal(f"it did not end within {within_s:g} s"), "timed_out": True}
    except OSError as error:
        return _refusal(f"no process could be started for it: {error.strerror}")
    try:
        answer = json.loads(done.stdout)
    except ValueError:
        words = done.stderr.decode(errors="replace")
        short = _OUT_OF_MEMORY.search(words) or _NO_THREAD.search(words)
        lasting = done.returncode < 0 and -done.returncode not in _FROM_OUTSIDE and not short
        return _refusal(_death(done.returncode, words, limit), lasting=lasting)
    return answer if isinstance(answer, dict) else _refusal("its process answered something else than an object")


def answer_once(handler: Handler, hanging: Callable[[float], str] | None = None) -> NoReturn:
    """The child's whole life: read the question, limit itself, let `handler` answer, end.

    What `handler` returns is the answer; what it raises becomes the reason. Where its time is nearly over, `hanging` is
    asked, with the seconds that it had, whether there would ever be an answer: why not is the reason then. Whatever libraries
    print goes to standard error, and none of their destructors is run: the answer is out, and nothing may hold the process.
    """
    question = json.loads(sys.stdin.buffer.readline())
    last_word = _LastWord()
    limits = question.pop("limits", {})
    _limit_itself(limits)
    if hanging is not None and "until_s" in limits:
        with contextlib.suppress(RuntimeError):  # no room for one more thread: then it is ended from outside
            Watch(logging.getLogger("convq.importer")).start("time", _watch, limits, hanging, last_word)
    try:
        answer = {"ok": True, **handler(question)}
        json.dumps(answer)
    except Exception as error:  # noqa: BLE001 - whatever it is, the one who asked waits for an answer
        limit = next(iter(_known(resource.getrlimit(resource.RLIMIT_DATA))), limits.get("memory_limit_bytes"))
        why = _failure(error, limit)
        shown = {} if isinstance(error, ConvqError) else {"traceback": traceback.format_exc()[-_MOST_TRACEBACK:]}
        answer = {**_refusal(why, getattr(error, "exit_code", None), lasting=_is_lasting(error, why)), **shown}
    last_word.say(answer)


class _LastWord:
    """Standard output as it was, for one answer; made before anything else may print there."""

    def __init__(self) -> None:
        self._answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
        os.dup2(2, 1)
        self._turn = threading.Lock()

    def say(self, answer: Mapping[str, Any]) -> NoReturn:
        """Give this answer, and no other one, and end the process."""
        with self._turn:
            self._answers.write(json.dumps(answer) + "\n")
            self._answers.flush()
            os._exit(0)


def _watch(limits: Mapping[str, Any], hanging: Callable[[float], str], last_word: _LastWord) -> None:
    """Just before the time is over: say so, if what is done now would never end."""
    within_s = limits["within_s"]
    time.sleep(max(0.0, limits["until_s"] - time.monotonic() - min(MARGIN_S, within_s / 5)))
    if why := hanging(within_s):
        last_word.say({**_refusal(why, lasting=True), "timed_out": True})


def leave_room(workers: int = 1, most_bytes: int | None = None) -> None:
    """In the child, once its libraries are loaded: what it takes from now on must fit `workers` times into what is to spare.

    And into `most_bytes`, where that is given. Enforced on Linux.
    """
    if sys.platform != "linux":
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_DATA)
    now_bytes, spare = _data_bytes(), spare_memory_bytes()
    rooms = [most_bytes, None if spare is None or workers < 2 else spare // workers]  # noqa: PLR2004
    room = min((one for one in rooms if one is not None), default=None)
    if now_bytes is not None and room is not None:
        resource.setrlimit(resource.RLIMIT_DATA, (min([now_bytes + room, *_known((soft, hard))]), hard))


def _data_bytes() -> int | None:
    """What RLIMIT_DATA counts of this process."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
        return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmData:")), None)
    return None


def spare_memory_bytes() -> int | None:
    """Memory that a new process could take without another having to give any; None where that is not known.

    The machine's, or the container's where that is less, or what `ulimit` leaves where that is less still.
    """
    known = [size for size in (_of_the_machine(), memory_left_bytes(), *_of_the_user()) if size is not None]
    return min(known, default=None)


def _of_the_machine() -> int | None:
    with contextlib.suppress(OSError, ValueError, IndexError):
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
        return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")), None)
    return None


def _of_the_user() -> Iterator[int]:
    """The limits that a new process of this one's inherits (`ulimit -d` and `-v`), where there are any."""
    if sys.platform == "linux":
        for kind in (resource.RLIMIT_DATA, resource.RLIMIT_AS):
            yield from _known(resource.getrlimit(kind))


def _known(limits: tuple[int, int]) -> list[int]:
    """A soft and a hard limit, without those that are none."""
    return [limit for limit in limits if limit != resource.RLIM_INFINITY]


def _limit_itself(limits: Mapping[str, Any]) -> None:
    """Time, memory, no core file, first to go when memory runs out, and gone when the parent is."""
    if within_s := limits.get("within_s"):
        signal.setitimer(
            signal.ITIMER_REAL, within_s + GRACE_S
        )  # the default action ends the process in native code too
    if sys.platform != "linux":
        return
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    if most_bytes := limits.get("memory_limit_bytes"):
        # Private writable memory. RLIMIT_AS would count what is only reserved: CUDA reserves hundreds of GiB.
        # What `ulimit -d` says stays where it is less, as only root could raise it.
        most_bytes = min([most_bytes, *_known(resource.getrlimit(resource.RLIMIT_DATA))])
        resource.setrlimit(resource.RLIMIT_DATA, (most_bytes, most_bytes))
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="utf-8")
    die_with(limits["parent"])


def _failure(error: Exception, limit: int | None) -> str:
    """Why there is no answer, from what the handler raised."""
    text = str(error)
    if isinstance(error, MemoryError) or _OUT_OF_MEMORY.search(text):
        return _too_large(text, limit)
    if _NO_THREAD.search(text):
        return _TOO_TIGHT
    if isinstance(error, ConvqError):
        return text
    return f"unexpected {type(error).__name__}: {text or 'it says nothing'} (convq --debug … shows where)"


def _is_lasting(error: Exception, why: str) -> bool:
    """Whether the network is at fault, and not what it had of time and memory: `why` is what was made of the error."""
    return isinstance(error, NetworkFaulty) and why == str(error)


def _death(status: int, words: str, limit: int | None) -> str:
    """What ended a child that gave no answer; `words` is what it left on standard error."""
    if _OUT_OF_MEMORY.search(words):
        return _too_large("", limit)
    if _NO_THREAD.search(words):
        return _TOO_TIGHT
    if status < 0:
        name = signal.Signals(-status).name
        hint = " (the kernel may have run out of memory)" if name == "SIGKILL" else ""
        return f"its network ends the process by {name}{hint}"
    last = words.strip().splitlines()[-1:] or ["it said nothing"]
    return f"its process ended with status {status}: {last[0][:200]}"


def _too_large(details: str, limit: int | None) -> str:
    most = f"the {limit / GIB:.{1 if limit >= GIB else 2}f} GiB of memory that it may take" if limit else "all memory"
    return f"it needs more than {most}" + (f" ({details})" if details else "")


def _refusal(reason: str, exit_code: int | None = None, *, lasting: bool = False) -> dict[str, Any]:
    reason = " ".join(reason[:_MOST_REASON].split())
    return {"ok": False, "reason": reason, "exit_code": exit_code or ModelBroken.exit_code, "lasting": lasting}
