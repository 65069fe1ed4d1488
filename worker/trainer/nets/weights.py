"""Loads the final weights of another run as initial weights. Executes no code from the file."""

from __future__ import annotations

from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from shared.errors import TrainingError


def load_weights(model: nn.Module, path: Path) -> None:
    """Fill the model from a safetensors file.

    Raises TrainingError if the file cannot be read, or a tensor is missing, superfluous or of another shape.
    """
    try:
        found = load_file(path)
    except (OSError, SafetensorError) as error:
        raise TrainingError(f"the weights in {path.name} cannot be read: {error}") from error
    wanted = model.state_dict()
    for name, tensor in wanted.items():
        if name not in found:
            raise TrainingError(f"the weights in {path.name} do not fit: {name} is missing")
        if found[name].shape != tensor.shape:
            here, there = list(tensor.shape), list(found[name].shape)
            raise TrainingError(f"the weights in {path.name} do not fit: {name} is {there} there and {here} here")
    if extra := sorted(found.keys() - wanted.keys()):
        raise TrainingError(f"the weights in {path.name} do not fit: this model has no {extra[0]}")
    model.load_state_dict(found)
