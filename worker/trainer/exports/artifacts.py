"""Writes the files of a finished run into one folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from shared.events import Report
from shared.jobs import curves
from shared.spec.job_spec import JobSpec
from worker.trainer.data.datasets import Data
from worker.trainer.exports import model_files, onnx_export, parity, pictures
from worker.trainer.exports.confusion import count_confusions, scores
from worker.trainer.run import Outcome

FORMATS = ("png", "svg")


def write_all(
    folder: Path, spec: JobSpec, data: Data, outcome: Outcome, result: dict[str, Any], report: Report
) -> None:
    """Write every file of docs/artifacts.md that applies to the run. Raises OSError, as on a full disk."""
    folder.mkdir(parents=True, exist_ok=True)
    model_files.write(folder, spec, data, outcome.state, report)
    onnx_export.write(folder, outcome.state.model, data, report)
    write_json(folder / "parity.json", parity.measure(folder, spec, data, outcome))
    write_curve(folder, spec, outcome.state.history.series())
    write_evaluation(folder, data, outcome)
    write_json(folder / "spec.json", spec.to_json())
    write_json(folder / "environment.json", result["environment"])
    if outcome.gradient_check is not None:
        write_json(folder / "gradient_check.json", outcome.gradient_check)


def write_curve(folder: Path, spec: JobSpec, series: curves.Series) -> None:
    """Write the curve as CSV, JSON, PNG and SVG."""
    (folder / "metrics.csv").write_text(curves.to_csv(series))
    write_json(folder / "metrics.json", {"object": "metrics", "series": series})
    for format, picture in zip(FORMATS, curves.draw(series, spec.name, FORMATS), strict=True):
        (folder / f"loss_curve.{format}").write_bytes(picture)


def write_evaluation(folder: Path, data: Data, outcome: Outcome) -> None:
    """Write the model's predictions on the test split as a confusion matrix and as pictures."""
    classes = data.info.classes
    true = data.test_labels.cpu()
    confidence, predicted = torch.softmax(outcome.test.logits.float(), 1).max(1)
    matrix = count_confusions(true, predicted, len(classes))
    write_json(folder / "confusion_matrix.json", scores(matrix, classes))
    sheets = {
        "confusion_matrix.png": pictures.confusion_matrix(matrix.numpy(), classes),
        "predictions.png": pictures.predictions(data, true, predicted),
        "mistakes.png": pictures.mistakes(data, true, predicted, confidence),
        "first_layer.png": pictures.first_layer(outcome.state.model, data),
    }
    for name, sheet in sheets.items():
        if sheet is not None:
            sheet.save(folder / name, compress_level=1)  # of 9: a quarter of the time for a few kilobytes more


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON. Raises ValueError for infinite numbers and NaN."""
    path.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n")
