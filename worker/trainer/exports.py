"""The files of a finished run, written into one folder: model, curve, tables, pictures."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from shared import curves
from shared.spec import JobSpec
from worker.trainer.data import Data, Normalization
from worker.trainer.loop import Outcome

SHOWN_IMAGES, COLUMNS = 40, 10
FORMATS = ("png", "svg")


def write_all(folder: Path, spec: JobSpec, data: Data, outcome: Outcome, result: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    write_model(folder, spec, data, outcome)
    write_curve(folder, spec, outcome.state.history.series())
    write_evaluation(folder, data, outcome.test.logits)
    write_json(folder / "spec.json", spec.to_json())
    write_json(folder / "environment.json", result["environment"])
    if outcome.gradient_check is not None:
        write_json(folder / "gradient_check.json", outcome.gradient_check)


def write_model(folder: Path, spec: JobSpec, data: Data, outcome: Outcome) -> None:
    """Weights as safetensors, and beside them all that it takes to rebuild the net with torch alone."""
    state = outcome.state
    save_file(_plain(state.model.state_dict()), folder / "model.safetensors")
    if state.best.weights:
        save_file(_plain(state.best.weights), folder / "best.safetensors")
    write_json(folder / "model.json", describe(state.model, spec, data))


def describe(model: nn.Module, spec: JobSpec, data: Data) -> dict[str, Any]:
    """`nn.Sequential(*(getattr(nn, l["type"])(**l["arguments"]) for l in layers))` is the net; input as `normalization`
    says: (pixel / white - mean) / std, a channel each."""
    return {
        "format": "gradq-model/1",
        "architecture": spec.architecture.model_dump(mode="json"),
        **_recipe(model),
        "input_shape": list(data.info.shape),
        "classes": list(data.info.classes),
        "normalization": {
            "mean": data.normalization.mean,
            "std": data.normalization.std,
            "white": data.normalization.white,
        },
        "dataset": spec.dataset,
    }


def _recipe(model: nn.Module) -> dict[str, Any]:
    if not isinstance(model, nn.Sequential):
        return {"torchvision": model.recipe}  # worker/trainer/zoo.py says how to follow it
    return {"layers": [{"type": type(layer).__name__, "arguments": _arguments(layer)} for layer in model]}


def _arguments(layer: nn.Module) -> dict[str, Any]:
    if isinstance(layer, nn.Linear):
        return {"in_features": layer.in_features, "out_features": layer.out_features}
    if isinstance(layer, nn.Conv2d):
        size, padding = layer.kernel_size[0], layer.padding[0]
        return {
            "in_channels": layer.in_channels,
            "out_channels": layer.out_channels,
            "kernel_size": size,
            "padding": padding,
        }
    if isinstance(layer, nn.MaxPool2d):
        return {"kernel_size": layer.kernel_size}
    return {}


def write_curve(folder: Path, spec: JobSpec, series: curves.Series) -> None:
    (folder / "metrics.csv").write_text(curves.to_csv(series))
    write_json(folder / "metrics.json", {"object": "metrics", "series": series})
    for format, picture in zip(FORMATS, curves.draw(series, spec.name, FORMATS), strict=True):
        (folder / f"loss_curve.{format}").write_bytes(picture)


def write_evaluation(folder: Path, data: Data, logits: Tensor) -> None:
    """The confusion matrix with precision and recall a class, and a sheet of test images with both labels."""
    from sklearn.metrics import confusion_matrix, precision_recall_fscore_support

    true, predicted = data.test_labels.cpu(), logits.argmax(1)
    classes = list(range(len(data.info.classes)))
    precision, recall, _, support = precision_recall_fscore_support(true, predicted, labels=classes, zero_division=0.0)
    matrix = {
        "classes": list(data.info.classes),
        "rows": "true",
        "columns": "predicted",
        "matrix": confusion_matrix(true, predicted, labels=classes).tolist(),
        "precision": precision.tolist(),
        "recall": recall.tolist(),
        "support": support.tolist(),
    }
    write_json(folder / "confusion_matrix.json", matrix)
    images = data.test_images[:SHOWN_IMAGES].cpu()
    draw_predictions(folder / "predictions.png", images, true, predicted, data)


def draw_predictions(path: Path, images: Tensor, true: Tensor, predicted: Tensor, data: Data) -> None:
    """The first test images, each under `true → predicted`; mistakes in red. One axes: 40 would cost a second."""
    from matplotlib.figure import Figure

    columns, rows = min(COLUMNS, len(images)), -(-len(images) // COLUMNS)
    figure = Figure(figsize=(columns * 0.9 + 0.4, rows * 1.15 + 0.4), dpi=120)
    axes: Any = figure.add_axes((0.02, 0.02, 0.96, 0.98 - 0.4 / (rows * 1.15 + 0.4)))
    axes.set(xlim=(0, columns), ylim=(rows, 0))
    axes.axis("off")
    for i, picture in enumerate(to_pixels(images, data.normalization)):
        row, column = divmod(i, columns)
        place = (column + 0.12, column + 0.88, row + 0.95, row + 0.27)  # left, right, bottom, top
        axes.imshow(picture, cmap="gray_r", vmin=0, vmax=1, extent=place, interpolation="nearest", aspect="auto")
        names = data.info.classes[int(true[i])], data.info.classes[int(predicted[i])]
        colour = "#2a2a2a" if names[0] == names[1] else "#c8102e"
        axes.text(column + 0.5, row + 0.2, " → ".join(names), ha="center", fontsize=9, color=colour)
    axes.set(xlim=(0, columns), ylim=(rows, 0))
    share = (true == predicted).float().mean().item()
    figure.suptitle(f"test images, true → predicted ({share:.2%} right over all {len(true)})", fontsize=10, y=0.985)
    figure.savefig(path)


def to_pixels(images: Tensor, normalization: Normalization) -> Any:
    """Back from normalised (N,C,H,W) to values in [0, 1]: (N,H,W) for one channel, (N,H,W,C) for three."""
    mean, std = (torch.tensor(v).view(1, -1, 1, 1) for v in (normalization.mean, normalization.std))
    pixels = (images * std + mean).clamp(0, 1).permute(0, 2, 3, 1)
    return (pixels.squeeze(-1) if pixels.shape[-1] == 1 else pixels).numpy()


def write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n")


def _plain(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
