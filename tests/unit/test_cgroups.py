"""What a container's control groups say, of both versions, in the files that the kernel shows inside it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from convq.cli.serve import default_workers
from convq.host.cgroups import cpu_limit, memory_left_bytes, memory_limit_bytes
from convq.ipc.allowance import DEFAULT_BYTES, MIB, Allowance

GIB = 1 << 30
NONE_IN_V1 = "9223372036854771712"
V2 = "0::/\n"
V1 = "12:pids:/docker/abc\n4:memory:/docker/abc\n3:cpu,cpuacct:/docker/abc\n0::/docker/abc\n"


def machine(root: Path, groups: str, *, mounts: str | None = None, **files: str) -> Path:
    """A root folder with these files below /sys/fs/cgroup, and `/proc/self/mountinfo` where it is given."""
    (root / "proc/self").mkdir(parents=True)
    (root / "proc/self/cgroup").write_text(groups)
    if mounts is not None:
        (root / "proc/self/mountinfo").write_text(mounts)
    for name, text in files.items():
        file = root / "sys/fs/cgroup" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text + "\n")
    return root


@pytest.mark.parametrize(
    ("groups", "named", "expected"),
    [
        (V2, {"memory.max": str(GIB)}, GIB),
        (V2, {"memory.max": "max"}, None),
        (V2, {}, None),
        ("", {"memory.max": str(GIB)}, None),
        ("0::/a.slice/b.scope\n", {"a.slice/b.scope/memory.max": "max", "a.slice/memory.max": str(GIB)}, GIB),
        ("0::/a/b\n", {"a/b/memory.max": str(2 * GIB), "a/memory.max": str(GIB)}, GIB),
        ("0::/../../elsewhere\n", {"memory.max": str(GIB)}, GIB),
        (V1, {"memory/memory.limit_in_bytes": str(GIB)}, GIB),
        (V1, {"memory/docker/abc/memory.limit_in_bytes": str(GIB), "memory/memory.limit_in_bytes": NONE_IN_V1}, GIB),
        (V1, {"memory/memory.limit_in_bytes": NONE_IN_V1}, None),
        ("4:memory:/a\n0::/\n", {"unified/memory.max": str(GIB)}, GIB),
        ("4:memory\nnonsense\n:::\n0::/\n", {"memory.max": "many"}, None),
    ],
)
def test_the_memory_of_a_container_is_the_least_that_its_groups_allow(
    tmp_path: Path, groups: str, named: dict[str, str], expected: int | None
) -> None:
    assert expected == memory_limit_bytes(machine(tmp_path, groups, **named))


def mounted(where: str, group: str = "/", controllers: str = "") -> str:
    """A line of mountinfo: a hierarchy of version 1 with these controllers, or without them that of version 2."""
    kind, options = ("cgroup", f"rw,{controllers}") if controllers else ("cgroup2", "rw")
    return f"35 31 0:32 {group} {where} rw,relatime shared:9 - {kind} {kind} {options}\n"


@pytest.mark.parametrize(
    ("groups", "mounts", "named", "expected"),
    [
        # a container of version 1 that sees its own part: its group has another path there
        (
            "4:memory:/docker/abc/inner\n",
            mounted("/sys/fs/cgroup/memory", "/docker/abc", "memory"),
            {"memory/inner/memory.limit_in_bytes": str(GIB), "memory/memory.limit_in_bytes": str(2 * GIB)},
            GIB,
        ),
        # the same without a group of its own inside
        (
            "4:memory:/docker/abc\n",
            mounted("/sys/fs/cgroup/memory", "/docker/abc", "memory"),
            {"memory/memory.limit_in_bytes": str(GIB)},
            GIB,
        ),
        # a mount that shows another group than ours: what is at its top is the nearest that is known
        (
            "4:memory:/kubepods/pod1/c2\n",
            mounted("/sys/fs/cgroup/memory", "/kubepods/pod1/c1", "memory"),
            {"memory/memory.limit_in_bytes": str(GIB)},
            GIB,
        ),
        # control group namespaces: inside, and where the mount was made outside
        ("0::/\n", mounted("/sys/fs/cgroup"), {"memory.max": str(GIB)}, GIB),
        ("0::/../x\n", mounted("/sys/fs/cgroup", "/.."), {"memory.max": str(GIB)}, GIB),
        # hybrid: memory is of version 1, and version 2 has no controllers
        (
            "4:memory:/a\n0::/a\n",
            mounted("/sys/fs/cgroup/memory", "/", "memory") + mounted("/sys/fs/cgroup/unified"),
            {"memory/a/memory.limit_in_bytes": str(GIB), "unified/a/cgroup.procs": ""},
            GIB,
        ),
        # hybrid the other way round: memory is of version 2
        (
            "3:cpu:/a\n0::/a\n",
            mounted("/sys/fs/cgroup/cpu", "/", "cpu") + mounted("/sys/fs/cgroup/unified"),
            {"unified/a/memory.max": str(GIB)},
            GIB,
        ),
        # mounted somewhere else, with a blank in the path, and twice
        (
            "4:memory:/a\n",
            mounted("/sys/fs/cgroup/my\\040own", "/", "memory") + mounted("/sys/fs/cgroup/b", "/", "memory"),
            {"my own/a/memory.limit_in_bytes": str(GIB)},
            GIB,
        ),
        # limits of groups above that are hidden stand in the statistics of version 1
        (
            "4:memory:/docker/abc\n",
            mounted("/sys/fs/cgroup/memory", "/docker/abc", "memory"),
            {
                "memory/memory.limit_in_bytes": NONE_IN_V1,
                "memory/memory.stat": f"cache 0\nhierarchical_memory_limit {GIB}\n",
            },
            GIB,
        ),
        # a group whose use is not counted by those above
        (
            "4:memory:/a/b\n",
            mounted("/sys/fs/cgroup/memory", "/", "memory"),
            {
                "memory/a/b/memory.limit_in_bytes": str(2 * GIB),
                "memory/a/b/memory.use_hierarchy": "0",
                "memory/a/memory.limit_in_bytes": str(GIB),
            },
            2 * GIB,
        ),
        ("4:memory:/a\n", "nonsense\n - \n1 2 3 4 5 - cgroup\n\\", {"memory/a/memory.limit_in_bytes": str(GIB)}, GIB),
    ],
)
def test_a_group_is_found_where_it_is_mounted(
    tmp_path: Path, groups: str, mounts: str, named: dict[str, str], expected: int
) -> None:
    root = machine(tmp_path, groups, mounts=mounts, **named)

    assert expected == memory_limit_bytes(root)
    assert expected == memory_left_bytes(root)


@pytest.mark.parametrize(
    ("groups", "named", "expected"),
    [
        (V2, {"memory.max": "1000", "memory.current": "600", "memory.stat": "anon 1\ninactive_file 100"}, 500),
        (V2, {"memory.max": "1000", "memory.current": "600"}, 400),
        (V2, {"memory.max": "max", "memory.current": "600"}, None),
        (V2, {"memory.max": "1000", "memory.current": "1600"}, 0),
        (
            "0::/a/b\n",
            {"a/b/memory.max": "1000", "a/b/memory.current": "100", "a/memory.max": "2000", "a/memory.current": "1990"},
            10,
        ),
        (
            "4:memory:/a\n",
            {
                "memory/a/memory.limit_in_bytes": "1000",
                "memory/a/memory.usage_in_bytes": "700",
                "memory/a/memory.stat": "inactive_file 7\ntotal_inactive_file 200\nhierarchical_memory_limit 900",
            },
            400,
        ),
        ("4:memory:/a\n", {"memory/a/memory.limit_in_bytes": NONE_IN_V1, "memory/a/memory.usage_in_bytes": "7"}, None),
        ("4:memory:/a\n", {"memory/a/memory.limit_in_bytes": "9" * 5000}, None),
    ],
)
def test_what_is_left_is_the_limit_less_what_is_used_and_cannot_be_dropped(
    tmp_path: Path, groups: str, named: dict[str, str], expected: int | None
) -> None:
    assert expected == memory_left_bytes(machine(tmp_path, groups, **named))


@pytest.mark.parametrize(
    ("groups", "named", "expected"),
    [
        (V2, {"cpu.max": "200000 100000"}, 2.0),
        (V2, {"cpu.max": "50000 100000"}, 0.5),
        (V2, {"cpu.max": "max 100000"}, None),
        (V2, {"cpu.max": "150000"}, 1.5),
        ("0::/a/b\n", {"a/b/cpu.max": "400000 100000", "a/cpu.max": "100000 100000"}, 1.0),
        (V1, {"cpu,cpuacct/cpu.cfs_quota_us": "200000", "cpu,cpuacct/cpu.cfs_period_us": "100000"}, 2.0),
        (V1, {"cpu/cpu.cfs_quota_us": "10000", "cpu/cpu.cfs_period_us": "100000"}, 0.1),
        (V1, {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
        (V1, {"cpu/cpu.cfs_quota_us": "10000", "cpu/cpu.cfs_period_us": "0"}, None),
        (V2, {}, None),
    ],
)
def test_the_time_of_a_container_is_the_least_quota_of_its_groups(
    tmp_path: Path, groups: str, named: dict[str, str], expected: float | None
) -> None:
    assert expected == cpu_limit(machine(tmp_path, groups, **named))


@pytest.mark.parametrize(("quota", "expected"), [("50000", 1), ("100000", 1), ("100001", 2), ("25600000", 256)])
def test_workers_are_as_many_as_the_quota_gives_time_for_and_there_are_cores(
    tmp_path: Path, quota: str, expected: int
) -> None:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1

    assert min(cores, expected) == default_workers("cpu", machine(tmp_path, V2, **{"cpu.max": f"{quota} 100000"}))


@pytest.fixture
def own_group() -> Iterator[Path]:
    """A real control group of version 1 or 2, with nobody in it; skipped where none can be made."""
    for top, most in (
        (Path("/sys/fs/cgroup"), "cpu.max"),
        (Path("/sys/fs/cgroup/cpu"), "cpu.cfs_quota_us"),
    ):
        group = top / f"convq-test-{os.getpid()}"
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            if (group / most).exists():
                yield group
                return
        finally:
            group.rmdir()
    pytest.skip("no control group can be made here")


def test_the_kernel_says_the_quota_where_it_is_looked_for(own_group: Path, tmp_path: Path) -> None:
    if (own_group / "cpu.max").exists():
        (own_group / "cpu.max").write_text("150000 100000")
        groups = f"0::/{own_group.name}\n"
    else:
        (own_group / "cpu.cfs_period_us").write_text("100000")
        (own_group / "cpu.cfs_quota_us").write_text("150000")
        groups = f"3:cpu:/{own_group.name}\n"
    root = machine(tmp_path, groups)
    (root / "sys/fs").mkdir(parents=True)
    (root / "sys/fs/cgroup").symlink_to("/sys/fs/cgroup")

    assert 1.5 == cpu_limit(root)


@pytest.fixture
def memory_group() -> Iterator[Path]:
    """As `own_group`, for memory: nobody but this test's own child is in it."""
    for top, most in (
        (Path("/sys/fs/cgroup"), "memory.max"),
        (Path("/sys/fs/cgroup/memory"), "memory.limit_in_bytes"),
    ):
        group = top / f"convq-test-{os.getpid()}"
        try:
            group.mkdir()
        except OSError:
            continue
        try:
            if (group / most).exists():
                (group / most).write_text(str(3 * GIB))
                yield group
                return
        finally:
            group.rmdir()
    pytest.skip("no control group can be made here")


def test_the_kernel_says_the_memory_that_is_left_where_it_is_looked_for(memory_group: Path) -> None:
    program = (
        "import sys, pathlib; pathlib.Path(sys.argv[1]).write_text('0');"
        "from convq.importer.sandbox import spare_memory_bytes;"
        "from convq.host.cgroups import memory_limit_bytes, memory_left_bytes;"
        "held = b'x' * (1 << 28); print(memory_limit_bytes(), memory_left_bytes(), spare_memory_bytes())"
    )
    command = [sys.executable, "-c", program, str(memory_group / "cgroup.procs")]
    said = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    limit, left, spare = map(int, said.split())

    assert 3 * GIB == limit
    assert 2 * GIB < left <= 3 * GIB - (1 << 28)
    assert spare <= 3 * GIB - (1 << 28)


def test_a_worker_has_what_it_is_told_or_its_share_of_the_container_or_a_sane_amount(tmp_path: Path) -> None:
    free = machine(tmp_path / "free", V2)
    large = machine(tmp_path / "large", V2, **{"memory.max": str(64 * GIB)})
    small = machine(tmp_path / "small", V2, **{"memory.max": str(GIB)})

    assert Allowance(GIB, GIB) == Allowance.of(GIB, 2, small)
    assert Allowance(DEFAULT_BYTES, None) == Allowance.of(None, 2, free)
    assert DEFAULT_BYTES == Allowance.of(None, 2, large).planned_bytes
    shared = Allowance.of(None, 4, small)
    assert shared.planned_bytes == shared.limit_bytes
    assert 4 * shared.planned_bytes < GIB - 64 * MIB
