"""The ONNX project's own cases for convolution, sent through the service as tensors: every answer is the expected one."""

from __future__ import annotations

import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from convq.protocol import Result
from e2e.odd_models import Desk, Fields, Odd
from servers import OwnServer
from services import RunningService

onnx = pytest.importorskip("onnx")

WITHIN = 1e-4
FEWEST_CASES = 30
BATCH = "batch"
CONVERTED = Path(onnx.__file__).parent / "backend" / "test" / "data" / "pytorch-converted"
FOLDERS = sorted(folder.name for folder in CONVERTED.glob("test_Conv[123]d*"))
NODE_CASES = {
    "test_basic_conv_with_padding",
    "test_basic_conv_without_padding",
    "test_conv_with_autopad_same",
    "test_conv_with_strides_and_asymmetric_padding",
    "test_conv_with_strides_no_padding",
    "test_conv_with_strides_padding",
}
"""Those that onnx has had for years; there may be more."""

Array = NDArray[Any]


@dataclass(frozen=True)
class Case:
    """One case: a network that takes one input, samples for it, and what each of them must give."""

    name: str
    graph: bytes
    samples: Array
    """[n, …]: one job each."""
    expected: Array
    """[n, …]"""
    rtol: float
    atol: float

    @property
    def model(self) -> str:
        return self.name.lower()

    def jobs(self) -> list[tuple[str, Fields]]:
        shape = ",".join(map(str, self.samples.shape[1:]))
        return [
            (self.model, {"tensor": sample.astype("<f4").tobytes(), "dtype": "float32", "shape": shape})
            for sample in self.samples
        ]


def case_of(name: str, model: Any, inputs: list[Array], outputs: list[Array], rtol: float, atol: float) -> Case:
    """A case as convq can serve it: weights that it feeds become initializers, its batch axis becomes free."""
    graph = onnx.ModelProto()
    graph.CopyFrom(model)
    held = {tensor.name for tensor in graph.graph.initializer}
    fed = [value for value in graph.graph.input if value.name not in held]
    for value, weights in zip(fed[1:], inputs[1:], strict=True):
        graph.graph.initializer.append(onnx.numpy_helper.from_array(weights, value.name))
        graph.graph.input.remove(value)
    for value in (fed[0], graph.graph.output[0]):
        value.type.tensor_type.shape.dim[0].dim_param = BATCH
    return Case(name, graph.SerializeToString(), inputs[0], outputs[0], rtol, atol)


def node_cases() -> list[Case]:
    """Those of the operator's own documentation."""
    from onnx.backend.test.case import node  # noqa: PLC0415 - only after importorskip

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # generating the cases of other operators divides by zero
        found = node.collect_testcases("Conv")
    cases = []
    for one in found:
        for inputs, outputs in one.data_sets:
            cases.append(case_of(one.name, one.model, list(inputs), list(outputs), one.rtol, one.atol))
    return cases


def pytorch_cases() -> list[Case]:
    """Those that were exported from PyTorch's own tests: one, two and three dimensions."""
    cases = []
    for folder in (CONVERTED / name for name in FOLDERS):
        model = onnx.load(folder / "model.onnx")
        for data in sorted(folder.glob("test_data_set_*")):
            inputs, outputs = (
                [array_of(file) for file in sorted(data.glob(f"{kind}_*.pb"), key=number_of)]
                for kind in ("input", "output")
            )
            cases.append(case_of(f"{folder.name}-{data.name[-1]}", model, inputs, outputs, 1e-3, 1e-7))
    return cases


def array_of(file: Path) -> Array:
    tensor = onnx.TensorProto()
    tensor.ParseFromString(file.read_bytes())
    return np.asarray(onnx.numpy_helper.to_array(tensor))


def number_of(file: Path) -> int:
    return int(file.stem.rpartition("_")[2])


@pytest.fixture(scope="module")
def cases() -> dict[str, Case]:
    """Every case by its name."""
    return {case.name: case for case in [*node_cases(), *pytorch_cases()]}


@pytest.fixture(scope="module")
def answers(cases: dict[str, Case], tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Result]]:
    """The results of every case, all of them submitted together to one service."""
    repository = tmp_path_factory.mktemp("conv")
    for case in cases.values():
        Odd(case.model, case.graph, "[input]\ncolor = 'none'\n").write(repository)
    only = ",".join(case.model for case in cases.values())
    with OwnServer(tmp_path_factory.mktemp("server")) as server:
        with RunningService(server.url, "--models", str(repository), "--only", only, workers=1):
            with Desk(server.url) as desk:
                results = desk.ask([job for case in cases.values() for job in case.jobs()])
                return {name: [next(results) for _ in case.samples] for name, case in cases.items()}


def check(case: Case, results: list[Result]) -> None:
    """Every sample got its row of what the case expects."""
    rows = []
    for result in results:
        assert result.ok, f"{case.name}: {result.explain()}"
        (output,) = result.outputs or ()
        rows.append(output.array())
    made = np.stack(rows)
    assert np.dtype(np.float32) == made.dtype
    np.testing.assert_allclose(made, case.expected, rtol=case.rtol, atol=WITHIN, err_msg=case.name)
    assert np.abs(made - case.expected).max() <= WITHIN, case.name


def test_the_onnx_package_brings_cases_of_one_two_and_three_dimensions(cases: dict[str, Case]) -> None:
    ranks = {case.samples.ndim for case in cases.values()}

    assert FEWEST_CASES <= len(cases)
    assert {3, 4, 5} == ranks


@pytest.mark.parametrize("name", FOLDERS)
def test_a_case_exported_from_pytorch_is_answered_as_expected(
    cases: dict[str, Case], answers: dict[str, list[Result]], name: str
) -> None:
    of_folder = [case for case in cases.values() if case.name.startswith(f"{name}-")]

    assert of_folder
    for case in of_folder:
        check(case, answers[case.name])


def test_the_cases_of_the_operators_documentation_are_answered_as_expected(
    cases: dict[str, Case], answers: dict[str, list[Result]], capsys: pytest.CaptureFixture[str]
) -> None:
    documented = [case for case in cases.values() if "-" not in case.name]

    assert NODE_CASES <= {case.name for case in documented}
    for case in documented:
        check(case, answers[case.name])
    passed = sum(all(result.ok for result in results) for results in answers.values())
    with capsys.disabled():
        print(f"\n{passed} Conv cases passed through the service")
    assert len(cases) == passed
