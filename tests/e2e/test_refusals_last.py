"""What a trial has found lasts: over restarts, over what comes meanwhile, and no longer than the files that it is about."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from e2e.versions import add, not_fast, repository, shifted, turned
from servers import OwnServer, wait_until
from services import Plain, RunningService, models_served

REFUSED = "convq:{lenet}:refused"
ROUND = 11
"""The size of a batch at which something is wrong with a graph, and at no other."""


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A repository with lenet alone; the folder of the model."""
    return repository(tmp_path / "models")


def hangs_at_eleven(onnx: Any, proto: Any) -> None:
    not_fast(onnx, proto)
    _, chosen = _where_eleven(onnx, proto, "turns", onnx.TensorProto.INT64, 0)
    loop = next(node for node in proto.graph.node if node.op_type == "Loop")
    loop.input[0] = chosen
    nodes = [*[node for node in proto.graph.node if node is not loop and node.op_type != "Loop"], loop]
    nodes = [type(node).FromString(node.SerializeToString()) for node in nodes]
    del proto.graph.node[:]
    proto.graph.node.extend(nodes)


def leaks_at_eleven(onnx: Any, proto: Any) -> None:
    """Adds the sum of all logits of the batch, where there are eleven jobs."""
    helper, graph = onnx.helper, proto.graph
    name = graph.output[0].name
    for node in graph.node:
        for position, output in enumerate(node.output):
            if output == name:
                node.output[position] = "before"
    _where_eleven(onnx, proto, "one", onnx.TensorProto.FLOAT, 0.0)
    graph.initializer.append(helper.make_tensor("one", onnx.TensorProto.FLOAT, [], [1.0]))
    graph.node.append(helper.make_node("ReduceSum", ["before"], ["all"], keepdims=0))
    graph.node.append(helper.make_node("Mul", ["all", "chosen"], ["leak"]))
    graph.node.append(helper.make_node("Add", ["before", "leak"], [name]))


def _where_eleven(onnx: Any, proto: Any, name: str, kind: int, otherwise: float) -> tuple[str, str]:
    """The tensor `chosen` is that of `name` at a batch of eleven, else `otherwise`."""
    helper, graph = onnx.helper, proto.graph
    for made, of, values in (("otherwise", kind, [otherwise]), ("eleven", onnx.TensorProto.INT64, [ROUND])):
        graph.initializer.append(helper.make_tensor(made, of, [], values))
    graph.initializer.append(helper.make_tensor("first", onnx.TensorProto.INT64, [], [0]))
    graph.node.extend(
        [
            helper.make_node("Shape", [graph.input[0].name], ["sides"]),
            helper.make_node("Gather", ["sides", "first"], ["size"]),
            helper.make_node("Equal", ["size", "eleven"], ["is_eleven"]),
            helper.make_node("Where", ["is_eleven", name, "otherwise"], ["chosen"]),
        ]
    )
    return "is_eleven", "chosen"


def refused(plain: Plain) -> dict[str, str]:
    return dict(models_served(plain)["lenet"].get("refused", {}))


def serving(plain: Plain) -> int:
    return int(models_served(plain).get("lenet", {}).get("serving", 0))


def add_until_refused(plain: Plain, model: Path, change: Callable[[Any, Any], None], why: str) -> None:
    """As version 2; again where a trial did not come so far in its time, on a machine that has other things to do."""
    for _ in range(5):
        add(model, 2, change)
        wait_until(lambda: "2" in refused(plain), 90, every_s=0.1)
        if why in refused(plain)["2"] or "did not end within" not in refused(plain)["2"]:
            break
        shutil.rmtree(model / "2")
        wait_until(lambda: "2" not in refused(plain), 90, every_s=0.1)
    assert why in refused(plain)["2"]


@pytest.mark.parametrize(
    ("change", "why"),
    [(hangs_at_eleven, "its network hangs, on 11 jobs in a batch"), (leaks_at_eleven, "depends on the other jobs")],
)
def test_a_version_that_its_trial_refused_is_not_served_after_a_restart(
    fresh_server: OwnServer, model: Path, tmp_path: Path, change: Callable[[Any, Any], None], why: str
) -> None:
    options = ("--models", str(model.parent), "--load-within", "20")
    with Plain(fresh_server.url) as plain:
        with RunningService(fresh_server.url, *options, workers=1):
            add_until_refused(plain, model, change, why)
            wait_until(lambda: 1 == plain.redis.hlen(REFUSED), 30, every_s=0.1)
        with RunningService(fresh_server.url, *options, workers=1) as service:
            line = service.wait_for("a version is passed over")
            assert (2, "lenet") == (line["version"], line["model"])
            assert why in line["reason"]
            assert f"HDEL {REFUSED} 2" in line["reason"]
            assert 1 == serving(plain)
            assert why in refused(plain)["2"]

            shutil.rmtree(model / "2")
            shutil.rmtree(tmp_path / "made-2", ignore_errors=True)
            add(model, 2, shifted(1.0))
            wait_until(lambda: 2 == serving(plain), 90, every_s=0.1)
            wait_until(lambda: 0 == plain.redis.hlen(REFUSED), 30, every_s=0.1)
        with RunningService(fresh_server.url, *options, workers=1) as service:
            assert 2 == serving(plain)
            assert {} == refused(plain)


def test_what_redis_knows_of_other_files_of_gone_versions_and_of_nothing_keeps_no_start(
    fresh_server: OwnServer, model: Path
) -> None:
    add(model, 2, shifted(1.0))
    with Plain(fresh_server.url) as plain:
        said = {"files": "0" * 64, "device": "auto", "reason": "of other files", "at_ms": 1}
        plain.redis.hset(REFUSED, mapping={"2": json.dumps(said), "7": json.dumps(said), "x": b"\xff", "1": b"[]"})
        with RunningService(fresh_server.url, "--models", str(model.parent), workers=1):
            assert 2 == serving(plain)
            wait_until(lambda: not plain.redis.hexists(REFUSED, "2"), 30, every_s=0.1)
            assert plain.redis.hexists(REFUSED, "7"), "it may lie on another host"


def test_a_version_that_is_deleted_is_not_known_any_more(fresh_server: OwnServer, model: Path) -> None:
    with Plain(fresh_server.url) as plain, RunningService(fresh_server.url, "--models", str(model.parent), workers=1):
        add(model, 2, turned())  # the sample is no 7 any more
        wait_until(lambda: 1 == plain.redis.hlen(REFUSED), 90, every_s=0.1)
        shutil.rmtree(model / "2")
        wait_until(lambda: 0 == plain.redis.hlen(REFUSED), 30, every_s=0.1)


def trials_of(service: RunningService) -> list[int]:
    """The processes of its trials."""

    def is_trial(pid: int) -> bool:
        try:
            return b"dry_run_child" in Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            return False

    return [pid for pid in service.worker_pids() if is_trial(pid)]


def test_a_verdict_is_kept_for_its_version_and_a_newer_one_does_not_wait_for_it(
    fresh_server: OwnServer, model: Path
) -> None:
    options = ("--models", str(model.parent), "--load-within", "300")
    with Plain(fresh_server.url) as plain, RunningService(fresh_server.url, *options, workers=1) as service:
        add(model, 2, turned())
        line = service.wait_for("the trial of a version begins", 60)
        assert ("lenet", 2) == (line["model"], line["version"])
        wait_until(lambda: bool(trials_of(service)), 30, every_s=0.01)
        (held,) = trials_of(service)
        os.kill(held, signal.SIGSTOP)
        try:
            wait_until(lambda: "trial" == state_of(service, 2), 30, every_s=0.1)
            add(model, 3, shifted(1.0))
            wait_until(lambda: 3 == serving(plain), 90, every_s=0.1)
            assert "trial" == state_of(service, 2)
        finally:
            os.kill(held, signal.SIGCONT)
        wait_until(lambda: "warmup.golden" in refused(plain).get("2", ""), 60, every_s=0.1)
        wait_until(lambda: "refused" == state_of(service, 2), 30, every_s=0.1)
        assert 3 == serving(plain)
        assert 2 == service.wait_for("a version is refused; what was served goes on")["version"]


def state_of(service: RunningService, version: int) -> str:
    samples = service.metrics()["convq_model_version_state"]
    states = {dict(labels)["version"]: dict(labels)["state"] for labels, value in samples.items() if value}
    return states.get(str(version), "")


def test_a_load_that_does_not_end_is_named_and_ends_when_its_version_is_deleted(
    fresh_server: OwnServer, model: Path, tmp_path: Path
) -> None:
    add(model, 2, not_fast)
    options = ("--models", str(model.parent), "--load-within", "60")
    with (
        Plain(fresh_server.url) as plain,
        RunningService(fresh_server.url, *options, workers=1, wait=False) as service,
    ):
        line = service.wait_for("a version takes longer than usual to load", 60)
        assert ("lenet", 2, 0) == (line["model"], line["version"], line["worker"])
        status, said = service.get("/readyz")
        assert 503 == status
        assert "worker 0 has been loading lenet/2 for " in said
        (model / "2").rename(tmp_path / "aside")
        service.wait_for("a worker loads a version that is not wanted any more; it is replaced", 60)
        wait_until(service.is_ready, 60, every_s=0.1)
        assert 1 == serving(plain)
        assert {} == refused(plain)
        assert "loading" not in service.get("/readyz")[1]
        assert 1 == len([line for line in service.log if line["message"] == "a worker died"])


def test_a_version_that_is_deleted_while_a_worker_starts_costs_no_other_death(
    fresh_server: OwnServer, model: Path, tmp_path: Path
) -> None:
    (model / "manifest.toml").write_text((model / "manifest.toml").read_text() + "\n[versions]\nkeep = 2\n")
    add(model, 2, shifted(1.0))
    with (
        Plain(fresh_server.url) as plain,
        RunningService(fresh_server.url, "--models", str(model.parent), workers=1) as service,
    ):
        wait_until(lambda: [1, 2] == models_served(plain)["lenet"]["versions"], 60, every_s=0.1)
        (worker,) = service.worker_pids()
        (model / "1").rename(tmp_path / "aside")
        os.kill(worker, signal.SIGKILL)
        service.wait_for("a worker died")
        wait_until(lambda: [2] == models_served(plain)["lenet"]["versions"], 60, every_s=0.1)
        wait_until(service.is_ready, 60, every_s=0.1)
        assert {} == refused(plain)
        said = [line["message"] for line in service.log]
        assert 1 == said.count("a worker died")
        assert 0 == said.count("a version is passed over")
