"""Processes that end with the one that started them, even where that is killed and Python cannot run.

Linux sends them a signal then, when the *thread* that started them ends; elsewhere nothing does.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Sequence

PR_SET_PDEATHSIG = 1

# Runs between fork and exec of the program, in a fresh interpreter: a preexec_fn would run Python code in the forked
# copy of a process that may have threads, which can deadlock and has been warned about since Python 3.12.
# The parent is compared after prctl: had it died before, the death signal would never come.
_LAUNCH = f"""
import os, sys
if sys.platform == "linux":
    import ctypes, signal
    if ctypes.CDLL(None).prctl({PR_SET_PDEATHSIG}, signal.SIGTERM) != 0:
        sys.exit("prctl(PR_SET_PDEATHSIG) was refused")
    if os.getppid() != int(sys.argv[1]):
        sys.exit("whoever wanted it died before it started")
os.execv(sys.argv[2], sys.argv[2:])
"""


def ending_with_us(command: Sequence[str]) -> list[str]:
    """The command that runs `command`, whose first word is a path, so that it gets SIGTERM when this process ends.

    Start it from the main thread, for the thread that starts it is the one that counts.
    """
    return [sys.executable, "-I", "-S", "-c", _LAUNCH, str(os.getpid()), *command]


def die_with(parent: int) -> None:
    """Linux: the kernel kills this process when its parent, which is that process, dies. It ends now where it has died."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)
