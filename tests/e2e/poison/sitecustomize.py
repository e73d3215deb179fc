"""Makes a network that crashes on a magic first pixel: put this folder on PYTHONPATH of a service under test.

Python imports `sitecustomize` by itself when it starts. The crash is a real one, a read of address 0 inside the call that
runs the batch; the service has no hook for this. A second magic pixel hangs instead.

An encoded image that ends with a magic word makes its decoder slow or greedy: it computes for minutes, or takes memory
without end, inside one native call that lets go of the interpreter lock, as a decoder does.
"""

from __future__ import annotations

import ctypes
import hashlib
import importlib.abc
import importlib.machinery
import importlib.util
import sys
import threading
from types import ModuleType
from typing import Any

CRASH, HANG = 0xEE, 0xDD
SLOW, GREEDY, FATAL = b"slow for real", b"greedy for real", b"fatal for real"
STEP_BYTES, MOST_BYTES = 8 << 20, 2 << 30


class _Poisoned(importlib.abc.Loader):
    """Loads `convq.engine.engine` and puts the trap into its engine."""

    def __init__(self, loader: Any) -> None:
        self._loader = loader

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> ModuleType | None:
        created: ModuleType | None = self._loader.create_module(spec)
        return created

    def exec_module(self, module: ModuleType) -> None:
        self._loader.exec_module(module)
        run = module.Engine.run

        def trapped(engine: Any, inputs: Any, *rest: Any) -> Any:
            first = {bytes(item.data)[0] for item in inputs}
            if CRASH in first:
                ctypes.string_at(0)
            if HANG in first:
                threading.Event().wait()
            return run(engine, inputs, *rest)

        module.Engine.run = trapped
        decode = module.Engine.decode

        def decoded(engine: Any, image: bytes) -> Any:
            if image.endswith(SLOW):
                hashlib.pbkdf2_hmac("sha256", b"", b"", 1 << 30)
            if image.endswith(GREEDY):
                taken = [bytearray(b"x" * STEP_BYTES)]
                while len(taken) * STEP_BYTES < MOST_BYTES:
                    taken.append(bytearray(taken[0]))
                threading.Event().wait()
            if image.endswith(FATAL):
                ctypes.string_at(0)
            return decode(engine, image)

        module.Engine.decode = decoded


class _Finder(importlib.abc.MetaPathFinder):
    def find_spec(self, name: str, _path: Any, _target: Any = None) -> importlib.machinery.ModuleSpec | None:
        if name != "convq.engine.engine":
            return None
        sys.meta_path.remove(self)
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.loader is not None:
            spec.loader = _Poisoned(spec.loader)
        return spec


sys.meta_path.insert(0, _Finder())
