"""Real servers with certificates or users: what `convq.embedded` never starts, and production always has."""

from __future__ import annotations

import hashlib
import re
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import trustme

from convq import embedded
from convq.embedded import ServerBinary
from convq.host.death_signal import ending_with_us
from convq.queue import Address
from servers import PATIENCE, binary_of, skip_or_fail, wait_until

ROOT = Path(__file__).parents[2]
USERS = ROOT / "deploy" / "redis" / "users.acl"
HOST = "127.0.0.1"


@contextmanager
def running(binary: ServerBinary, data: Path, *options: str, config: Path | None = None) -> Iterator[Path]:
    """That server with these options, until the end of the block; yields its unix socket. It dies with this process.

    With a `config` file, what else would be said of memory and persistence is left to that.
    """
    private = Path(tempfile.mkdtemp(prefix="convq-"))  # short: the path of a socket has at most 104 bytes
    path = private / "s"
    command = [str(binary.path)]
    command += [] if config is None else [str(config)]
    command += ["--dir", str(data), "--bind", HOST, "--unixsocket", str(path), "--unixsocketperm", "700"]
    command += ["--save", "", "--appendonly", "yes", "--maxmemory", "256mb"] if config is None else []
    command += options
    log = data / "server.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            ending_with_us(command), stdin=subprocess.DEVNULL, stdout=out, stderr=out, start_new_session=True
        )
    try:
        wait_until(lambda: _ready(path, log) or process.poll() is not None)
        assert process.poll() is None, log.read_text()
        yield path
    finally:
        process.terminate()
        process.wait(10 * PATIENCE)
        shutil.rmtree(private)


def _ready(path: Path, log: Path) -> bool:
    """Whether it answers with all its data, if only that it wants a password.

    To those who have not said theirs it says no more than that, even while it loads: its log says when that is over.
    """
    return (
        embedded._ping(path).startswith((b"+PONG", b"-NOAUTH")) and b"Ready to accept connections" in log.read_bytes()
    )


def free_port() -> int:
    """A port that was free a moment ago."""
    with socket.create_server((HOST, 0)) as probe:
        return int(probe.getsockname()[1])


# -- TLS ------------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Certificates:
    """PEM files of one authority: its own, and those that it signed."""

    folder: Path
    authority: trustme.CA

    @classmethod
    def make(cls, folder: Path) -> Certificates:
        """An authority, a server called 127.0.0.1 and localhost, a client."""
        folder.mkdir()
        made = cls(folder, trustme.CA())
        made.authority.cert_pem.write_to_path(folder / "ca.pem")
        made.issue("server", HOST, "localhost")
        made.issue("client", "worker@convq.test")
        return made

    def issue(self, name: str, *identities: str) -> None:
        """Sign a certificate: NAME.pem and NAME.key."""
        issued = self.authority.issue_cert(*identities)
        issued.private_key_pem.write_to_path(self.folder / f"{name}.key")
        (self.folder / f"{name}.pem").write_bytes(b"".join(one.bytes() for one in issued.cert_chain_pems))

    def __truediv__(self, name: str) -> Path:
        return self.folder / name


@contextmanager
def tls_server(data: Path, certificates: Certificates) -> Iterator[int]:
    """A server that speaks TLS alone and wants a client certificate of the same authority; yields its port."""
    binary = binary_of("redis-server")
    if "libssl" not in subprocess.run(["ldd", binary.path], capture_output=True, text=True, check=False).stdout:
        skip_or_fail(f"{binary.path} is built without TLS")
    port = free_port()
    files = {"cert": "server.pem", "key": "server.key", "ca-cert": "ca.pem"}
    options = [part for name, file in files.items() for part in (f"--tls-{name}-file", str(certificates / file))]
    with running(binary, data, "--port", "0", "--tls-port", str(port), "--tls-auth-clients", "yes", *options):
        yield port


# -- users ----------------------------------------------------------------------------------------------------------------


def password_of(user: str) -> str:
    """What a test's server calls that user's password: easily found in any file that it has leaked to."""
    return f"secret-of-{user}-5f3a9c"


def users_with(passwords: Callable[[str], str] = password_of) -> str:
    """The project's ACL file with the hashes of these passwords in the place of its placeholders."""

    def hashed(found: re.Match[str]) -> str:
        return "#" + hashlib.sha256(passwords(found[1]).encode()).hexdigest()

    return re.sub(r"#sha256-of-the-password-of-(\w+)", hashed, USERS.read_text())


@dataclass(frozen=True)
class Guarded:
    """A server that knows the project's users and nobody else."""

    port: int

    def url(self, user: str) -> str:
        """As that user, with the password in the URL."""
        return f"redis://{user}:{password_of(user)}@{HOST}:{self.port}/0"

    def address(self, user: str, password_file: Path) -> Address:
        """As that user, with the password in that file."""
        return Address(f"redis://{user}@{HOST}:{self.port}/0", password_file=password_file)


@contextmanager
def guarded_server(binary: ServerBinary, data: Path, extra: Mapping[str, str] | None = None) -> Iterator[Guarded]:
    """A server with the project's ACL file; `extra` are more users, for what a test itself does: name -> rules."""
    more = [f"user {name} on >{password_of(name)} {rules}" for name, rules in (extra or {}).items()]
    acl = data / "users.acl"
    acl.write_text("\n".join([users_with(), *more, ""]))
    port = free_port()
    with running(binary, data, "--port", str(port), "--aclfile", str(acl)):
        yield Guarded(port)
