"""A walk: one batch through a linear or two-layer network and back, each stage with its formula and its values.

A job that does not train. It writes `walk.json` for people and for the page Learn: the shape of each stage, its values
computed by hand and by autograd, and their difference. The file is small for any network: of a large matrix it has a
corner and four figures. All in float64. docs/gradients.md has the derivations.
"""

from __future__ import annotations

import base64
import io
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor, nn

from shared.errors import Diverged
from shared.events import Log, Progress, Report
from shared.pictures import sheets
from shared.pictures.drawing import Array
from shared.spec.job_spec import WalkSpec
from worker.folder_cache import FolderCache
from worker.trainer import device, seeds
from worker.trainer.data import datasets
from worker.trainer.data.datasets import Data
from worker.trainer.data.normalization import to_pixels
from worker.trainer.exports import pictures
from worker.trainer.gradients.gradient_check import TOLERANCE
from worker.trainer.gradients.gradient_errors import SMALLEST_SCALE
from worker.trainer.nets.architectures import build_model, count_parameters, initialize
from worker.trainer.nets.losses import build_loss
from worker.trainer.nets.weights import load_weights
from worker.trainer.run import Run
from worker.trainer.walk.formulas import formulas_of
from worker.trainer.walk.stages import AXES, Tensors, by_autograd, by_hand, weights
from worker.trainer.walk.view import Batch, Numbers, Stage, Tiles, Walk

CORNER = 10  # rows and columns of a matrix that are written out
TILES = 16  # rows that are shown as images
LARGEST_IMAGE = 64  # dots per side; larger images are reduced


def run_walk(
    spec: WalkSpec,
    run: Run,
    report: Report,
    *,
    data_dir: Path,
    download: bool,
    threads: int,
    uploaded: Path | None = None,
    cache: FolderCache | None = None,
) -> dict[str, Any]:
    """Write `walk.json` and return the result.

    `uploaded`: the folder of a dataset that is not built in; `cache`: this host's. Raises StopRequested if a stop is
    requested before the forward pass, Diverged if a stage is not finite, DataError, or TrainingError if
    `run.init_from` does not fit.
    """
    where = device.choose(spec.device)
    device.set_up(spec.seed, where, threads)
    prepared = datasets.prepare(spec, data_dir, download, where, uploaded, check_stop=run.check_stop, cache=cache)
    model = build_model(spec.architecture, prepared.info.shape, len(prepared.info.classes))
    initialize(model, spec.init, seeds.generator(spec.seed, "init"))
    if run.init_from is not None:
        load_weights(model, run.init_from)
        report(Log(message="starts with the weights of another job"))
    run.check_stop()
    page = walk(spec, prepared, model.to(where).double())
    folder = run.folder / "artifacts"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "walk.json").write_text(json.dumps(page, ensure_ascii=False, allow_nan=False) + "\n")
    report(Progress(epoch=1, epochs=1, step=1, total_steps=1, examples_per_second=0.0))
    return {
        "agrees": page["agrees"],
        "loss": page["loss"],
        "max_relative_difference": page["max_relative_difference"],
        "stages": len(page["stages"]),
        "parameters": count_parameters(model),
        "device": str(where),
        "environment": device.environment(where),
    }


def walk(spec: WalkSpec, prepared: Data, model: nn.Module) -> Walk:
    """The content of `walk.json`. `model` is in float64 and on the data's device. Raises Diverged."""
    assert isinstance(model, nn.Sequential)
    images, labels = next(prepared.train.epoch(1, first_batch=spec.batch - 1))
    loss, x = build_loss(spec.loss), images.double()
    manual, autograd = by_hand(model, loss, x, labels), by_autograd(model, loss, x, labels)
    require_finite(manual, autograd)
    formulas = formulas_of(spec)
    stages = [
        stage(name, formulas[name], manual[name], autograd[name], prepared.info.shape) for name in manual if name != "x"
    ]
    difference = max(s["max_relative_difference"] for s in stages)
    return {
        "object": "walk",
        "spec": spec.to_json(),
        "dtype": "float64",
        "tolerance": TOLERANCE,
        "agrees": difference <= TOLERANCE,
        "max_relative_difference": difference,
        "loss": manual["loss"].item(),
        "batch": batch_of(prepared, images, labels, manual["logits"]),
        "x": {"axes": AXES["x"], "formula": formulas["x"], **numbers(manual["x"])},
        "weights": [
            {"name": name, "axes": AXES[name], **numbers(p.detach()), **tiles(name, p.detach(), prepared.info.shape)}
            for name, p in weights(model).items()
        ],
        "stages": stages,
    }


def batch_of(prepared: Data, images: Tensor, labels: Tensor, logits: Tensor) -> Batch:
    """The normalized images (N,C,H,W) as pictures, with their labels (N) and the predictions from logits (N,K)."""
    shades = sheets.with_colours(pictures.to_bytes(to_pixels(images, prepared.normalization)))
    return {
        "size": len(labels),
        "image_shape": list(prepared.info.shape),
        "normalization": {"mean": prepared.normalization.mean, "std": prepared.normalization.std},
        "classes": list(prepared.info.classes),
        "labels": labels.tolist(),
        "predicted": logits.argmax(1).tolist(),
        "images": [png(image) for image in shades],
    }


def stage(name: str, formula: str, manual: Tensor, autograd: Tensor, image: tuple[int, int, int]) -> Stage:
    """One tensor in both ways. The relative difference is normwise, as in the gradient check."""
    difference = (manual - autograd).abs().max().item()
    scale = max(autograd.abs().max().item(), SMALLEST_SCALE)
    return {
        "name": name,
        "formula": formula,
        "axes": AXES[name.removeprefix("d")],
        "shape": list(manual.shape),
        "manual": numbers(manual),
        "autograd": numbers(autograd),
        "max_absolute_difference": difference,
        "max_relative_difference": difference / scale,
        **tiles(name, manual, image),
    }


def numbers(values: Tensor) -> Numbers:
    """Shape, four figures, and the first rows and columns of a tensor."""
    corner = values[(slice(CORNER),) * values.ndim]
    return {
        "shape": list(values.shape),
        "min": values.min().item(),
        "max": values.max().item(),
        "mean": values.mean().item(),
        "std": values.std(correction=0).item(),
        "corner": corner.tolist(),
    }


def tiles(name: str, values: Tensor, image: tuple[int, int, int]) -> Tiles:
    """The first rows of a tensor (O,I) with one column per pixel as images, blue below 0 and red above; else empty."""
    if AXES[name.removeprefix("d")][-1:] != ("pixel",):
        return {}
    rows = values[:TILES].cpu().view(-1, *image).mean(1)  # (rows,H,W): the mean of the channels
    shades = rows / max(rows.abs().max().item(), 1e-12)
    return {"tiles": [png(tile) for tile in sheets.diverging(shades.numpy())]}


def png(pixels: Array) -> str:
    """(H,W,3) uint8 -> a PNG in base64, at most LARGEST_IMAGE dots to a side."""
    picture = Image.fromarray(np.ascontiguousarray(pixels))
    picture.thumbnail((LARGEST_IMAGE, LARGEST_IMAGE), Image.Resampling.BOX)
    file = io.BytesIO()
    picture.save(file, "png")
    return base64.b64encode(file.getvalue()).decode()


def require_finite(*ways: Tensors) -> None:
    """Raise Diverged for the first stage with an infinite value or a NaN."""
    for found in ways:
        for name, tensor in found.items():
            if not math.isfinite(tensor.abs().max().item()):
                raise Diverged(f"{name} is not finite, in float64: there is nothing to show; try a smaller init")
