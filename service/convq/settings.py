"""One frozen `Settings`, built once at the edge from flags and CONVQ_* variables, and passed down.

Every flag of `convq serve` is also a variable; a flag wins over its variable. What is unknown or malformed is an error
that names the flag or variable and says what was expected: nothing falls back in silence.
"""

from __future__ import annotations

import difflib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Field, ValidationError, ValidationInfo, field_validator

from convq.errors import SettingsError
from convq.host import host_names
from convq.masking import echoed
from convq.protocol import MODEL_NAME, RESULT_TTL_S

PREFIX = "CONVQ_"
MAX_PORT = 65535

_SIZE = re.compile(r"([0-9]{1,15})([KMGT]?)(?:i?B)?", re.IGNORECASE)
_SHIFTS = {"": 0, "K": 10, "M": 20, "G": 30, "T": 40}


def _default_data() -> Path:
    """With `~` as it is: not everybody who runs this has a home, nor needs the folder."""
    return Path(os.environ.get("XDG_DATA_HOME") or "~/.local/share") / "convq"


def _setting(flag: str, variable: str, metavar: str, default: Any, description: str, **limits: Any) -> Any:
    extra: dict[str, Any] = {"flag": flag, "variable": PREFIX + variable, "metavar": metavar}
    factory = {"default_factory": default} if callable(default) else {"default": default}
    return Field(**factory, description=description, json_schema_extra=extra, **limits)


class Settings(BaseModel):
    """How the service runs. Times in seconds, sizes in bytes."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    redis: str | None = _setting(
        "--redis",
        "REDIS_URL",
        "URL",
        None,
        "the server; unset: an embedded one is started, its data kept under --data",
        repr=False,
    )
    redis_ca: Path | None = _setting(
        "--redis-ca",
        "REDIS_CA",
        "FILE",
        None,
        "PEM file of authorities to trust for a rediss:// server, besides those of the system",
    )
    redis_cert: Path | None = _setting(
        "--redis-cert", "REDIS_CERT", "FILE", None, "PEM file of our own certificate, for servers that ask for one"
    )
    redis_key: Path | None = _setting(
        "--redis-key", "REDIS_KEY", "FILE", None, "PEM file of its private key, not encrypted"
    )
    redis_password_file: Path | None = _setting(
        "--redis-password-file",
        "REDIS_PASSWORD_FILE",
        "FILE",
        None,
        "file whose one line is the password, read at every connect; the user stands in the URL: redis://USER@HOST",
    )
    models: Path | None = _setting(
        "--models",
        "MODELS",
        "DIR",
        None,
        "the model repository; unset: models of the checkout, or those that come with convq",
    )
    only: tuple[str, ...] = _setting(
        "--only", "ONLY", "a,b", (), "serve only these models; unset: every model of the folder"
    )
    strict: bool = _setting(
        "--strict",
        "STRICT",
        "0|1",
        False,
        "start only if every model and version of the folder can be served; without it what cannot be is passed over and said",
    )
    expect: tuple[str, ...] = _setting(
        "--expect",
        "EXPECT",
        "a,b",
        (),
        "models that other services will serve on this server: the door lets in their jobs before any has run; * for every name",
    )
    workers: Annotated[int, Field(ge=1, le=256)] | None = _setting(
        "--workers",
        "WORKERS",
        "N",
        None,
        "worker processes; unset: one a core on CPU, as far as the quota of the container goes, one a GPU on CUDA",
    )
    worker_memory: Annotated[int, Field(ge=64 << 20, le=1 << 44)] | None = _setting(
        "--worker-memory",
        "WORKER_MEMORY",
        "BYTES",
        None,
        "memory that one worker may take, like 2G; unset: it plans with 480M, or its share of the container where that is less, and refuses pictures that take more than 384M to decode",
    )
    device: Literal["auto", "cpu", "cuda"] = _setting(
        "--device",
        "DEVICE",
        "auto|cpu|cuda",
        "auto",
        "where networks run; cuda that is not there is an error, not a silent CPU",
    )
    http: str = _setting(
        "--http",
        "HTTP",
        "HOST:PORT",
        "127.0.0.1:9464",
        "where /metrics, /livez and /readyz listen; port 0 picks a free one",
    )
    data: Path = _setting("--data", "DATA", "DIR", _default_data, "the embedded server's files")
    result_ttl: float = _setting(
        "--result-ttl",
        "RESULT_TTL",
        "S",
        float(RESULT_TTL_S),
        "seconds that an unread result is kept; of a job submitted with an id through the door 600 at least",
        gt=0,
        le=7 * 86400,
    )
    max_jobs: int = _setting(
        "--max-jobs", "MAX_JOBS", "N", 100_000, "jobs a shard may hold; past them submit refuses", ge=1
    )
    max_bytes: int = _setting(
        "--max-bytes", "MAX_BYTES", "N", 1 << 30, "bytes a shard may hold; past them submit refuses", ge=1
    )
    lease: float = _setting(
        "--lease", "LEASE", "S", 4.0, "a worker that is silent this many seconds is dead", ge=0.5, le=600
    )
    drain: float = _setting(
        "--drain", "DRAIN", "S", 25.0, "seconds that workers get to finish what they hold after SIGTERM", ge=0, le=3600
    )
    load_within: float = _setting(
        "--load-within",
        "LOAD_WITHIN",
        "S",
        60.0,
        "seconds that a version may take to load, in its trial and in a worker; past them it is refused",
        ge=1,
        le=3600,
    )
    log: Literal["auto", "console", "json"] = _setting(
        "--log",
        "LOG",
        "auto|console|json",
        "auto",
        "log lines for people or as JSON; auto: console on a terminal, else JSON",
    )

    log_jobs: Literal["none", "failed", "all"] = _setting(
        "--log-jobs",
        "LOG_JOBS",
        "none|failed|all",
        "failed",
        "which jobs get a log line: those that did not end as ok, or all; at most 20 a second of a worker, the rest counted",
    )
    ready_file: Path | None = _setting(
        "--ready-file",
        "READY_FILE",
        "FILE",
        None,
        "written when the service is ready, removed when it ends: where it listens, as JSON, for scripts that wait",
    )
    otlp: str | None = _setting(
        "--otlp", "OTLP", "URL", None, "where traces of jobs are sent, by OTLP over HTTP; unset: nowhere"
    )

    @field_validator("redis_ca", "redis_cert", "redis_key", "redis_password_file")
    @classmethod
    def _of_a_server(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if value is not None and info.data.get("redis") is None:
            raise ValueError("it belongs to a server that --redis or CONVQ_REDIS_URL names, and none is named")
        return value

    @field_validator("worker_memory", mode="before")
    @classmethod
    def _size(cls, value: Any) -> Any:
        """Bytes, or a number with K, M, G or T of 1024."""
        found = _SIZE.fullmatch(value.strip()) if isinstance(value, str) else None
        if found is None:
            if isinstance(value, str):
                raise ValueError("expected bytes, or a size like 512M or 2G")
            return value
        return int(found[1]) << _SHIFTS[found[2].upper()]

    @field_validator("only", "expect", mode="before")
    @classmethod
    def _split(cls, value: Any, info: ValidationInfo) -> Any:
        names = tuple(name.strip() for name in value.split(",")) if isinstance(value, str) else value
        if isinstance(value, str) and "" in names:
            raise ValueError("a name is empty; expected names of models with commas between them, such as lenet,edges")
        for name in names:
            if not MODEL_NAME.match(name) and (name, info.field_name) != ("*", "expect"):
                raise ValueError(f"{echoed(name)} is no name of a model")
        return names

    @field_validator("http")
    @classmethod
    def _address(cls, value: str) -> str:
        host, colon, port = value.rpartition(":")
        if not (host and colon and re.fullmatch(r"[0-9]{1,5}", port) and int(port) <= MAX_PORT):
            raise ValueError("expected HOST:PORT, for example 127.0.0.1:9464 or [::1]:9464")
        if host[0] + host[-1] == "[]":
            if not host_names.is_ipv6(host[1:-1]):
                raise ValueError("expected an IPv6 address in the brackets, for example [::1]:9464")
        elif ":" in host:
            raise ValueError("an IPv6 address stands in brackets, for example [::1]:9464")
        elif why := host_names.objection(host):
            raise ValueError(f"the part before the colon {why}")
        return value

    @field_validator("otlp")
    @classmethod
    def _collector(cls, value: str | None) -> str | None:
        try:
            parts = urlsplit(value or "")
            _ = parts.port, parts.hostname
        except ValueError:
            parts = urlsplit("")
        if value is not None and (parts.scheme not in ("http", "https") or not parts.hostname):
            raise ValueError("expected the URL of a collector, for example http://127.0.0.1:4318")
        if why := host_names.objection(parts.hostname or "localhost"):
            raise ValueError(f"its host {why}")
        if "@" in parts.netloc:
            raise ValueError("credentials belong into OTEL_EXPORTER_OTLP_HEADERS, not into the URL")
        return value

    @property
    def data_folder(self) -> Path:
        """`data` with its `~` resolved. Raises SettingsError for somebody who has no home."""
        try:
            return self.data.expanduser()
        except RuntimeError:
            raise SettingsError(f"this user has no home for {self.data}; name a folder with --data") from None

    @property
    def lease_ms(self) -> int:
        """`lease` in milliseconds."""
        return round(self.lease * 1000)

    @property
    def result_ttl_ms(self) -> int:
        """`result_ttl` in milliseconds."""
        return round(self.result_ttl * 1000)

    @property
    def http_address(self) -> tuple[str, int]:
        """`http` as host and port."""
        host, _, port = self.http.rpartition(":")
        return host.strip("[]"), int(port)


def facts(name: str) -> dict[str, str]:
    """Flag, variable and metavar of one setting."""
    extra = Settings.model_fields[name].json_schema_extra
    return dict(extra) if isinstance(extra, dict) else {}  # type: ignore[arg-type]


VARIABLES: dict[str, str] = {facts(name)["variable"]: name for name in Settings.model_fields}
"""Variable -> name of the setting, in the order of the table in the README."""


def load_settings(flags: Mapping[str, Any], environment: Mapping[str, str]) -> Settings:
    """Settings from flags (None: not given) and from the environment. Raises SettingsError."""
    check_variables(environment)
    given = {name: environment[variable] for variable, name in VARIABLES.items() if environment.get(variable)}
    sources = {name: facts(name)["variable"] for name in given}
    for name, value in flags.items():
        if value is not None:
            given[name], sources[name] = value, facts(name)["flag"]
    try:
        return Settings.model_validate(given)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        got = echoed(str(given.get(name)))
        raise SettingsError(
            f"{sources.get(name, name)} is {got}: {first['msg'].removeprefix('Value error, ')}"
        ) from None


def check_variables(environment: Mapping[str, str]) -> None:
    """Raise SettingsError for a CONVQ_* variable that does not exist, with the one that was probably meant."""
    for variable in environment:
        if variable.startswith(PREFIX) and variable not in VARIABLES:
            close = difflib.get_close_matches(variable, VARIABLES, n=1)
            hint = f"did you mean {close[0]}?" if close else f"known: {', '.join(VARIABLES)}"
            raise SettingsError(f"{variable} is no setting of convq; {hint}")
