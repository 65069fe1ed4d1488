"""The only module that imports torchvision, and only when called: the import takes a second, and few jobs need it."""

from __future__ import annotations

import importlib
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


def sources(name: str) -> list[tuple[str, tuple[str, ...], str]]:
    """The files of a built-in dataset as torchvision knows them: name, URLs of the mirrors, md5. The IDX files are
    gzipped one by one; CIFAR-10 is one archive, which torchvision itself would unpickle."""
    datasets = import_torchvision().datasets
    if name in IDX_CLASSES:
        kind = getattr(datasets, IDX_CLASSES[name])
        return [(file, tuple(f"{mirror}{file}" for mirror in kind.mirrors), md5) for file, md5 in kind.resources]
    kind = datasets.CIFAR10
    return [(kind.filename, (kind.url,), kind.tgz_md5)]
