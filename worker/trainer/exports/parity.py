"""Measures on the test split how far each exported form deviates from the trained model."""

from __future__ import annotations

import importlib.util
import os
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from threadpoolctl import threadpool_limits
from torch import Tensor, nn

from shared import inference
from shared.spec.job_spec import JobSpec
from worker.trainer.data.datasets import Data
from worker.trainer.data.normalization import to_pixels
from worker.trainer.evaluate import CHUNK
from worker.trainer.exports.model_files import name_of
from worker.trainer.run import Outcome

PACE = 15e9  # multiplications per second of numpy on one thread
FEWEST_EXAMPLES = 20
FEW_EXAMPLES, FEW_SECONDS = 200, 0.02  # per form: as many of them as this allows are checked in any case
MOST_EXAMPLES, SHARE_OF_TRAINING = 10_000, 0.01  # a longer job checks the whole test split


def measure(folder: Path, spec: JobSpec, data: Data, outcome: Outcome) -> dict[str, Any]:
    """The content of parity.json: for each form the largest difference of a probability, and how many labels differ.

    Loads model.pt into the model.
    """
    model = outcome.state.model
    chosen = sample(len(data.test_labels), multiplications_of(model, data), outcome.state.training_seconds)
    images = data.test_images[chosen.to(data.test_images.device)]
    if spec.precision == "fp32":
        reference = outcome.test.logits[chosen]  # the logits of the job's test accuracy
    else:
        reference = forward(model, images)  # the files hold fp32, so they are compared with fp32
    expected = torch.softmax(reference.float(), 1).numpy()
    pixels = to_pixels(images, data.normalization).numpy()
    return {
        "reference": f"torch on {data.device.type}, fp32",
        "examples": len(chosen),
        "test_examples": len(data.test_labels),
        "forms": {
            "model.safetensors with predict.py": by_numpy(folder, spec, pixels, expected),
            "model.onnx": by_onnxruntime(folder, pixels, expected),
            "model.pt": by_torch(folder, model, images, expected),
        },
    }


def sample(n: int, multiplications: int, training_seconds: float) -> Tensor:
    """Indices of evenly spread test images, of `n`: a few, or as many as a share of the training time allows at
    `multiplications` per image."""
    pace = PACE / max(1, multiplications)  # images per second
    few = min(FEW_EXAMPLES, FEW_SECONDS * pace)
    most = min(MOST_EXAMPLES, SHARE_OF_TRAINING * training_seconds * pace)
    size = min(n, max(FEWEST_EXAMPLES, int(max(few, most))))
    return torch.arange(size) * n // size


def multiplications_of(model: nn.Module, data: Data) -> int:
    """Multiplications per example, approximately: each weight once per position of its output."""
    total = 0

    def add(layer: nn.Module, _: Any, out: Tensor) -> None:
        nonlocal total
        assert isinstance(layer, nn.Linear | nn.Conv2d)
        total += layer.weight.numel() * out[0].numel() // len(layer.weight)

    layers = [layer for layer in model.modules() if isinstance(layer, nn.Linear | nn.Conv2d)]
    hooks = [layer.register_forward_hook(add) for layer in layers]
    forward(model, data.test_images[:1])
    for hook in hooks:
        hook.remove()
    return total


def by_numpy(folder: Path, spec: JobSpec, pixels: inference.Array, expected: inference.Array) -> dict[str, Any]:
    """pixels (N,C,H,W) in [0, 1], expected probabilities (N,K)"""
    if not (folder / "predict.py").exists():
        return unchecked(f"numpy does not compute {name_of(spec)}, so there is no predict.py")
    model = inference.load(folder)
    # Many small products: on a busy machine they take twenty times as long if BLAS's threads wait for each other.
    with nullcontext() if model.operations is None else threadpool_limits(limits=1, user_api="blas"):
        logits = model.logits(pixels)
    return compared(inference.softmax(logits), expected)


def by_onnxruntime(folder: Path, pixels: inference.Array, expected: inference.Array) -> dict[str, Any]:
    """pixels (N,C,H,W) in [0, 1], expected probabilities (N,K)"""
    if not (folder / "model.onnx").exists():
        return unchecked("there is no model.onnx; the job's log says why")
    if importlib.util.find_spec("onnxruntime") is None:
        return unchecked("onnxruntime is not installed where the worker runs")
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")  # read at import; else it writes a file into the home directory
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1  # start no threads
    session = onnxruntime.InferenceSession(folder / "model.onnx", options, providers=["CPUExecutionProvider"])
    parts = [session.run(["probabilities"], {"images": part})[0] for part in chunks(pixels)]
    return compared(np.concatenate(parts), expected)


def by_torch(folder: Path, model: nn.Module, images: Tensor, expected: inference.Array) -> dict[str, Any]:
    """Load model.pt into the model itself, since a second one may not fit on the GPU; a missing tensor is an error."""
    model.load_state_dict(torch.load(folder / "model.pt", weights_only=True), strict=True)
    return compared(torch.softmax(forward(model, images).float(), 1).numpy(), expected)


@torch.no_grad()
def forward(model: nn.Module, images: Tensor) -> Tensor:
    """Logits (N,K) on the CPU, in evaluation mode."""
    model.eval()
    return torch.cat([model(x) for x in images.split(CHUNK)]).cpu()


def compared(probabilities: inference.Array, expected: inference.Array) -> dict[str, Any]:
    difference = np.abs(probabilities - expected).max(initial=0.0)
    labels = int((probabilities.argmax(1) != expected.argmax(1)).sum())
    return {"checked": True, "max_probability_difference": float(difference), "differing_labels": labels}


def unchecked(why: str) -> dict[str, Any]:
    return {"checked": False, "why": why}


def chunks(pixels: inference.Array) -> list[inference.Array]:
    return [pixels[i : i + CHUNK] for i in range(0, len(pixels), CHUNK)]
