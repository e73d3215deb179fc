"""Over TLS with certificates on both sides: served and answered, and refused where one of them is not trusted."""

from __future__ import annotations

import asyncio
import json
import socket
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from guarded import HOST, Certificates, tls_server

from convq import Address, AsyncClient, Client, RedisRefused, RedisUnavailable
from convq.cli import main
from pace import Stopwatch
from services import RunningService, seven


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    return Certificates.make(tmp_path_factory.mktemp("tls") / "pem")


@pytest.fixture(scope="module")
def port(certificates: Certificates, tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with tls_server(tmp_path_factory.mktemp("server"), certificates) as listening:
        yield listening


@pytest.fixture(scope="module")
def address(certificates: Certificates, port: int) -> Address:
    """All that is needed to be let in."""
    files = {name: certificates / file for name, file in FILES.items()}
    return Address(f"rediss://{HOST}:{port}/0", **files)


@pytest.fixture(scope="module")
def service(certificates: Certificates, address: Address) -> Iterator[RunningService]:
    with RunningService(address.url, *flags(certificates), workers=1) as serving:
        yield serving


REFUSED = (RedisRefused, RedisUnavailable)
FILES = {"ca": "ca.pem", "cert": "client.pem", "key": "client.key"}


def flags(certificates: Certificates, **files: str) -> list[str]:
    """--redis-ca and so on; `files` in the place of those that are trusted, "" for none."""
    wanted = FILES | files
    return [part for name, file in wanted.items() if file for part in (f"--redis-{name}", str(certificates / file))]


def test_a_client_is_answered_over_tls(service: RunningService, address: Address) -> None:
    assert service.is_ready()
    with Client(address, model="lenet") as client:
        assert "7" == client.classify(seven()).label


def test_an_asyncio_client_is_answered_over_tls(service: RunningService, address: Address) -> None:
    async def classify() -> str | None:
        async with AsyncClient(address, model="lenet") as client:
            return (await client.classify(seven())).label

    assert service.is_ready()
    assert "7" == asyncio.run(classify())


def test_every_command_takes_the_flags(
    service: RunningService, certificates: Certificates, address: Address, capsys: pytest.CaptureFixture[str]
) -> None:
    assert service.is_ready()
    for line, expected in (
        (["jobs", "status", "x", "--json"], {"id": "x", "model": "lenet", "state": "unknown"}),
        (["dead", "purge", "--all", "--model", "lenet"], {"model": "lenet", "purged": 0}),
    ):
        assert 0 == main([*line, "--redis", address.url, *flags(certificates)])
        said = json.loads(capsys.readouterr().out)
        assert (line[0] == "jobs") == ("means" in said)
        assert expected == {key: value for key, value in said.items() if key != "means"}
    for line in (["doctor"], ["models", "list"]):
        assert 0 == main([*line, "--redis", address.url, *flags(certificates)])
        assert "lenet" in capsys.readouterr().out


def test_the_variables_do_the_same(
    service: RunningService,
    address: Address,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert service.is_ready()
    monkeypatch.setenv("CONVQ_REDIS_URL", address.url)
    for name in FILES:
        monkeypatch.setenv(f"CONVQ_REDIS_{name.upper()}", str(getattr(address, name)))
    (tmp_path / "seven.png").write_bytes(seven())

    assert 0 == main(["submit", str(tmp_path / "seven.png"), "--json"])
    assert "7" == json.loads(capsys.readouterr().out)["predictions"][0]["label"]


# -- refused --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def strangers(certificates: Certificates, tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    """Another authority, whose files lie beside ours under names of their own."""
    theirs = Certificates.make(tmp_path_factory.mktemp("theirs") / "pem")
    for file in ("ca.pem", "client.pem", "client.key"):
        (certificates / f"their-{file}").write_bytes((theirs / file).read_bytes())
    return theirs


UNTRUSTED = "the server's certificate is not trusted: .*; name the authority that signed it with --redis-ca"
CLOSED = "|Redis ended the TLS connection: .* client certificate|reset by peer"
"""What is known of a refusal that the server sends after its side of the handshake, where it closes before we have read it."""
REFUSALS: list[tuple[dict[str, str], str]] = [
    ({"ca": "their-ca.pem"}, UNTRUSTED),
    ({"ca": ""}, UNTRUSTED),
    (
        {"cert": "", "key": ""},
        "no TLS with Redis: the server wants a client certificate: name .* --redis-cert" + CLOSED,
    ),
    (
        {"cert": "their-client.pem", "key": "their-client.key"},
        "no TLS with Redis: the server does not know the authority that signed --redis-cert" + CLOSED,
    ),
]


@pytest.mark.usefixtures("strangers")
@pytest.mark.parametrize(("files", "expected"), REFUSALS)
def test_who_is_not_trusted_gets_the_reason_and_exit_code_4(
    certificates: Certificates,
    address: Address,
    capsys: pytest.CaptureFixture[str],
    files: dict[str, str],
    expected: str,
) -> None:
    given = {name: certificates / file for name, file in (FILES | files).items() if file}
    with pytest.raises(REFUSED, match=expected), Client(Address(address.url, **given)) as client:
        client.served()

    assert 4 == main(["jobs", "status", "x", "--redis", address.url, *flags(certificates, **files)])
    said = capsys.readouterr()
    assert "" == said.out
    assert said.err.startswith("convq: ")
    assert 1 == said.err.count("\n")


@pytest.mark.usefixtures("strangers")
@pytest.mark.parametrize(("files", "expected"), REFUSALS)
def test_asyncio_says_the_same(
    certificates: Certificates, address: Address, files: dict[str, str], expected: str
) -> None:
    given = {name: certificates / file for name, file in (FILES | files).items() if file}

    async def ask() -> dict[str, Any]:
        async with AsyncClient(Address(address.url, **given)) as client:
            return await client.served()

    with pytest.raises(REFUSED, match=expected):
        asyncio.run(ask())


@pytest.mark.usefixtures("strangers")
def test_a_service_that_is_not_trusted_ends_at_once_with_exit_code_4(
    certificates: Certificates, address: Address
) -> None:
    service = RunningService(address.url, *flags(certificates, ca="their-ca.pem"), workers=1, wait=False)
    with Stopwatch() as watch:
        service.start()

        assert 4 == service.wait()
    assert watch.quiet_s < 10
    assert any("name the authority that signed it with --redis-ca" in str(line) for line in service.log)


def test_a_certificate_of_another_host_is_not_trusted(
    certificates: Certificates, tmp_path: Path, address: Address
) -> None:
    certificates.issue("elsewhere", "redis.example")
    folder = tmp_path / "pem"
    folder.mkdir()
    for file, name in (("ca.pem", "ca.pem"), ("elsewhere.pem", "server.pem"), ("elsewhere.key", "server.key")):
        (folder / name).write_bytes((certificates / file).read_bytes())
    with tls_server(tmp_path, Certificates(folder, certificates.authority)) as port:
        other = Address(f"rediss://{HOST}:{port}/0", address.ca, address.cert, address.key)
        with pytest.raises(RedisRefused, match=r"IP address mismatch.*; name the host in the URL as the certificate"):
            Client(other).served()


def test_a_server_without_tls_is_told_apart(address: Address) -> None:
    with socket.create_server((HOST, 0)) as listener:
        threading.Thread(target=_greet, args=(listener,), daemon=True).start()
        plain = Address(f"rediss://{HOST}:{listener.getsockname()[1]}/0", address.ca)
        with pytest.raises(RedisRefused, match="what listens there does not speak TLS"):
            Client(plain).served()


def _greet(listener: socket.socket) -> None:
    """Say something that is no TLS."""
    connection, _ = listener.accept()
    with connection:
        connection.recv(1024)
        connection.sendall(b"-ERR unknown command\r\n")


def test_a_wrong_file_is_exit_code_2(
    certificates: Certificates, address: Address, capsys: pytest.CaptureFixture[str]
) -> None:
    for line in (["serve"], ["jobs", "status", "x"], ["doctor"]):
        code = main([*line, "--redis", address.url, *flags(certificates, ca="none.pem")])
        said = capsys.readouterr()
        assert "none.pem: No such file or directory" in said.err + said.out
        assert 2 == code


# -- renewed --------------------------------------------------------------------------------------------------------------


def test_a_renewed_client_certificate_is_used_by_the_next_connection(
    certificates: Certificates, tmp_path: Path
) -> None:
    """No restart: what a certificate authority of a cluster renews every few hours is read at every connect."""
    mine = tmp_path / "mine.pem", tmp_path / "mine.key"
    strangers = Certificates.make(tmp_path / "theirs")
    with tls_server(tmp_path, certificates) as port:
        for file, name in zip(mine, ("client.pem", "client.key"), strict=True):
            file.write_bytes((strangers / name).read_bytes())
        with Client(Address(f"rediss://{HOST}:{port}", certificates / "ca.pem", *mine)) as client:
            with pytest.raises(REFUSED, match=REFUSALS[-1][1]):
                client.served()
            for file, name in zip(mine, ("client.pem", "client.key"), strict=True):
                file.write_bytes((certificates / name).read_bytes())
            assert {} == client.served()
