"""Presets: the reference article's experiments as specs, with the figures that the article printed.

The article ("Constructing a Neural Network to Classify Handwritten Digits", 2023) trains on all 60 000 images of MNIST
and validates on the test split, in batches of 64; its printed loss is the mean over batches of a batch's summed loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Preset:
    """`spec` has default values for a request body's fields; `article` has the figures that the article printed.

    `continues` is the preset whose final weights this one starts from; the body must then have `init_from`.
    """

    name: str
    description: str
    spec: dict[str, Any]
    article: dict[str, Any]
    continues: str | None = None


_COMMON: dict[str, Any] = {"dataset": "mnist", "batch_size": 64, "validation": "test"}
_SUMMED: dict[str, Any] = {"type": "clamped_cross_entropy", "reduction": "sum", "clamp": 1e-10}
_LINEAR_NORMAL: dict[str, Any] = {"architecture": "linear", "init": {"type": "normal", "std": 1.0}}
_BASIC: dict[str, Any] = {"optimizer": "basic", "lr": 1.0}

# The article's manual gradient is (p - onehot) / N, which ignores the clamp in the loss that it prints: that is the
# gradient of the mean of plain cross-entropy, and the reason why this run learns and the autograd run is stuck.
_MEAN: dict[str, Any] = {"type": "cross_entropy", "reduction": "mean"}

_MANUAL_ON = [
    0.865, 0.7881, 0.8779, 0.8127, 0.852, 0.8088, 0.8378, 0.8521, 0.8225, 0.865,
    0.8977, 0.8944, 0.8738, 0.8402, 0.886, 0.8197, 0.8669, 0.9133, 0.8083, 0.7729,
]  # fmt: skip
_TWO_LAYER_LOSS = [
    21.64, 12.01, 9.28, 7.77, 6.81, 6.15, 5.56, 5.22, 4.83, 4.54, 4.35, 4.03, 3.84, 3.67, 3.50, 3.36, 3.19, 3.05, 2.90,
    2.79, 2.68, 2.52, 2.49, 2.34, 2.25, 2.20, 2.12, 2.00, 1.90, 1.87, 1.72, 1.72, 1.65, 1.55, 1.50, 1.46, 1.37, 1.36,
    1.27, 1.24,
]  # fmt: skip

PRESETS: dict[str, Preset] = {
    preset.name: preset
    for preset in (
        Preset(
            name="article/manual-linear",
            description="softmax(x W + b), weights from N(0,1), gradients by hand, p -= 1.0 * grad: one epoch",
            spec={**_COMMON, **_LINEAR_NORMAL, **_BASIC, "gradients": "manual", "loss": _MEAN, "epochs": 1},
            article={"untrained_accuracy": 0.0785, "val_accuracy": [0.8776]},
        ),
        Preset(
            name="article/manual-linear-continued",
            description="the same model, continued for 20 epochs",
            spec={**_COMMON, **_LINEAR_NORMAL, **_BASIC, "gradients": "manual", "loss": _MEAN, "epochs": 20},
            article={"val_accuracy": _MANUAL_ON},
            continues="article/manual-linear",
        ),
        Preset(
            name="article/autograd-linear",
            description="the same model with autograd of the summed, clamped loss: stuck, since a clamped example "
            "contributes zero gradient, and the steps of a sum are 64 times those of a mean",
            spec={**_COMMON, **_LINEAR_NORMAL, **_BASIC, "gradients": "autograd", "loss": _SUMMED, "epochs": 20},
            article={"first_val_accuracy": 0.3074, "last_val_accuracy": 0.3113},
        ),
        Preset(
            name="article/basic-optimizer",
            description="the linear model from PyTorch's initial weights, autograd of the summed loss, p -= 1.0 * grad",
            spec={**_COMMON, **_BASIC, "architecture": "linear", "loss": _SUMMED, "epochs": 20},
            article={"untrained_accuracy": 0.0883, "first_val_accuracy": 0.6968, "last_val_accuracy": 0.7470},
        ),
        Preset(
            name="article/sgd",
            description="the linear model with torch.optim.SGD at lr 1.0, continued for 20 epochs",
            spec={**_COMMON, "architecture": "linear", "loss": _SUMMED, "optimizer": "sgd", "lr": 1.0, "epochs": 20},
            article={"first_val_accuracy": 0.5626, "last_val_accuracy": 0.5772},
            continues="article/basic-optimizer",
        ),
        Preset(
            name="article/two-layer",
            description="784-30-10 with ReLU, autograd of the summed loss, torch.optim.SGD at lr 0.001: 40 epochs",
            spec={
                **_COMMON,
                "architecture": {"type": "mlp", "hidden": [30], "activation": "relu"},
                "loss": _SUMMED,
                "optimizer": "sgd",
                "lr": 0.001,
                "epochs": 40,
            },
            article={"untrained_accuracy": 0.1002, "last_val_accuracy": 0.9674, "train_loss": _TWO_LAYER_LOSS},
        ),
    )
}
