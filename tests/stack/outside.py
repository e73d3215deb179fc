"""A host that only routed packets reach: what containers without a way out of their network must not get at."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

from servers import wait_until
from stack.engine import run

HERE, THERE, PORT = "198.51.100.1", "198.51.100.2", 8000
"""Addresses that are kept for documentation: nobody's."""
NAMESPACE, LINK = "convq-outside", "convq-out"
REACH = f"import socket; socket.create_connection(({THERE!r}, {PORT}), timeout=5).close()"
"""A program in Python that ends well where the host is reached."""


@contextmanager
def host_outside() -> Iterator[None]:
    """A network of its own behind this machine, with a server in it."""
    run("ip", "netns", "add", NAMESPACE, environment=os.environ)
    try:
        for command in (
            f"link add {LINK} type veth peer name eth0 netns {NAMESPACE}",
            f"addr add {HERE}/30 dev {LINK}",
            f"link set {LINK} up",
            f"-n {NAMESPACE} addr add {THERE}/30 dev eth0",
            f"-n {NAMESPACE} link set eth0 up",
        ):
            run("ip", *command.split(), environment=os.environ)
        serve = [sys.executable, "-m", "http.server", str(PORT), "--bind", THERE, "--directory", os.devnull]
        with subprocess.Popen(["ip", "netns", "exec", NAMESPACE, *serve], stderr=subprocess.DEVNULL) as server:
            try:
                wait_until(_is_there, 30, every_s=0.1)
                yield
            finally:
                server.kill()
    finally:
        run("ip", "netns", "del", NAMESPACE, environment=os.environ)  # and both ends of the link with it


def _is_there() -> bool:
    try:
        socket.create_connection((THERE, PORT), timeout=1).close()
    except OSError:
        return False
    return True
