"""From a PyTorch network to the bytes of an ONNX file, for pixels or numbers, with or without its inner maps."""

from __future__ import annotations

import io
import logging
import re
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from typing import Any

import onnx
import torch
from torch import nn

from convq.errors import ExportRefused
from convq.exporter.networks import nearest
from convq.repository.manifest import Input

OPSET = 20  # read by every onnxruntime from 1.17 on; nothing here needs a newer one
FREE_PX = 224  # about the sides of the example for a free height and width


class FromPixels(nn.Module):
    """A network that takes pixels as they are, uint8 0 to 255, and normalises them itself.

    `mean` and `std` are the network's own, for pixels from 0 to 1: a number, or one for each channel.
    """

    def __init__(self, net: nn.Module, layout: str) -> None:
        super().__init__()
        self.net = net
        # (x / 255 - mean) / std as one multiplication and one addition, which is what a graph does fastest.
        mean, std = _numbers(net.mean), _numbers(net.std)
        if 1 == len(mean) == len(std):
            self.factor: Any = 1.0 / (255.0 * std[0])
            self.offset: Any = -mean[0] / std[0]
        else:
            shape = (-1, 1, 1) if layout == "NCHW" else (-1,)
            means, stds = torch.tensor(mean, dtype=torch.float64), torch.tensor(std, dtype=torch.float64)
            self.register_buffer("factor", (1.0 / (255.0 * stds)).float().reshape(shape))
            self.register_buffer("offset", (-means / stds).float().reshape(shape))

    def forward(self, image: torch.Tensor) -> Any:
        """The network's own outputs for uint8 images."""
        return self.net(image.to(torch.float32) * self.factor + self.offset)


class WithFeatureMaps(nn.Module):
    """A network whose outputs are followed by what the modules `names` inside `net` gave on the way."""

    def __init__(self, served: nn.Module, net: nn.Module, names: Sequence[str]) -> None:
        super().__init__()
        self.served = served
        known = dict(net.named_modules())
        for name in names:
            if not name or name not in known:
                raise ExportRefused(
                    f"feature map '{name}': the network has no such module; {nearest(name, filter(None, known))}"
                )
        self.watched = {name: known[name] for name in names}

    def forward(self, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The outputs, then the maps in the order of their names. Raises ExportRefused where a module gives not one map."""
        seen: dict[str, Any] = {}
        hooks = [module.register_forward_hook(_keeper(seen, name)) for name, module in self.watched.items()]
        try:
            outputs = tensors(self.served(image))
        finally:
            for hook in hooks:
                hook.remove()
        for name in self.watched:
            if not isinstance(seen.get(name), torch.Tensor):
                raise ExportRefused(f"feature map '{name}': the module gave no tensor, or did not run")
        return (*outputs.values(), *(seen[name] for name in self.watched))


def takes(net: nn.Module, spec: Input) -> nn.Module:
    """The network as it is served: with its normalisation in front where it takes uint8 and has `mean` and `std`.

    One without them must take uint8 by itself. Raises ExportRefused where it has only one of the two, and where the model
    takes no images.
    """
    if spec.color == "none":
        raise ExportRefused(
            "color is none in the manifest; expected images (an ONNX file of any kind: `convq models add`)"
        )
    has = [name for name in ("mean", "std") if hasattr(net, name)]
    if spec.dtype != "uint8" or not has:
        return net
    if len(has) == 1:
        raise ExportRefused(
            f"the network has a {has[0]}; expected mean and std, both or none, as the graph takes uint8"
        )
    for name in has:
        if len(_numbers(getattr(net, name))) not in {1, spec.channels}:
            raise ExportRefused(
                f"the network's {name} has {len(_numbers(getattr(net, name)))} values; expected 1 or {spec.channels}"
            )
    return FromPixels(net, spec.layout).eval()


def example_shape(spec: Input, images: int, step: int = 0) -> tuple[int, ...]:
    """[N, C, H, W] or [N, H, W, C] of a batch; free sides are about 224, differ, and shrink with each `step`."""
    sides = []
    for index, side in enumerate((spec.height, spec.width)):
        free = (FREE_PX + 32 * index) * (4 - step % 4) // (4 * spec.multiple_of)
        sides.append(side or max(1, free) * spec.multiple_of)
    if spec.layout == "NCHW":
        return images, spec.channels, *sides
    return images, *sides, spec.channels


def to_onnx(net: nn.Module, spec: Input, outputs: Sequence[str]) -> bytes:
    """The ONNX file for batches of any number of images, of any size where `spec` leaves sides free. Raises ExportRefused."""
    example = torch.zeros(example_shape(spec, 2), dtype=torch.uint8 if spec.dtype == "uint8" else torch.float32)
    axes: dict[int, Any] = {0: "batch"}
    first = 2 if spec.layout == "NCHW" else 1
    for axis, (name, side) in enumerate((("height", spec.height), ("width", spec.width)), first):
        if side is None:
            axes[axis] = _free(name, spec.multiple_of)
    return trace(net, example, axes, spec.name or "image", outputs)


def trace(net: nn.Module, example: torch.Tensor, axes: Mapping[int, Any], name: str, outputs: Sequence[str]) -> bytes:
    """The ONNX file of a network with one input, in one piece, with nothing in it about this machine.

    `axes` are those that stay free, with their names. Raises ExportRefused, with the first line of PyTorch's reason.
    """
    try:
        with _quiet():
            program = torch.onnx.export(
                net,
                (example,),
                dynamo=True,
                dynamic_shapes=(dict(axes),),
                input_names=[name],
                output_names=list(outputs),
                opset_version=OPSET,
                verbose=False,
            )
            proto = program.model_proto
            onnx.checker.check_model(proto, full_check=True)
            strip(proto)
            return bytes(proto.SerializeToString())
    except ExportRefused:
        raise
    except Exception as err:
        # Tracing runs the user's code in PyTorch's machinery: there is no base class for what may come out.
        raise ExportRefused(
            f"PyTorch cannot export it with a free {', '.join(map(str, axes.values()))}: {reason(err)}"
        ) from err


def strip(proto: onnx.ModelProto) -> None:
    """Remove doc strings and metadata: the exporter stores stack traces there, with the paths of this machine."""
    graph = proto.graph
    parts = [proto, graph, *graph.node, *graph.input, *graph.output, *graph.value_info, *graph.initializer]
    parts += [*proto.functions, *(node for function in proto.functions for node in function.node)]
    for part in parts:
        part.ClearField("doc_string")
        if hasattr(part, "metadata_props"):
            part.ClearField("metadata_props")


def tensors(outputs: Any) -> dict[str, torch.Tensor]:
    """What a network returned, by name: one tensor is `output`, several are `output_0`, …, a dict has its own names.

    Raises ExportRefused for anything else.
    """
    if isinstance(outputs, torch.Tensor):
        return {"output": outputs}
    named = outputs if isinstance(outputs, Mapping) else {f"output_{i}": one for i, one in enumerate(_several(outputs))}
    odd = [name for name, one in named.items() if not isinstance(one, torch.Tensor)]
    if odd or not named:
        raise ExportRefused(
            f"the network returns {_kinds(outputs)}; expected a tensor, several of them, or a dict of them"
        )
    return dict(named)


def reason(err: BaseException) -> str:
    """The first line of the error that began it all, without colours: PyTorch wraps it in pages of advice."""
    while err.__cause__ is not None:
        err = err.__cause__
    line = next((line for line in str(err).splitlines() if line.strip()), type(err).__name__)
    return re.sub(r"\x1b\[[0-9;]*m", "", line).strip()


def _free(name: str, multiple_of: int) -> Any:
    """A free axis. By its name alone PyTorch finds out which lengths the network can take."""
    return name if multiple_of == 1 else multiple_of * torch.export.Dim(f"{name}_of_{multiple_of}", min=1)


def _numbers(value: Any) -> list[float]:
    return [float(one) for one in torch.as_tensor(value, dtype=torch.float64).flatten()]


def _several(outputs: Any) -> list[Any]:
    return list(outputs) if isinstance(outputs, tuple | list) else [outputs]


def _kinds(outputs: Any) -> str:
    return ", ".join(type(one).__name__ for one in _several(outputs)) or "nothing"


def _keeper(seen: dict[str, Any], name: str) -> Callable[..., None]:
    def keep(_module: nn.Module, _given: Any, made: Any) -> None:
        if name in seen:
            raise ExportRefused(f"feature map '{name}': the module runs more than once; expected one map for one image")
        seen[name] = made

    return keep


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the exporter's notes, warnings and dumps of what it was doing: what matters in them is raised."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        with warnings.catch_warnings(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
