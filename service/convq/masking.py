"""The one masker of secrets: passwords of URLs in any text, and values that may be a password in the wrong place.

Two ways, because neither is enough. A URL is recognised by its form, and masked up to the last @ of the sentence it stands
in: a password whose / or # or space was not written as %XX is still one. And every password that this process uses is
known, and masked wherever it stands: servers repeat what they did not understand.
"""

from __future__ import annotations

import difflib
import os
import re
from urllib.parse import quote, unquote, unquote_plus

HIDDEN = "***"

_START = re.compile(r"(?:(?<![^\s'\"<(\[{,;=|`])[A-Za-z][A-Za-z0-9+.-]*:)?//")
"""Where a URL may begin; inside a password such a beginning follows a letter or a sign of the password."""
_HOST = re.compile(r"(?:\[[0-9A-Fa-f:.]*\]|[\w.-]*)(?::[0-9]+)?(?:[/?#\s'\"<>,;)\]}]|$)")
_PLACE = re.compile(r"(?P<host>\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9_.-]*)(?::(?P<port>[^/]*))?(?P<path>/.*)?", re.DOTALL)
_PORT = re.compile(r"[0-9]{0,6}")
_DATABASE = re.compile(r"/?[0-9]{0,9}")
_PATH = re.compile(r"/[\w./+~-]*")
_PLAIN = re.compile(r"[\w.~+%-]*")
_OPTIONS = re.compile(r"[?#][^\s'\"<>]*")
_SECRET_NAME = re.compile(r"pass|secret|token|key|auth|credential|sig", re.IGNORECASE)
_REDIS_SCHEMES = ("redis:", "rediss:", "unix:", "valkey:", "valkeys:")
_SCHEMES = (
    *("redis", "rediss", "unix", "valkey", "valkeys", "redis+sentinel", "rediss+sentinel", "redis+unix", "redis+tls"),
    *("http", "https", "grpc", "grpcs", "tcp", "tls", "ws", "wss", "amqp", "amqps", "memcached", "postgres", "file"),
)
"""What people write before ://, or mistype. Before it a password may stand as well."""
_OPTION_NAMES = frozenset({"db", "password", "ssl_password", "username", "protocol", "client_name", "decode_responses"})
"""Names of options that are shown; another one may be the second half of a password that holds an &."""

_SHORTEST_KNOWN = 6
"""A shorter password is masked in URLs alone: masked everywhere, it would mask half of the language."""
_MOST_KNOWN = 64
_known: tuple[str, ...] = ()
"""The newest last. Replaced as a whole: any thread may read it."""

_NO_SECRET = re.compile(
    r"[-+]?[0-9][0-9_.]{0,11}(?:e[-+]?[0-9]{1,3})?"  # a number
    r"|[A-Za-z]{1,5}"  # so short a word protects nothing
    r"|(?:/[A-Za-z]{1,5})+"
    r"|[A-Za-z]{1,5}(?:,[A-Za-z]{0,5})+"
    r"|[A-Za-z]{0,5}:[A-Za-z]{1,5}"
    r"|[-+]?[0-9][0-9_.]{0,11}[A-Za-z]{1,3}"  # with its unit, or what was taken for one
    r"|[A-Za-z.-]{1,40}:[0-9]{4,6}"  # HOST:PORT
    r"|(?:[0-9]{1,3}(?:\.[0-9]{1,3}){3}|\[[0-9A-Fa-f:.]{2,39}\])(?::[0-9]{1,6})?"
)


def remember(secret: str) -> None:
    """This process uses that password: from now on `masked` knows it, however it is written."""
    global _known  # noqa: PLW0603 - there is one memory of them in a process
    forms = [one for one in {secret, unquote(secret), quote(secret, safe="")} if len(one) >= _SHORTEST_KNOWN]
    if not set(forms) <= set(_known):
        _known = (*(one for one in _known if one not in forms), *forms)[-_MOST_KNOWN:]


def masked(text: str) -> str:
    """The text without passwords: those of URLs in it, and those that were remembered. Linear in its length."""
    for secret in sorted(_known, key=len, reverse=True):
        if secret in text:
            text = text.replace(secret, HIDDEN)
    if "//" not in text:
        return text
    return "\n".join(_masked_line(line) if "//" in line else line for line in text.split("\n"))


def masked_url(url: str) -> str:
    """A URL alone, without secrets; where it has no scheme that one knows, nothing of it: it may be a password itself."""
    start = re.match(r"\s*([A-Za-z][A-Za-z0-9+.-]*)://", url)
    if start is None or not difflib.get_close_matches(start[1].lower(), _SCHEMES, n=1, cutoff=0.7):
        return HIDDEN
    scheme = start[0].strip()
    return scheme + _masked_rest(scheme.lower(), url[start.end() :], whole=True)


def echoed(value: str) -> str:
    """A value that was refused, in quotes, for the message that says so; hidden where it may be a secret.

    Numbers with or without a unit, short words, HOST:PORT and names of files that exist are shown, and URLs without secrets.
    """
    if "://" in value:
        return repr(masked_url(value))
    return repr(value if _NO_SECRET.fullmatch(value) or os.path.exists(value) else HIDDEN)  # noqa: PTH110 - never raises


def password_of(url: str) -> str | None:
    """The password that stands between user and last @ of a URL, as it is written there."""
    _, start, rest = url.partition("://")
    info, at, _ = rest.rpartition("@")
    _, colon, password = info.partition(":")
    return password if start and at and colon else None


def _masked_line(line: str) -> str:
    shown: list[str] = []
    begin = None  # of the URL that is open: where it starts, where its scheme ends
    for match in _START.finditer(line):
        if begin is None:
            shown.append(line[: match.start()])
        elif match[0] == "//" and not _begins_a_word(line, match.start()):
            continue
        elif not _is_whole(line[begin[1] : match.start()]):
            continue  # still inside of its password
        else:
            shown.append(_masked_part(line, *begin, match.start()))
        begin = match.start(), match.end()
    return "".join(shown) + (_masked_part(line, *begin, len(line)) if begin else "")


def _masked_part(line: str, start: int, rest: int, end: int) -> str:
    return line[start:rest] + _masked_rest(line[start:rest].lower(), line[rest:end], whole=False)


def _is_whole(rest: str) -> bool:
    """Whether what follows a scheme is a host, or has its @: only then another URL may begin."""
    return "@" in rest or _HOST.match(rest) is not None


def _begins_a_word(line: str, at: int) -> bool:
    return at == 0 or line[at - 1] in " \t'\"<(["


def _masked_rest(scheme: str, rest: str, *, whole: bool) -> str:
    """What follows a scheme, up to the next URL or the end of the line."""
    info, at, after = rest.rpartition("@")
    is_path = scheme.startswith("unix:") and rest.startswith("/")
    if not at or is_path:
        return _masked_options(scheme, rest, whole=whole)
    options = info.partition("?")[2]
    if options and any(_SECRET_NAME.search(unquote(part.partition("=")[0])) for part in options.split("&")):
        return HIDDEN  # which of both the @ belongs to cannot be told
    user, colon, _ = info.partition(":")
    known = user if _PLAIN.fullmatch(user) else HIDDEN
    if whole and not _is_place(scheme, after):
        return HIDDEN  # the @ is one of the password's, and what follows is the rest of it
    return f"{known}{':' + HIDDEN if colon else ''}@{_masked_options(scheme, after, whole=whole)}"


def _is_place(scheme: str, after: str) -> bool:
    """Whether what follows an @ can say where a server is: HOST, HOST:PORT, HOST:PORT/DB, or the path of a socket."""
    before, _, _ = _partition_at(after)
    if scheme.startswith("unix:"):
        return _PATH.fullmatch(before) is not None
    place = _PLACE.fullmatch(before)
    return bool(place and _PORT.fullmatch(place["port"] or "") and _DATABASE.fullmatch(place["path"] or ""))


def _masked_place(before: str) -> str:
    """Of a URL without an @: its host, and port and database where they are numbers."""
    place = _PLACE.fullmatch(before)
    if place is None:
        return HIDDEN
    port, path = place["port"], place["path"] or ""
    if port is not None and not _PORT.fullmatch(port):
        return f"{place['host']}:{HIDDEN}"
    shown_path = path if _DATABASE.fullmatch(path) else f"/{HIDDEN}"
    return place["host"] + (f":{port}" if port is not None else "") + shown_path


def _masked_options(scheme: str, rest: str, *, whole: bool) -> str:
    is_redis = scheme.startswith(_REDIS_SCHEMES)
    if whole and not scheme.startswith(("http:", "https:")):
        before, mark, options = _partition_at(rest)
        before = before if scheme.startswith("unix:") else _masked_place(before)
        return before + (mark + _masked_pairs(mark, options) if mark else "")
    return _OPTIONS.sub(lambda found: found[0][0] + _masked_some(is_redis, found[0][0], found[0][1:]), rest)


def _partition_at(rest: str) -> tuple[str, str, str]:
    found = re.search(r"[?#]", rest)
    return (rest, "", "") if found is None else (rest[: found.start()], found[0], rest[found.end() :])


def _masked_some(is_redis: bool, mark: str, options: str) -> str:
    if is_redis:
        return _masked_pairs(mark, options)
    pairs = [part.partition("=") for part in options.split("&")]
    return "&".join(
        f"{name}={HIDDEN}" if eq and _SECRET_NAME.search(unquote(name)) else name + eq + value
        for name, eq, value in pairs
    )


def _masked_pairs(mark: str, options: str) -> str:
    """Options of a Redis URL: the number of the database is shown, and known names."""
    if mark == "#":
        return HIDDEN if options else ""
    shown = []
    for part in options.partition("#")[0].split("&"):
        name, eq, value = part.partition("=")
        if unquote_plus(name) not in _OPTION_NAMES or not eq:
            shown.append(HIDDEN if part else "")
        else:
            shown.append(part if name == "db" and value.isdigit() else f"{name}={HIDDEN}")
    return "&".join(shown) + (f"#{HIDDEN}" if "#" in options else "")
