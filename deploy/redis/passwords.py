"""Make a password for every user of users.acl, and the file with their hashes that the server is started with; change one.

    python deploy/redis/passwords.py deploy/secrets

writes deploy/secrets/NAME for each user, where it is not there yet, and deploy/secrets/users.acl. A password that was
changed by hand is kept: run it again, so that the server finds the same passwords at its next start.

    python deploy/redis/passwords.py deploy/secrets --add worker       # NAME.next: the server takes both from here on
    python deploy/redis/passwords.py deploy/secrets --switch worker    # NAME is the new one, NAME.last the old one
    python deploy/redis/passwords.py deploy/secrets --drop worker      # the server takes the new one alone

change a password while everything runs. After each the server is told (ACL LOAD). users.acl holds the hashes of all that
lie there, and at every moment that of the file which clients read, so that this may be interrupted anywhere, by a crash
of anything, and be gone on with: each step may be repeated.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import secrets
import sys
from pathlib import Path

USERS = Path(__file__).parent / "users.acl"
PLACEHOLDER = re.compile(r"#sha256-of-the-password-of-(\w+)")
RANDOM_BYTES = 32
PRIVATE, READABLE = 0o700, 0o644
"""The folder is its owner's alone. Its files are mounted into containers one by one, whose users have other numbers."""
NEXT, LAST = ".next", ".last"
"""Ends of the names of files with passwords that the server takes besides."""


def password_in(file: Path) -> str:
    """What stands in that file. Exits where it is not one line."""
    lines = file.read_text(encoding="utf-8").splitlines()
    if len(lines) != 1 or not lines[0]:
        sys.exit(f"{file} must hold one line, the password; it has {len(lines)}")
    return lines[0]


def put(file: Path, text: str) -> None:
    """Write a file wholly or not at all, whatever ends this process or the machine."""
    beside = file.with_name(f"{file.name}.writing")
    with beside.open("w", encoding="utf-8") as opened:
        opened.write(text)
        opened.flush()
        os.fsync(opened.fileno())
    beside.chmod(READABLE)
    beside.replace(file)


def make(file: Path) -> None:
    """A password of its own in that file, where there is none yet."""
    if not file.exists():
        put(file, secrets.token_urlsafe(RANDOM_BYTES) + "\n")
        print(f"made  {file}")


def write_users(folder: Path) -> None:
    """users.acl with the hashes of all passwords that lie in the folder."""

    def hashed(found: re.Match[str]) -> str:
        make(folder / found[1])
        files = [folder / f"{found[1]}{end}" for end in ("", NEXT, LAST)]
        passwords = dict.fromkeys(password_in(file) for file in files if file.exists())
        return " ".join("#" + hashlib.sha256(one.encode()).hexdigest() for one in passwords)

    written = folder / "users.acl"
    put(written, PLACEHOLDER.sub(hashed, USERS.read_text(encoding="utf-8")))
    print(f"wrote {written}")


def add(folder: Path, user: str) -> None:
    """A second password, which the server takes and nobody uses yet."""
    if (folder / f"{user}{LAST}").exists():
        sys.exit(f"{user} has changed before, and the old password is still taken: --drop {user} first")
    make(folder / f"{user}{NEXT}")
    write_users(folder)


def switch(folder: Path, user: str) -> None:
    """Clients read the second password from here on; the first one is still taken."""
    current, coming, last = (folder / f"{user}{end}" for end in ("", NEXT, LAST))
    if not coming.exists() and last.exists():
        print(f"{user} is changed already: --drop {user} is next")
        return
    if not coming.exists():
        sys.exit(f"there is no {coming} to change to: --add {user} first")
    put(last, current.read_text(encoding="utf-8"))
    write_users(folder)  # the hashes of both, whoever has forgotten --add
    coming.replace(current)


def drop(folder: Path, user: str) -> None:
    """The old password is not taken any more."""
    if (folder / f"{user}{NEXT}").exists():
        sys.exit(f"nobody reads the new password yet: --switch {user} first")
    (folder / f"{user}{LAST}").unlink(missing_ok=True)
    write_users(folder)


def main(arguments: list[str]) -> None:
    """Write what is missing into the folder that is named, or go one step in changing a password."""
    parser = argparse.ArgumentParser(description="Passwords for the users of users.acl.")
    parser.add_argument("folder", type=Path)
    steps = parser.add_mutually_exclusive_group()
    for step in (add, switch, drop):
        steps.add_argument(
            f"--{step.__name__}",
            metavar="USER",
            choices=PLACEHOLDER.findall(USERS.read_text(encoding="utf-8")),
            help=step.__doc__,
        )
    given = vars(parser.parse_args(arguments))
    folder = given["folder"]
    folder.mkdir(mode=PRIVATE, parents=True, exist_ok=True)
    for step in (add, switch, drop):
        if given[step.__name__] is not None:
            step(folder, given[step.__name__])
            return
    write_users(folder)


if __name__ == "__main__":
    main(sys.argv[1:])
