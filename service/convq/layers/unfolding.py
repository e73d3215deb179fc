"""How large a graph becomes when every call of a function of its own is replaced by what the function holds.

Needs no package: `proto` is a model as onnx has loaded it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

_MOST_UNFOLDED_NODES, _MOST_UNFOLDED_BYTES = 200_000, 256 << 20
"""Of a graph whose functions are put in the place of their calls; beyond that a call is a row."""


def fits_unfolded(proto: Any) -> bool:
    """Whether the graph stays of a sane size with every call replaced by what the function holds.

    Functions that call others twice double with every step, and 30 steps are a file of a few kilobytes.
    """
    functions = {(one.domain, one.name): one for one in proto.functions}
    sizes: dict[tuple[str, str], tuple[int, int]] = {}
    open_ = [(key, False) for key in functions]
    entered = set()
    while open_:
        key, is_known = open_.pop()
        calls = [call for call in _calls(functions[key].node) if call in functions]
        if is_known:
            if any(call not in sizes for call in calls):
                return False  # it calls itself
            sizes[key] = _unfolded(functions[key], calls, sizes)
        elif key not in entered:
            entered.add(key)
            open_ += [(key, True), *((call, False) for call in calls if call not in entered)]
    nodes, size_bytes = _unfolded(proto.graph, [call for call in _calls(proto.graph.node) if call in functions], sizes)
    return nodes <= _MOST_UNFOLDED_NODES and size_bytes <= _MOST_UNFOLDED_BYTES


def _unfolded(one: Any, calls: Sequence[Any], sizes: Mapping[Any, tuple[int, int]]) -> tuple[int, int]:
    """Nodes and bytes of a graph or function with its calls replaced."""
    nodes, size_bytes = zip((len(one.node), one.ByteSize()), *(sizes[call] for call in calls), strict=True)
    return min(sum(nodes), _MOST_UNFOLDED_NODES + 1), min(sum(size_bytes), _MOST_UNFOLDED_BYTES + 1)


def _calls(nodes: Any) -> Iterator[tuple[str, str]]:
    """Domain and operator of each node, subgraphs included."""
    for node in nodes:
        yield node.domain, node.op_type
        for one in node.attribute:
            for graph in (one.g, *one.graphs):
                yield from _calls(graph.node)
