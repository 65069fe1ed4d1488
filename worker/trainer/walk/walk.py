"""A walk: one batch through a linear or two-layer net and back, every stage with its formula and its real numbers.

A job that trains nothing. It writes `walk.json`, for people and for the page Learn: of each stage its shape, what is in
it by hand and by autograd, and how far the two are apart. Small whatever the net: of a large matrix a corner and four
figures. All in float64. docs/gradients.md has the derivations.
"""

from __future__ import annotations

import base64
import io
import json
import math
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor, nn

from shared.errors import Diverged
from shared.events import Log, Progress, Report
from shared.spec.job_spec import WalkSpec
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
from worker.trainer.run import Run, StopRequested
from worker.trainer.walk.formulas import formulas_of
from worker.trainer.walk.stages import AXES, Tensors, by_autograd, by_hand, weights

CORNER = 10  # rows, and columns, of a matrix that are written out
TILES = 16  # rows that are shown as images
LARGEST_IMAGE = 64  # dots to a side; larger ones are shown smaller


def run_walk(
    spec: WalkSpec,
    run: Run,
    report: Report,
    *,
    data_dir: Path,
    download: bool,
    threads: int,
    uploaded: Path | None = None,
) -> dict[str, Any]:
    """Take the walk, write `walk.json`, return the result.

    `uploaded`: the folder of a dataset that is not built in.
    Raises StopRequested before it sets out, and Diverged where something on the way is not finite.
    """
    where = device.choose(spec.device)
    device.set_up(spec.seed, where, threads)
    prepared = datasets.prepare(spec, data_dir, download, where, uploaded)
    model = build_model(spec.architecture, prepared.info.shape, len(prepared.info.classes))
    initialize(model, spec.init, seeds.generator(spec.seed, "init"))
    if run.init_from is not None:
        load_weights(model, run.init_from)
        report(Log(message="begins with the weights of another job"))
    if run.stop():
        raise StopRequested(0)
    page = walk(spec, prepared, model.to(where).double())
    folder = run.folder / "artifacts"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "walk.json").write_text(json.dumps(page, ensure_ascii=False, allow_nan=False) + "\n")
    report(Progress(epoch=1, epochs=1, step=1, total_steps=1, examples_per_second=0.0))
    return {
        **{name: page[name] for name in ("agrees", "loss", "max_relative_difference")},
        "stages": len(page["stages"]),
        "parameters": count_parameters(model),
        "device": str(where),
        "environment": device.environment(where),
    }


def walk(spec: WalkSpec, prepared: Data, model: nn.Module) -> dict[str, Any]:
    """What `walk.json` holds. `model` is in float64, on the data's device."""
    assert isinstance(model, nn.Sequential)
    images, labels = next(prepared.train.epoch(1, first_batch=spec.batch - 1))
    loss, x = build_loss(spec.loss), images.double()
    manual, autograd = by_hand(model, loss, x, labels), by_autograd(model, loss, x, labels)
    require_finite(manual, autograd)
    formulas = formulas_of(spec)
    stages = [
        stage(name, formulas[name], manual[name], autograd[name], prepared.info.shape) for name in manual if name != "x"
    ]
    apart = max(s["max_relative_difference"] for s in stages)
    return {
        "object": "walk",
        "spec": spec.to_json(),
        "dtype": "float64",
        "tolerance": TOLERANCE,
        "agrees": apart <= TOLERANCE,
        "max_relative_difference": apart,
        "loss": manual["loss"].item(),
        "batch": batch_of(prepared, images, labels, manual["logits"]),
        "x": {"axes": AXES["x"], "formula": formulas["x"], **numbers(manual["x"])},
        "weights": [
            {"name": name, "axes": AXES[name], **numbers(p.detach()), **tiles(name, p.detach(), prepared.info.shape)}
            for name, p in weights(model).items()
        ],
        "stages": stages,
    }


def batch_of(prepared: Data, images: Tensor, labels: Tensor, logits: Tensor) -> dict[str, Any]:
    """The images (N,C,H,W) with what they show and what the net takes them for."""
    shades = pictures.to_bytes(to_pixels(images, prepared.normalization))
    return {
        "size": len(labels),
        "image_shape": list(prepared.info.shape),
        "normalization": {"mean": prepared.normalization.mean, "std": prepared.normalization.std},
        "classes": list(prepared.info.classes),
        "labels": labels.tolist(),
        "predicted": logits.argmax(1).tolist(),
        "images": [png(image) for image in shades],
    }


def stage(name: str, formula: str, manual: Tensor, autograd: Tensor, image: tuple[int, int, int]) -> dict[str, Any]:
    """One tensor in both ways. The relative difference is normwise, as in the gradient check."""
    apart = (manual - autograd).abs().max().item()
    scale = max(autograd.abs().max().item(), SMALLEST_SCALE)
    return {
        "name": name,
        "formula": formula,
        "axes": AXES[name.removeprefix("d")],
        "shape": list(manual.shape),
        "manual": numbers(manual),
        "autograd": numbers(autograd),
        "max_absolute_difference": apart,
        "max_relative_difference": apart / scale,
        **tiles(name, manual, image),
    }


def numbers(values: Tensor) -> dict[str, Any]:
    """Shape, four figures, and the first rows and columns as they are."""
    corner = values[(slice(CORNER),) * values.ndim]
    return {
        "shape": list(values.shape),
        "min": values.min().item(),
        "max": values.max().item(),
        "mean": values.mean().item(),
        "std": values.std(correction=0).item(),
        "corner": corner.tolist(),
    }


def tiles(name: str, values: Tensor, image: tuple[int, int, int]) -> dict[str, Any]:
    """Of weights that each stand over a pixel, (O,I): the first rows as images, blue below 0 and red above."""
    if AXES[name.removeprefix("d")][-1:] != ("pixel",):
        return {}
    rows = values[:TILES].cpu().view(-1, *image).mean(1)  # (rows,H,W): of colours the mean
    shades = rows / max(rows.abs().max().item(), 1e-12)
    return {"tiles": [png(tile) for tile in pictures.diverging(shades.numpy())]}


def png(pixels: pictures.Array) -> str:
    """(H,W,3) uint8 -> a PNG in base64, at most LARGEST_IMAGE dots to a side."""
    picture = Image.fromarray(pixels)
    picture.thumbnail((LARGEST_IMAGE, LARGEST_IMAGE), Image.Resampling.BOX)
    file = io.BytesIO()
    picture.save(file, "png")
    return base64.b64encode(file.getvalue()).decode()


def require_finite(*ways: Tensors) -> None:
    for found in ways:
        for name, tensor in found.items():
            if not math.isfinite(tensor.abs().max().item()):
                raise Diverged(f"{name} is not finite, in float64: there is nothing to show; try a smaller init")
