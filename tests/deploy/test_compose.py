"""The compose stack as far as it can be read: its schema, and rules of our own; tests/stack starts it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from convq import __version__
from convq.queue.keys import Shard
from convq.settings import VARIABLES, Settings

ROOT = Path(__file__).parents[2]
FILE = ROOT / "deploy" / "compose.yaml"
TEXT = FILE.read_text()
STACK: dict[str, Any] = yaml.safe_load(TEXT)
SERVICES: dict[str, dict[str, Any]] = STACK["services"]
SHIPPED = ("digits_detector", "edges", "gaussian_blur", "lenet")
VARIABLE = re.compile(r"\$\{([A-Z_]+):-([^}]*)\}")
UNITS = {"k": 1 << 10, "m": 1 << 20, "g": 1 << 30}
LASTING = sorted(set(SERVICES) - {"secrets"})


def in_bytes(size: str) -> int:
    """512m, 1gb or 268435456 in bytes."""
    match = re.fullmatch(r"(\d+)([kmg]?)b?", size)
    assert match, size
    return int(match[1]) * UNITS.get(match[2], 1)


def by_default(value: Any) -> str:
    """A value as it is where nobody sets a variable."""
    return VARIABLE.sub(r"\2", str(value))


def test_the_file_fits_the_schema_of_compose() -> None:
    command = [
        str(Path(sys.executable).with_name("check-jsonschema")),
        "--builtin-schema",
        "vendor.compose-spec",
        str(FILE),
    ]

    done = subprocess.run(command, capture_output=True, text=True, check=False)

    assert 0 == done.returncode, done.stdout


@pytest.mark.parametrize("engine", [["docker", "compose"], ["podman-compose"]], ids=" ".join)
def test_an_engine_reads_the_file(engine: list[str]) -> None:
    if (
        shutil.which(engine[0]) is None
        or subprocess.run([*engine, "version"], capture_output=True, check=False).returncode
    ):
        pytest.skip(f"no {' '.join(engine)} here")  # it is not known which of them a machine has

    environment = {name: value for name, value in os.environ.items() if name not in dict(VARIABLE.findall(TEXT))}
    done = subprocess.run([*engine, "-f", FILE, "config"], capture_output=True, text=True, env=environment, check=False)

    assert 0 == done.returncode, done.stderr
    always = {name for name, one in SERVICES.items() if "profiles" not in one}
    assert always <= set(yaml.safe_load(done.stdout)["services"])


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_hardened(name: str) -> None:
    service = SERVICES[name]

    assert service["read_only"] is True
    assert ["ALL"] == service["cap_drop"]
    assert ["no-new-privileges:true"] == service["security_opt"]
    assert {"mem_limit", "cpus", "pids_limit"} <= set(service)
    assert set() == {"privileged", "cap_add", "devices", "pid", "ipc", "userns_mode"} & set(service)
    assert not any("docker.sock" in str(volume) for volume in service.get("volumes", ()))


@pytest.mark.parametrize("name", LASTING)
def test_every_service_that_lasts_is_nobody_reaps_its_children_and_starts_again(name: str) -> None:
    service = SERVICES[name]

    assert service["init"] is True
    assert "unless-stopped" == service["restart"]
    assert {"max-size", "max-file"} <= set(service["logging"]["options"])
    if "convq" not in service["image"]:  # whose own image says who runs
        assert re.fullmatch(r"[1-9]\d+:\d+", service["user"])


def test_what_makes_the_passwords_reaches_nobody_and_is_reached_by_nobody() -> None:
    assert "none" == SERVICES["secrets"]["network_mode"]
    assert "ports" not in SERVICES["secrets"]


@pytest.mark.parametrize("name", SERVICES)
def test_every_image_is_pinned_to_a_version(name: str) -> None:
    assert re.fullmatch(r"[a-z0-9/_]+:v?\d+\.\d+\.\d+(-[a-z]+)?", by_default(SERVICES[name]["image"]))


def test_each_service_gets_the_password_of_its_own_user_and_no_other() -> None:
    mounted = {
        name: [volume for volume in one.get("volumes", ()) if "secrets" in volume] for name, one in SERVICES.items()
    }
    acl = (ROOT / "deploy" / "redis" / "users.acl").read_text()

    users = {name: urlsplit(one["environment"]["CONVQ_REDIS_URL"]).username for name, one in convq_services().items()}
    assert {"worker": "worker", "worker-gpu": "worker", "demo": "producer"} == users
    assert "exporter" == SERVICES["redis-exporter"]["environment"]["REDIS_USER"]
    for name, user in {**users, "redis-exporter": "exporter", "redis": "redis"}.items():
        assert [f"secrets-{user}:/run/secrets:ro"] == mounted.pop(name)
        assert name == "redis" or re.search(rf"^user {user} on ", acl, re.MULTILINE)
    assert {"secrets"} == {name for name, volumes in mounted.items() if volumes}


def convq_services() -> dict[str, dict[str, Any]]:
    """Those that run convq and speak to the server."""
    return {name: one for name, one in SERVICES.items() if "CONVQ_REDIS_URL" in one.get("environment", {})}


def test_our_own_images_are_of_this_version_and_built_from_this_checkout() -> None:
    version = __version__
    ours = {name: one for name, one in SERVICES.items() if "build" in one}

    assert {"worker", "worker-gpu", "demo", "secrets"} == set(ours)
    assert {f"convq:{version}", f"convq:{version}-cuda"} == {by_default(one["image"]) for one in ours.values()}
    for one in ours.values():
        assert (FILE.parent / one["build"]["context"] / "Dockerfile").exists()
        assert f"AS {one['build']['target']}\n" in (ROOT / "Dockerfile").read_text()


def test_no_service_has_a_name_of_its_own_that_would_forbid_a_second_one() -> None:
    assert [] == [name for name, one in SERVICES.items() if {"container_name", "hostname"} & set(one)]


def test_ports_are_published_on_the_loopback_address_alone() -> None:
    ports = [port for one in SERVICES.values() for port in one.get("ports", ())]

    assert ports
    assert [] == [port for port in ports if not re.fullmatch(r"127\.0\.0\.1:\$\{[A-Z]+_PORT:-\d+\}:\d+", port)]


def test_workers_publish_nothing_and_have_no_way_out() -> None:
    for name in ("worker", "worker-gpu", "demo", "redis-exporter"):
        assert "ports" not in SERVICES[name]
        assert ["queue"] == SERVICES[name]["networks"]
    assert STACK["networks"]["queue"]["internal"] is True


@pytest.mark.parametrize("name", ["worker", "worker-gpu"])
def test_a_worker_gets_more_time_to_end_than_it_takes_to_drain(name: str) -> None:
    grace_s = float(SERVICES[name]["stop_grace_period"].removesuffix("s"))

    assert float(SERVICES[name]["environment"]["CONVQ_DRAIN"]) + 5 <= grace_s


@pytest.mark.parametrize("name", ["worker", "worker-gpu", "demo"])
def test_every_setting_exists_and_is_valid(name: str) -> None:
    given = {VARIABLES[variable]: by_default(value) for variable, value in SERVICES[name]["environment"].items()}

    Settings.model_validate(given)


def test_what_hands_the_passwords_out_does_so_again_in_the_middle_of_a_change(tmp_path: Path) -> None:
    """The real script of the service, in folders of our own; between two steps the server is given both passwords."""
    (script,) = SERVICES["secrets"]["command"]
    for name in ("secrets", "for/worker", "for/producer", "for/redis", "for/exporter"):
        (tmp_path / name).mkdir(parents=True)
    script = script.replace("$$", "$").replace("python /redis", f"{sys.executable} {FILE.parent}/redis")
    script = re.sub(r"(?<=[ >])/(secrets|for)\b", rf"{tmp_path}/\1", script)

    def run(text: str) -> None:
        subprocess.run(["sh", "-ec", text], check=True, stdout=subprocess.DEVNULL)

    def hashes() -> int:
        (line,) = [one for one in (tmp_path / "for/redis/users.acl").read_text().splitlines() if " worker " in one]
        return line.count(" #")

    passwords = [sys.executable, str(FILE.parent / "redis" / "passwords.py"), str(tmp_path / "secrets")]
    seen = []
    for step in ("", "--add worker", "--switch worker", "--drop worker"):
        run(" ".join([*passwords, step]))
        run(script)
        seen.append((hashes(), (tmp_path / "for/worker/password").read_text()))
        assert (tmp_path / "secrets/worker").read_text() == seen[-1][1]
    assert [1, 2, 2, 1] == [count for count, _ in seen]
    assert seen[0][1] == seen[1][1] != seen[2][1] == seen[3][1]
    assert {"password"} == {one.name for one in (tmp_path / "for/worker").iterdir()}


def test_no_password_is_written_anywhere() -> None:
    given = [str(value) for one in SERVICES.values() for value in one.get("environment", {}).values()]

    assert [] == [value for value in given if re.search(r"://[^/]*:[^/]*@", value)]
    named = [key for one in SERVICES.values() for key in one.get("environment", {}) if "PASSWORD" in key]
    assert [] == [key for key in named if not key.endswith("_FILE")]


def test_the_server_refuses_before_it_is_full_and_is_full_before_it_is_killed() -> None:
    command = by_default(" ".join(SERVICES["redis"]["command"]))
    (maxmemory,) = re.findall(r"--maxmemory (\S+)", command)
    per_model = int(by_default(SERVICES["worker"]["environment"]["CONVQ_MAX_BYTES"]))

    assert "--maxmemory-policy noeviction" in command
    assert "--appendonly yes --appendfsync everysec" in command
    assert per_model * len(SHIPPED) < in_bytes(maxmemory) <= in_bytes(by_default(SERVICES["redis"]["mem_limit"])) / 2


def test_the_server_is_valkey_of_a_line_that_is_maintained() -> None:
    name, version = re.fullmatch(r"valkey/(valkey):(\d+\.\d+\.\d+)-\w+", SERVICES["redis"]["image"]).groups()  # type: ignore[union-attr]

    assert "valkey" == name
    assert (9, 1) <= tuple(int(part) for part in version.split(".")[:2])


def test_everything_that_is_mounted_from_the_checkout_is_there() -> None:
    mounts = [by_default(volume).split(":")[0] for one in SERVICES.values() for volume in one.get("volumes", ())]
    folders = {mount for mount in mounts if mount.startswith(".")}

    assert {"../models", "./prometheus/prometheus.yml"} <= folders
    assert set() == {folder for folder in folders if not (FILE.parent / folder).exists()}
    assert set() == {mount for mount in mounts if not mount.startswith(".")} - set(STACK["volumes"])


def test_prometheus_looks_for_services_that_exist_where_they_listen() -> None:
    config = yaml.safe_load((ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text())
    port = int(SERVICES["worker"]["environment"]["CONVQ_HTTP"].rpartition(":")[2])

    for job in config["scrape_configs"]:
        for found in job.get("dns_sd_configs", ()):
            assert set(found["names"]) <= set(SERVICES)
            assert port == found["port"]
        for target in [one for group in job.get("static_configs", ()) for one in group["targets"]]:
            assert target.partition(":")[0] in {*SERVICES, "localhost"}


def test_the_exporter_measures_the_streams_of_the_models_that_ship() -> None:
    streams = SERVICES["redis-exporter"]["environment"]["REDIS_EXPORTER_CHECK_SINGLE_STREAMS"].split(",")

    assert {f"db0={stream}" for model in SHIPPED for stream in Shard(model).streams} == set(streams)
    assert all(f"COPY models/{model} /models/{model}\n" in (ROOT / "Dockerfile").read_text() for model in SHIPPED)


def test_every_variable_is_explained_with_the_default_that_it_has() -> None:
    example = (FILE.parent / ".env.example").read_text()
    explained = dict(re.findall(r"^#([A-Z_]+)=(.*)$", example, re.MULTILINE))

    assert explained == dict(VARIABLE.findall(TEXT))
    assert [] == [line for line in example.splitlines() if line and not line.startswith("#")]


def test_defaults_hold_no_brace_since_engines_disagree_about_which_one_ends_them() -> None:
    openings = len(re.findall(r"(?<!\$)\$\{", TEXT))

    assert openings == len(VARIABLE.findall(TEXT))


@pytest.mark.parametrize("name", sorted(name for name, one in SERVICES.items() if "profiles" in one))
def test_every_profile_is_named_where_people_look(name: str) -> None:
    (profile,) = SERVICES[name]["profiles"]

    assert f"--profile {profile}" in TEXT.partition("\nname:")[0]
