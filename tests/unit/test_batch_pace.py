"""A batch that would take longer than its limit is made smaller at load; a busy machine alone makes none smaller."""

from __future__ import annotations

import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from convq.engine.engine import Engine
from convq.engine.tensors import Prepared
from convq.errors import ModelBroken
from onnx_models import graph, model_folder

WIDE, LAYERS, MOST = 256, 4, 64


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A network whose time is that of its matrices, and grows with the batch."""
    weights = {f"w{index}": np.full((WIDE, WIDE), 1e-3, dtype=np.float32) for index in range(LAYERS)}
    names = ["x", *(f"h{index}" for index in range(1, LAYERS)), "y"]
    nodes = [("MatMul", [names[index], f"w{index}"], [names[index + 1]]) for index in range(LAYERS)]
    ends = [("x", 1, ["n", 16, WIDE])], [("y", 1, ["n", 16, WIDE])]
    return model_folder(tmp_path / "wide", "", graph(nodes, *ends, weights))


def limited(folder: Path, max_batch_s: float) -> Engine:
    (folder / "manifest.toml").write_text(
        f"[input]\ncolor = 'none'\n[limits]\nmax_batch = {MOST}\nmax_batch_s = {max_batch_s:.9f}\n"
    )
    return Engine.load(folder, 1, device="cpu")


def worked_s(engine: Engine, size: int) -> float:
    """Processor seconds of one batch: the least of some."""
    one = Prepared(np.zeros((16, WIDE), dtype=np.float32), (16, WIDE))
    found = []
    for _ in range(4):
        began_s = time.thread_time()
        engine.run([one] * size)
        found.append(time.thread_time() - began_s)
    return min(found)


def test_a_batch_that_takes_longer_than_its_limit_is_made_smaller_with_the_figures(folder: Path) -> None:
    whole_s = worked_s(limited(folder, 3600), MOST)

    engine = limited(folder, whole_s / 2)
    engine.warm_up()

    assert 1 <= engine.max_batch < MOST / 2
    assert engine.remark.startswith(
        f"at most {engine.max_batch} jobs share a batch instead of {MOST}: a batch of {MOST} takes "
    )
    assert f"limits.max_batch_s ends a worker after {whole_s / 2:.6g} s" in engine.remark
    assert engine.max_batch == engine.describe()["limits"]["max_batch"]  # type: ignore[index]
    assert worked_s(engine, engine.max_batch) < whole_s / 2


def test_a_single_job_that_takes_longer_than_the_limit_is_refused_with_the_figures(folder: Path) -> None:
    one_s = worked_s(limited(folder, 3600), 1)

    with pytest.raises(ModelBroken, match=r"model\.onnx: one job takes .* s; limits\.max_batch_s ends a worker after"):
        limited(folder, one_s / 20).warm_up()


def test_a_machine_that_does_other_things_makes_no_batch_smaller(folder: Path) -> None:
    """What the clock says is twice the limit and more; the processor says that the network is quick enough."""
    whole_s = worked_s(limited(folder, 3600), MOST)
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(4)]
    try:
        engine = limited(folder, whole_s * 6)
        engine.warm_up()
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()

    assert (MOST, "") == (engine.max_batch, engine.remark)


def test_a_network_far_below_its_limit_is_measured_no_further(folder: Path) -> None:
    engine = limited(folder, 3600)
    engine.warm_up()

    assert (MOST, "") == (engine.max_batch, engine.remark)
