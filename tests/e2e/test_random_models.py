"""Models and versions come, break, go back and go, in random order, under load and across restarts.

Beside the service stands a plain account of what should be served. Every network adds a number of its own to the logits, so
each answer says which one it came from.
"""

from __future__ import annotations

import itertools
import json
import random
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache, partial
from pathlib import Path
from typing import Any, Self

import numpy as np
import pytest

from convq.protocol import Result
from convq.repository.keeping import keep_with, next_number, place
from e2e.versions import JOB, logits_of, repository, shifted, write
from servers import PATIENCE, OwnServer, wait_until
from services import Plain, RunningService, models_served

STABLE = "steady"
NAMES = ("a", "b")


@dataclass
class Account:
    """What should be served of one model."""

    good: dict[int, float] = field(default_factory=dict)
    """Versions that lie there and can be served -> what their networks add."""
    bad: set[int] = field(default_factory=set)
    """Versions that lie there and cannot."""
    aside: dict[int, float] = field(default_factory=dict)
    """Versions that were taken away and can be put back."""
    garbled: bool = False
    """The model's manifest cannot be read."""


class World:
    """A folder of models, the account of it, and what each number of each model has ever meant."""

    def __init__(self, home: Path, seed: int) -> None:
        self.home = home
        self.random = random.Random(seed)
        self.template = repository(home / "repository")
        self.root = home / "models"
        self.root.mkdir()
        self.shifts = itertools.count(50, 50)
        self.models: dict[str, Account] = {}
        self.meant: dict[tuple[str, int], set[float]] = {}
        self.log: list[str] = []
        for name in (STABLE, *NAMES):
            self.add_model(name)

    # -- what somebody does ---------------------------------------------------------------------------------------

    def make_model(self, name: str) -> tuple[Path, float]:
        made = self.home / f"made-{name}"
        shutil.copytree(self.template, made)
        shift = float(next(self.shifts))
        write(made / "1", graph(self.template / "1", shift))
        keep_with(made, 1)
        return made, shift

    def add_model(self, name: str) -> None:
        made, shift = self.make_model(name)
        if self.random.random() < 0.5:
            made.rename(self.root / name)
        else:  # as a slow copy
            (self.root / name).mkdir()
            parts = sorted(made.iterdir())
            self.random.shuffle(parts)
            for part in parts:
                part.rename(self.root / name / part.name)
                threading.Event().wait(self.random.random() / 5)
            made.rmdir()
        self.models[name] = Account({1: shift})
        self.meant.setdefault((name, 1), set()).add(shift)

    def replace_model(self, name: str) -> None:
        made, shift = self.make_model(name)
        shutil.rmtree(self.root / name)
        made.rename(self.root / name)
        self.models[name] = Account({1: shift})
        self.meant.setdefault((name, 1), set()).add(shift)

    def remove_model(self, name: str) -> None:
        shutil.rmtree(self.root / name)
        del self.models[name]

    def add_version(self, name: str) -> None:
        """As a tool does."""
        account, model = self.models[name], self.root / name
        number, shift = next_number(model), float(next(self.shifts))
        workshop = self.home / "workshop" / name
        workshop.mkdir(parents=True)
        shutil.copytree(self.template / "1", workshop / str(number))
        for part in ("manifest.toml", "labels.txt", "sample/seven.png"):
            (workshop / part).parent.mkdir(exist_ok=True)
            shutil.copy(self.template / part, workshop / part)
        write(workshop / str(number), graph(self.template / "1", shift))
        keep_with(workshop, number)
        place(workshop / str(number), model, number)
        shutil.rmtree(workshop)
        account.good[number] = shift
        self.meant[name, number] = {shift}

    def add_half(self, name: str) -> None:
        """A copy that stops, or that is damaged, in a way of its own."""
        number = next_number(self.root / name)
        made = self.home / "half"
        shutil.copytree(self.template / "1", made)
        kind = self.random.choice(["no report", "cut", "garbage", "empty"])
        if kind == "no report":
            (made / "report.json").unlink()
        elif kind == "cut":
            (made / "model.onnx").write_bytes((made / "model.onnx").read_bytes()[:1000])
        elif kind == "garbage":
            write(made, b"none")
        else:
            shutil.rmtree(made)
            made.mkdir()
        made.rename(self.root / name / str(number))
        self.models[name].bad.add(number)

    def go_back(self, name: str) -> None:
        account = self.models[name]
        newest = max(account.good)
        (self.root / name / str(newest)).rename(self.home / f"aside-{name}-{newest}")
        account.aside[newest] = account.good.pop(newest)

    def go_forward(self, name: str) -> None:
        account = self.models[name]
        number, shift = account.aside.popitem()
        made = self.home / f"aside-{name}-{number}"
        shutil.copytree(made, self.root / name / str(number), copy_function=shutil.copyfile)
        shutil.rmtree(made)
        account.good[number] = shift

    def use_again(self, name: str) -> None:
        """Another network under a number that was given."""
        account = self.models[name]
        number, _ = account.aside.popitem()
        shutil.rmtree(self.home / f"aside-{name}-{number}")
        made = self.home / "again"
        shutil.copytree(self.template / "1", made)
        write(made, graph(self.template / "1", float(next(self.shifts))))
        made.rename(self.root / name / str(number))
        account.bad.add(number)

    def garble(self, name: str) -> None:
        (self.root / name / "manifest.toml").write_bytes(b"[input")
        self.models[name].garbled = True

    def mend(self, name: str) -> None:
        shutil.copy(self.template / "manifest.toml", self.root / name / "manifest.toml")
        self.models[name].garbled = False

    def tidy(self, name: str) -> None:
        for number in self.models[name].bad:
            shutil.rmtree(self.root / name / str(number))
        self.models[name].bad.clear()

    def choices(self) -> list[tuple[Callable[[str], None], str]]:
        """What can be done now."""
        found: list[tuple[Callable[[str], None], str]] = []
        for name in NAMES:
            account = self.models.get(name)
            if account is None:
                found.append((self.add_model, name))
                continue
            found += [(one, name) for one in (self.add_version, self.add_half, self.remove_model, self.replace_model)]
            found += [(self.mend if account.garbled else self.garble, name)]
            found += [(self.go_back, name)] if len(account.good) > 1 else []
            found += [(self.go_forward, name), (self.use_again, name)] if account.aside else []
            found += [(self.tidy, name)] if account.bad else []
        return found

    # -- what should be -------------------------------------------------------------------------------------------

    def serving(self) -> dict[str, int]:
        """Model -> the version that answers."""
        return {name: max(account.good) for name, account in self.models.items()}


@cache
def graph(version: Path, shift: float) -> bytes:
    """The graph of a version, with a number added to its logits."""
    onnx = pytest.importorskip("onnx")
    proto = onnx.load(version / "model.onnx")
    shifted(shift)(onnx, proto)
    return bytes(proto.SerializeToString())


class Load:
    """Jobs for all models, from a thread, and every answer."""

    def __init__(self, url: str) -> None:
        self._url = url
        self.submitted: set[str] = set()
        self.answers: dict[str, dict[str, Any]] = {}
        self.twice: list[str] = []
        self._over, self._read_on = threading.Event(), threading.Event()
        self._read_on.set()
        self._submitting, self._reading = (threading.Thread(target=one) for one in (self._submit, self._read))

    def _submit(self) -> None:
        with Plain(self._url) as plain:
            for turn in itertools.count():
                if self._over.wait(0.02):
                    return
                model = (STABLE, *NAMES)[turn % 3]
                fields = JOB | {"reply_to": f"convq:{{{model}}}:inbox:books"}
                entries = plain.burst([fields] * 3, stream=f"convq:{{{model}}}:jobs")
                self.submitted |= {f"{model} {entry}" for entry in entries}

    def _read(self) -> None:
        inboxes = [f"convq:{{{model}}}:inbox:books" for model in (STABLE, *NAMES)]
        with Plain(self._url) as plain:
            while self._read_on.is_set():
                for inbox in inboxes:
                    for document in plain.redis.lpop(inbox, 500) or ():
                        found = json.loads(document)
                        key = f"{found['model']} {found['entry']}"
                        self.twice += [key] if key in self.answers else []
                        self.answers[key] = found
                self._over.wait(0.02)

    def finish(self) -> None:
        """No more jobs; the answers to all that there were."""
        self._over.set()
        self._submitting.join()
        wait_until(lambda: self.submitted <= self.answers.keys(), 60, every_s=0.1)

    def __enter__(self) -> Self:
        self._submitting.start()
        self._reading.start()
        return self

    def __exit__(self, *nothing: object) -> None:
        self._over.set()
        self._read_on.clear()
        self._submitting.join()
        self._reading.join()


def settled(world: World, plain: Plain, absent: set[str]) -> Callable[[], bool]:
    """Whether exactly that is served which should be."""

    def ask() -> bool:
        said = {name: one["serving"] for name, one in models_served(plain).items()}
        return said == {name: number for name, number in world.serving().items() if name not in absent}

    return ask


def probe(world: World, plain: Plain, model: str) -> float:
    """What the network adds that answers a job now."""
    entry = plain.burst([JOB], stream=f"convq:{{{model}}}:jobs")[0]
    found = plain.redis.blpop(f"convq:{{{model}}}:result:{entry}", 30 * PATIENCE)
    assert found is not None, f"{model} is not answered"
    return shift_of(world, json.loads(found[1]))


def answers_with(world: World, plain: Plain, model: str, expected: float) -> bool:
    return probe(world, plain, model) == expected


def shift_of(world: World, answer: dict[str, Any]) -> float:
    assert "ok" == answer["status"], answer
    (output,) = Result.model_validate(answer).outputs or ()
    shifts = output.array() - logits_of_template(world.template)
    assert np.ptp(shifts) < 1e-2
    return float(np.round(shifts.mean()))


@cache
def logits_of_template(template: Path) -> np.ndarray:
    return logits_of(template / "1")


@contextmanager
def service_of(server: OwnServer, world: World) -> Iterator[RunningService]:
    with RunningService(server.url, "--models", str(world.root), only=None) as service:
        yield service


def one_step(world: World, service: RunningService, plain: Plain, absent: set[str]) -> None:
    """Do something, wait until what should be served is, and see that nobody else noticed."""
    before = restarts(service)
    act, name = world.random.choice(world.choices())
    world.log.append(f"{act.__name__} {name}")
    act(name)
    if act in (world.mend, world.remove_model, world.replace_model, world.add_model):
        absent.discard(name)
    look(world, service, plain, absent)
    assert before == restarts(service), "a worker was started anew"


def restarts(service: RunningService) -> float:
    """How many workers have died."""
    return sum(service.metrics()["convq_worker_restarts_total"].values())


def look(world: World, service: RunningService, plain: Plain, absent: set[str]) -> None:
    assert probe(world, plain, STABLE) == world.models[STABLE].good[1]
    wait_until(settled(world, plain, absent), 60, every_s=0.1)
    for name, number in world.serving().items():
        if name not in absent:
            expected = world.models[name].good[number]
            # A model that was replaced is in the list until the workers have let go of it.
            wait_until(partial(answers_with, world, plain, name, expected), 60, every_s=0.1)
    wait_until(service.is_ready, 30, every_s=0.1)


def play(world: World, server: OwnServer, steps: int) -> None:
    """Half of the steps beside one service, half beside the next, and all is answered by a third."""
    absent: set[str] = set()
    with Plain(server.url) as plain, Load(server.url) as load:
        for _ in range(2):
            with service_of(server, world) as service:
                absent = {name for name, account in world.models.items() if account.garbled}
                look(world, service, plain, absent)
                for _ in range(steps // 2):
                    one_step(world, service, plain, absent)
            world.log.append("restart")
        with service_of(server, world) as service:
            absent = {name for name, account in world.models.items() if account.garbled}
            for name in NAMES:
                if name not in world.models:
                    world.add_model(name)
                elif name in absent:
                    world.mend(name)
            look(world, service, plain, set())
            load.finish()
    assert [] == load.twice
    for key, answer in load.answers.items():
        assert shift_of(world, answer) in world.meant[answer["model"], answer["version"]], (key, answer["version"])


def test_what_answers_is_what_lies_there_whatever_is_done_to_the_folder(
    fresh_server: OwnServer, tmp_path: Path, sequence: int, steps: int
) -> None:
    world = World(tmp_path, sequence)
    try:
        play(world, fresh_server, steps)
    except BaseException as error:
        error.add_note(f"sequence {sequence}: {'; '.join(world.log)}; {world.models}")
        raise
