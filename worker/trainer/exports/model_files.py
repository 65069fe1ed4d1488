"""The model as files: weights for numpy and for torch, and a description from which it can be rebuilt."""

from __future__ import annotations

import json
import shutil
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, fx, nn

from shared import inference
from shared.events import Log, Report
from shared.spec.job_spec import JobSpec
from worker.trainer.data.datasets import Data
from worker.trainer.exports.operations import operations_of
from worker.trainer.step.state import State

DESCRIBED = (nn.Linear, nn.Conv2d, nn.BatchNorm1d, nn.BatchNorm2d, nn.MaxPool2d, nn.Flatten, nn.Dropout)
ACTIVATIONS = (nn.ReLU, nn.Tanh, nn.Sigmoid, nn.GELU)


def write(folder: Path, spec: JobSpec, data: Data, state: State, report: Report) -> None:
    """Write {model,best}.safetensors, model.pt, model.json and, if numpy computes the model, predict.py."""
    weights = plain(state.model.state_dict())
    save_file(weights, folder / "model.safetensors")
    with (folder / "model.pt").open("wb") as file:  # given a path, torch reports a full disk as "unexpected pos"
        torch.save(weights, file)
    if state.best.weights:
        save_file(plain(state.best.weights), folder / "best.safetensors")
    description = describe(state.model, spec, data)
    (folder / "model.json").write_text(json.dumps(description, indent=2, allow_nan=False) + "\n")
    if description["layers"] is None and description["operations"] is None:
        report(Log(message=f"no predict.py: numpy does not compute {name_of(spec)}; model.onnx holds the whole model"))
    else:
        shutil.copyfile(inference.__file__, folder / "predict.py")


def describe(model: nn.Module, spec: JobSpec, data: Data) -> dict[str, Any]:
    """The content of model.json.

    `nn.Sequential(*(getattr(nn, l["type"])(**l["arguments"]) for l in layers))` is the model. Its input is
    (pixel / white - mean) / std per channel, with the values in `normalization`. `layers` is null for a model that is
    not an nn.Sequential; `torchvision` is then the recipe by which torchvision's model was adapted to the data, and
    `operations` the list from which numpy computes it, or null if it cannot.
    """
    layers, operations = None, None
    if isinstance(model, nn.Sequential):
        layers = [{"type": kind(layer).__name__, "arguments": _arguments(layer)} for layer in model]
    else:
        with suppress(TypeError, fx.proxy.TraceError):
            operations = operations_of(model, data.info.shape)
    return {
        "format": "gradq-model/1",
        "architecture": spec.architecture.model_dump(mode="json"),
        "layers": layers,
        "torchvision": getattr(model, "recipe", None),  # worker/trainer/nets/torchvision_nets.py describes it
        "operations": operations,  # worker/trainer/exports/operations.py describes it
        "input_shape": list(data.info.shape),
        "classes": list(data.info.classes),
        "normalization": {
            "mean": data.normalization.mean,
            "std": data.normalization.std,
            "white": data.normalization.white,
        },
        "dataset": spec.dataset,
    }


def kind(layer: nn.Module) -> type[nn.Module]:
    """The class of torch.nn that a layer is an instance of. Raises TypeError for one that has no description."""
    for known in (*DESCRIBED, *ACTIVATIONS):
        if isinstance(layer, known):
            return known
    raise TypeError(f"a layer {type(layer).__name__} has no description yet")


def _arguments(layer: nn.Module) -> dict[str, Any]:
    match layer:
        case nn.Linear():
            return {"in_features": layer.in_features, "out_features": layer.out_features}
        case nn.Conv2d():
            return {
                "in_channels": layer.in_channels,
                "out_channels": layer.out_channels,
                "kernel_size": layer.kernel_size[0],
                "padding": layer.padding[0],
            }
        case nn.BatchNorm1d() | nn.BatchNorm2d():
            return {"num_features": layer.num_features, "eps": layer.eps}
        case nn.MaxPool2d():
            return {"kernel_size": layer.kernel_size}
        case nn.Dropout():
            return {"p": layer.p}
    return {}


def name_of(spec: JobSpec) -> str:
    """`mlp`, or the name of a model of torchvision."""
    return str(getattr(spec.architecture, "name", spec.architecture.type))


def plain(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous tensors on the CPU. Tensors that share memory are copied, since safetensors does not store them."""
    seen: set[int] = set()
    found = {}
    for name, tensor in weights.items():
        tensor = tensor.detach().cpu().contiguous()
        found[name] = tensor.clone() if tensor.data_ptr() in seen else tensor
        seen.add(tensor.data_ptr())
    return found
