"""What the kernel lets this process have: the limits of its control groups, of version 1 and 2. Linux; elsewhere nothing.

A container is such a group. What the machine has is no answer there: the kernel kills what goes beyond the group's limit.
A process is in one group of each hierarchy, and the limits of all groups above hold as well. Where these hierarchies are,
`/proc/self/mountinfo` says; a container sees its own part of them, and sometimes under another path than the kernel's.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

ROOT = Path("/")
MOUNTS = "sys/fs/cgroup"
UNLIMITED_BYTES = 1 << 60
"""Version 1 says some number beyond this where there is no limit."""


@dataclass(frozen=True, slots=True)
class _Names:
    """What the files of one version are called."""

    limit: str
    used: str
    cache: str
    """Key of memory.stat: bytes of files that the kernel drops before it kills anybody."""


_V1 = _Names("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file")
_V2 = _Names("memory.max", "memory.current", "inactive_file")
_LIMIT_FROM_ABOVE = "hierarchical_memory_limit"
"""Key of version 1's memory.stat: the least limit of a group and of those above it, also of those that are hidden."""


def memory_limit_bytes(root: Path = ROOT) -> int | None:
    """The bytes that this process and its neighbours in the same container may have; None where nothing limits them."""
    return min((limit for limit, _ in _memory(root)), default=None)


def memory_left_bytes(root: Path = ROOT) -> int | None:
    """How much more they may take before the kernel kills one of them; None where nothing limits them.

    What a group holds of files that it does not use now is not counted as taken.
    """
    return min((max(0, limit - used) for limit, used in _memory(root)), default=None)


def cpu_limit(root: Path = ROOT) -> float | None:
    """How many processors' time they may use (0.5 is half of one); None where nothing limits it."""
    found = []
    for folder in _folders(root, "cpu"):
        quota, _, period = _text(folder / "cpu.max").partition(" ")
        found.append((quota, period or "100000"))
        quota, period = (_text(folder / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
        found.append((quota, period))
    return min(
        (int(quota) / int(period) for quota, period in found if _is_positive(quota) and _is_positive(period)),
        default=None,
    )


def _is_positive(text: str) -> bool:
    return _number(text) > 0


def _number(text: str) -> int:
    """-1 for what is no number of a sane length."""
    return int(text) if re.fullmatch(r"[0-9]{1,20}", text) else -1


def _memory(root: Path) -> Iterator[tuple[int, int]]:
    """Limit and use in bytes, for each group that has a limit."""
    for folder in _folders(root, "memory"):
        for names in (_V1, _V2):
            text = _text(folder / names.limit)
            if not text:
                continue
            said = _statistics(folder)
            used = max(0, _number(_text(folder / names.used)) - said.get(names.cache, 0))
            limits = [_number(text)] + [said[key] for key in (_LIMIT_FROM_ABOVE,) if names is _V1 and key in said]
            yield from ((limit, used) for limit in limits if 0 <= limit < UNLIMITED_BYTES)
            if names is _V1 and _text(folder / "memory.use_hierarchy") == "0":
                return  # the groups above do not count what is taken here


def _statistics(folder: Path) -> dict[str, int]:
    """The file memory.stat."""
    pairs = (line.partition(" ") for line in _text(folder / "memory.stat").splitlines())
    return {name: _number(value) for name, _, value in pairs if _number(value) >= 0}


def _folders(root: Path, controller: str) -> Iterator[Path]:
    """The folders of the groups that this process is in, its own first, whatever version the controller is of.

    A container that does not see its group's path, as those above are hidden from it, finds itself at the top.
    """
    seen = set()
    mounts = list(_mounts(root, controller))
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        unified = not controllers
        if not unified and controller not in controllers.split(","):
            continue
        for top, above in [mount[1:] for mount in mounts if mount[0] == unified] or _usual(
            root, controllers, controller
        ):
            for folder in (top / one for one in _ways(path, above)):
                if folder not in seen:
                    seen.add(folder)
                    yield folder


def _ways(path: str, above: str) -> Iterator[PurePosixPath]:
    """From the group `path` up to the topmost that is visible, below a mount that shows the group `above`."""
    group, top = PurePosixPath(path), PurePosixPath(above)
    group = group.relative_to(top if group.is_relative_to(top) else group.anchor)
    if ".." in group.parts:  # it lies outside of the part that this process sees
        group = PurePosixPath()
    yield from (group, *group.parents)


def _usual(root: Path, controllers: str, controller: str) -> list[tuple[Path, str]]:
    """Where hierarchies lie by convention."""
    mounts = root / MOUNTS
    tops = [mounts / controllers, mounts / controller] if controllers else [mounts, mounts / "unified"]
    return [(top, "/") for top in tops]


def _mounts(root: Path, controller: str) -> Iterator[tuple[bool, Path, str]]:
    """Whether it is of version 2, where it is mounted, and which group is seen there, for the hierarchies that matter."""
    for line in _text(root / "proc/self/mountinfo").splitlines():
        left, _, right = line.partition(" - ")
        fields, (kind, _, options) = left.split(), (*right.split(), "", "", "")[:3]
        if len(fields) > 4 and (kind == "cgroup2" or (kind == "cgroup" and controller in options.split(","))):  # noqa: PLR2004 - proc(5)
            yield kind == "cgroup2", root / _unescaped(fields[4]).lstrip("/"), _unescaped(fields[3])


def _unescaped(path: str) -> str:
    """Blanks are written as \\040 there."""
    return re.sub(r"\\([0-7]{3})", lambda found: chr(int(found[1], 8)), path)


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii", errors="replace").strip()
    except (OSError, ValueError):
        return ""
