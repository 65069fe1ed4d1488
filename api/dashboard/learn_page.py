"""Data of the Learn page: a walk as tables, each cell with its shade, and the form that requests a walk."""

from __future__ import annotations

import json
import math
from typing import Any

from markupsafe import Markup
from sqlalchemy import select
from sqlalchemy.orm import Session

from api.access.auth import owner_filter
from api.dashboard.dataset_names import dataset_names
from api.dashboard.job_rows import recently_succeeded
from api.services import services
from api.waiting import transfers
from shared.artifacts import MODEL
from shared.datasets import dataset_store
from shared.datasets.catalog import DATASETS
from shared.db.tables import ArtifactRow, Job
from shared.errors import NotFound
from shared.jobs import jobs
from shared.jobs.states import JobState
from shared.spec.job_spec import JobSpec, Mlp, WalkSpec

SHADES = 9  # steps from 0 to the largest absolute value of a table; learn.css has a colour for each, for both signs
ORIGINS = 50  # finished jobs in the list of initial weights
FIRST_SEED = 7  # in the form at first: without changes every user gets the same walk

TITLES = {
    "hidden": "Hidden layer",
    "activation": "Activation",
    "logits": "Logits",
    "softmax": "Softmax",
    "losses": "Loss of each example",
    "loss": "Loss",
    "dlogits": "Gradient at the logits",
    "dW": "Gradient of the weights",
    "db": "Gradient of the bias",
    "dW2": "Gradient of the second layer’s weights",
    "db2": "Gradient of the second layer’s bias",
    "dactivation": "Gradient at the activation",
    "dhidden": "Gradient at the hidden layer",
    "dW1": "Gradient of the first layer’s weights",
    "db1": "Gradient of the first layer’s bias",
}

View = dict[str, Any]


def learn_page(job_id: str | None, origin_id: str | None) -> View:
    """The variables of templates/learn.html.

    `job_id`: the walk to show. `origin_id`: a finished job whose weights the form starts from. Raises NotFound for an
    unknown job, and for `job_id` of another kind of job.
    """
    with services().database.read() as session:
        job = _walk_job(session, job_id) if job_id else None
        origins = _origins(session)
        spec = job.spec if job else _first_spec(session, origin_id)
        rows = dataset_store.list_visible(session, owner_filter())
        dataset = dataset_names(session, [spec])[spec["dataset"]]
        uploaded = [(row.id, dataset_store.as_owned(row, owner_filter()).name) for row in rows]
        file = jobs.artifact(session, job.id, "walk.json") if job and job.state == JobState.SUCCEEDED else None
    folder = services().settings.datasets_dir
    built_in = [
        (name, name if not info.missing_files(folder) else f"{name} (not downloaded yet)")
        for name, info in DATASETS.items()
    ]
    return {
        "job": job,
        "state": jobs.status_of(job) if job else None,
        "spec": spec,
        "net": spec["architecture"],
        "dataset": dataset,
        "datasets": [*built_in, *uploaded],
        "origins": origins,
        "walk": walk_view(_content(file)) if file else None,
        "titles": TITLES,
        "short": short,
        "power": power,
    }


def _job(session: Session, job_id: str) -> Job:
    if "\x00" in job_id:  # PostgreSQL rejects this character in a text
        raise NotFound("job not found")
    jobs.check_owner(session, job_id, owner_filter())
    return jobs.get(session, job_id)


def _walk_job(session: Session, job_id: str) -> Job:
    job = _job(session, job_id)
    if job.kind != WalkSpec.kind:
        raise NotFound(f"{job_id} is a {job.kind.replace('_', ' ')}, not a walk; its page is /jobs/{job_id}")
    return job


def _first_spec(session: Session, origin_id: str | None) -> View:
    asked: View = {"seed": FIRST_SEED}
    if origin_id is not None:
        job = _job(session, origin_id)
        asked |= {name: job.spec[name] for name in ("architecture", "dataset") if name in job.spec}
        asked["init_from"] = {"job": job.id}
    return WalkSpec.parse(asked, dataset_store.finder(services().database, owner_filter())).to_json()


def _origins(session: Session) -> list[View]:
    """Finished jobs whose architecture a walk supports, newest first."""
    wanted = (
        select(Job)
        .join(ArtifactRow, (ArtifactRow.job_id == Job.id) & (ArtifactRow.name == MODEL))
        .where(Job.kind == JobSpec.kind, *recently_succeeded(owner_filter()))
        .where(Job.spec["architecture"]["type"].as_string().in_(("linear", "mlp")))
        .order_by(Job.id.desc())
        .limit(ORIGINS)
    )
    return [
        {
            "id": job.id,
            "name": job.name,
            "accuracy": (job.result or {}).get("test_accuracy"),
            "net": job.spec["architecture"],
            "dataset": job.spec["dataset"],
        }
        for job in session.scalars(wanted)
        if _can_be_walked(job.spec["architecture"])
    ]


def _can_be_walked(architecture: View) -> bool:
    if architecture["type"] == "linear":
        return True
    net = Mlp.model_validate(architecture)
    return len(net.hidden) == 1 and not net.dropout and not net.batch_norm


def _content(file: ArtifactRow) -> View:
    transfers.will_use_store(file.size_bytes)
    try:
        with services().store.open(file.key) as stored:
            content: View = json.load(stored)
    except FileNotFoundError as error:
        raise NotFound(f"the file {file.name} of {file.job_id} has been removed from the store") from error
    return content


# --- numbers as tables ------------------------------------------------------------------------------------------------


def walk_view(walk: View) -> View:
    """`walk.json` in the form that templates/walk reads."""
    batch = walk["batch"]
    forward = [stage["name"] for stage in walk["stages"]].index("dlogits")
    stages = [_stage(stage, batch, walk["tolerance"]) for stage in walk["stages"]]
    shapes = {part["name"]: part["shape"] for part in [*walk["weights"], *walk["stages"]]}
    return {
        **walk,
        "batch": {**batch, "examples": _examples(batch)},
        "x": {**walk["x"], "grid": grid(walk["x"], walk["x"]["axes"], batch)},
        "weights": [{**part, "grid": grid(part, part["axes"], batch)} for part in walk["weights"]],
        "forward": stages[:forward],
        "back": stages[forward:],
        "sizes": {
            "N": batch["size"],
            "I": walk["x"]["shape"][1],
            "H": shapes["hidden"][1] if "hidden" in shapes else None,
            "K": shapes["logits"][1],
        },
        "log_of_classes": math.log(shapes["logits"][1]),
    }


def _stage(stage: View, batch: View, tolerance: float) -> View:
    manual, autograd = stage["manual"], stage["autograd"]
    apart = {"corner": _apart(manual["corner"], autograd["corner"])}
    apart["max"] = apart["min"] = stage["max_absolute_difference"]
    return {
        **stage,
        "agrees": stage["max_relative_difference"] <= tolerance,
        "size": _size(stage["shape"]),
        "shown": _size(_shape_of(manual["corner"])),
        "ways": [
            ("By hand", grid(manual, stage["axes"], batch)),
            ("By autograd", grid(autograd, stage["axes"], batch)),
        ],
        "apart": grid(apart, stage["axes"], batch),
    }


def _shape_of(corner: Any) -> list[int]:
    return [len(corner), *_shape_of(corner[0])] if isinstance(corner, list) else []


def _apart(one: Any, other: Any) -> Any:
    return [_apart(a, b) for a, b in zip(one, other, strict=True)] if isinstance(one, list) else one - other


def grid(numbers: View, axes: list[str], batch: View) -> View:
    """A table of the top left corner: {"columns": heads or None, "rows": [(head or None, [cell, …]), …]}."""
    corner, largest = numbers["corner"], max(abs(numbers["min"]), abs(numbers["max"]))
    if not axes:
        return {"columns": None, "rows": [(None, [_cell(corner, largest)])]}
    if len(axes) == 1:
        cells = [_cell(value, largest) for value in corner]
        return {"columns": _heads(axes[0], len(corner), batch), "rows": [(None, cells)]}
    true = batch["labels"] if axes == ["example", "class"] else [None] * len(corner)
    rows = [
        [_cell(value, largest, is_true=column == label) for column, value in enumerate(row)]
        for row, label in zip(corner, true, strict=False)
    ]
    heads = _heads(axes[0], len(rows), batch)
    return {"columns": _heads(axes[1], len(corner[0]), batch), "rows": list(zip(heads, rows, strict=True))}


def _heads(axis: str, n: int, batch: View) -> list[View]:
    if axis == "example":
        return _examples(batch)[:n]
    if axis == "class":
        return [{"text": name} for name in batch["classes"][:n]]
    return [{"text": str(i + 1)} for i in range(n)]


def _examples(batch: View) -> list[View]:
    classes = batch["classes"]
    return [
        {"text": classes[label], "taken_for": classes[predicted], "image": image}
        for label, predicted, image in zip(batch["labels"], batch["predicted"], batch["images"], strict=True)
    ]


def _cell(value: float, largest: float, is_true: bool = False) -> View:
    shade = round(SHADES * value / largest) if largest else 0
    return {"text": short(value), "whole": repr(value), "shade": max(-SHADES, min(SHADES, shade)), "is_true": is_true}


def short(value: float) -> str:
    """A number in at most six characters: 0.123, −12.35, 2e-17."""
    size = abs(value)
    if value == 0:
        return "0"
    if size < 0.0005 or size >= 99_999.5:
        text = f"{value:.0e}".replace("e-0", "e-").replace("e+0", "e").replace("e+", "e")
    else:
        text = f"{value:.{3 if size < 9.9995 else 2 if size < 99.995 else 1 if size < 999.95 else 0}f}"
    return text.replace("-", "−", 1) if value < 0 else text


def power(value: float) -> Markup:
    """2.2e-16 -> 2.2 · 10⁻¹⁶"""
    if value == 0:
        return Markup("0")
    digits, _, exponent = f"{value:.1e}".partition("e")
    return Markup("{} · 10<sup>{}</sup>").format(digits, str(int(exponent)).replace("-", "−"))


def _size(shape: list[int]) -> str:
    return " × ".join(map(str, shape))
