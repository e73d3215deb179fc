"""A job is answered in any batch as it is alone, or the version is refused: by the engine, by a trial, and by commands."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from lying import BATCH_LIES, BESIDE_LIES, HONEST, NEVER_FINITE, RANDOM, bytes_of, folder_of
from numpy.typing import NDArray

from convq.engine.engine import Engine
from convq.engine.independence import dependence
from convq.engine.samples import inputs_for, varied
from convq.errors import ModelBroken, ModelFault
from convq.importer.dry_run import dry_run
from convq.importer.findings import Overrides
from convq.importer.probing import look
from convq.repository.manifest import Input
from convq.repository.model_folders import default_root
from onnx_models import FLOAT, graph, model_folder

OTHERS = "depends on the other jobs of its batch"
TWICE = "is not the same for the same input twice"
Array = NDArray[Any]


def warm(folder: Path) -> Engine:
    engine = Engine.load(folder, 1, device="cpu")
    engine.warm_up()
    return engine


@pytest.mark.parametrize("kind", BATCH_LIES)
def test_a_graph_that_lies_about_its_batch_is_not_started(tmp_path: Path, kind: str) -> None:
    with pytest.raises(ModelBroken, match=OTHERS) as refused:
        warm(folder_of(BATCH_LIES[kind], tmp_path / "liar"))
    assert "liar/1/model.onnx: y " in str(refused.value)
    assert TWICE not in str(refused.value)


@pytest.mark.parametrize("kind", BATCH_LIES)
def test_alone_it_may_be_served(tmp_path: Path, kind: str) -> None:
    if kind == "softmax over the batch":
        pytest.skip("alone all of its answers are 1")
    assert 1 == warm(folder_of(BATCH_LIES[kind], tmp_path / "liar", "[limits]\nmax_batch = 1\n")).max_batch


@pytest.mark.parametrize("kind", BESIDE_LIES)
@pytest.mark.parametrize("most", [2, 3, 64])
def test_a_graph_that_lies_beside_odd_numbers_is_not_started(tmp_path: Path, kind: str, most: int) -> None:
    with pytest.raises(ModelBroken, match=OTHERS) as refused:
        warm(folder_of(BESIDE_LIES[kind], tmp_path / "liar", f"[limits]\nmax_batch = {most}\n"))
    assert "is answered otherwise than alone beside a job" in str(refused.value)


@pytest.mark.parametrize("kind", BESIDE_LIES)
def test_what_is_made_of_one_that_lies_beside_odd_numbers_keeps_jobs_apart(tmp_path: Path, kind: str) -> None:
    made = look(bytes_of(BESIDE_LIES[kind]), "liar.onnx", Overrides())
    assert [1] == [one["value"] for one in made["findings"] if one["key"] == "max_batch"]
    assert 1 == warm(folder_of(BESIDE_LIES[kind], tmp_path / "liar", "[limits]\nmax_batch = 1\n")).max_batch


@pytest.mark.parametrize("kind", NEVER_FINITE)
@pytest.mark.parametrize("most", [1, 64])
def test_a_graph_that_never_answers_with_numbers_is_not_started(tmp_path: Path, kind: str, most: int) -> None:
    model = folder_of(NEVER_FINITE[kind], tmp_path / "never", f"[limits]\nmax_batch = {most}\n")
    with pytest.raises(ModelBroken, match=r"never/1/model\.onnx: y is NaN or infinity for each of 4 inputs of noise"):
        warm(model)
    for examine in (False, True):
        assert 3 == dry_run(model, 1, device="cpu", examine=examine).exit_code


@pytest.mark.parametrize(("kind", "sound"), [("Log", 0.5), ("Sqrt", 0.5), ("Acosh", 2.0)])
def test_one_that_answers_some_numbers_is(tmp_path: Path, kind: str, sound: float) -> None:
    """Half of what is tried is out of the domain of the first two; a sample shows that of the last."""
    content = graph([(kind, ["x"], ["y"])], [("x", FLOAT, ["n", 6])], [("y", FLOAT, ["n", 6])])
    manifest = '[input]\ncolor = "none"\n'
    model = model_folder(tmp_path / "some", manifest, content)
    if kind == "Acosh":
        with pytest.raises(ModelBroken, match=r"let warmup\.sample name one"):
            warm(model)
        np.save(model / "sample.npy", np.full(6, sound, np.float32))
        (model / "manifest.toml").write_text(manifest + '[warmup]\nsample = "sample.npy"\n')
    assert 64 == warm(model).max_batch


def quantised(tmp_path: Path) -> bytes:
    """A linear layer as onnxruntime's own tool quantises it: weights once, inputs at each run."""
    quantization = pytest.importorskip("onnxruntime.quantization")
    weights = np.random.default_rng(0).normal(0, 0.1, (1024, 10)).astype(np.float32)
    nodes = [("Reshape", ["x", "shape"], ["flat"]), ("MatMul", ["flat", "w"], ["y"])]
    ends = [("x", FLOAT, ["n", 1, 32, 32])], [("y", FLOAT, ["n", 10])]
    plain, made = tmp_path / "plain.onnx", tmp_path / "quantised.onnx"
    plain.write_bytes(graph(nodes, *ends, {"shape": np.array([-1, 1024]), "w": weights}))
    quantization.quantize_dynamic(plain, made, weight_type=quantization.QuantType.QUInt8)
    return made.read_bytes()


def test_what_is_quantised_at_each_run_keeps_jobs_apart(tmp_path: Path) -> None:
    content, manifest = quantised(tmp_path), '[input]\ncolor = "gray"\nscale = 0.00392\n'
    with pytest.raises(ModelBroken, match=r"1/model\.onnx: DynamicQuantizeLinear computes with all jobs of a batch"):
        warm(model_folder(tmp_path / "together", manifest, content))
    made = look(content, "quantised.onnx", Overrides(max_batch=16))
    apart = warm(model_folder(tmp_path / "apart", manifest + "[limits]\nmax_batch = 1\n", content))

    jobs = np.random.default_rng(1).random((40, 1, 32, 32), dtype=np.float32)
    jobs[7] *= 1e6
    network = onnxruntime.InferenceSession(content)
    alone = np.concatenate([network.run(None, {"x": job[None]})[0] for job in jobs])
    together = network.run(None, {"x": jobs})[0]
    served = [apart.run([apart.admit(job.tobytes(), "float32", "1,32,32")])["y"][0] for job in jobs]

    assert 30 < int((together.argmax(axis=1) != alone.argmax(axis=1)).sum())  # why it is refused
    assert np.array_equal(alone, np.stack(served))
    assert [(1, "graph")] == [(one["value"], one["source"]) for one in made["findings"] if one["key"] == "max_batch"]


@pytest.mark.parametrize("most", [1, 2, 64])
@pytest.mark.parametrize("kind", RANDOM)
def test_a_random_graph_is_refused_as_what_it_is(tmp_path: Path, kind: str, most: int) -> None:
    with pytest.raises(ModelBroken, match=TWICE) as refused:
        warm(folder_of(RANDOM[kind], tmp_path / "liar", f"[limits]\nmax_batch = {most}\n"))
    assert "other jobs" not in str(refused.value)


@pytest.mark.parametrize("kind", HONEST)
def test_an_honest_graph_is_served_with_its_whole_batch(tmp_path: Path, kind: str) -> None:
    assert 64 == warm(folder_of(HONEST[kind], tmp_path / "honest")).max_batch


@pytest.mark.parametrize("most", [2, 3, 4, 5, 128])
def test_the_last_row_is_seen_whatever_the_largest_batch_is(tmp_path: Path, most: int) -> None:
    with pytest.raises(ModelBroken, match=OTHERS):
        warm(folder_of(BATCH_LIES["the last row is the first"], tmp_path / "liar", f"[limits]\nmax_batch = {most}\n"))


def test_a_lie_of_the_feature_maps_alone_is_seen(tmp_path: Path) -> None:
    def network(*more: tuple[Any, ...], outputs: Sequence[str]) -> bytes:
        nodes = [("Identity", ["x"], ["y"]), *more]
        ends = [(name, FLOAT, ["n", 1, 4, 4]) for name in outputs]
        return graph(nodes, [("x", FLOAT, ["n", 1, 4, 4])], ends)

    plain = network(outputs=["y"])
    lies = network(("ReduceMean", ["x"], ["m"], {"axes": [0]}), ("Sub", ["x", "m"], ["map"]), outputs=["y", "map"])
    manifest = '[input]\ncolor = "gray"\n[feature_maps]\nmap = "map"\n'

    with pytest.raises(ModelBroken, match=f"features.onnx: map {OTHERS}"):
        warm(model_folder(tmp_path / "maps", manifest, plain, lies))


@pytest.mark.parametrize("kind", ["right up to 6", "every row is the first", "sorted rows"])
def test_a_trial_and_a_check_refuse_it_too(tmp_path: Path, kind: str) -> None:
    model = folder_of(BATCH_LIES[kind], tmp_path / "liar")
    for examine in (False, True):
        tried = dry_run(model, 1, device="cpu", examine=examine)
        assert not tried.ok
        assert OTHERS in tried.reason
        assert 3 == tried.exit_code


@pytest.mark.parametrize("kind", BATCH_LIES)
def test_what_is_made_of_such_a_graph_keeps_jobs_apart(kind: str) -> None:
    if kind == "softmax over the batch":
        pytest.skip("alone all of its answers are 1")
    made = look(bytes_of(BATCH_LIES[kind]), "liar.onnx", Overrides())
    assert [1] == [one["value"] for one in made["findings"] if one["key"] == "max_batch"]


@pytest.mark.parametrize("kind", RANDOM)
def test_nothing_is_made_of_a_random_graph(kind: str) -> None:
    with pytest.raises(ModelBroken, match=TWICE):
        look(bytes_of(RANDOM[kind]), "liar.onnx", Overrides())


# -- the proof itself -------------------------------------------------------------------------------------------------


def tried(compute: Callable[[Array], Array], largest: int = 16, spare_s: float = 0.0) -> str:
    """What is found wrong with a network that computes with numpy; empty where nothing is."""
    shape = (1, 6, 6)
    inputs = np.stack(varied(Input(color="gray"), shape, "float32", inputs_for(largest)))
    wrong = dependence(lambda numbers: {"y": compute(inputs[list(numbers)])}, len(inputs), largest, spare_s)
    return "" if wrong is None else str(wrong)


def linear(batch: Array) -> Array:
    weights = np.random.default_rng(5).normal(0, 1, (36, 7)).astype(np.float32)
    return np.asarray(batch.reshape(len(batch), -1) @ weights)


def test_a_machine_that_has_other_things_to_do_tries_no_fewer_sizes() -> None:
    """Another program has the processor meanwhile: as a wait, which takes time and no work."""
    sizes: set[int] = set()

    def starved(batch: Array) -> Array:
        sizes.add(len(batch))
        threading.Event().wait(0.06)
        return linear(batch)

    assert "" == tried(starved, spare_s=0.25)
    assert set(range(1, 17)) == sizes


@pytest.mark.parametrize("wrong_at", range(2, 17))
def test_with_time_to_spare_no_size_is_left_out(wrong_at: int) -> None:
    def lies(batch: Array) -> Array:
        return linear(batch)[::-1] if len(batch) == wrong_at else linear(batch)

    assert f"of {wrong_at} jobs" in tried(lies, spare_s=60)


@pytest.mark.parametrize("place", range(16))
def test_no_place_is_left_out(place: int) -> None:
    def lies(batch: Array) -> Array:
        made = linear(batch)
        if len(batch) == 16:
            made[place] = made[place - 1]
        return made

    assert f"of 16 jobs, number {place + 1} is" in tried(lies)


@pytest.mark.parametrize("noise", [0.0, 1e-7, 1e-6, 1e-5, 1e-4, 1e-3])
def test_rounding_is_no_lie(noise: float) -> None:
    def rounds(batch: Array) -> Array:
        made = linear(batch)
        rng = np.random.default_rng(len(batch))
        return np.asarray(made + np.abs(made).max() * noise * rng.uniform(-1, 1, made.shape).astype(np.float32))

    for _ in range(20):
        assert "" == tried(rounds)


def test_an_input_on_the_edge_of_two_classes_is_no_lie() -> None:
    edge = linear(np.stack(varied(Input(color="gray"), (1, 6, 6), "float32", 8)))[3, 0]

    def classes(batch: Array) -> Array:
        rounded = linear(batch)[:, 0] + (1e-6 if len(batch) % 2 else -1e-6) * abs(edge)
        return np.asarray(rounded > edge, dtype=np.int64)

    for _ in range(20):
        assert "" == tried(classes)


def test_inputs_that_the_graph_refuses_alone_are_left_out() -> None:
    def picky(batch: Array) -> Array:
        if (batch.mean(axis=(1, 2, 3)) > bright).any():
            raise ModelFault("too bright")
        return linear(batch)

    bright = np.median([one.mean() for one in varied(Input(color="gray"), (1, 6, 6), "float32", 8)])

    assert "" == tried(picky)


def test_the_models_that_are_shipped_are_proved_within_a_start() -> None:
    engine = Engine.load(default_root() / "lenet", 1, device="cpu")
    began_s = time.process_time()
    engine.warm_up()
    assert 128 == engine.max_batch
    assert time.process_time() - began_s < 1.0  # 30 ms, and 10 ms without the proof
