"""Makes OpenTelemetry a package that is not installed: put this folder on PYTHONPATH of a service under test.

Python imports `sitecustomize` by itself when it starts, in the workers as well: whatever imports OpenTelemetry fails.
"""

from __future__ import annotations

import importlib.abc
import sys
from typing import Any


class _Missing(importlib.abc.MetaPathFinder):
    def find_spec(self, name: str, _path: Any, _target: Any = None) -> None:
        if name.partition(".")[0] == "opentelemetry":
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)


sys.meta_path.insert(0, _Missing())
