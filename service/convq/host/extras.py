"""What convq needs besides its base install, as the command that installs it in this very environment.

convq is on no package index, so that nobody can ask for `convq[cpu]` by name. The packages behind an extra can be asked for,
wherever convq itself came from: a checkout, a wheel or an image.
"""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from importlib.util import find_spec

ENGINES = ("onnxruntime", "onnxruntime-gpu")
"""Two distributions of one package: together in one environment they hide the CUDA provider."""

_OF_AN_EXTRA = re.compile(r"""^(?P<what>[^;]+?)\s*;.*\bextra\s*==\s*["'](?P<extra>[\w-]+)["']\s*\)?$""")
_OWN = re.compile(r"^convq\[(?P<extra>[\w-]+)\]$")


def packages_of(extra: str) -> list[str]:
    """The requirements behind `convq[extra]`, as pip takes them; empty where convq was not installed but lies on a path."""
    from importlib.metadata import PackageNotFoundError, requires  # noqa: PLC0415 - slow, and seldom wanted

    try:
        lines = requires("convq") or []
    except PackageNotFoundError:
        return []
    found: list[str] = []
    for match in filter(None, map(_OF_AN_EXTRA.match, lines)):
        if match["extra"] == extra:
            own = _OWN.match(match["what"])
            found += packages_of(own["extra"]) if own else [match["what"]]
    return list(dict.fromkeys(found))


def install(extra: str) -> str:
    """The command that brings what `convq[extra]` stands for; a sentence where nothing here can install."""
    return _installer("install", packages_of(extra)) or _without_installer(extra)


def install_packages(*names: str) -> str:
    """The command that brings packages which belong to no extra of convq; a sentence where nothing here can install."""
    return _installer("install", list(names)) or f"this environment has no pip: install {', '.join(names)} into it"


def install_anew(extra: str) -> str:
    """The same with onnxruntime fetched again, whatever is there of it: for a package that is damaged, or of the other kind."""
    wanted = packages_of(extra)
    gone, brought = _installer("uninstall", list(ENGINES)), _installer("install", wanted)
    return f"{gone} && {brought}" if gone and brought else _without_installer(extra)


def _installer(verb: str, what: list[str]) -> str:
    """Pip of this environment, or uv where that made it; empty where there is neither, or nothing to install."""
    if not what:
        return ""
    if find_spec("pip") is not None:
        command = [sys.executable, "-P", "-m", "pip", verb, *(["-y"] if verb == "uninstall" else [])]
    elif shutil.which("uv"):
        command = ["uv", "pip", verb, "--python", sys.executable]
    else:
        return ""
    return shlex.join([*command, *what])


def _without_installer(extra: str) -> str:
    return (
        f"this environment has no pip: build it anew with the extra {extra!r} "
        f"(pip install '.[{extra}]' in a checkout, or make image)"
    )
