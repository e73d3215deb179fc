"""A file that is there from the moment at which the service is ready until it ends: how scripts and CI wait for it."""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from convq.errors import SettingsError
from convq.settings import facts

_MOST_BYTES: Final = 1 << 16
_OURS: Final = frozenset({"pid", "http", "redis"})
"""What every such file says; one that does not is somebody else's, and is left alone."""


class ReadyFile:
    """Writes and removes one. What a service that was killed has left is removed at the start of the next one."""

    def __init__(self, path: Path) -> None:
        """Raises SettingsError, before the service begins, where there is another file or none could be written."""
        self._path = path
        self._draft = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            if not self._is_free():
                raise SettingsError(f"{facts('ready_file')['flag']}: {path} is there and is no such file; name another")
            self._draft.write_bytes(b"")
            self._draft.unlink()
            path.unlink(missing_ok=True)
        except OSError as error:
            flag = facts("ready_file")["flag"]
            raise SettingsError(f"{flag}: {path} cannot be written: {error.strerror}") from None

    def write(self, said: Mapping[str, Any]) -> None:
        """The service is ready: `said`, and our process id, as one line of JSON, all at once. Raises OSError."""
        try:
            self._draft.write_text(json.dumps({**said, "pid": os.getpid()}) + "\n", encoding="utf-8")
            self._draft.replace(self._path)
        except OSError:
            with suppress(OSError):
                self._draft.unlink()
            raise

    def remove(self) -> None:
        """The service ends. A file that another service has written there meanwhile stays."""
        with suppress(OSError):
            if (self._content() or {}).get("pid") == os.getpid():
                self._path.unlink()

    def _is_free(self) -> bool:
        """Whether nothing is there, or what another service left."""
        try:
            found = self._path.lstat()
        except FileNotFoundError:
            return True
        return stat.S_ISREG(found.st_mode) and self._content() is not None

    def _content(self) -> dict[str, Any] | None:
        """What such a file says; None where it is none."""
        with self._path.open("rb") as file:
            text = file.read(_MOST_BYTES)
        try:
            said = json.loads(text)
        except ValueError:
            return None
        return said if isinstance(said, dict) and said.keys() >= _OURS else None
