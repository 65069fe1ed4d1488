"""The operations of a torchvision model, traced with torch.fx: the list that `predict.py` computes in numpy."""

from __future__ import annotations

import math
import operator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

Operation = dict[str, Any]

EXAMPLES = 2  # batch size of the traced call; a size that is this number in the first axis is N
UNCHANGED = (nn.Identity, nn.Dropout)  # in evaluation mode
PLAIN = (nn.ReLU, nn.Hardswish, nn.Hardsigmoid, nn.SiLU, nn.Sigmoid, nn.GELU)
BINARY = {operator.add: "Add", operator.iadd: "Add", torch.add: "Add", operator.mul: "Mul", torch.mul: "Mul"}


def operations_of(net: nn.Module, shape: tuple[int, ...]) -> list[Operation]:
    """The operations on images (N,C,H,W), where `shape` is (C,H,W). Leaves the network in evaluation mode.

    Each has `op`, `inputs` (indices of earlier values; 0 is the input, i the value of the i-th operation, from 1),
    `weights` (prefix of its tensors in the state dict, or null), `arguments`, and per example the number of values of
    its output (`size`) and its `multiplications`. Raises TypeError for an operation that numpy does not compute.
    """
    return _Tracer(net.eval(), shape).operations


class _Values(fx.Interpreter):
    """Runs the traced graph and keeps each node's value."""

    def __init__(self, traced: fx.GraphModule) -> None:
        super().__init__(traced)
        self.of: dict[fx.Node, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        self.of[n] = super().run_node(n)
        return self.of[n]


class _Tracer:
    def __init__(self, net: nn.Module, shape: tuple[int, ...]) -> None:
        self.operations: list[Operation] = []
        self.place: dict[fx.Node, int] = {}  # index of the value of a node
        self.modules = dict(net.named_modules())
        graph = fx.Tracer().trace(net)
        size = getattr(net, "recipe", {}).get("enlarge")  # done by a hook, which is not traced
        parameter = next(net.parameters())
        images = torch.zeros(EXAMPLES, shape[0], *(size or shape[1:]), device=parameter.device)
        self.values = _Values(fx.GraphModule(net, graph))
        with torch.no_grad():
            self.values.run(images)
        last = self._append("Enlarge", [0], images, height=size[0], width=size[1]) if size else 0
        for node in graph.nodes:
            if node.op == "placeholder":
                self.place[node] = last
            elif node.op != "output" and _is_computed(self._value(node)):
                self.place[node] = self._add(node)

    def _value(self, argument: Any) -> Any:
        """The value of a node, or of a tuple that has nodes."""
        if isinstance(argument, tuple | list):
            return tuple(map(self._value, argument))
        return self.values.of[argument] if isinstance(argument, fx.Node) else argument

    def _append(self, op: str, inputs: list[int], out: Tensor, weights: str | None = None, **arguments: Any) -> int:
        size = math.prod(out.shape[1:])
        found = {"op": op, "inputs": inputs, "weights": weights, "arguments": arguments, "size": size}
        self.operations.append(found | {"multiplications": 0})
        return len(self.operations)

    def _add(self, node: fx.Node) -> int:
        """Append the operation of a node and return the index of its value."""
        if node.op == "call_module":
            return self._add_module(node, self.modules[str(node.target)])
        if node.op == "get_attr":
            return self._append("Parameter", [], self._value(node), weights=str(node.target))
        target: Any = node.target if node.op == "call_function" else getattr(torch.Tensor, str(node.target), None)
        arguments, out = [self._value(argument) for argument in node.args], self._value(node)
        if target in BINARY and all(isinstance(argument, fx.Node) for argument in node.args):
            return self._append(BINARY[target], [self.place[argument] for argument in node.all_input_nodes], out)
        source: Any = node.args[0]
        if target is torch.cat:
            return self._append("Concatenate", [self.place[part] for part in source], out, axis=node.kwargs["dim"])
        if target is F.layer_norm:
            return self._add_layer_norm(node, source)
        inputs = [self.place[source]]
        if getattr(target, "__name__", "") == "stochastic_depth":
            return inputs[0]  # in evaluation mode
        if target in (torch.flatten, Tensor.flatten) and arguments[1:] == [1]:
            return self._append("Flatten", inputs, out)
        if target in (torch.permute, Tensor.permute):
            axes = arguments[1] if isinstance(arguments[1], tuple) else arguments[1:]
            return self._append("Permute", inputs, out, axes=list(axes))
        if target is Tensor.mean:
            return self._add_mean(node, inputs, arguments, out)
        if target is Tensor.reshape and out.shape[0] == EXAMPLES:
            return self._append("Reshape", inputs, out, shape=list(out.shape[1:]))
        if target is Tensor.expand and list(arguments[2:]) == [-1] * (out.ndim - 1):
            return self._append("Repeat", inputs, out)
        if target is operator.getitem and isinstance(arguments[0], tuple) and arguments[1] == 0:
            return inputs[0]  # the first result of MultiheadAttention
        if target is operator.getitem and arguments[1][0] == slice(None) and len(arguments[1]) == 2:
            return self._append("Select", inputs, out, index=int(arguments[1][1]))
        raise TypeError(f"numpy does not compute {node.target}")

    def _add_mean(self, node: fx.Node, inputs: list[int], arguments: list[Any], out: Tensor) -> int:
        if arguments[1:] != [(2, 3)] and arguments[1:] != [[2, 3]]:
            raise TypeError(f"numpy does not compute a mean over {arguments[1:]}")
        return self._append("Mean", inputs, out, keep=bool(node.kwargs.get("keepdim", False)))

    def _add_layer_norm(self, node: fx.Node, source: fx.Node) -> int:
        weight: Any = node.kwargs.get("weight", node.args[2] if len(node.args) > 2 else None)
        eps: Any = node.kwargs.get("eps", node.args[4] if len(node.args) > 4 else 1e-5)
        prefix = str(weight.target).removesuffix(".weight")
        return self._append("LayerNorm", [self.place[source]], self._value(node), weights=prefix, eps=eps)

    def _add_module(self, node: fx.Node, layer: nn.Module) -> int:
        path, out = str(node.target), self._value(node)
        inputs = [self.place[node.args[0]]]  # type: ignore[index]  # a Node
        kind = type(layer).__name__
        multiplications, positions = 0, 0
        match layer:
            case _ if isinstance(layer, UNCHANGED):
                return inputs[0]
            case _ if isinstance(layer, PLAIN):
                place = self._append(kind, inputs, out)
            case nn.Flatten() if layer.start_dim == 1:
                place = self._append("Flatten", inputs, out)
            case nn.Conv2d():
                place = self._append(kind, inputs, out, path, **_convolution(layer))
                multiplications, positions = layer.weight.numel(), math.prod(out.shape[2:])
            case nn.BatchNorm2d():
                place = self._append(kind, inputs, out, path, eps=layer.eps)
            case nn.MaxPool2d() if layer.dilation == 1 and not layer.ceil_mode:
                place = self._append(
                    kind, inputs, out, kernel_size=layer.kernel_size, stride=layer.stride, padding=layer.padding
                )
            case nn.LayerNorm() if len(layer.normalized_shape) == 1:
                place = self._append(kind, inputs, out, path, eps=layer.eps)
            case nn.Linear():
                place = self._append(kind, inputs, out, path)
                multiplications, positions = layer.weight.numel(), math.prod(out.shape[1:-1])
            case nn.MultiheadAttention() if layer.batch_first and len({*map(str, node.args)}) == 1:
                tokens, width = out[0].shape[1:]
                place = self._append(kind, inputs, out[0], path, heads=layer.num_heads)
                multiplications, positions = 4 * width * width + 2 * tokens * width, tokens
            case _:
                raise TypeError(f"numpy does not compute a layer {kind}")
        self.operations[-1]["multiplications"] = multiplications * positions
        return place


def _is_computed(value: Any) -> bool:
    """Whether a value is a tensor, or a tuple that begins with one; all others are sizes, which are constants."""
    return isinstance(value[0] if isinstance(value, tuple) and value else value, Tensor)


def _convolution(layer: nn.Conv2d) -> dict[str, Any]:
    """stride, padding and whether each channel is convolved by itself. Raises TypeError for other convolutions."""
    stride, padding = layer.stride[0], layer.padding[0]
    single = layer.groups == layer.in_channels == layer.out_channels
    square = layer.stride == (stride, stride) and layer.padding == (padding, padding) and layer.dilation == (1, 1)
    if not square or layer.padding_mode != "zeros":
        raise TypeError(f"numpy does not compute {layer}")
    if layer.groups != 1 and not single:
        raise TypeError(f"numpy does not compute {layer}")
    return {"stride": stride, "padding": padding, "depthwise": single and layer.groups > 1}
