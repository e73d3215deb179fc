"""Make a password for every user of users.acl, and the file with their hashes that the server is started with.

    python deploy/redis/passwords.py deploy/secrets

writes deploy/secrets/NAME for each user, where it is not there yet, and deploy/secrets/users.acl. A password that was
changed by hand is kept: run it again, so that the server finds the same passwords at its next start.
"""

from __future__ import annotations

import hashlib
import re
import secrets
import sys
from pathlib import Path

USERS = Path(__file__).parent / "users.acl"
PLACEHOLDER = re.compile(r"#sha256-of-the-password-of-(\w+)")
RANDOM_BYTES = 32
PRIVATE, READABLE = 0o700, 0o644
"""The folder is its owner's alone. Its files are mounted into containers one by one, whose users have other numbers."""


def password_of(user: str, folder: Path) -> str:
    """What stands in the file of that user; made now where there is no file. Exits where a file holds anything else."""
    file = folder / user
    if not file.exists():
        file.write_text(secrets.token_urlsafe(RANDOM_BYTES) + "\n", encoding="utf-8")
        file.chmod(READABLE)
        print(f"made  {file}")
    lines = file.read_text(encoding="utf-8").splitlines()
    if len(lines) != 1 or not lines[0]:
        sys.exit(f"{file} must hold one line, the password; it has {len(lines)}")
    return lines[0]


def main(arguments: list[str]) -> None:
    """Write what is missing into the folder that is named."""
    if len(arguments) != 1:
        sys.exit("usage: passwords.py FOLDER")
    folder = Path(arguments[0])
    folder.mkdir(mode=PRIVATE, parents=True, exist_ok=True)

    def hashed(found: re.Match[str]) -> str:
        return "#" + hashlib.sha256(password_of(found[1], folder).encode()).hexdigest()

    written = folder / "users.acl"
    written.write_text(PLACEHOLDER.sub(hashed, USERS.read_text(encoding="utf-8")), encoding="utf-8")
    written.chmod(READABLE)
    print(f"wrote {written}")


if __name__ == "__main__":
    main(sys.argv[1:])
