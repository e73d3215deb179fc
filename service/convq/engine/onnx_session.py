"""From the files of one version to onnxruntime sessions of exactly the bytes whose checksums its report holds."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import onnxruntime

from convq.engine.answering.detector import Detector
from convq.engine.answering.meanings import Meanings
from convq.engine.graph_io.nodes import sides_of
from convq.engine.postprocess import Head
from convq.engine.signature import Graph, agree, check_meanings, check_same_network
from convq.errors import ModelBroken, NetworkFaulty, SettingsError
from convq.host.extras import install_anew
from convq.printable import brief_list
from convq.repository.external_data import external_files
from convq.repository.files import MOST_BYTES, read_inside
from convq.repository.manifest import Manifest
from convq.repository.onnx_metadata import precision_of
from convq.repository.operators import operators_of
from convq.repository.version_files import VersionFiles

MODEL: Final = "model.onnx"
FEATURES: Final = "features.onnx"
REPORT: Final = "report.json"

CHECKSUMS: Final = {MODEL: "sha256", FEATURES: "features_sha256"}
"""File of a version -> where its report says its SHA-256."""

PROVIDERS: Final = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}

_ERRORS_ONLY = 3
_FATAL_ONLY = 4
_NAMES_SHOWN = 3


class Network(NamedTuple):
    """One session and what it is asked for."""

    session: Any
    graph: Graph
    fetched: dict[str, str]
    """Name that jobs use -> the graph's output."""


@dataclass(frozen=True, slots=True)
class OpenedVersion:
    """One version of a model: its files read, its graphs in sessions, and in agreement with its manifest."""

    name: str
    version: int
    manifest: Manifest
    labels: tuple[str, ...]
    heads: tuple[Head, ...]
    """Its outputs that hold classes; `labels` are those of the first."""
    detector: Detector | None
    """What makes detections of its outputs, if anything does."""
    meanings: Meanings
    """What its other outputs mean."""
    file: Path
    """Its `model.onnx`."""
    plain: Network
    featured: Network
    """The one with the feature maps; `plain` itself where there is no `features.onnx`, or nothing is asked of it."""
    requested: str
    """The device that was asked for: auto, cpu or cuda."""
    provider: str
    """Where it runs: cpu or cuda."""
    precision: str
    sha256: str
    seal: str
    """The checksums of what was opened."""
    began_s: float
    """When that began, by `time.monotonic`."""


def open_version(folder: Path, version: int, *, device: str, seal: str) -> OpenedVersion:
    """What `Engine.load` loads. Raises ModelBroken, SettingsError as it says."""
    began = time.monotonic()
    files = VersionFiles.of(folder, version)
    manifest = files.manifest
    file, features = (folder / str(version) / name for name in (MODEL, FEATURES))
    heads = tuple(Head(one.name, files.labels_of(one), one.applied) for one in manifest.heads)
    detector = Detector.of(manifest, files.detected_labels(), file)
    meanings = Meanings.of(manifest, files.labels_of)
    separate = bool(manifest.feature_maps) and features.exists()
    requested = manifest.runtime.device if device == "auto" else device
    features_sha256, (tried, _, tried_features) = "", seal.partition("+")
    content, sha256 = read_verified(file, tried)
    session = open_session(content, file, requested, manifest.runtime.threads)
    ends = session.get_inputs(), session.get_outputs()
    graph = agree(manifest, *ends, str(file), detector=detector, with_maps=not separate)
    if detector is not None:
        detector = detector.bound({node.name: sides_of(node) for node in ends[1]}, file)
    check_meanings(meanings, graph, ends[1], str(file))
    _check_operators(content, file, graph.max_batch)
    plain = featured = Network(session, graph, {name: name for name in graph.fetched})
    if separate:
        more, features_sha256 = read_verified(features, tried_features)
        second = open_session(more, features, requested, manifest.runtime.threads, seldom=True)
        ends = second.get_inputs(), second.get_outputs()
        graph = agree(manifest, *ends, str(features), detector=detector, fetched=plain.graph.fetched)
        check_same_network(plain.graph, graph, str(features))
        _check_operators(more, features, graph.max_batch)
        featured = Network(second, graph, plain.fetched)
    return OpenedVersion(
        name=folder.absolute().name,
        version=version,
        manifest=manifest,
        labels=heads[0].labels if heads else (),
        heads=heads,
        detector=detector,
        meanings=meanings,
        file=file,
        plain=plain,
        featured=featured,
        requested=requested,
        provider="cuda" if session.get_providers()[0] == PROVIDERS["cuda"] else "cpu",
        precision=precision_of(content),
        sha256=sha256,
        seal=f"{sha256}+{features_sha256}",
        began_s=began,
    )


def read_verified(file: Path, tried: str = "") -> tuple[bytes, str]:
    """The bytes of a version's `model.onnx` or `features.onnx`, and their SHA-256.

    Raises ModelBroken where the report beside it has another checksum or none, where its tensors lie in other files, and
    where it is not the one that was `tried`, as its SHA-256 says: nobody knows what another one does.
    """
    expected = _checksum_in_report(file)
    content = read_inside(file, file.parent.parent, MOST_BYTES[file.name])
    actual = hashlib.sha256(content).hexdigest()
    if actual != expected:
        raise ModelBroken(f"{file}: its SHA-256 is {actual}; {REPORT} says {expected}")
    if tried and actual != tried:
        raise ModelBroken(f"{file}: has changed since it was tried; versions are immutable: add another number")
    try:
        elsewhere = external_files(content)
    except ValueError as err:
        raise ModelBroken(f"{file}: {err}") from None
    if elsewhere:
        named = brief_list((name or "no name" for name in elsewhere), _NAMES_SHOWN)
        raise ModelBroken(f"{file}: has weights in other files ({named}); expected one file that holds all of them")
    return content, actual


def open_session(content: bytes, file: Path, device: str, threads: int, *, seldom: bool = False) -> Any:
    """An onnxruntime session of `threads` threads that do not spin: workers share the cores with Redis and each other.

    `device` is auto, cpu or cuda; `file` is what messages call it. A session that runs `seldom` gives the memory of each
    run back: for a ResNet-50 and batches of 8 that is 55 MB less, and no slower.

    Raises ModelBroken where onnxruntime refuses the graph, SettingsError where CUDA was asked for and is not there.
    """
    if device not in ("auto", *PROVIDERS):
        raise SettingsError(f"device is {device!r}; expected auto, cpu or cuda")
    there = PROVIDERS["cuda"] in onnxruntime.get_available_providers()
    if device == "cuda" and not there:
        raise SettingsError(
            f"device cuda: this onnxruntime has no CUDA provider; use device cpu, or run: {install_anew('cuda')}"
        )
    cuda = there and device != "cpu"
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.enable_cpu_mem_arena = not seldom
    # What fails is raised and said in our words; only why CUDA does not start stands nowhere but in the log.
    options.log_severity_level = _ERRORS_ONLY if cuda else _FATAL_ONLY
    if cuda:
        onnxruntime.preload_dlls()
    chosen = [PROVIDERS["cuda"], PROVIDERS["cpu"]] if cuda else [PROVIDERS["cpu"]]
    try:
        session = onnxruntime.InferenceSession(content, options, providers=chosen)
    except Exception as err:  # noqa: BLE001
        # onnxruntime's exceptions share no base class, and the file is what was refused.
        raise ModelBroken(f"{file}: onnxruntime refuses it: {without_paths(str(err))}") from None
    if device == "cuda" and session.get_providers()[0] != PROVIDERS["cuda"]:
        raise SettingsError("device cuda: the CUDA provider did not start (is there a GPU and a driver?); see the log")
    return session


def shrink(session: Any, inputs: Mapping[str, Any]) -> None:
    """Run these small inputs once, and give back what the session's arena does not need for them.

    onnxruntime does so at the end of a run alone, and not with what that run's outputs lie in.
    """
    options = onnxruntime.RunOptions()
    options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
    with suppress(Exception):  # whatever it has to say of them: nobody waits for an answer
        session.run(None, inputs, options)


def without_paths(message: str) -> str:
    """The message of onnxruntime in one line, without its error numbers and without anything that looks like a path."""
    text = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", message)
    text = re.sub(r"\S*[/\\]\S*", "…", text)
    return " ".join(text.split())[:300] or "onnxruntime gave no reason"


def _check_operators(content: bytes, file: Path, max_batch: int) -> None:
    """Its operators draw no random numbers, and do not mix the jobs of a batch where it may have several."""
    said = operators_of(content)
    if why := said.random_fault():
        raise NetworkFaulty(f"{file}: {why}")
    if max_batch > 1 and (why := said.shared_fault()):
        raise NetworkFaulty(f"{file}: {why}; limits.max_batch = 1 keeps them apart")


def _checksum_in_report(file: Path) -> Any:
    report, key = file.with_name(REPORT), CHECKSUMS[file.name]
    content = read_inside(report, report.parent.parent, MOST_BYTES[REPORT])
    try:
        return json.loads(content)[key]
    except (ValueError, KeyError, TypeError, RecursionError):
        raise ModelBroken(f"{report}: is not a JSON object with the {key} of {file.name}") from None
