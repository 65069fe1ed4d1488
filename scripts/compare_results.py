"""Trains twenty small specs with the code of two checkouts and compares weights, data order and curves, bit by bit.

    python scripts/compare_results.py 743097f          the working tree against a revision
    python scripts/compare_results.py --save before.json    the working tree's results alone, for later
    python scripts/compare_results.py before.json       the working tree against results that were saved

Proves that a change which must not move results moves none. The specs cover architectures, gradients, losses,
optimizers, schedules, augmentations, precision, early stopping and validation on `digits`, which needs no files; a run
takes about a minute on two cores. Results of different machines are not comparable: bits depend on the CPU and on the
build of PyTorch. Exits with 1 when a result differs.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
MEASURED_TIMES = ("examples_per_second",)  # columns of the curve that are clocks, not results
BATCH_NORM = {"type": "mlp", "hidden": [24, 12], "activation": "tanh", "dropout": 0.2, "batch_norm": True}
SMALL_CNN = {"type": "cnn", "channels": [8, 8], "hidden": [16], "batch_norm": True, "dropout": 0.1}

SPECS: dict[str, dict[str, Any]] = {
    "linear manual": {"architecture": "linear", "gradients": "manual"},
    "linear autograd": {"architecture": "linear"},
    "mlp manual": {"gradients": "manual"},
    "mlp autograd": {},
    "mlp batch norm manual": {"architecture": BATCH_NORM, "gradients": "manual"},
    "mlp batch norm autograd": {"architecture": BATCH_NORM},
    "mlp sigmoid kaiming": {"architecture": {"type": "mlp", "activation": "sigmoid"}, "init": "kaiming"},
    "mlp gelu xavier manual": {
        "architecture": {"type": "mlp", "activation": "gelu"},
        "init": "xavier",
        "gradients": "manual",
    },
    "cnn manual": {"architecture": SMALL_CNN, "gradients": "manual", "epochs": 2},
    "cnn autograd": {"architecture": SMALL_CNN, "epochs": 2},
    "basic, clamped loss, normal init": {
        "optimizer": "basic",
        "loss": "clamped_cross_entropy",
        "init": {"type": "normal", "std": 0.1},
        "gradients": "manual",
    },
    "summed loss": {"loss": {"type": "cross_entropy", "reduction": "sum"}, "lr": 0.002},
    "sgd nesterov, cosine": {
        "optimizer": {"type": "sgd", "momentum": 0.9, "nesterov": True, "weight_decay": 1e-4},
        "schedule": {"type": "cosine", "warmup_epochs": 0.5},
    },
    "adam, step schedule, manual": {
        "optimizer": "adam",
        "lr": 0.003,
        "schedule": {"type": "step", "every_epochs": 1, "gamma": 0.5},
        "gradients": "manual",
    },
    "adamw, onecycle": {"optimizer": "adamw", "lr": 0.01, "schedule": "onecycle"},
    "shift and rotate": {"augment": [{"type": "shift", "pixels": 1}, "rotate"]},
    "flip and crop, manual": {"augment": ["flip", {"type": "crop", "padding": 1}], "gradients": "manual"},
    "verified in flight": {"gradients": "manual", "verify": {"every_steps": 20}},
    "bf16": {"precision": "bf16"},
    "early stopping, validation on test": {
        "validation": "test",
        "epochs": 12,
        "lr": 0.5,
        "early_stopping": {"metric": "val_loss", "patience_epochs": 1},
    },
}


def train(tree: Path, name: str, spec: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Train one spec with the code in `tree`; return the hash of its weights and its curve without clocks."""
    folder.mkdir(parents=True)
    (folder / "spec.json").write_text(json.dumps({"epochs": 3, "batch_size": 50, "seed": 20261129, **spec}))
    command = [sys.executable, "-m", "worker.trainer", "spec.json", "--out", "run", "--threads", "1"]
    environment = {**os.environ, "PYTHONPATH": str(tree)}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{name}: the training in {tree} failed\n{done.stderr}")
    artifacts = folder / "run" / "artifacts"
    with (artifacts / "metrics.csv").open(newline="") as file:
        curve = [{k: v for k, v in row.items() if k not in MEASURED_TIMES} for row in csv.DictReader(file)]
    model = json.loads((artifacts / "model.json").read_text())
    return {
        "weights": hash_of(artifacts / "model.safetensors"),
        "normalization": model.get("normalization"),
        "curve": curve,
    }


def hash_of(path: Path) -> str:
    """sha256 over the tensors of a safetensors file, by name; metadata of the file is left out."""
    import hashlib

    from safetensors.numpy import load_file

    digest = hashlib.sha256()
    for name, tensor in sorted(load_file(path).items()):
        digest.update(f"{name} {tensor.dtype} {tensor.shape}\n".encode() + tensor.tobytes())
    return digest.hexdigest()


def results_of(tree: Path) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        return {name: train(tree, name, spec, Path(folder) / name) for name, spec in SPECS.items()}


def results_of_revision(revision: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        tree = Path(folder) / "tree"
        subprocess.run(["git", "worktree", "add", "--quiet", "--detach", tree, revision], cwd=ROOT, check=True)
        try:
            return results_of(tree)
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", tree], cwd=ROOT, check=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", nargs="?", help="a git revision, or a file that --save wrote")
    parser.add_argument("--save", type=Path, help="write the working tree's results here")
    options = parser.parse_args()
    here = results_of(ROOT)
    if options.save:
        options.save.write_text(json.dumps(here, indent=1) + "\n")
    if options.other is None:
        return 0
    saved = Path(options.other)
    there = json.loads(saved.read_text()) if saved.is_file() else results_of_revision(options.other)
    wrong = 0
    for name, result in here.items():
        parts = [part for part in result if result[part] != there[name][part]]
        wrong += bool(parts)
        print(f"{name:36} {result['weights'][:16]}  {'differs: ' + ', '.join(parts) if parts else 'identical'}")
    print(f"{len(here) - wrong} of {len(here)} identical")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
