"""The scripts of models/, which is a folder of data and no package: they are found by path, as when they are run."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from servers import CI

SCRIPTS = Path(__file__).resolve().parents[2] / "models"

Script = Callable[[str], Any]


@pytest.fixture(scope="session")
def script() -> Iterator[Script]:
    """Imports a script of models/ by its name. Skips without torch, which all that ask for it need; fails in CI."""
    if not CI:
        pytest.importorskip("torch")
    sys.path.insert(0, str(SCRIPTS))
    yield importlib.import_module
    sys.path.remove(str(SCRIPTS))
