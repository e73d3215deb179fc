"""An address shows no password, whatever is wrong with it, and says which of its files is not what it should be."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import trustme
from cryptography.hazmat.primitives import serialization

from convq import Address, Client
from convq.errors import SettingsError
from convq.queue.transport.address import password_in, redis_cli, shown
from convq.queue.transport.link import Link

TLS = "rediss://redis.example:6380/0"


@pytest.fixture(scope="module")
def pem(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ca.pem, mine.pem and mine.key, and what else may be in such a folder."""
    folder = tmp_path_factory.mktemp("pem")
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    for name in ("mine", "other"):
        issued = authority.issue_cert(f"{name}@convq.test")
        issued.private_key_pem.write_to_path(folder / f"{name}.key")
        issued.cert_chain_pems[0].write_to_path(folder / f"{name}.pem")
    key = serialization.load_pem_private_key((folder / "mine.key").read_bytes(), None)
    locked = serialization.BestAvailableEncryption(b"sesame")
    pkcs8 = serialization.PrivateFormat.PKCS8
    (folder / "locked.key").write_bytes(key.private_bytes(serialization.Encoding.PEM, pkcs8, locked))
    (folder / "ca.der").write_bytes(b"\x30\x82\x01\x0a")
    (folder / "empty.pem").touch()
    return folder


def wrong(url: str, **files: Path) -> str:
    """What is said about this address."""
    with pytest.raises(SettingsError) as error:
        Client(Address(url, **files))
    return str(error.value)


# -- secrets --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://h:6379/0", "redis://h:6379/0"),
        ("redis://u@h/0", "redis://u@h/0"),
        ("redis://u:s3cret@h:6379/0", "redis://u:***@h:6379/0"),
        ("rediss://:s3cret@h", "rediss://:***@h"),
        ("redis://u:s3cret/s3cret@h:6379/0", "redis://u:***@h:6379/0"),
        ("redis://u:s3cret@s3cret@h", "redis://u:***@h"),
        ("unix:///run/s?db=0&password=s3cret", "unix:///run/s?db=0&password=***"),
        ("unix://u@/run/s?password=s3cret&db=0", "unix://u@/run/s?password=***&db=0"),
        ("rediss://h?ssl_password=s3cret", "rediss://h?ssl_password=***"),
    ],
)
def test_no_password_is_shown(url: str, expected: str) -> None:
    assert expected == shown(url) == str(Address(url))
    assert "s3cret" not in repr(Address(url)) + redis_cli(url)


@pytest.mark.parametrize("url", ["redis://u:s3cret/x@h:1", "s3cret", "redis://u:s3cret@h:port", "http://u:s3cret@h"])
def test_a_url_that_cannot_be_read_is_an_error_without_its_password(url: str) -> None:
    with pytest.raises(SettingsError, match="is no Redis URL; expected redis://HOST:PORT/DB") as error:
        Link(url)

    assert "s3cret" not in str(error.value).replace("'s3cret'", "")  # what has no sign of a password is shown


@pytest.mark.parametrize(
    ("url", "files", "expected"),
    [
        ("redis://127.0.0.1:6379/0", {}, "redis-cli"),
        ("redis://127.0.0.1:7000", {}, "redis-cli -p 7000"),
        ("redis://127.0.0.1:7000/3", {}, "redis-cli -u redis://127.0.0.1:7000/3"),
        ("unix:///run/s?db=0", {}, "redis-cli -s /run/s"),
        ("redis://u:secret@h:1/0", {}, "redis-cli -u redis://h:1/0 --user u --askpass"),
        ("redis://:secret@127.0.0.1:7000/0", {}, "redis-cli -p 7000 --askpass"),
        ("unix://u:secret@/run/s?db=2", {}, "redis-cli -s /run/s -n 2 --user u --askpass"),
        ("rediss://h:1/0", {"ca": "c a"}, "redis-cli -u rediss://h:1/0 --cacert 'c a'"),
        ("redis://u@h:1/0", {"password_file": "/p"}, 'REDISCLI_AUTH="$(cat /p)" redis-cli -u redis://h:1/0 --user u'),
    ],
)
def test_redis_cli_reaches_the_same_server(url: str, files: dict[str, Any], expected: str) -> None:
    assert expected == redis_cli(Address(url, **{name: Path(path) for name, path in files.items()}))


# -- certificates ---------------------------------------------------------------------------------------------------------


def test_whole_files_are_taken(pem: Path) -> None:
    Address(TLS, ca=pem / "ca.pem", cert=pem / "mine.pem", key=pem / "mine.key").examine()


def test_names_of_files_may_be_plain_text(pem: Path, tmp_path: Path) -> None:
    (tmp_path / "password").write_text("x")
    files = {"ca": str(pem / "ca.pem"), "cert": str(pem / "mine.pem"), "key": str(pem / "mine.key")}
    Address(TLS, **files, password_file=str(tmp_path / "password")).examine()

    with pytest.raises(SettingsError, match=r"--redis-password-file .*none: No such file"):
        Client(Address("redis://u@h", password_file=str(tmp_path / "none")))


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"ca": "none.pem"}, r"--redis-ca .*none.pem: No such file"),
        ({"ca": "ca.der"}, r"--redis-ca .*ca.der: it holds no certificate in PEM form"),
        ({"ca": "empty.pem"}, r"--redis-ca .*empty.pem: it holds no certificate in PEM form"),
        ({"ca": "mine.key"}, r"--redis-ca .*mine.key: it holds no certificate in PEM form"),
        ({"ca": "."}, r"--redis-ca .*: Is a directory"),
        ({"cert": "mine.pem"}, r"--redis-cert .*mine.pem: its private key is missing: name it with --redis-key"),
        ({"key": "mine.key"}, r"--redis-key .*mine.key: the certificate .* is missing: name it with --redis-cert"),
        ({"cert": "mine.pem", "key": "none.key"}, r"--redis-key .*none.key: No such file"),
        ({"cert": "mine.pem", "key": "other.key"}, r"--redis-key .*other.key: it is not the key of .*mine.pem"),
        ({"cert": "mine.pem", "key": "empty.pem"}, r"--redis-key .*empty.pem: it is no PEM file"),
        ({"cert": "mine.key", "key": "mine.key"}, r"--redis-cert .*mine.key: OpenSSL reads no certificate and key"),
        ({"cert": "mine.pem", "key": "locked.key"}, "--redis-key is encrypted"),
    ],
)
def test_a_file_that_is_not_what_it_should_be_is_named(pem: Path, files: dict[str, str], expected: str) -> None:
    with pytest.raises(SettingsError, match=expected):
        Client(Address(TLS, **{name: pem / file for name, file in files.items()}))


@pytest.mark.parametrize("url", ["redis://h:6379/0", "unix:///run/s"])
def test_certificates_for_a_server_without_tls_are_an_error(pem: Path, url: str) -> None:
    assert f"only a rediss:// URL is spoken to over TLS, and this is {url}" in wrong(url, ca=pem / "ca.pem")


# -- the password's file --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("held", "expected"),
    [
        (b"", "it must hold one line"),
        (b"\n", "it must hold one line"),
        (b"one\ntwo\n", "it must hold one line"),
        (b"one\n\n", "of at most 4096 bytes, and it has 2"),
        (b"\none\n", "of at most 4096 bytes, and its first is blank"),
        (b"\r\none\r\n", "of at most 4096 bytes, and its first is blank"),
        (b" \t\n", "of at most 4096 bytes, and its first is blank"),
        (b"\xef\xbb\xbf\n", "of at most 4096 bytes, and its first is blank"),
        (b"x" * 5000, "of at most 4096 bytes"),
        (b"\xff\xfe", "text in UTF-8"),
        (None, "No such file"),
    ],
)
def test_a_file_without_a_password_is_an_error(tmp_path: Path, held: bytes | None, expected: str) -> None:
    file = tmp_path / "password"
    if held is not None:
        file.write_bytes(held)

    assert expected in wrong("redis://u@h", password_file=file)


def test_a_byte_order_mark_is_no_part_of_the_password(tmp_path: Path) -> None:
    (tmp_path / "password").write_bytes(b"\xef\xbb\xbfs\xc3\xa9same\r\n")

    assert "sésame" == password_in(tmp_path / "password")


def test_what_can_be_read_only_once_is_no_password_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")

    assert "no regular file" in wrong("redis://u@h", password_file=tmp_path / "pipe")


def test_two_passwords_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "password").write_text("b\n")

    for url in ("redis://u:s3cret@h", "unix:///run/s?password=s3cret"):
        said = wrong(url, password_file=tmp_path / "password")
        assert "holds a password too; give one of them" in said
        assert "s3cret" not in said


def test_a_key_that_is_encrypted_does_not_ask_the_terminal(pem: Path) -> None:
    line = ["convq", "jobs", "status", "x", "--redis", TLS, "--redis-cert", "mine.pem", "--redis-key", "locked.key"]

    asked = subprocess.run(
        [sys.executable, "-m", *line],
        cwd=pem,
        capture_output=True,
        text=True,
        timeout=250,
        check=False,
        start_new_session=True,
    )

    assert (2, "") == (asked.returncode, asked.stdout)
    assert asked.stderr.startswith("convq: --redis-key is encrypted")
