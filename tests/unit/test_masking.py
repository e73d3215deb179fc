"""No part of a password is shown, whatever signs it has, however it is written and wherever its URL stands."""

from __future__ import annotations

import subprocess
import sys
import traceback
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from convq import Address, Client
from convq.cli import main
from convq.errors import ConvqError, SettingsError
from convq.masking import echoed, masked, masked_url
from convq.queue.transport.address import redis_cli
from convq.queue.transport.link import Link, understood
from convq.settings import VARIABLES, load_settings

# Two halves around a sign: neither may be shown, nor may they be parts of anything else that is.
HALVES = ("qZ7kW", "Xv9Jp")
RESERVED = ":/?#[]@!$&'()*+,;=%\"<>\\^`{|}~ \t£é中\u202e-._"
signs = st.text(st.sampled_from(RESERVED), min_size=0, max_size=4)
passwords = signs.map(lambda between: HALVES[0] + between + HALVES[1])
users = st.sampled_from(["", "u", "worker", "me%40here", "us er", "a/b"])
schemes = st.sampled_from(["redis", "rediss", "unix"])
hosts = st.sampled_from(["h", "h:6379/0", "10.0.0.5:6379", "[::1]:6379/2", "cache.example/0", "/run/s?db=0"])


def urls(password: str, user: str, scheme: str, host: str, *, encoded: bool) -> str:
    return f"{scheme}://{user}:{quote(password, safe='') if encoded else password}@{host}"


def assert_hidden(text: str) -> None:
    assert not [half for half in HALVES if half in text], text


@given(passwords, users, schemes, hosts, st.booleans())
@example(f"{HALVES[0]}/{HALVES[1]}", "u", "redis", "h", False)
@example(f"{HALVES[0]}@{HALVES[1]}", "", "redis", "h:6379/0", False)
def test_a_url_shows_no_part_of_its_password(password: str, user: str, scheme: str, host: str, encoded: bool) -> None:
    url = urls(password, user, scheme, host, encoded=encoded)
    address = Address(url)

    for shown in (masked_url(url), str(address), repr(address), f"{address}", masked(url), echoed(url)):
        assert_hidden(shown)
    assert address.holds_password


@given(
    passwords, users, schemes, hosts, st.booleans(), st.sampled_from(["{} failed", "a: '{}', b=\"{}\"", "({})\nx {} y"])
)
def test_a_sentence_shows_no_part_of_a_password(
    password: str,
    user: str,
    scheme: str,
    host: str,
    encoded: bool,
    sentence: str,
) -> None:
    url = urls(password, user, scheme, host, encoded=encoded)

    said = masked(sentence.replace("{}", url))

    assert_hidden(said)
    assert scheme in said
    assert masked(said) == said


@given(passwords, st.booleans())
def test_a_password_among_the_options_is_hidden_too(password: str, encoded: bool) -> None:
    written = quote(password, safe="") if encoded else password
    for url in (
        f"unix:///run/s?password={written}&db=0",
        f"redis://h/0?db=1&password={written}",
        f"rediss://h?%70assword={written}",
    ):
        assert_hidden(masked_url(url))


@example("qZ7kW://Xv9Jp")
@given(passwords)
def test_what_is_refused_is_refused_without_its_secret(password: str) -> None:
    """A URL, half of a URL, or the password alone where something else belongs."""
    given_urls = [
        f"redis://u:{password}@h:port",
        f"redis:/u:{password}@h",
        f"//u:{password}@h",
        f"u:{password}@h",
        password,
    ]
    given_urls += [
        f"http://u:{password}@h",
        f"redis://u:{password}@h?protocol=3",
        f"redis://h?password={password}&{password}",
    ]
    for url in given_urls:
        with pytest.raises(SettingsError) as error:
            Client(url)
        assert_hidden("".join(traceback.format_exception(error.value)).replace(repr(password), ""))
        assert_hidden(str(error.value))


@pytest.mark.parametrize("setting", ["LEASE", "HTTP", "WORKERS", "DEVICE", "LOG", "OTLP", "MAX_BYTES"])
@pytest.mark.parametrize(
    "secret", ["SECRET", "s3cret", "hunter2", "correct horse", "p/w", "a:b:c", "Xv9JpqZ7kW==", "-pass"]
)
def test_a_secret_where_none_belongs_is_named_and_not_shown(setting: str, secret: str) -> None:
    with pytest.raises(SettingsError, match=f"CONVQ_{setting} is") as error:
        load_settings({}, {f"CONVQ_{setting}": secret})

    assert secret not in str(error.value).replace("password", "")


@pytest.mark.parametrize("secret", ["SECRET", "s3cret/x", "/9jAAAQ", "correct horse", "./no/such/s3cret"])
def test_a_password_in_the_place_of_its_file_is_not_shown(secret: str) -> None:
    with pytest.raises(SettingsError, match="--redis-password-file") as error:
        Client(Address("redis://u@h", password_file=secret))

    assert secret not in str(error.value)


@given(passwords, users, schemes, st.text(st.sampled_from('[]"<>^`{|} §!$,;=\\'), min_size=1, max_size=6))
@example(HALVES[0], "w", "redis", '[]"<>^`{|}~ §')
def test_what_follows_the_last_at_is_shown_where_it_can_be_a_place_alone(
    password: str, user: str, scheme: str, tail: str
) -> None:
    url = f"{scheme}://{user}:{password}@{tail}{HALVES[1]}"

    assert_hidden(masked_url(url))
    assert_hidden(str(Address(url)))
    try:
        Link(url)
    except SettingsError as error:
        assert_hidden(str(error))


@given(passwords.filter(lambda one: "@" not in one), st.sampled_from(["redis", "rediss", "rdis"]))
@example(HALVES[0], "redis")
def test_without_an_at_port_and_database_are_shown_as_numbers_alone(password: str, scheme: str) -> None:
    for url in (f"{scheme}://127.0.0.1:1/{password}", f"{scheme}://u:{password}", f"{scheme}://h:1/0/{password}"):
        assert_hidden(masked_url(url))
        with pytest.raises(SettingsError) as error:
            Client(url)
        assert_hidden(str(error.value))


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("redis://127.0.0.1:1/hunter2secret", "redis://127.0.0.1:1/***"),
        ("redis://w:hunter2", "redis://w:***"),
        ("redis://w:a@[]x", "redis://***"),
        ("redis://w:a@h:99999/0", "redis://w:***@h:99999/0"),
        ("redis://w:a@[::1]:6379/2", "redis://w:***@[::1]:6379/2"),
        ("unix://w:a@/run/s?db=3", "unix://w:***@/run/s?db=3"),
        ("http://127.0.0.1:4318/v1/traces", "http://127.0.0.1:4318/v1/traces"),
    ],
)
def test_a_place_is_shown(url: str, expected: str) -> None:
    assert expected == masked_url(url)


@pytest.mark.parametrize(
    "typo", ["2x", "1K", "512MB", "4GiB", "127.0.0.1:99999", "10.0.0.5:0", "[::1]:99999", "localhost:99999", "-1", "8s"]
)
def test_a_typo_in_a_number_or_a_place_can_be_seen(typo: str) -> None:
    assert repr(typo) == echoed(typo)


@pytest.mark.parametrize(
    ("setting", "typo"), [("WORKERS", "2x"), ("HTTP", "127.0.0.1:99999"), ("WORKER_MEMORY", "1K"), ("LEASE", "4sec")]
)
def test_a_setting_shows_its_typo(setting: str, typo: str) -> None:
    with pytest.raises(SettingsError, match=f"CONVQ_{setting} is '{typo}'"):
        load_settings({}, {f"CONVQ_{setting}": typo})


def test_the_name_of_a_file_that_exists_is_no_secret(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "redis-password2").write_bytes(b"one\ntwo\n")

    with pytest.raises(SettingsError, match="--redis-password-file redis-password2: it must hold one line"):
        Client(Address("redis://u@h", password_file="redis-password2"))  # noqa: S106 - the name of its file
    for strange in ("no-such-file1", "a\0b-secret1", "x" * 5000, "\ud800-secret1"):
        assert "'***'" == echoed(strange)


def test_a_password_that_is_used_is_known_without_its_url() -> None:
    """Servers repeat what they did not understand: "unknown command 'AUTH', with args beginning with: …"."""
    Address("redis://u:known%2Fonly%20here@h")

    assert "args: '***' '***'" == masked("args: 'known/only here' 'known%2Fonly%20here'")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("tried redis://127.0.0.1:6379/0; name another", "tried redis://127.0.0.1:6379/0; name another"),
        ("no redis://h/0, nor redis://u:x@h2/0", "no redis://h/0, nor redis://u:***@h2/0"),
        ("redis://worker@redis.example:6379/0", "redis://worker@redis.example:6379/0"),
        ("see http://127.0.0.1:9464/metrics?x=1", "see http://127.0.0.1:9464/metrics?x=1"),
        ("http://h/?token=abc&x=1", "http://h/?token=***&x=1"),
        ("unix:///run/a@b/s?db=0", "unix:///run/a@b/s?db=0"),
        ("a // b", "a // b"),
        ("me@example.org", "me@example.org"),
        ("", ""),
    ],
)
def test_what_is_no_secret_stays(text: str, expected: str) -> None:
    assert expected == masked(text)


def test_masking_takes_linear_time() -> None:
    """A line of a million signs that all could begin a URL: it would take hours otherwise."""
    for sign in ("//", "a://", "redis://", "@", "redis://@", "?&="):
        assert masked(sign * (1_000_000 // len(sign))) is not None


# -- which options a URL may have -----------------------------------------------------------------------------------------

REFUSED = {
    "protocol=3": "the option protocol .* convq sets it itself",
    "decode_responses=True": "the option decode_responses .* convq sets it itself",
    "%70rotocol=3": "the option protocol",
    "socket_timeout=0": "the option socket_timeout",
    "max_connections=1": "the option max_connections",
    "health_check_interval=1": "the option health_check_interval",
    "retry_on_timeout=yes": "the option retry_on_timeout",
    "client_name=me": "the option client_name",
    "ssl_cert_reqs=none": "the option ssl_cert_reqs .* always verified; .*--redis-ca",
    "ssl_check_hostname=no": "the option ssl_check_hostname",
    "ssl_ca_certs=/ca": "--redis-ca",
    "ssl_certfile=/c": "--redis-cert",
    "ssl_keyfile=/k": "--redis-key",
    "foo=bar": "the option foo .* a Redis URL may have db, username, password",
    "pasword=x": "did you mean password",
    "DB=1": "did you mean db",
    "foo": "the option foo",
    "db=1&db=1": "twice",
    "db=x": "no number",
    "db=": "no number",
    "db=-1": "no number",
    "db=0&protocol=3": "the option protocol",
    "password=a&password=b": "twice",
}


@pytest.mark.parametrize("where", ["redis://h:1/", "rediss://h:1/", "unix:///run/s"])
@pytest.mark.parametrize("option", list(REFUSED))
def test_an_option_that_is_not_the_callers_affair_is_refused_by_name(option: str, where: str) -> None:
    with pytest.raises(SettingsError, match=REFUSED[option]):
        Client(f"{where}?{option}")


@pytest.mark.parametrize(
    "url",
    [
        "redis://h/x",
        "redis://h/0/1",
        "redis://h/0?db=1",
        "redis://h/0#",
        "redis://h/0#x",
        "redis://u:12#34@h",
        "redis://u:12?34@h",
        "unix://run/s",
        "unix://",
        "redis://h\n:1",
        "redis://[::1",
        "redis://h:99999",
        "REDIS:h",
    ],
)
def test_a_url_that_could_be_understood_in_two_ways_is_refused(url: str) -> None:
    with pytest.raises(SettingsError):
        Client(url)


@pytest.mark.parametrize(
    ("url", "database"),
    [
        ("redis://127.0.0.1:1", 0),
        ("redis://127.0.0.1:1/", 0),
        ("redis://127.0.0.1:1/3", 3),
        ("redis://127.0.0.1:1?db=4", 4),
        ("redis://127.0.0.1:1/?db=4", 4),
        ("redis://u:p%2Fw@127.0.0.1:1/5", 5),
        ("redis://[::1]:1/6", 6),
        ("unix:///run/s?db=7", 7),
        ("unix://u:p@/run/s?db=8", 8),
        ("unix:///run/s?db=9&username=u&password=p", 9),
    ],
)
def test_what_says_where_the_server_is_works(url: str, database: int) -> None:
    assert database == Link(url)._connection.db


@pytest.mark.parametrize(
    "command", [["jobs", "status", "x"], ["serve"], ["doctor"], ["submit", "-"], ["bench"], ["dead", "list"]]
)
def test_every_command_refuses_such_an_option_with_2_or_says_so(command: list[str]) -> None:
    line = [sys.executable, "-m", "convq", *command, "--redis", "redis://127.0.0.1:1/0?protocol=3"]
    done = subprocess.run(line, capture_output=True, timeout=250, check=False, stdin=subprocess.DEVNULL)

    said = (done.stdout + done.stderr).decode()
    assert done.returncode == 2
    assert "the option protocol in the URL" in said


def test_hints_to_paste_show_no_password() -> None:
    assert_hidden(redis_cli(f"redis://u:{HALVES[0]}%2F{HALVES[1]}@h/0"))


def test_errors_of_the_server_show_no_password() -> None:
    Address(f"redis://u:{HALVES[0]}/{HALVES[1]}@h")
    said = understood(Exception(f"ERR unknown command 'AUTH', with args beginning with: 'u' '{HALVES[0]}/{HALVES[1]}'"))

    assert isinstance(said, ConvqError)
    assert_hidden(str(said))


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["submit", "x", "--top-k", "s3cret"], "--top-k"),
        (["submit", "x", "--timeout", "s3cret"], "--timeout"),
        (["submit", "x", "--priority", "s3cret"], "--priority"),
        (["dead", "purge", "--older-than", "s3cret"], "--older-than"),
        (["jobs", "status", "x", "--redis", "s3cret"], "--redis"),
        (["jobs", "status", "x", "--redis", "u:s3cret@h:6379"], "--redis"),
        (["serve", "--redis", "redis://u:pa", "s3cret@h"], "unexpected extra argument"),
        (["serve", "--http", "s3cret"], "--http"),
        (["serve", "--lease", "s3cret"], "--lease"),
    ],
)
def test_a_command_names_the_flag_and_not_the_secret(
    arguments: list[str], named: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in VARIABLES:
        monkeypatch.delenv(variable, raising=False)

    assert 2 == main(arguments)
    written = capsys.readouterr().err
    assert named in written
    assert "s3cret" not in written
