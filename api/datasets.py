"""What can be trained on, and what can be trained: the built-in data sets and the architectures."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from apiflask import APIBlueprint
from flask import Response, jsonify

from api import schemas
from api.openapi import endpoint
from api.render import whole_list
from api.services import services
from shared.datasets import DATASETS, DatasetInfo
from shared.spec import Cnn, Linear, Mlp, Model, Torchvision

EXAMPLES: tuple[Model, ...] = (Linear(), Mlp(), Cnn(), Torchvision(name="resnet18"))

bp = APIBlueprint("datasets", __name__, tag="Service")


@bp.get("/v1/datasets")
@endpoint(schemas.DatasetList)
def index() -> Response:
    """List the built-in data sets, and whether their files are here"""
    folder = services().settings.datasets_dir
    return jsonify(whole_list([_dataset(info, folder) for info in DATASETS.values()]))


@bp.get("/v1/architectures")
@endpoint(schemas.ArchitectureList)
def architectures() -> Response:
    """List the architectures with their fields and defaults"""
    return jsonify(whole_list([_architecture(example) for example in EXAMPLES]))


def _dataset(info: DatasetInfo, folder: Path) -> dict[str, Any]:
    missing = info.missing_files(folder)
    return {
        "object": "dataset",
        "name": info.name,
        "description": info.description,
        "shape": info.shape,
        "classes": info.classes,
        "train_examples": info.train_examples,
        "test_examples": info.test_examples,
        "available": not missing,
        "missing_files": [path.relative_to(folder).as_posix() for path in missing],  # below GRADQ_DATA_DIR
    }


def _architecture(example: Model) -> dict[str, Any]:
    fields = type(example).model_json_schema()["properties"]
    kind = fields.pop("type")["default"]
    return {
        "object": "architecture",
        "type": kind,
        "description": example.__doc__,
        "gradients": ("autograd",) if isinstance(example, Torchvision) else ("autograd", "manual"),
        "fields": fields,
        "example": example.model_dump(mode="json"),
    }
