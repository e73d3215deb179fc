"""A model that takes no images, through the running service."""

from __future__ import annotations

import base64
import shutil
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from convq.cli import main
from convq.cli.display.answers import summary
from convq.client import Client
from convq.detected import Output
from convq.protocol import Result
from onnx_models import FLOAT, graph, model_folder
from servers import OwnServer, wait_until
from services import RunningService, seven

MANIFEST = "[input]\ncolor = 'none'\n[limits]\nmax_pixels = 1000\nmax_batch = 8\n"


def sums(root: Path, manifest: str = MANIFEST) -> Path:
    """The folder of a model that adds up the second axis of [4, length] numbers."""
    nodes = [("ReduceSum", ["x", "axes"], ["y"], {"keepdims": 0})]
    axes = {"axes": np.array([2], dtype=np.int64)}
    model = graph(nodes, [("x", FLOAT, ["n", 4, "length"])], [("y", FLOAT, ["n", 4])], axes)
    return model_folder(root / "sums", manifest, model)


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server with `sums`."""
    root = tmp_path_factory.mktemp("models")
    sums(root)
    with OwnServer(tmp_path_factory.mktemp("server")) as server:
        with RunningService(server.url, "--models", str(root), "--only", "sums", workers=1):
            yield server.url


def test_tensors_of_free_length_are_answered_each_by_its_own(url: str) -> None:
    arrays = [np.random.default_rng(i).normal(size=(4, 1 + i % 3)).astype(np.float32) for i in range(30)]
    with Client(url) as client:
        results = list(client.map(arrays))

    for array, result in zip(arrays, results, strict=True):
        assert [None, 1] == [result.predictions, len(result.outputs or ())]
        np.testing.assert_allclose(array.sum(axis=1), result.output("y").array(), rtol=1e-5)


@pytest.mark.parametrize(
    ("given", "code", "message"),
    [
        (seven(), "bad_field", "takes tensors only"),
        (np.zeros((4, 2), dtype=np.uint8), "bad_tensor", "dtype is uint8; this model takes float32"),
        (np.zeros((4, 2, 1), dtype=np.float32), "bad_tensor", "shape is 4,2,1; expected 4,any"),
        (np.zeros((4, 251), dtype=np.float32), "bad_tensor", "more than the 1000 elements"),
    ],
)
def test_anything_else_is_refused_with_what_was_expected(url: str, given: object, code: str, message: str) -> None:
    with Client(url) as client:
        (result,) = client.map([given])

    assert result.error is not None
    assert code == result.error.code
    assert message in result.error.message


def test_files_of_numpy_are_submitted_as_tensors(url: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = np.arange(8, dtype=np.float32).reshape(4, 2)
    np.save(tmp_path / "x.npy", np.asfortranarray(rows))
    np.savez(tmp_path / "x.npz", rows)
    np.savez(tmp_path / "two.npz", rows, more=rows)
    np.save(tmp_path / "wide.npy", rows.astype(np.float64))
    header = b"{'descr': '|O', 'fortran_order': False, 'shape': (1,), }\n"
    (tmp_path / "objects.npy").write_bytes(b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header + b"N.")
    (tmp_path / "none.npy").write_bytes(b"text")

    def submitted(*files: str) -> tuple[int, str, str]:
        code = main(["submit", *(str(tmp_path / file) for file in files), "--redis", url, "--model", "sums", "--json"])
        said = capsys.readouterr()
        return code, said.out, said.err

    for files in (["x.npy"], ["x.npz"], ["x.npy", "x.npz"]):
        code, out, _ = submitted(*files)
        results = [Result.model_validate_json(line) for line in out.splitlines()]
        assert (0, [[1.0, 5.0, 9.0, 13.0]] * len(files)) == (
            code,
            [one.output("y").array().tolist() for one in results],
        )
    for file, why in {
        "two.npz": "holds 2 arrays (arr_0, more)",
        "wide.npy": "not float64; convert it",
        "objects.npy": "no file of NumPy with numbers",
        "none.npy": "no file of NumPy with numbers",
    }.items():
        code, out, err = submitted(file)
        assert (True, "", True) == (code != 0, out, why in err), err


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.array([250000.5], np.float32), "y float32 1: 250000"),
        (np.array(3, np.int64), "y int64 number: 3"),
        (np.arange(9, dtype=np.uint8), "y uint8 9: 0 1 2 3 4 5 6 7 …"),
        (np.array([[[0.5, -1e-9]]], np.float16), "y float16 1x1x2: 0.5 -0"),
        (np.array([np.nan, np.inf], np.float64), "y float64 2: nan inf"),
        (np.array([True, False]), "y bool 2: True False"),
        (np.zeros((2, 2), np.float32), "y float32 2x2"),
        (np.zeros((0,), np.float32), "y float32 0"),
    ],
)
def test_an_output_is_summed_up_with_its_first_numbers(array: NDArray[Any], said: str) -> None:
    data = base64.b64encode(array.tobytes()).decode()

    assert said == summary(Output(name="y", data=data, dtype=array.dtype.name, shape=array.shape))


def test_clients_can_see_that_it_takes_no_images(url: str) -> None:
    with Client(url) as client:
        (said,) = client.served()["sums"]["inputs"]

    assert {"name": "x", "dtype": "float32", "shape": [4, None], "color": "none"} == said


@pytest.mark.parametrize("mode", ["percent = 100", "shadow = true"])
@pytest.mark.parametrize("value", [np.nan, -np.inf])
def test_tensors_that_are_not_finite_do_not_count_against_a_candidate(
    fresh_server: OwnServer, tmp_path: Path, mode: str, value: float
) -> None:
    folder = sums(tmp_path, f"{MANIFEST}[rollout]\nversion = 2\n{mode}\nmin_jobs = 20\n")
    shutil.copytree(folder / "1", folder / "2")
    role = "candidate" if "percent" in mode else "shadow"
    bad = np.full((4, 2), 1, dtype=np.float32)
    bad[3, 1] = value
    good, too_large = np.ones((4, 2), dtype=np.float32), np.full((4, 2), 3e38, dtype=np.float32)
    with (
        RunningService(fresh_server.url, "--models", str(tmp_path), "--only", "sums", workers=1) as service,
        Client(fresh_server.url) as client,
    ):

        def counted() -> list[float]:
            known = service.metrics()["convq_version_jobs_total"]
            outcomes = ("ok", "failed", "differs")
            return [known[(("model", "sums"), ("outcome", outcome), ("role", role))] for outcome in outcomes]

        results = list(client.map([*[bad] * 60, *[good] * 40, too_large]))

        codes = [result.error.code if result.error else "" for result in results]
        assert [*["non_finite"] * 60, *[""] * 40, "non_finite"] == codes
        wait_until(lambda: [40, 1, 0] == counted(), 30)
        assert {2: role} == {n: state for n, state in states(service).items() if n == 2}


def test_inputs_that_fail_under_both_versions_or_pin_the_candidate_do_not_take_it_back(
    fresh_server: OwnServer, tmp_path: Path
) -> None:
    folder = sums(tmp_path, f"{MANIFEST}[rollout]\nversion = 2\npercent = 50\nmin_jobs = 20\n")
    shutil.copytree(folder / "1", folder / "2")
    too_large = np.full((4, 2), 3e38, dtype=np.float32)  # finite, and its sum is not
    with (
        RunningService(fresh_server.url, "--models", str(tmp_path), "--only", "sums", workers=1) as service,
        Client(fresh_server.url) as client,
    ):

        def failed(role: str) -> float:
            known = service.metrics()["convq_version_jobs_total"]
            return known[(("model", "sums"), ("outcome", "failed"), ("role", role))]

        pinned = list(client.map([too_large] * 40, version=2))
        plain = list(client.map([too_large] * 200))

        assert ["non_finite"] * 240 == [one.error.code if one.error else "" for one in pinned + plain]
        wait_until(lambda: 200 == failed("candidate") + failed("serving"), 30)
        assert failed("candidate") >= 40
        with (folder / "manifest.toml").open("a") as manifest:
            manifest.write("# touched\n")
        service.wait_for("the trial of a version begins", 60)  # whoever judges has done so since
        assert "candidate" == states(service)[2]
        assert not [line for line in service.log if "refused" in line["message"]]


def states(service: RunningService) -> dict[int, str]:
    """Version -> state."""
    samples = service.metrics()["convq_model_version_state"]
    return {int(dict(labels)["version"]): dict(labels)["state"] for labels in samples}
