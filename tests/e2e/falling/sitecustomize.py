"""Lets threads of a service fall at a word: put this folder on PYTHONPATH, and a folder of words in TEST_FALLS.

Python imports `sitecustomize` by itself when it starts, in the workers as well. Where a file appears in that folder, one
thread of that name takes it away and falls: by an error that comes from outside into whatever it does at that moment. Those
that wait for years for something to do wait for the file instead. The service has no hook for this.
"""

from __future__ import annotations

import ctypes
import importlib.abc
import importlib.machinery
import importlib.util
import os
import sys
import threading
import time
from pathlib import Path
from types import ModuleType
from typing import Any

IDLE = {"orders", "follow", "tracing"}


class Fall(BaseException):
    """Nothing that is meant to survive an error survives this one."""


def _take(word: Path) -> None:
    """Wait until somebody wants that thread to fall, and take the word away."""
    while True:
        try:
            word.unlink()
            return
        except FileNotFoundError:
            time.sleep(0.02)


def _fall(word: Path) -> None:
    _take(word)
    raise Fall("as the test wanted")


def _strike(word: Path, thread: int) -> None:
    _take(word)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread), ctypes.py_object(Fall))


class _Loader(importlib.abc.Loader):
    """Loads `convq.threads` and has every thread listen to its word."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        created: ModuleType | None = self._loader.create_module(spec)
        return created

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        guard = module.Watch._guard

        def listening(watch: Any, name: str, work: Any, given: Any) -> None:
            word = Path(os.environ["TEST_FALLS"]) / name
            if name in IDLE:
                guard(watch, name, _fall, (word,))
            else:
                threading.Thread(target=_strike, args=(word, threading.get_ident()), daemon=True).start()
                guard(watch, name, work, given)

        module.Watch._guard = listening


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name: str, _path: Any, _target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if name != "convq.threads":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            spec.loader = _Loader(spec.loader)
        return spec


sys.meta_path.insert(0, _Finder())
