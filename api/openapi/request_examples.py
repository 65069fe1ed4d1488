"""Examples of request bodies, by model, for the OpenAPI document. The tests send those that submit jobs."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel

from api.openapi.schemas import BulkRequest, Images, JobPatch
from shared.spec.job_spec import GradientCheckSpec, JobSpec, WalkSpec

ZERO = [  # a handwritten 0 of the dataset `digits`: 8x8 floats in [0, 1]
    [0.0, 0.0, 0.3, 0.8, 0.6, 0.1, 0.0, 0.0],
    [0.0, 0.0, 0.8, 0.9, 0.6, 0.9, 0.3, 0.0],
    [0.0, 0.2, 0.9, 0.1, 0.0, 0.7, 0.5, 0.0],
    [0.0, 0.3, 0.8, 0.0, 0.0, 0.5, 0.5, 0.0],
    [0.0, 0.3, 0.5, 0.0, 0.0, 0.6, 0.5, 0.0],
    [0.0, 0.3, 0.7, 0.0, 0.1, 0.8, 0.4, 0.0],
    [0.0, 0.1, 0.9, 0.3, 0.6, 0.8, 0.0, 0.0],
    [0.0, 0.0, 0.4, 0.8, 0.6, 0.0, 0.0, 0.0],
]

ONE, OTHER = "job_0199aa3c5d7e7c1e8f2b6a4d9c3e1f70", "job_0199aa3c5d7e7c1e8f2b6a4d9c3e1f71"


def _example(summary: str, value: dict[str, Any]) -> dict[str, Any]:
    return {"summary": summary, "value": value}


BODIES: dict[type[BaseModel], dict[str, dict[str, Any]]] = {
    JobSpec: {
        "smallest": _example("every field has a default", {}),
        "manual": _example(
            "an MLP with manual gradients",
            {"architecture": "mlp", "lr": 0.1, "epochs": 5, "gradients": "manual"},
        ),
        "cnn": _example(
            "a CNN with a schedule, augmentation and early stopping",
            {
                "name": "small-cnn",
                "architecture": {"type": "cnn", "channels": [16, 32], "kernel": 3, "hidden": [64], "dropout": 0.1},
                "optimizer": {"type": "adamw", "weight_decay": 0.01},
                "lr": 0.003,
                "schedule": {"type": "cosine", "warmup_epochs": 1},
                "epochs": 20,
                "augment": [{"type": "shift", "pixels": 1}, "rotate"],
                "early_stopping": {"metric": "val_loss", "patience_epochs": 5},
                "labels": {"team": "vision"},
            },
        ),
        "preset": _example(
            "an experiment of the reference article, trained for one more epoch",
            {"preset": "article/manual-linear", "epochs": 2, "seed": 7},
        ),
    },
    GradientCheckSpec: {
        "smallest": _example("an MLP on the dataset digits", {}),
        "cnn": _example(
            "a CNN, at 50 elements of each parameter", {"architecture": "cnn", "batches": 2, "samples": 50}
        ),
    },
    WalkSpec: {
        "smallest": _example("the two-layer network on the dataset digits", {}),
        "article": _example(
            "the article's linear model and loss, with a batch of 64",
            {
                "architecture": "linear",
                "init": "normal",
                "loss": {"type": "clamped_cross_entropy", "reduction": "sum"},
                "batch_size": 64,
                "seed": 7,
            },
        ),
    },
    JobPatch: {
        "priority": _example("before all jobs of the default priority, 50", {"priority": 80}),
        "labels": _example("one label is set, one is removed", {"labels": {"team": "vision", "draft": None}}),
    },
    BulkRequest: {
        "ids": _example("two jobs, by their ids", {"action": "cancel", "ids": [ONE, OTHER]}),
        "filter": _example(
            "all failed jobs of a team",
            {"action": "retry", "filter": {"status": ["failed"], "labels": {"team": "vision"}}},
        ),
    },
    Images: {
        "digit": _example("one image for a model of the dataset digits", {"images": ZERO}),
    },
}
