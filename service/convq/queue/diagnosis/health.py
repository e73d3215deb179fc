"""What a server says of itself, and whether a queue may live on it: refused, warned of, or fine.

The service's start and `convq doctor` both ask here, so that both say the same.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal

from convq.errors import RedisRefused
from convq.queue.diagnosis.mending import Rights, change
from convq.queue.diagnosis.server_versions import known_crashes, parsed
from convq.queue.transport.address import Address, redis_cli
from convq.queue.transport.link import Link

Level = Literal["ok", "warning", "problem"]

OLDEST = {"redis": (7, 0), "valkey": (7, 2)}
CLOCK_SLACK_S = 5.0
NEVER_EVICTS = "noeviction"
USUAL_LIMIT_BYTES = 1 << 30
KEPT_FREE = 0.1
"""Of maxmemory: large answers leave it to jobs and to small answers, see `complete.lua`."""
UNKNOWN = "unknown"
"""What a server that hides its settings is taken to say."""


@dataclass(frozen=True, slots=True)
class CheckResult:
    """One thing that was looked at. `remedy` is a command for a shell, or a sentence; `then` is what is to be known besides.

    A problem is refused, a warning is logged.
    """

    level: Level
    check: str
    found: str
    remedy: str | None = None
    then: str | None = None

    def __str__(self) -> str:
        mend = "" if self.remedy is None else f"; mend it: {self.remedy}"
        return f"{self.found}{mend}" + (f"; {self.then}" if self.then else "")


@dataclass(frozen=True, slots=True)
class Server:
    """What the server says of itself, and what is to be said about that."""

    name: str
    version: str
    maxmemory_policy: str
    persistent: bool
    role: str
    maxmemory_bytes: int
    """0: no limit."""
    clock_ahead_s: float | None
    """Its wall clock minus ours; None where it does not tell."""
    remarks: tuple[CheckResult, ...] = ()

    def __str__(self) -> str:
        return f"{self.name} {self.version}"

    @property
    def warnings(self) -> tuple[CheckResult, ...]:
        """What works, and should be looked at."""
        return tuple(remark for remark in self.remarks if remark.level == "warning")

    def refuse(self) -> None:
        """Raise RedisRefused where a queue cannot live here, with the command that mends it."""
        for remark in self.remarks:
            if remark.level == "problem":
                raise RedisRefused(f"{self} cannot hold the queue: {remark}")


def look_at(link: Link, address: Address, rights: Rights | None = None) -> Server:
    """Ask the server what it is; `rights`: those of this user, where they were asked for before.

    Raises RedisRefused where it is too old for streams with lag (7.0, Valkey 7.2).
    """
    asked_s = time.time()
    info = _pairs(link.call("INFO"))
    here_s = (asked_s + time.time()) / 2
    name = "valkey" if "valkey_version" in info else "redis"
    version = info.get(f"{name}_version", "0")
    if parsed(version)[:2] < OLDEST[name]:
        raise RedisRefused(f"{name} {version} is too old: convq needs Redis 7.0 or Valkey 7.2, or newer")
    clock = _number(info.get("server_time_usec"))
    server = Server(
        name=name,
        version=version,
        maxmemory_policy=info.get("maxmemory_policy", UNKNOWN),
        persistent=info.get("aof_enabled") == "1",
        role=info.get("role", UNKNOWN),
        maxmemory_bytes=_number(info.get("maxmemory")) or 0,
        clock_ahead_s=None if clock is None else clock / 1e6 - here_s,
    )
    return _remarked(server, address, partial(change, address, rights or Rights(link), info), info)


Mend = Callable[[str, str], tuple[str, str | None]]
"""Name and value of a setting -> the command that changes it, and what keeps it so."""


def _remarked(server: Server, address: Address, mend: Mend, info: Mapping[str, str]) -> Server:
    remarks = (_policy(server, mend), _limit(server, mend, info), _persistence(server, mend))
    role = _role(server, address, info)
    return replace(server, remarks=(*remarks, role, *_crashes(server), *_access(address), *_clock(server)))


def _policy(server: Server, mend: Mend) -> CheckResult:
    policy, setting = server.maxmemory_policy, ("maxmemory-policy", NEVER_EVICTS)
    if policy == NEVER_EVICTS:
        return CheckResult("ok", "maxmemory", f"policy {policy}: a full server refuses jobs, it drops none")
    if policy == UNKNOWN:
        found = f"the server does not tell its policy; it must be {NEVER_EVICTS}"
        return CheckResult("warning", "maxmemory", found, *mend(*setting))
    found = f"policy {policy}: a full server may drop jobs and results"
    return CheckResult("problem", "maxmemory", found, *mend(*setting))


def _limit(server: Server, mend: Mend, info: Mapping[str, str]) -> CheckResult:
    if server.maxmemory_bytes:
        used = (_number(info.get("used_memory")) or 0) - (_number(info.get("mem_not_counted_for_evict")) or 0)
        if used >= server.maxmemory_bytes * (1 - KEPT_FREE):
            return CheckResult(
                "warning", "maxmemory", _filled(used, server.maxmemory_bytes), *mend("maxmemory", _room(info))
            )
        return CheckResult("ok", "maxmemory", f"{server.maxmemory_bytes / 2**20:,.0f} MiB")
    found = "no limit: a long queue fills the machine's memory until the kernel kills the server"
    return CheckResult("warning", "maxmemory", found, *mend("maxmemory", _room(info)))


def _filled(used: int, most: int) -> str:
    """How full it is, and who is turned away by that."""
    turned_away = "jobs are refused" if used >= most else "answers of more than 1 MiB are refused (no_room), jobs soon"
    return (
        f"{most / 2**20:,.0f} MiB, of which {100 * used // most} % are used: {turned_away}; read results, or raise it"
    )


def _room(info: Mapping[str, str]) -> str:
    """A limit to begin with: half of a small machine, and never so little that what is there fills it."""
    used, machine = _number(info.get("used_memory")) or 0, _number(info.get("total_system_memory")) or 0
    usual = min(USUAL_LIMIT_BYTES, machine // 2) if machine else USUAL_LIMIT_BYTES
    return f"{-(-max(usual, 2 * used) // (1 << 20))}mb"


def _persistence(server: Server, mend: Mend) -> CheckResult:
    if server.persistent:
        return CheckResult("ok", "persistence", "append-only file is on: jobs survive a restart of the server")
    found = "append-only file is off: a restart of the server loses the jobs"
    return CheckResult("warning", "persistence", found, *mend("appendonly", "yes"))


def _role(server: Server, address: Address, info: Mapping[str, str]) -> CheckResult:
    if server.role != "slave":
        return CheckResult("ok", "role", server.role)
    host, port = info.get("master_host"), info.get("master_port")
    where = f"{host}:{port}" if host and port else f"which {redis_cli(address)} INFO replication names"
    return CheckResult("problem", "role", "it is a replica: it takes no jobs", f"point --redis at its master, {where}")


def _crashes(server: Server) -> Iterator[CheckResult]:
    reasons, target = known_crashes(server.name, server.version)
    if not reasons:
        return
    found = f"{server} may crash and lose jobs, unless your distribution mended it: {'; '.join(reasons)}"
    yield CheckResult("warning", "version", found, f"upgrade the server to {target} or later")


def _access(address: Address) -> Iterator[CheckResult]:
    """A server of another machine that asked for no password lets in whoever reaches it."""
    if not address.is_here and not address.holds_password and address.password_file is None:
        found = "no password was asked for: whoever reaches the server may read and delete every job"
        mend = "make secrets in a checkout, and start the server with --aclfile deploy/secrets/users.acl"
        yield CheckResult("warning", "access", found, mend, "deploy/README.md, Users, says who is who")


def _clock(server: Server) -> Iterator[CheckResult]:
    """No clock but the server's counts for jobs; a large difference only confuses who reads logs of both."""
    if server.clock_ahead_s is None:
        return
    apart_s = abs(server.clock_ahead_s)
    if apart_s <= CLOCK_SLACK_S:
        yield CheckResult("ok", "clock", f"the server's is {apart_s * 1e3:.0f} ms off ours")
        return
    way = "ahead of" if server.clock_ahead_s > 0 else "behind"
    found = f"the server's is {apart_s:.1f} s {way} ours: jobs do not mind, but the logs of both won't match"
    yield CheckResult("warning", "clock", found, "timedatectl set-ntp true, on both machines")


def _number(text: str | None) -> int | None:
    """A count as the server tells it; None where it tells none, or something else."""
    return int(text) if text is not None and re.fullmatch("[0-9]{1,18}", text) else None


def _pairs(info: Any) -> dict[str, str]:
    if not isinstance(info, bytes):
        return {}
    rows = (line.partition(":") for line in info.decode("utf-8", "replace").splitlines())
    return {name: value for name, colon, value in rows if colon}
