"""What the operators of a graph say of its answers: whether it draws random numbers, and whether jobs share numbers in a batch.

No run on samples can prove either: a graph may draw seldom, or let a job change others only where its values are large. Read
from the protocol buffer alone, in time linear in its fields; the numbers of fields are those of `onnx.proto3`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from convq.printable import brief
from convq.repository.wire import fields

# Numbers of fields in ModelProto, GraphProto, FunctionProto, NodeProto, AttributeProto and TensorProto.
_GRAPH, _FUNCTION = 7, 25
_GRAPH_NODE, _GRAPH_INITIALIZER = 1, 5
_FUNCTION_NAME, _FUNCTION_NODE, _FUNCTION_DOMAIN = 1, 7, 10
_INPUT, _OUTPUT, _OP_TYPE, _ATTRIBUTE, _DOMAIN = 1, 2, 4, 5, 7
_ATTRIBUTE_NAME, _ATTRIBUTE_I, _ATTRIBUTE_T, _ATTRIBUTE_G, _ATTRIBUTE_GRAPHS = 1, 3, 5, 6, 11
_INT32_DATA, _TENSOR_NAME, _RAW_DATA, _DATA_LOCATION = 5, 8, 9, 14

_MICROSOFT = "com.microsoft"
_Operator = tuple[str, str]
"""Domain and type; the ONNX operators are the domain ""."""

RANDOM: frozenset[_Operator] = frozenset(
    [
        *(("", f"Random{kind}{like}") for kind in ("Normal", "Uniform") for like in ("", "Like")),
        ("", "Bernoulli"),
        ("", "Multinomial"),
        (_MICROSOFT, "Sampling"),
    ]
)
"""Draw anew at each run, with a seed too: it is where the first run begins."""
DROPOUT: Mapping[_Operator, int] = {
    ("", "Dropout"): 2,
    (_MICROSOFT, "BitmaskDropout"): 2,
    (_MICROSOFT, "BiasDropout"): 4,
    (_MICROSOFT, "BitmaskBiasDropout"): 4,
}
"""Draw where this input, `training_mode`, is true."""
SHARED: frozenset[_Operator] = frozenset(
    [
        ("", "DynamicQuantizeLinear"),
        (_MICROSOFT, "DynamicQuantizeMatMul"),
        (_MICROSOFT, "DynamicQuantizeLSTM"),
    ]
)
"""Find one scale for all numbers of a batch: a job with large ones leaves few levels to the others."""
_IN_TRAINING = ("", "BatchNormalization")
"""Takes mean and deviation of the batch where its attribute `training_mode` is 1."""
_PASSED_ON = {("", "Identity"), ("", "Cast")}
_MOST_SCOPES = 64
"""Of graphs inside each other, in which a constant is looked for."""


@dataclass(frozen=True, slots=True)
class Operators:
    """What was found, each kind once."""

    random: tuple[str, ...] = ()
    """Those that draw random numbers."""
    shared: tuple[str, ...] = ()
    """Those that compute with all jobs of a batch at once."""

    def random_fault(self) -> str:
        """Why such a graph is not served, in words that go on after its name; empty where it is."""
        if not self.random:
            return ""
        return (
            f"draws random numbers ({', '.join(self.random)}), so that an answer is not the same for the same input twice; "
            "export it for inference (in PyTorch after net.eval())"
        )

    def shared_fault(self) -> str:
        """Why its jobs may not share a batch, as above."""
        if not self.shared:
            return ""
        return f"{', '.join(self.shared)} computes with all jobs of a batch, so that one changes the answers of others"


def operators_of(model: bytes) -> Operators:
    """What the operators of an ONNX file say, those in subgraphs and in functions that are called included.

    Raises ValueError for what is no ONNX file.
    """
    graphs: list[memoryview] = []
    functions: dict[_Operator, list[memoryview]] = {}
    for part in fields(model):
        if isinstance(part.value, memoryview):
            if part.number == _GRAPH:
                graphs.append(part.value)
            elif part.number == _FUNCTION:
                functions.setdefault(_name_of_function(part.value), []).append(part.value)
    random: dict[str, None] = {}
    shared: dict[str, None] = {}
    waiting = [_Scope(graph, _GRAPH_NODE) for graph in graphs]
    while waiting:
        for node in waiting.pop().nodes():
            waiting += node.subgraphs
            if node.operator in functions:
                waiting += [_Scope(body, _FUNCTION_NODE) for body in functions[node.operator]]
                functions[node.operator] = []  # a body is looked at once
            elif node.draws():
                random[brief(node.called())] = None
            elif node.shares():
                shared[brief(node.called())] = None
    return Operators(tuple(random), tuple(shared))


@dataclass(slots=True)
class _Scope:
    """A graph, a subgraph or the body of a function: its nodes, and what is known of names in it."""

    message: memoryview
    node_field: int
    outer: _Scope | None = None
    _constants: dict[bytes, memoryview] | None = None
    _passed_on: dict[bytes, bytes] = field(default_factory=dict)

    def nodes(self) -> Iterator[_Node]:
        for part in fields(self.message):
            if part.number == self.node_field and isinstance(part.value, memoryview):
                yield _Node.read(part.value, self)

    def truth(self, name: bytes) -> bool | None:
        """Whether a name is a constant that is true; None where that cannot be read."""
        scope: _Scope | None = self
        for _ in range(_MOST_SCOPES):
            if scope is None:
                break
            constants = scope._read()  # noqa: SLF001 - another one of its own kind
            for _again in range(_MOST_SCOPES):
                if name in constants:
                    return _truth(constants[name])
                if name not in scope._passed_on:  # noqa: SLF001
                    break
                name = scope._passed_on[name]  # noqa: SLF001
            scope = scope.outer
        return None

    def _read(self) -> dict[bytes, memoryview]:
        """The constants by name, read when the first is asked for."""
        if self._constants is None:
            self._constants = {}
            for part in fields(self.message):
                if not isinstance(part.value, memoryview):
                    continue
                if part.number == _GRAPH_INITIALIZER and self.node_field == _GRAPH_NODE:
                    self._constants[_text_of(part.value, _TENSOR_NAME)] = part.value
                elif part.number == self.node_field:
                    self._keep(_Node.read(part.value, self))
        return self._constants

    def _keep(self, node: _Node) -> None:
        if node.operator in _PASSED_ON and node.inputs and node.outputs:
            self._passed_on[node.outputs[0]] = node.inputs[0]
        elif node.operator == ("", "Constant") and node.outputs and self._constants is not None:
            for attribute in node.attributes:
                tensor = [part.value for part in fields(attribute) if part.number == _ATTRIBUTE_T]
                if tensor and isinstance(tensor[-1], memoryview):
                    self._constants[node.outputs[0]] = tensor[-1]


@dataclass(frozen=True, slots=True)
class _Node:
    scope: _Scope
    operator: _Operator
    inputs: list[bytes]
    outputs: list[bytes]
    attributes: list[memoryview]

    @classmethod
    def read(cls, message: memoryview, scope: _Scope) -> _Node:
        found: dict[int, list[memoryview]] = {_INPUT: [], _OUTPUT: [], _OP_TYPE: [], _ATTRIBUTE: [], _DOMAIN: []}
        for part in fields(message):
            if part.number in found and isinstance(part.value, memoryview):
                found[part.number].append(part.value)
        domain, kind = (_last_text(found[number]) for number in (_DOMAIN, _OP_TYPE))
        inputs, outputs = ([bytes(name) for name in found[number]] for number in (_INPUT, _OUTPUT))
        return cls(scope, _operator(domain, kind), inputs, outputs, found[_ATTRIBUTE])

    @property
    def subgraphs(self) -> Iterator[_Scope]:
        for attribute in self.attributes:
            for part in fields(attribute):
                if part.number in (_ATTRIBUTE_G, _ATTRIBUTE_GRAPHS) and isinstance(part.value, memoryview):
                    yield _Scope(part.value, _GRAPH_NODE, self.scope)

    def draws(self) -> bool:
        if self.operator in RANDOM:
            return True
        place = DROPOUT.get(self.operator)
        return place is not None and len(self.inputs) > place and self.scope.truth(self.inputs[place]) is True

    def shares(self) -> bool:
        return self.operator in SHARED or (self.operator == _IN_TRAINING and self._says("training_mode"))

    def called(self) -> str:
        in_training = self.operator in DROPOUT or self.operator == _IN_TRAINING
        return self.operator[1] + (" in training mode" if in_training else "")

    def _says(self, name: str) -> bool:
        """Whether it has an attribute of that name that is a number, and not 0."""
        for attribute in self.attributes:
            parts = {part.number: part.value for part in fields(attribute)}
            if _last_text([parts.get(_ATTRIBUTE_NAME)]) == name:
                return bool(isinstance(parts.get(_ATTRIBUTE_I), int) and parts[_ATTRIBUTE_I])
        return False


def _name_of_function(message: memoryview) -> _Operator:
    parts = {part.number: part.value for part in fields(message)}
    return _operator(_last_text([parts.get(_FUNCTION_DOMAIN)]), _last_text([parts.get(_FUNCTION_NAME)]))


def _operator(domain: str, kind: str) -> _Operator:
    return "" if domain == "ai.onnx" else domain, kind


def _truth(tensor: memoryview) -> bool | None:
    """Whether a tensor of one truth value is true: any byte of it, or any number."""
    parts = {part.number: part.value for part in fields(tensor)}
    if parts.get(_DATA_LOCATION):
        return None
    value = parts.get(_RAW_DATA, parts.get(_INT32_DATA))
    if value is None:
        return None
    return bool(value) if isinstance(value, int) else any(value)


def _text_of(message: memoryview, number: int) -> bytes:
    found = [part.value for part in fields(message) if part.number == number]
    return bytes(found[-1]) if found and isinstance(found[-1], memoryview) else b""


def _last_text(found: list[memoryview] | list[int | memoryview | None]) -> str:
    value = found[-1] if found else None
    return bytes(value).decode("utf-8", "replace") if isinstance(value, memoryview) else ""
