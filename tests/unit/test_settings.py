"""Flags and variables: one frozen object, and an error for whatever is unknown or malformed."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import ValidationError

from convq.errors import SettingsError
from convq.settings import VARIABLES, load_settings


def test_without_anything_the_defaults_hold() -> None:
    settings = load_settings({}, {})

    assert (None, (), None, "auto", "127.0.0.1:9464", 300.0, 100_000, 1 << 30, 4.0, "auto") == (
        settings.redis,
        settings.only,
        settings.workers,
        settings.device,
        settings.http,
        settings.result_ttl,
        settings.max_jobs,
        settings.max_bytes,
        settings.lease,
        settings.log,
    )


def test_every_variable_is_read() -> None:
    settings = load_settings(
        {},
        {
            "CONVQ_REDIS_URL": "redis://h:1/0",
            "CONVQ_REDIS_CA": "/ca",
            "CONVQ_REDIS_CERT": "/cert",
            "CONVQ_REDIS_KEY": "/key",
            "CONVQ_REDIS_PASSWORD_FILE": "/password",
            "CONVQ_MODELS": "/m",
            "CONVQ_ONLY": "a, b",
            "CONVQ_WORKERS": "3",
            "CONVQ_DEVICE": "cpu",
            "CONVQ_HTTP": "0.0.0.0:80",
            "CONVQ_DATA": "/d",
            "CONVQ_RESULT_TTL": "60",
            "CONVQ_MAX_JOBS": "5",
            "CONVQ_MAX_BYTES": "6",
            "CONVQ_LEASE": "2.5",
            "CONVQ_DRAIN": "7",
            "CONVQ_LOG": "json",
            "CONVQ_LOG_JOBS": "all",
            "CONVQ_OTLP": "https://collector:4318/otlp",
            "UNRELATED": "x",
        },
    )

    assert ("all", "https://collector:4318/otlp") == (settings.log_jobs, settings.otlp)
    assert ("redis://h:1/0", Path("/m"), ("a", "b"), 3, "cpu", ("0.0.0.0", 80), 60_000, 2500, 7.0) == (  # noqa: S104
        settings.redis,
        settings.models,
        settings.only,
        settings.workers,
        settings.device,
        settings.http_address,
        settings.result_ttl_ms,
        settings.lease_ms,
        settings.drain,
    )


def test_a_flag_wins_over_its_variable() -> None:
    assert 2 == load_settings({"workers": "2", "lease": None}, {"CONVQ_WORKERS": "8"}).workers


def test_an_empty_variable_counts_as_unset() -> None:
    assert load_settings({}, {"CONVQ_REDIS_URL": "", "CONVQ_WORKERS": ""}).redis is None


def test_a_misspelt_variable_is_an_error_that_names_the_right_one() -> None:
    with pytest.raises(SettingsError, match="CONVQ_WORKRES is no setting of convq; did you mean CONVQ_WORKERS"):
        load_settings({}, {"CONVQ_WORKRES": "2"})


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("CONVQ_WORKERS", "two"),
        ("CONVQ_WORKERS", "0"),
        ("CONVQ_DEVICE", "gpu"),
        ("CONVQ_HTTP", "9464"),
        ("CONVQ_HTTP", "host:port"),
        ("CONVQ_HTTP", "host:70000"),
        ("CONVQ_LEASE", "0"),
        ("CONVQ_LEASE", "nan"),
        ("CONVQ_ONLY", "UPPER"),
        ("CONVQ_ONLY", "a,,b"),
        ("CONVQ_MAX_JOBS", "1e5"),
        ("CONVQ_LOG", "xml"),
        ("CONVQ_RESULT_TTL", "-1"),
        ("CONVQ_LOG_JOBS", "some"),
        ("CONVQ_OTLP", "collector:4318"),
        ("CONVQ_OTLP", "grpc://collector:4317"),
        ("CONVQ_OTLP", "http://:4318"),
    ],
)
def test_a_malformed_value_is_an_error_that_names_variable_and_value(variable: str, value: str) -> None:
    with pytest.raises(SettingsError) as error:
        load_settings({}, {variable: value})

    assert variable in str(error.value)
    assert value.partition(",")[0] in str(error.value)


@pytest.mark.parametrize(
    "value", ["::1:9464", "[::g]:9464", "[127.0.0.1]:9464", "a..b:9464", "a b:9464", "[]:1", "[:1", "127.0.0.1:٤٤"]
)
def test_what_is_no_host_to_listen_on_is_an_error(value: str) -> None:
    with pytest.raises(SettingsError, match="CONVQ_HTTP is"):
        load_settings({}, {"CONVQ_HTTP": value})


@pytest.mark.parametrize("value", ["http://a..b:4318", "http://[::1", "http://[::g]:1", "http://h:x", "http://a b:1"])
def test_what_is_no_host_of_a_collector_is_an_error(value: str) -> None:
    with pytest.raises(SettingsError, match="CONVQ_OTLP is"):
        load_settings({}, {"CONVQ_OTLP": value})


@pytest.mark.parametrize(
    ("value", "host"),
    [("[::1]:9464", "::1"), ("[::]:0", "::"), ("[fe80::1%eth0]:1", "fe80::1%eth0"), ("localhost:1", "localhost")],
)
def test_an_address_to_listen_on_may_be_of_either_kind(value: str, host: str) -> None:
    assert host == load_settings({}, {"CONVQ_HTTP": value}).http_address[0]


@pytest.mark.parametrize("value", ["http://me:hush@collector:4318", "hush://me:hush@collector"])
def test_what_is_wrong_with_the_url_of_a_collector_is_said_without_its_password(value: str) -> None:
    with pytest.raises(SettingsError, match="CONVQ_OTLP is") as error:
        load_settings({}, {"CONVQ_OTLP": value})

    assert "me:hush" not in str(error.value)


def test_a_malformed_flag_is_named_as_the_flag() -> None:
    with pytest.raises(SettingsError, match="--workers is '0'"):
        load_settings({"workers": "0"}, {"CONVQ_WORKERS": "4"})


def test_every_file_of_a_server_is_read() -> None:
    names = ("redis_ca", "redis_cert", "redis_key", "redis_password_file")
    settings = load_settings({name: f"/{name}" for name in names}, {"CONVQ_REDIS_URL": "rediss://h"})

    assert [Path(f"/{name}") for name in names] == [getattr(settings, name) for name in names]


@pytest.mark.parametrize("variable", ["CA", "CERT", "KEY", "PASSWORD_FILE"])
def test_a_file_of_a_server_needs_a_server(variable: str) -> None:
    with pytest.raises(SettingsError, match=f"CONVQ_REDIS_{variable} is '/x': it belongs to a server that --redis"):
        load_settings({}, {f"CONVQ_REDIS_{variable}": "/x"})


def test_settings_show_no_password() -> None:
    assert "s3cret" not in repr(load_settings({"redis": "redis://u:s3cret@h"}, {}))


def test_metrics_are_for_this_machine_alone_unless_told_otherwise() -> None:
    assert "127.0.0.1" == load_settings({}, {}).http_address[0]


def test_settings_do_not_change() -> None:
    with pytest.raises(ValidationError):
        load_settings({}, {}).workers = 3  # type: ignore[misc]


def test_the_variables_are_those_that_other_programs_rely_on() -> None:
    promised = {
        "REDIS_URL",
        "MODELS",
        "ONLY",
        "WORKERS",
        "DEVICE",
        "HTTP",
        "DATA",
        "RESULT_TTL",
        "MAX_JOBS",
        "MAX_BYTES",
    }

    assert {f"CONVQ_{name}" for name in promised | {"LEASE", "LOG"}} <= set(VARIABLES)


def test_whoever_has_no_home_names_a_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.setattr("os.getuid", lambda: 4_000_000)  # no line of the password file
    settings = load_settings({}, {})

    with pytest.raises(SettingsError, match=r"no home for ~/\.local/share/convq; name a folder with --data"):
        _ = settings.data_folder
    assert Path("/data") == load_settings({"data": "/data"}, {}).data_folder


@pytest.mark.parametrize(
    ("text", "expected"),
    [("536870912", 512 << 20), ("512M", 512 << 20), ("512m", 512 << 20), ("2GiB", 2 << 30), ("1t", 1 << 40)],
)
def test_sizes_are_bytes_or_have_a_suffix(text: str, expected: int) -> None:
    assert expected == load_settings({"worker_memory": text}, {}).worker_memory
    assert expected == load_settings({}, {"CONVQ_WORKER_MEMORY": text}).worker_memory


@pytest.mark.parametrize("text", ["", "much", "-1", "1.5G", "512MM", "1", "12K", "9999T", "512 M"])
def test_a_size_that_is_none_is_named(text: str) -> None:
    with pytest.raises(SettingsError, match="--worker-memory"):
        load_settings({"worker_memory": text}, {})


@pytest.mark.parametrize("said", ["", " ", "lenet,", ",lenet", "lenet,,edges"])
def test_an_empty_name_of_a_model_is_said_to_be_empty(said: str) -> None:
    with pytest.raises(SettingsError, match="a name is empty; expected names of models with commas between them"):
        load_settings({"only": said}, {})
