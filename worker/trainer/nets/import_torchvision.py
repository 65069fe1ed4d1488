"""The only module that imports torchvision, and only when called: the import takes a second, and few jobs need it."""

from __future__ import annotations

import importlib
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

IDX_CLASSES = {"mnist": "MNIST", "fashion_mnist": "FashionMNIST", "kmnist": "KMNIST"}

_libraries: list[Any] = []  # the definitions of a torch.library.Library are removed when it is collected


def import_torchvision() -> ModuleType:
    """Import torchvision, also if its wheel was built for CUDA and torch was not.

    Such a wheel cannot load its compiled operators, and torchvision's own import then fails on
    "operator torchvision::nms does not exist". Datasets, transforms and models need none of them, so the two
    missing schemas are declared first; box operators stay unusable (pytorch/vision#9085).
    """
    if torch.version.cuda is None and not _libraries and not hasattr(torch.ops.torchvision, "nms"):
        library = torch.library.Library("torchvision", "DEF")
        for operator in ("nms", "qnms"):
            library.define(f"{operator}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _libraries.append(library)
    return importlib.import_module("torchvision")


def download(name: str, data_dir: Path) -> None:
    """Download a built-in dataset in torchvision's layout; torchvision checks the md5."""
    datasets = import_torchvision().datasets
    if name in IDX_CLASSES:
        getattr(datasets, IDX_CLASSES[name])(root=str(data_dir), download=True)
    else:
        # the archive only: torchvision would unpickle its content to make a CIFAR10 object
        kind = datasets.CIFAR10
        fetch = datasets.utils.download_and_extract_archive
        fetch(kind.url, str(data_dir), filename=kind.filename, md5=kind.tgz_md5)
