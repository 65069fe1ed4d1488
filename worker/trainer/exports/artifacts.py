"""Writes the files of a finished run into one folder; instead of pictures the file from which they are drawn."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from shared.events import UNDRAWN, Report
from shared.jobs import curves
from shared.spec.job_spec import JobSpec
from worker.trainer.data.datasets import Data
from worker.trainer.exports import model_files, onnx_export, parity, pictures
from worker.trainer.exports.confusion import count_confusions, scores
from worker.trainer.run import Outcome


def write_all(
    folder: Path, spec: JobSpec, data: Data, outcome: Outcome, result: dict[str, Any], report: Report
) -> None:
    """Write every file of docs/artifacts.md that applies to the run. Raises OSError, as on a full disk."""
    folder.mkdir(parents=True, exist_ok=True)
    model_files.write(folder, spec, data, outcome.state, report)
    onnx_export.write(folder, outcome.state.model, data, report)
    write_json(folder / "parity.json", parity.measure(folder, spec, data, outcome))
    series = outcome.state.history.series()
    write_curve(folder, series)
    tested = pictures.tested(data.test_labels, outcome.test.logits)
    matrix = count_confusions(tested.true, tested.predicted, len(data.info.classes))
    write_json(folder / "confusion_matrix.json", scores(matrix, data.info.classes))
    pictures.drawing_of(spec.name, series, data, outcome.state.model, tested, matrix).save(folder / UNDRAWN)
    write_json(folder / "spec.json", spec.to_json())
    write_json(folder / "environment.json", result["environment"])
    if outcome.gradient_check is not None:
        write_json(folder / "gradient_check.json", outcome.gradient_check)


def write_curve(folder: Path, series: curves.Series) -> None:
    """Write the points of the curve as CSV and JSON."""
    (folder / "metrics.csv").write_text(curves.to_csv(series))
    write_json(folder / "metrics.json", {"object": "metrics", "series": series})


def write_json(path: Path, value: Any) -> None:
    """Write indented JSON. Raises ValueError for infinite numbers and NaN."""
    path.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n")
