"""Asks a process of its own to make a version of a model from a network in PyTorch: nothing that serves imports torch.

The process is `convq.exporter.child`. It answers in lines of JSON: what it does next, and at last what became of it.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from signal import SIGINT, SIGKILL
from typing import IO, Any, Final

from convq.errors import ConvqError, ExportRefused, ModelBroken, NotPlaced, SettingsError
from convq.importer.dry_run import noted
from convq.importer.findings import FLAGS, PLACED_BY, Finding, Overrides, flag_for
from convq.interpreter import child_environment, python

CHILD: Final = "convq.exporter.child"
GRACE_S: Final = 5.0
"""After Ctrl-C the child may take so long to leave nothing behind."""
MOST_LAST_WORDS: Final = 20_000
NO_WEIGHTS: Final = "none"
Step = Callable[[str, int], None]
"""Called with what is done next, and with how many steps there are."""


@dataclass(frozen=True, slots=True)
class Preparation:
    """What somebody says about how images are prepared and what outputs mean; None where nothing was said."""

    size: tuple[int, int] | None = None
    """Height and width in pixels."""
    any_size: bool = False
    """Height and width are free."""
    color: str | None = None
    resize: str | None = None
    short_side: int | None = None
    """Pixels."""
    long_side: int | None = None
    """Pixels."""
    align: str | None = None
    pad_value: tuple[int, ...] | None = None
    interpolation: str | None = None
    multiple_of: int | None = None
    scale: float | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    labels: str | None = None
    """A file of class names."""
    task: str | None = None
    """`classes`, `tensor`, `image`, `detect` and others: what the outputs mean, the first one where it is an image."""
    like: str | None = None
    """A family of detectors."""
    activation: str | None = None
    max_batch: int | None = None

    def said(self) -> list[str]:
        """The flags that were given."""
        given = {"size": "--size", "any_size": "--size"}
        return sorted({given.get(key, FLAGS.get(key, flag_for(key))) for key, value in asdict(self).items() if value})

    def wishes(self) -> Overrides:
        """The part that `convq models add` knows, too, without the labels."""
        height, width = self.size or (None, None)
        same = ("color", "scale", "mean", "std", "like", "activation", "max_batch", *PLACED_BY)
        task = None if self.task == "image" else self.task  # a network's own words for it are looked at elsewhere
        return Overrides(height=height, width=width, task=task, **{key: getattr(self, key) for key in same})


@dataclass(frozen=True, slots=True)
class ExportRequest:
    """A network in PyTorch, and what is known about it."""

    network: str
    """`FILE.py:CLASS`, `MODULE:NAME` such as `torchvision.models:resnet50`, or `timm:NAME`."""
    root: str
    """The model repository; made where it is not there."""
    weights: str | None = None
    """A file, or `none` for the random ones of the constructor; None: the network has none to learn."""
    preset: str | None = None
    """Which of torchvision's weights says how images are prepared, such as IMAGENET1K_V2."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Of the constructor."""
    name: str | None = None
    """What jobs call the model; None: the folder of FILE.py where that is in the repository, or the network's name."""
    version: int | None = None
    force: bool = False
    """Replace a version that is there; for versions that nobody has served yet."""
    preparation: Preparation = field(default_factory=Preparation)

    @classmethod
    def from_json(cls, said: Mapping[str, Any]) -> ExportRequest:
        """The same on the other side of a pipe: JSON knows no tuples."""
        given: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in said["preparation"].items()
        }
        return cls(**{**said, "preparation": Preparation(**given)})


@dataclass(frozen=True, slots=True)
class Exported:
    """The version that is in its place now."""

    name: str
    version: int
    path: Path
    """The model's folder."""
    report: Mapping[str, Any]
    """Its `report.json`."""
    findings: Sequence[Finding] = ()
    """How the manifest came about, value by value; none where the model was there with its manifest."""
    notes: Sequence[str] = ()
    """What else somebody should know, a line each."""
    settled: Sequence[int] = ()
    """Older versions that had no manifest of their own and were given one."""

    @property
    def assumed(self) -> list[Finding]:
        """What nothing could tell for sure."""
        return [one for one in self.findings if one.source == "assumed"]

    def to_json(self) -> dict[str, Any]:
        """For a pipe."""
        return {**asdict(self), "path": str(self.path)}


def export_apart(request: ExportRequest, step: Step = lambda _doing, _steps: None) -> Exported:
    """Make the version, in a process of its own. Blocks for seconds to minutes.

    Raises:
        SettingsError: the request names something that is not there, or contradicts itself.
        ExportRefused: the network or its weights cannot become a version, or it is not the same in onnxruntime.
        ModelBroken: the version could not be served.
        NotPlaced: the repository cannot be written.
    """
    with tempfile.TemporaryFile() as words:
        with _child(words) as child:
            answer = _converse(child, request, step)
        if answer is None:
            raise _ended(child.returncode, _last_words(words))
    if not answer["ok"]:
        raise noted(_error(answer), answer.get("traceback", ""))
    made = answer["made"]
    findings = [Finding.from_json(one) for one in made["findings"]]
    return Exported(**{**made, "path": Path(made["path"]), "findings": findings})


@contextmanager
def _child(words: IO[bytes]) -> Iterator[subprocess.Popen[bytes]]:
    """The process; it has ended when this is left, however that is."""
    environment = child_environment() | {"ORT_DISABLE_TELEMETRY": "1"}
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": words}
    try:
        child = subprocess.Popen(python(CHILD), env=environment, process_group=0, **pipes)
    except OSError as error:
        raise ExportRefused(f"no process could be started for it: {error.strerror}") from None
    with child:
        try:
            yield child
        except BaseException:
            child.send_signal(SIGINT)  # it may work in a folder that must go
            raise
        finally:
            with suppress(subprocess.TimeoutExpired):
                child.wait(GRACE_S)
            with suppress(ProcessLookupError):
                os.killpg(child.pid, SIGKILL)  # what a network's own code has started, too


def _converse(child: subprocess.Popen[bytes], request: ExportRequest, step: Step) -> dict[str, Any] | None:
    """The child's answer; None where it ended without one."""
    assert child.stdin is not None  # noqa: S101 - both are pipes
    assert child.stdout is not None  # noqa: S101
    with suppress(BrokenPipeError):
        child.stdin.write(json.dumps(asdict(request)).encode() + b"\n")
        child.stdin.close()
    for line in child.stdout:
        said: dict[str, Any] = json.loads(line)
        if "ok" in said:
            return said
        step(said["step"], said["steps"])
    return None


def _error(answer: Mapping[str, Any]) -> ConvqError:
    kinds: dict[str, type[ConvqError]] = {
        one.code: one for one in (SettingsError, ExportRefused, ModelBroken, NotPlaced)
    }
    return kinds.get(answer["code"], ExportRefused)(answer["reason"])


def _last_words(words: IO[bytes]) -> str:
    words.seek(0)
    return words.read()[-MOST_LAST_WORDS:].decode(errors="replace")


def _ended(status: int, words: str) -> ConvqError:
    """It was killed, or crashed, or the network's code ended it."""
    last = (words.strip().splitlines() or ["it said nothing"])[-1]
    how = f"by signal {-status}" if status < 0 else f"with status {status}"
    hint = " (the kernel may have run out of memory)" if status == -9 else ""  # noqa: PLR2004 - SIGKILL
    return noted(ExportRefused(f"the process that exports ended {how}{hint}: {last[:200]}"), words)
