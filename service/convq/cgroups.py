"""What the kernel lets this process have: the limits of its control groups, of version 1 and 2. Linux; elsewhere nothing.

A container is such a group. What the machine has is no answer there: the kernel kills what goes beyond the group's limit.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

ROOT = Path("/")
MOUNTS = "sys/fs/cgroup"
UNLIMITED_BYTES = 1 << 60
"""Version 1 says some number beyond this where there is no limit."""


def memory_limit_bytes(root: Path = ROOT) -> int | None:
    """The bytes that this process and its neighbours in the same container may have; None where nothing limits them."""
    found = [
        int(text)
        for name in ("memory.max", "memory.limit_in_bytes")
        for text in _read(root, "memory", name)
        if text.isdigit()
    ]
    return min((limit for limit in found if limit < UNLIMITED_BYTES), default=None)


def cpu_limit(root: Path = ROOT) -> float | None:
    """How many processors' time they may use (0.5 is half of one); None where nothing limits it."""
    found = []
    for text in _read(root, "cpu", "cpu.max"):
        quota, _, period = text.partition(" ")
        found.append((quota, period or "100000"))
    for folder in _folders(root, "cpu"):
        quota, period = (_text(folder / f"cpu.cfs_{name}_us") for name in ("quota", "period"))
        found.append((quota, period))
    return min(
        (int(quota) / int(period) for quota, period in found if quota.isdigit() and _is_positive(period)), default=None
    )


def _is_positive(text: str) -> bool:
    return text.isdigit() and int(text) > 0


def _read(root: Path, controller: str, name: str) -> Iterator[str]:
    """What that file says in each group that this process is in, from its own up to the topmost that it can see."""
    yield from filter(None, (_text(folder / name) for folder in _folders(root, controller)))


def _folders(root: Path, controller: str) -> Iterator[Path]:
    """The folders of these groups, whatever version the controller is of.

    A container that does not see its group's path, as those above are hidden from it, finds itself at the top.
    """
    mounts = root / MOUNTS
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, controllers, path = (*line.split(":", 2), "", "")[:3]
        if not controllers:
            tops = [mounts, mounts / "unified"]
        elif controller in controllers.split(","):
            tops = [mounts / controllers, mounts / controller]
        else:
            continue
        for top in tops:
            group = Path(path.lstrip("/"))
            yield from (top / one for one in (group, *group.parents))


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="ascii", errors="replace").strip()
    except OSError:
        return ""
