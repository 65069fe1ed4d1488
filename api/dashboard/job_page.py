"""Data of the job page: the job object, its figures, history, gradient check, files, and the allowed actions."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from datetime import datetime
from typing import Any

from sqlalchemy.orm import Session

from api.dashboard.dataset_names import dataset_names
from api.dashboard.words import duration, number, percent
from api.jobs.job_object import to_json
from shared.db.tables import ArtifactRow, Job
from shared.jobs import jobs
from shared.spec.job_spec import KINDS

PICTURES = {  # in this order: title, alternative text
    "predictions.png": ("Test images", "Test images of each class, with their true and their predicted labels"),
    "mistakes.png": (
        "Worst mistakes",
        "The mistakes that the model was surest of, with both labels and its confidence",
    ),
    "first_layer.png": ("First layer", "The weights of each unit of the first layer as an image"),
}
ELSEWHERE = ("name", "labels", "priority")  # fields of the spec that are shown and edited at the head of the page
SMALLEST_EXPONENT = -18  # the scale of errors runs from 1e-18 to 1
ACTIONS = {  # buttons in this order: label, key; the button to delete is separate, at the end
    "cancel": ("Cancel", "c"),
    "pause": ("Pause", "p"),
    "resume": ("Resume", "p"),
    "retry": ("Retry", "r"),
    "reproduce": ("Reproduce", "r"),
}
NEEDLESS = {"cancelling": ("cancel",), "pausing": ("pause",), "paused": ("pause",)}  # allowed, but without effect


def gather(session: Session, job_id: str) -> dict[str, Any]:
    """The variables of templates/job.html. `cursor`: `seq` of the last line of the log. Raises NotFound for an unknown
    job."""
    row = jobs.get(session, job_id)
    job = to_json(session, row)
    files = jobs.artifacts_of(session, job_id)
    dataset = dataset_names(session, [row.spec])[row.spec.get("dataset", "")]
    return {
        "job": job,
        "dataset": dataset,
        "cursor": row.last_seq,
        "speed": speed_words((job["progress"] or {}).get("examples_per_second")),
        "has_curve": job["kind"] == "training",
        "actions": _actions(row, job["status"]),
        "figures": list(_figures(job)),
        "fields": list(_fields(job, dataset)),
        "spec_json": json.dumps(job["spec"], indent=2, ensure_ascii=False),
        "moments": list(_moments(job)),
        "checks": _checks(job["result"]),
        "files": files,
        "files_bytes": sum(file.size_bytes for file in files),
        "pictures": _pictures(files),
        "matrix": next((file for file in files if file.name == "confusion_matrix.json"), None),
    }


def _actions(row: Job, status: str) -> list[tuple[str, str, str]]:
    """(action, label, key)"""
    allowed = jobs.allowed_actions(row)
    needless = NEEDLESS.get(status, ())
    return [(name, *words) for name, words in ACTIONS.items() if name in allowed and name not in needless]


# --- figures ----------------------------------------------------------------------------------------------------------


def _figures(job: Mapping[str, Any]) -> Iterator[tuple[str, str, str | None]]:
    """(label, value in words, metric): the last point of `metric` is shown until the job has a result."""
    result = job["result"] or {}
    for label, name, write, metric in FIGURES.get(job["kind"], ()):
        if metric or name in result:
            yield label, write(result.get(name)), None if result else metric
    if table := result.get("gradient_check"):
        yield "worst gradient error", error_words(table["max_relative_error"]), None


def error_words(error: float) -> str:
    return f"{error:.1e}" if error else "0"


def speed_words(examples_per_second: float | None) -> str:
    """Rounded to three digits: measured speeds vary by more than that."""
    return number(examples_per_second and int(float(f"{examples_per_second:.3g}")))


def _yes_or_no(value: bool) -> str:
    return "yes" if value else "no"


Figure = tuple[str, str, Callable[[Any], str], str | None]
FIGURES: dict[str, tuple[Figure, ...]] = {
    "training": (
        ("test accuracy", "test_accuracy", lambda share: percent(share, 2), "test_accuracy"),
        ("validation accuracy", "val_accuracy", lambda share: percent(share, 2), "val_accuracy"),
        ("training loss", "train_loss", number, "train_loss"),
        ("validation loss", "val_loss", number, "val_loss"),
        ("test loss", "test_loss", number, "test_loss"),
        ("examples/s in training", "examples_per_second", speed_words, "examples_per_second"),
        ("training time", "training_seconds", duration, None),
        ("parameters", "parameters", number, None),
        ("device", "device", str, None),
    ),
    "gradient_check": (
        ("passed", "passed", _yes_or_no, None),
        ("parameters", "parameters", number, None),
        ("time", "duration_seconds", duration, None),
        ("device", "device", str, None),
    ),
    "walk": (
        ("matches autograd", "agrees", _yes_or_no, None),
        ("worst relative difference", "max_relative_difference", error_words, None),
        ("loss", "loss", number, None),
        ("stages", "stages", number, None),
        ("parameters", "parameters", number, None),
        ("time", "duration_seconds", duration, None),
        ("device", "device", str, None),
    ),
}


# --- the spec ---------------------------------------------------------------------------------------------------------


def _fields(job: Mapping[str, Any], dataset: str) -> Iterator[tuple[str, str, bool]]:
    """(field, value in words, whether the value is the default)"""
    spec: dict[str, Any] = job["spec"]
    kind = KINDS.get(job["kind"])  # None: a newer version has accepted the job
    defaults = kind.model_validate({"seed": 0}).to_json() if kind else {}
    for name, value in spec.items():
        if name not in ELSEWHERE:
            words = f"{dataset} ({value})" if name == "dataset" and value != dataset else _words(value)
            yield name, words, name != "seed" and value == defaults.get(name)


def _words(value: Any) -> str:
    """A value of the spec on one line: mlp, hidden 30, activation relu"""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, dict):
        inner = [f"{name.replace('_', ' ')} {_words(of)}" for name, of in value.items() if name != "type"]
        return ", ".join([*([str(value["type"])] if "type" in value else []), *inner]) or "none"
    if isinstance(value, list):
        return "; ".join(map(_words, value)) if any(isinstance(of, dict) for of in value) else _row(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _row(values: list[Any]) -> str:
    return " ".join(map(_words, values)) or "none"


# --- what has happened ------------------------------------------------------------------------------------------------


def _moments(job: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Submission, attempts, pending requests and the end, in order; `at` and `until` are datetimes."""
    yield {"what": "submitted", "at": _time(job["created_at"])}
    for attempt in job["attempts"]:
        start, end = _time(attempt["started_at"]), _time(attempt["finished_at"])
        seconds = (end - start).total_seconds() if start and end else None
        yield {"what": "attempt", "at": start, "until": end, "seconds": seconds, **attempt}
    for action, status in (("cancel", "cancelling"), ("pause", "pausing")):
        if job["status"] == status:
            yield {"what": f"{action} requested", "at": _time(job[f"{action}_requested_at"])}
    if job["terminal"] and job["finished_at"]:
        yield {"what": job["status"], "at": _time(job["finished_at"])}


def _time(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text)


# --- gradients --------------------------------------------------------------------------------------------------------


def _checks(result: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The gradient check of a result, each error with its place on a logarithmic scale from 0 to 100; None if the job
    did not check its gradients."""
    table = (result or {}).get("gradient_check")
    if not table:
        return None
    slopes = table.get("finite_differences")
    return {
        **table,
        "tolerance_at": _place(table["tolerance"]),
        "slopes": slopes and {**slopes, "tolerance_at": _place(slopes["tolerance"])},
        "rows": [_check(name, line) for name, line in table["parameters"].items()],
    }


def _check(name: str, line: Mapping[str, Any]) -> dict[str, Any]:
    slopes = line.get("finite_differences")
    return {
        **line,
        "name": name,
        "error": error_words(line["max_relative_error"]),
        "place": _place(line["max_relative_error"]),
        "slopes": slopes
        and {
            **slopes,
            "error": error_words(slopes["max_relative_error"]),
            "place": _place(slopes["max_relative_error"]),
        },
    }


def _place(error: float) -> float:
    """1e-18 and less -> 0, 1 and more -> 100"""
    if error <= 0:
        return 0.0
    return round(100 * min(1.0, max(0.0, 1 - math.log10(error) / SMALLEST_EXPONENT)), 1)


# --- files ------------------------------------------------------------------------------------------------------------


def _pictures(files: Any) -> list[tuple[ArtifactRow, str, str]]:
    """(file, title, alternative text)"""
    by_name = {file.name: file for file in files}
    return [(by_name[name], *words) for name, words in PICTURES.items() if name in by_name]
