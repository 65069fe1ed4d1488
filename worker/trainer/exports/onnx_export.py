"""Exports the model as model.onnx: pixels (N,C,H,W) in [0, 1] to logits and probabilities (N,K), for any N.

Needs the extra `gradq[onnx]` in the worker's environment; without it no file is written, and the job's log says why.
"""

from __future__ import annotations

import copy
import importlib.util
import json
import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from shared.events import Log, Report
from shared.version import VERSION
from worker.trainer.data.datasets import Data
from worker.trainer.data.normalization import Normalization

OPSET, IR_VERSION = 17, 8  # of 2022, read by every current runtime; it has no Gelu, which is written with Erf
MOST_BYTES = 2_000_000_000  # of weights: a protobuf file holds at most 2 GiB
MISSING = "no model.onnx: install gradq[onnx] where the worker runs to get it ({} is missing)"


def write(folder: Path, model: nn.Module, data: Data, report: Report) -> None:
    """Write model.onnx, or log why there is none. Raises OSError if the file cannot be written."""
    is_sequential = isinstance(model, nn.Sequential)
    needed = ("onnx",) if is_sequential else ("onnx", "onnxscript")
    if missing := [name for name in needed if importlib.util.find_spec(name) is None]:
        report(Log(message=MISSING.format(missing[0])))
        return
    if (size := sum(t.nbytes for t in model.state_dict().values())) > MOST_BYTES:
        report(Log(message=f"no model.onnx: weights of {size} bytes do not fit into one file; model.pt holds them"))
        return
    import onnx

    if isinstance(model, nn.Sequential):
        proto = graph_of(model, data)
    else:
        try:
            proto = traced(model, data)
        except Exception as error:  # an exporter's fault does not fail a finished training
            report(Log(message=f"no model.onnx: torch.onnx.export failed: {error}"[:500], level="warning"))
            return
    onnx.helper.set_model_props(proto, properties(data))
    (folder / "model.onnx").write_bytes(proto.SerializeToString())


def properties(data: Data) -> dict[str, str]:
    """The metadata of the file; the model normalizes its input itself."""
    scale = data.normalization
    return {
        "gradq_version": VERSION,
        "classes": json.dumps(list(data.info.classes), ensure_ascii=False),
        "input": "pixels in [0, 1]: a pixel of the dataset divided by its white",
        "white": json.dumps(scale.white),
        "normalization": json.dumps({"mean": scale.mean, "std": scale.std, "inside": True}),
    }


# --- an nn.Sequential: one node per layer -----------------------------------------------------------------------------
# For the smallest model torch.onnx.export takes 1.6 s, or 0.5 s once warm; this takes 1 ms. A short job takes a second.


def graph_of(model: nn.Sequential, data: Data) -> Any:
    """The onnx.ModelProto. Raises TypeError for a layer that has no ONNX form here."""
    from onnx import TensorProto, helper

    graph = _Graph()
    shape = (1, len(data.normalization.mean), 1, 1)
    mean = graph.constant("mean", np.array(data.normalization.mean, np.float32).reshape(shape))
    std = graph.constant("std", np.array(data.normalization.std, np.float32).reshape(shape))
    x = graph.node("Div", graph.node("Sub", "images", mean), std)
    for i, layer in enumerate(model):
        weights = {name: graph.constant(f"{i}.{name}", _numpy(t)) for name, t in layer.state_dict().items()}
        x = _add_layer(graph, layer, weights, x)
    graph.node("Identity", x, out="logits")
    graph.node("Softmax", x, out="probabilities", axis=1)
    size, classes = data.info.shape, len(data.info.classes)
    images = helper.make_tensor_value_info("images", TensorProto.FLOAT, ["N", *size])
    outputs = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", classes]) for name in ("probabilities", "logits")
    ]
    made = helper.make_graph(graph.nodes, "gradq", [images], outputs, initializer=graph.used_constants())
    opset = helper.make_opsetid("", OPSET)
    return helper.make_model(
        made, opset_imports=[opset], ir_version=IR_VERSION, producer_name="gradq", producer_version=VERSION
    )


class _Graph:
    """Nodes in order, each with a uniquely named result."""

    def __init__(self) -> None:
        self.nodes: list[Any] = []
        self.constants: list[Any] = []

    def node(self, kind: str, *inputs: str, out: str | None = None, **attributes: Any) -> str:
        from onnx import helper

        out = out or f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [out], **attributes))
        return out

    def constant(self, name: str, value: np.ndarray[Any, Any]) -> str:
        from onnx import numpy_helper

        self.constants.append(numpy_helper.from_array(value, name))
        return name

    def used_constants(self) -> list[Any]:
        """Those that some node reads: runtimes warn about others, as batch norm's step counts, at every load."""
        used = {name for node in self.nodes for name in node.input}
        return [constant for constant in self.constants if constant.name in used]


def _add_layer(graph: _Graph, layer: nn.Module, weights: dict[str, str], x: str) -> str:
    match layer:
        case nn.Linear():
            return graph.node("Gemm", x, weights["weight"], weights["bias"], transB=1)
        case nn.Conv2d():
            edge = int(layer.padding[0])
            return graph.node("Conv", x, weights["weight"], weights["bias"], pads=[edge] * 4)
        case nn.BatchNorm1d() | nn.BatchNorm2d():
            parts = (weights[name] for name in ("weight", "bias", "running_mean", "running_var"))
            return graph.node("BatchNormalization", x, *parts, epsilon=layer.eps)
        case nn.MaxPool2d():
            size = [layer.kernel_size] * 2
            return graph.node("MaxPool", x, kernel_shape=size, strides=size)
        case nn.Flatten():
            return graph.node("Flatten", x, axis=1)
        case nn.ReLU():
            return graph.node("Relu", x)
        case nn.Tanh():
            return graph.node("Tanh", x)
        case nn.Sigmoid():
            return graph.node("Sigmoid", x)
        case nn.GELU():  # x (1 + erf(x / √2)) / 2
            one, half, root = (
                graph.constant(f"{name}_{len(graph.nodes)}", np.array(value, np.float32))
                for name, value in (("one", 1.0), ("half", 0.5), ("root", math.sqrt(0.5)))
            )
            factor = graph.node("Add", graph.node("Erf", graph.node("Mul", x, root)), one)
            return graph.node("Mul", graph.node("Mul", x, factor), half)
        case nn.Dropout():
            return x  # the identity in evaluation
    raise TypeError(f"a layer {type(layer).__name__} has no ONNX form yet")


def _numpy(tensor: Tensor) -> np.ndarray[Any, Any]:
    return tensor.detach().cpu().contiguous().numpy()


# --- any other model: PyTorch's exporter ------------------------------------------------------------------------------


class FromPixels(nn.Module):
    """The model with normalization before it and softmax after it."""

    def __init__(self, model: nn.Module, normalization: Normalization) -> None:
        super().__init__()
        self.model = model
        self.mean: Tensor
        self.std: Tensor
        self.register_buffer("mean", torch.tensor(normalization.mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(normalization.std).view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        logits = self.model((images - self.mean) / self.std)
        return torch.softmax(logits, 1), logits


def traced(model: nn.Module, data: Data) -> Any:
    """The onnx.ModelProto made by torch.onnx.export, which may raise any exception."""
    whole = FromPixels(copy.deepcopy(model).cpu().float(), data.normalization).eval()
    example = torch.zeros(2, *data.info.shape)  # for a batch of 1 the exporter would make N a constant
    with warnings.catch_warnings(action="ignore"):  # PyTorch's, about its own code
        program = torch.onnx.export(
            whole,
            (example,),
            dynamo=True,
            external_data=False,
            verbose=False,
            input_names=["images"],
            output_names=["probabilities", "logits"],
            dynamic_shapes={"images": {0: torch.export.Dim("N")}},
        )
    assert program is not None
    return program.model_proto
